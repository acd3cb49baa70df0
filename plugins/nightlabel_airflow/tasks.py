"""The tasks that every labelling Dag has after its ``discover``, and how all of them are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import TriggerRule

from nightlabel_airflow.operators import REPORT_TASK, ClassifyShardOperator, ReportOperator
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


def label_tasks(discover: DiscoverOperator) -> None:
    """Add what follows ``discover`` to the Dag: a mapped task per shard and device, then the report."""
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
            execution_timeout=timedelta(hours=2),
            map_index_template="shard {{ task.shard_number }}",
            doc_md=f"Labels the images of one shard per mapped task, on workers of the queue `{device}`. "
            "Skipped if nothing is new, or if the run uses the other device.",
        ).expand(shard_number=discover.output)
        classify >> report
