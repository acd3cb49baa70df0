"""Label the images that have no label yet.

Every night, or when somebody presses *Trigger*, each image of a bucket that has no label yet is fetched, decoded and
classified, and its label is written to the results database, once.

`discover` → `classify_on_cpu` or `classify_on_gpu` (one mapped task per shard) → `report`

**When it runs.** Nightly at 02:00 UTC, or as `NIGHTLABEL_SCHEDULE` says (a cron expression in UTC; `none` for runs by
hand only), one run at a time. A start that was missed by more than five minutes is left out, so neither unpausing the
Dag nor deploying or restarting Airflow starts a run by surprise; the next run labels what the missed one would have.
Whether the Dag is created paused is your deployment's setting (`core.dags_are_paused_at_creation`). A run that is
triggered while the Dag is paused waits until it is unpaused.

**What it needs.** The connections `images_s3` (type *aws*; its extra may hold the default `bucket` and `prefix`) and
`results_db` (type *postgres*, role `nightlabel_writer`), and the pools `classify_cpu` and `classify_gpu`.

**What the counts mean.** `report` logs them, and the view `run_summary` keeps them:
`discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished`

| count | images |
| --- | --- |
| `already_done` | had an outcome before this run |
| `deferred` | cut by `max_images`; the next run takes them |
| `labelled` | have a label now |
| `dead` | have an error now; the view `dead_letter_open` says where and why |
| `gone` | deleted or overwritten between listing and reading; the next run finds what is there then |
| `done_elsewhere` | another run recorded them first |
| `unfinished` | in shards that ran out of retries; zero in a successful run, and the next run takes them |

**When it is red.** In the log of the first red task, read the line that begins with a code in brackets, such as
`[bucket_missing]`. `discover`: nothing was planned, and the line says what to change. `classify_on_…`: trouble with the
store or the database is tried again three times; anything else is not worth it. Clear the task once the cause is gone:
what was recorded is not computed again. `report`: shards are unfinished, or more images are dead than `max_dead_ratio`
allows.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule
from nightlabel_airflow.operators import ClassifyShardOperator, DiscoverOperator, ReportOperator
from nightlabel_airflow.retries import RETRY_BY_ERROR
from nightlabel_airflow.timetables import schedule_from

WITHOUT_NUL = r"^[^\x00]*$"
"""No database stores it as text."""

PARAMS = {
    "bucket": Param(
        "",
        type="string",
        maxLength=63,
        pattern=WITHOUT_NUL,
        section="What to label",
        description="Bucket of the images. Empty: the bucket (and prefix) in the extra of the connection images_s3.",
    ),
    "prefix": Param(
        "",
        type="string",
        maxLength=1024,
        pattern=WITHOUT_NUL,
        section="What to label",
        description="Only keys that begin with this text; it need not end at a slash. Empty: every key.",
    ),
    "scope": Param(
        "unlabelled",
        type="string",
        enum=["unlabelled", "not_by_this_model"],
        section="What to label",
        description="unlabelled: images without an outcome from any model that is or was in production. "
        "not_by_this_model: images without an outcome from the model below.",
    ),
    "max_images": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=1_000_000_000,
        section="What to label",
        description="Classify at most this many images; the rest is deferred to the next run. Empty: no bound.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        section="What to label",
        description="Only say what would be classified; nothing is stored.",
    ),
    "model": Param(
        "production",
        type="string",
        minLength=1,
        maxLength=200,
        pattern=WITHOUT_NUL,
        section="How",
        description="A model alias (production), or NAME@VERSION. A run keeps to one model version from start to end.",
    ),
    "device": Param(
        "auto",
        type="string",
        enum=["auto", "cpu", "gpu"],
        section="How",
        description="cpu: workers of the queue cpu. gpu: workers of the queue gpu. auto: as the plan finds best.",
    ),
    "allow_cpu_fallback": Param(
        False,
        type="boolean",
        section="How",
        description="With device gpu: use the CPU rather than fail if there is no GPU.",
    ),
    "shard_size": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=1_000_000,
        section="How",
        description="Images per mapped task. Empty: chosen by the backlog, so that there are few tasks.",
    ),
    "max_dead_ratio": Param(
        0.5,
        type="number",
        minimum=0,
        maximum=1,
        section="When to fail",
        description="The run fails if more than this share of the classified images are dead letters (0 to 1). "
        "Their outcomes are recorded all the same.",
    ),
    "min_images_for_ratio": Param(
        20,
        type="integer",
        minimum=1,
        maximum=1_000_000_000,
        section="When to fail",
        description="The share is judged from this many classified images on.",
    ),
}

with DAG(
    dag_id="classify_images",
    description="Label the images that have no label yet.",
    schedule=schedule_from(os.environ),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=15),
        "retry_policy": RETRY_BY_ERROR,
    },
    doc_md=__doc__,
    tags=["images", "nightlabel"],
):
    discover = DiscoverOperator(
        task_id="discover",
        task_of_device={"cpu": "classify_on_cpu", "gpu": "classify_on_gpu"},
        execution_timeout=timedelta(hours=6),
        doc_md="Lists the bucket, leaves out what has an outcome, and stores the shards of the rest in the results "
        "database. Its log says what was found. Clearing it plans the run anew.",
    )
    report = ReportOperator(
        task_id="report",
        trigger_rule=TriggerRule.ALL_DONE,
        execution_timeout=timedelta(minutes=30),
        doc_md="Runs whatever happened before. Logs every count of the run and fails if shards are unfinished or too "
        "many images are dead.",
    )
    for device in ("cpu", "gpu"):
        classify = ClassifyShardOperator.partial(
            task_id=f"classify_on_{device}",
            queue=device,
            pool=f"classify_{device}",
            execution_timeout=timedelta(hours=2),
            map_index_template="shard {{ task.shard_number }}",
            doc_md=f"Labels the images of one shard per mapped task, on workers of the queue `{device}`. "
            "Skipped if nothing is new, or if the run uses the other device.",
        ).expand(shard_number=discover.output)
        classify >> report
