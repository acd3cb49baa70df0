"""The tasks that bring a model into production. Light at import: every process that parses a Dag loads this module."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator

from inference.errors import SettingsError
from nightlabel_airflow.operators import Progress, check_conf, in_a_sentence, whole

if TYPE_CHECKING:
    from airflow.sdk import Context

    from inference.gate.figures import CheckRequest, ModelCheck
    from inference.promoting import PromotionRequest

REGISTER_TASK, CHECK_TASK, APPROVE_TASK = "register", "check", "approve"
REPORT_KEY = "report"
"""XCom with the report of the check in Markdown, beside the verdict that ``check`` returns."""
CHECK_KEY = "check_id"
"""XCom with the number of the check that ``approve`` asks about."""

MAX_REPORT = 16_000
"""Characters of it; a report has some two thousand."""


class RegisterModelOperator(BaseOperator):
    """Fetch, convert, verify and register the model of the form; without a source, find the one that is registered."""

    @in_a_sentence
    def execute(self, context: Context) -> str:
        """Return the model as NAME@VERSION.

        Raises:
            SettingsError: the form does not say enough.
            ModelError: it cannot be fetched, converted or registered, or is not registered; see the message.
            TransientError: the store or the database does not answer.
        """
        from inference import wiring
        from nightlabel_airflow import connections

        check_conf(context["dag_run"].conf, context["dag"].params)
        params = context["params"]
        settings = connections.open_settings()
        if not params["source"].strip():
            with connections.open_sink(settings) as sink:
                model = sink.resolve_model(model_from(params))
            self.log.info("No source is given; %s is registered already", model)
            return str(model)
        manifest = wiring.register_model(
            settings,
            registration_from(params),
            store=connections.open_store(settings),
            models=connections.open_model_store(settings),
            progress=lambda what: self.log.info("%s", what),
        )
        self.log.info("Registered %s; no alias names it yet", manifest.model_id)
        return str(manifest.model_id)


class CheckModelOperator(BaseOperator):
    """Judge the model by the golden set and beside production, and record the verdict. Labels nothing."""

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the verdict; the report is an XCom beside it.

        Raises:
            ModelError: the model, or the production model, cannot be loaded or fails.
            TransientError: the store or the database does not answer.
        """
        from inference import promoting
        from inference.gate.reporting import check_report
        from nightlabel_airflow import connections

        check_conf(context["dag_run"].conf, context["dag"].params)
        settings = connections.open_settings()
        model = context["ti"].xcom_pull(task_ids=REGISTER_TASK)
        if not model:
            raise SettingsError(f"the task {REGISTER_TASK!r} named no model; clear it to have it do so")
        told = Progress(lambda images: self.log.info("%d answers so far", images))
        check = promoting.check_model(
            check_from(context["params"], model),
            settings=settings,
            store=connections.open_store(settings),
            models=connections.open_model_store(settings),
            progress=lambda images, _total: told(images),
        )
        report = check_report(check)
        self.log.info("%s", report)
        context["ti"].xcom_push(key=REPORT_KEY, value=report[:MAX_REPORT])
        return verdict_of(check)


