"""The tasks of a maintenance. Light at import: every process that parses a Dag loads this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from nightlabel_airflow.operators import check_conf, in_a_sentence, whole

if TYPE_CHECKING:
    from airflow.sdk import Context

    from inference.types import MaintenanceReport, MaintenanceRequest


class CountSuperfluousOperator(BaseOperator):
    """Count what the maintenance would remove, and log it: the dry run that comes first in any case.

    A run by hand whose form says ``dry_run`` ends here. One by schedule goes on, with the settings' days.
    """

    # What `NotPreviouslySkippedDep` of the scheduler looks for: this task may skip the one that follows it.
    inherits_from_skipmixin = True

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, int]:
        """Return the rows of each step.

        Raises:
            ModelInUseError: a model cannot be dropped, since its labels are still shown.
            ConfigurationError: somebody has to change something; see the message.
            TransientError: the database does not answer.
        """
        from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_KEY, XCOM_SKIPMIXIN_SKIPPED

        check_conf(context["dag_run"].conf, context["dag"].params)
        report = _maintain(request_from(context["params"], dry_run=True))
        self.log.info("%s", report_text(report))
        if _is_dry_run(context):
            self.log.info("Nothing was removed; trigger it with dry_run unticked to remove this")
            skipped = sorted(self.downstream_task_ids)
            context["ti"].xcom_push(key=XCOM_SKIPMIXIN_KEY, value={XCOM_SKIPMIXIN_SKIPPED: skipped})
        return {step.name: step.rows for step in report.steps}


class MaintainOperator(BaseOperator):
    """Remove what is superfluous. Safe to run again after any failure, and beside a night.

    Looks itself at what was asked for: what `count` refuses or skips is forgotten when somebody marks that as done.
    """

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, int]:
        """Return the rows of each step.

        Raises:
            AirflowSkipException: this is a dry run.
            ModelInUseError: a model cannot be dropped, since its labels are still shown.
            ConfigurationError: somebody has to change something; see the message.
            TransientError: the database does not answer, or another maintenance is at work.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        check_conf(context["dag_run"].conf, context["dag"].params)
        if _is_dry_run(context):
            raise AirflowSkipException("this is a dry run; trigger it with dry_run unticked to remove anything")
        report = _maintain(request_from(context["params"], dry_run=False))
        self.log.info("%s", report_text(report))
        return {step.name: step.rows for step in report.steps}


def _is_dry_run(context: Context) -> bool:
    """Return whether nothing is to be removed; a run by schedule removes it whatever the form's default says."""
    return bool(context["params"]["dry_run"]) and context["dag_run"].run_type != "scheduled"


def _maintain(request: MaintenanceRequest) -> MaintenanceReport:
    from inference import wiring
    from nightlabel_airflow import connections

    return wiring.maintain(connections.open_owner_settings(), request)


def request_from(params: Mapping[str, Any], *, dry_run: bool) -> MaintenanceRequest:
    """Return what the trigger form asks for.

    Args:
        params: The Dag's parameters, which Airflow has checked against their bounds.
        dry_run: Whether it is only counted.
    """
    from inference.types import MaintenanceRequest

    return MaintenanceRequest(
        keep_manifest_days=whole(params["keep_manifest_days"]),
        keep_run_days=whole(params["keep_run_days"]),
        keep_outcome_days=whole(params["keep_outcome_days"]),
        drop_models=tuple(params["drop_models"]),
        time_budget_minutes=int(params["time_budget_minutes"]),
        dry_run=dry_run,
    )


WORDS = {
    "models": "outcomes of dropped models",
    "outcomes": "outcomes by age",
    "objects": "objects gone for long",
    "manifests": "chunks of manifests",
    "images": "image versions that nothing refers to",
    "shards": "shards merged into others",
    "label_counts": "label counts folded",
    "run_labels": "label counts of runs long ago",
    "vacuum": "tables vacuumed and analysed",
}


def report_text(report: MaintenanceReport) -> str:
    """Return a block of lines with what each step did, as an operator reads it."""
    lines = ["A dry run found" if report.dry_run else "Removed or put in order"]
    for step in report.steps:
        rest = "" if step.is_complete else ", and not all: the time was up"
        lines.append(f"  {WORDS.get(step.name, step.name):<38}{step.rows:>14,}  in {step.seconds:.1f} s{rest}")
    return "\n".join(lines)
