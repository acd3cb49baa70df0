"""The tasks that every labelling Dag has after its ``discover``, and how all of them are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import TriggerRule, WeightRule

from nightlabel_airflow.operators import REPORT_TASK, SHADOW_TASK, ClassifyShardOperator, ReportOperator, ShadowOperator
from nightlabel_airflow.retries import RETRY_BY_ERROR

if TYPE_CHECKING:
    from inference.types import Device
    from nightlabel_airflow.operators import DiscoverOperator

TASK_OF_DEVICE: dict[Device, str] = {"cpu": "classify_on_cpu", "gpu": "classify_on_gpu"}

DEFAULT_ARGS: dict[str, Any] = {
    # Airflow adds up to as much again, so that tasks do not come back all at once. A shard whose worker was killed runs
    # again within a minute; a database or store may be away for ten.
    "retries": 6,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=15),
    "retry_policy": RETRY_BY_ERROR,
}


TASK_LIMIT = timedelta(hours=2)
"""Time-out of a shard's task."""

PACED_TASKS = 16
"""Shards at a time of a run that may keep to a rate: so many share it, and each has to end before its time-out."""

PACED_SHARD_LIMIT = TASK_LIMIT / 2 / PACED_TASKS
"""How long such a shard may take at the rate alone: half of its time-out, when so many share the rate."""


def label_tasks(
    discover: DiscoverOperator, *, tasks_at_once: int | None = None, is_urgent: bool = True
) -> ReportOperator:
    """Add what follows ``discover`` to the Dag: a mapped task per shard and device, then the report, which is returned.

    Args:
        discover: Finds the shards.
        tasks_at_once: Shards at a time of one run; None for as many as the pool has slots.
        is_urgent: Whether shards take a free slot before those of a Dag where this is false.
    """
    limits: dict[str, Any] = {} if tasks_at_once is None else {"max_active_tis_per_dagrun": tasks_at_once}
    if not is_urgent:
        limits |= {"priority_weight": 1, "weight_rule": WeightRule.ABSOLUTE}  # those of the others weigh 2 or more
    report = ReportOperator(
        task_id=REPORT_TASK,
        trigger_rule=TriggerRule.ALL_DONE,
        execution_timeout=timedelta(minutes=30),
        doc_md="Runs whatever happened before. Logs every count of the run and fails if shards are unfinished or too "
        "many images are dead. Compares the labels with those of the 28 days before, and warns, or fails, if they have "
        "moved.",
    )
    for device, task_id in TASK_OF_DEVICE.items():
        classify = ClassifyShardOperator.partial(
            task_id=task_id,
            queue=device,
            pool=f"classify_{device}",
            execution_timeout=TASK_LIMIT,
            map_index_template="shard {{ task.shard_number }}",
            doc_md=f"Labels the images of one shard per mapped task, on workers of the queue `{device}`. "
            "Skipped if nothing is new, or if the run uses the other device.",
            **limits,
        ).expand(shard_number=discover.output)
        classify >> report
    return report


def shadow_task(discover: DiscoverOperator, report: ReportOperator) -> None:
    """Add the start of the shadow run, on which the state of the Dag run never hangs."""
    shadow = ShadowOperator(
        task_id=SHADOW_TASK,
        retries=2,
        execution_timeout=timedelta(minutes=10),
        doc_md="Starts a run of the Dag `shadow_images`, in which the model with the alias `shadow` looks at a share "
        "of what this run has labelled. Skipped without a share, or such a model. Whatever becomes of it, this run is "
        "what its report says.",
    )
    [discover, report] >> shadow  # it is `discover` that skips it
    shadow.as_teardown()