class ApprovePromotionOperator(ApprovalOperator):
    """Ask a person whether the model is to label the nights, with the report before his eyes. Silence is a no.

    Nobody is asked about a model that the gate has stopped, unless the form overrides it with a reason.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="Is {{ ti.xcom_pull(task_ids='" + REGISTER_TASK + "') }} to label the nights from now on?",
            body="{{ ti.xcom_pull(task_ids='" + CHECK_TASK + "', key='" + REPORT_KEY + "') }}",
            defaults=self.REJECT,
            **kwargs,
        )

    @in_a_sentence
    def execute(self, context: Context) -> Any:
        """Ask, and wait without a worker.

        Raises:
            AirflowSkipException: the answer is no, since the gate has stopped the model.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        verdict = found_verdict(context)
        reason = context["params"]["override_reason"].strip()
        if verdict["verdict"] != "passed":
            stopped = f"the gate has stopped {verdict['model']} ({', '.join(verdict['stopped_by'])})"
            if not reason:
                raise AirflowSkipException(f"{stopped}; nobody is asked, and it is not promoted")
            self.log.warning("%s, and the form overrides that: %s", stopped, reason)
            self.subject = f"OVERRIDE: {self.subject}"
            self.body = f"**{stopped[0].upper()}{stopped[1:]}. The form overrides that.**\n\n{self.body}"
        context["ti"].xcom_push(key=CHECK_KEY, value=verdict["check_id"])
        self.response_timeout = timedelta(hours=float(context["params"]["approval_hours"]))
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with a yes; skip the promotion after a no, or after silence."""
        answer = super().execute_complete(context, event)
        if answer["chosen_options"] != [self.APPROVE]:
            who = name_of(answer)
            self.log.info("No, says %s; it is not promoted" if who else "Nobody answered (%s): no", who or "time-out")
        return answer


class PromoteModelOperator(BaseOperator):
    """Let ``production`` name the model. The run of a night that is under way keeps its own; nothing is labelled."""

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, Any]:
        """Return what production was, and is.

        Raises:
            SettingsError: nobody has said yes.
            AliasMovedError: production is another model than the one that the check was beside.
            PromotionRefusedError: the check does not hold any more.
            ConfigurationError: somebody has to change something; see the message.
            TransientError: the database does not answer.
        """
        from inference import promoting
        from nightlabel_airflow import connections

        request = promotion_from(context)
        settings = connections.open_owner_settings()
        done = promoting.promote_model(request, settings=settings, models=connections.open_model_store(settings))
        self.log.info(
            "%s is %s now, and was %s%s",
            done.alias,
            done.model,
            done.before or "no model",
            "; the gate was overridden" if done.is_forced else "",
        )
        return {"production": str(done.model), "before": done.before and str(done.before), "forced": done.is_forced}


def model_from(params: Mapping[str, Any]) -> str:
    """Return the model version that the form names.

    Raises:
        SettingsError: it names none.
    """
    name, version = params["name"].strip(), params["version"].strip()
    if not name or not version:
        raise SettingsError("the form names no model; fill in 'name' and 'version'")
    return f"{name}@{version}"


def registration_from(params: Mapping[str, Any]) -> Any:
    """Return what the form says of a model that is to be registered.

    Raises:
        SettingsError: it names no model, or half of a pair.
        ModelSourceError: it names a path on the worker, which who may trigger a Dag need not be allowed to read.
    """
    from inference.models.source_files import check_remote
    from inference.types import RegistrationRequest

    model_from(params)
    return RegistrationRequest(
        source=check_remote(params["source"].strip(), params["labels"].strip()),
        name=params["name"].strip(),
        version=params["version"].strip(),
        labels=params["labels"].strip() or None,
        family=params["family"].strip() or None,
        input_size=pair(params, "input_height", "input_width", of=int),
        crop_fraction=params["crop_fraction"],
        resize_filter=params["resize_filter"] or None,
        input_scale=pair(params, "input_mean", "input_scale", of=float),
        output=params["output"] or None,
        background_columns=whole(params["background_columns"]),
        licence=params["licence"].strip() or "not stated",
        sha256=params["sha256"].strip() or None,
        int8=params["int8"],
    )


def pair(params: Mapping[str, Any], first: str, second: str, *, of: type[int] | type[float]) -> tuple[Any, Any] | None:
    """Return two parameters that belong together; None where both are empty.

    Raises:
        SettingsError: one of them is empty.
    """
    values = (params[first], params[second])
    if values == (None, None):
        return None
    if None in values:
        raise SettingsError(f"the form gives one of {first!r} and {second!r}; give both, or neither")
    return of(values[0]), of(values[1])


def check_from(params: Mapping[str, Any], model: str) -> CheckRequest:
    """Return on how much the form wants the model checked.

    Args:
        params: The Dag's parameters, which Airflow has checked against their bounds.
        model: NAME@VERSION.
    """
    from inference.gate.figures import CheckRequest

    return CheckRequest(model, days=int(params["days"]), images=int(params["images"]), seed=int(params["seed"]))


def verdict_of(check: ModelCheck) -> dict[str, Any]:
    """Return what the tasks after the check have to know, for XCom."""
    comparison = check.comparison
    return {
        "check_id": check.check_id,
        "model": str(comparison.candidate),
        "production": comparison.production and str(comparison.production),
        "verdict": check.verdict,
        "stopped_by": [reason.threshold for reason in check.reasons if not reason.is_warning],
        "warned_of": [reason.threshold for reason in check.reasons if reason.is_warning],
        "golden_images": comparison.golden.images,
        "recent_images": comparison.recent.images,
    }


def found_verdict(context: Context) -> dict[str, Any]:
    """Return the verdict of this run's check.

    Raises:
        SettingsError: there is none.
    """
    verdict: dict[str, Any] | None = context["ti"].xcom_pull(task_ids=CHECK_TASK)
    if not verdict:
        raise SettingsError(f"the task {CHECK_TASK!r} left no verdict; clear it to have it do so")
    return verdict


def promotion_from(context: Context) -> PromotionRequest:
    """Return the promotion that this run's check and approval are for.

    Raises:
        SettingsError: there is no verdict, or nobody has said yes to it: marking ``approve`` as done by hand is none.
    """
    from inference.planning import parse_model
    from inference.promoting import PromotionRequest
    from inference.types import ModelId

    verdict = found_verdict(context)
    answer = context["ti"].xcom_pull(task_ids=APPROVE_TASK)
    if not answer or answer["chosen_options"] != [ApprovalOperator.APPROVE]:
        raise SettingsError(
            f"nobody has approved of {verdict['model']}: the task {APPROVE_TASK!r} holds no answer; clear it to be "
            "asked, or promote it with `python -m inference models promote`"
        )
    asked_about = context["ti"].xcom_pull(task_ids=APPROVE_TASK, key=CHECK_KEY)
    if asked_about != verdict["check_id"]:
        raise SettingsError(
            f"what was approved is check {asked_about}, and the last one of this run is {verdict['check_id']}; clear "
            f"the task {APPROVE_TASK!r} to be asked about that one"
        )
    params, before = context["params"], verdict["production"]
    production = None if before is None else parse_model(before)
    is_stopped = verdict["verdict"] != "passed"
    override = params["override_reason"].strip()
    return PromotionRequest(
        model=verdict["model"],
        reason=(override if is_stopped and override else params["why"].strip())
        or f"approved in the run {context['dag_run'].run_id} of {context['dag_run'].dag_id}",
        expected=production if isinstance(production, ModelId) else None,
        force=is_stopped and bool(override),
        approved_by=name_of(answer),
        check_id=verdict["check_id"],
    )


def name_of(answer: Mapping[str, Any]) -> str | None:
    """Return who answered, by the name that Airflow knows; None where nobody did."""
    user = answer.get("responded_by_user")
    if user is None:
        return None
    name = user.get("name") or user.get("id") if isinstance(user, Mapping) else getattr(user, "name", None)
    return None if name is None else str(name)
