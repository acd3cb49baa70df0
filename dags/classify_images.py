"""Label the images that have no label yet.

Every night, or when somebody presses *Trigger*, each image of a bucket that has no label yet is fetched, decoded and
classified, and its label is written to the results database, once.

`discover` → `classify_on_cpu` or `classify_on_gpu` (one mapped task per shard) → `report` → `shadow`

**When it runs.** Nightly at 02:00 UTC, or as `NIGHTLABEL_SCHEDULE` says (a cron expression in UTC; `none` for runs by
hand only), one run at a time. A start that was missed by more than five minutes is left out, so neither unpausing the
Dag nor deploying or restarting Airflow starts a run by surprise; the next run labels what the missed one would have.
Whether the Dag is created paused is your deployment's setting (`core.dags_are_paused_at_creation`). A run that is
triggered while the Dag is paused waits until it is unpaused.

**What it needs.** The connections `images_s3` (type *aws*; its extra may hold the default `bucket` and `prefix`) and
`results_db` (type *postgres*, role `nightlabel_writer`), and the pools `classify_cpu` and `classify_gpu`.

**A bucket too large to list.** Give a `manifest` that names the objects, or the `inventory` report that S3 makes of the
bucket. Such a run labels what these show, and takes nothing for deleted.

**A shadow model.** With `shadow_share` above 0 (or `NIGHTLABEL_SHADOW_SHARE`, for scheduled runs) and a model that
holds the alias `shadow`, a run that succeeded has a shadow: `shadow` starts a run of the Dag `shadow_images`, in
which that model looks at a share of what was labelled. The state of this run never hangs on it.

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
store or the database, and a killed worker, is tried again five times; anything else is not worth it. Clear the task
once the cause is gone: what was recorded is not computed again. `report`: shards are unfinished, or more images are
dead than `max_dead_ratio` allows; once the cause is gone, the Dag `retry_dead_letters` tries these again. With
`quality_action` *fail* also: the labels are not like those of the 28 days before. Its log names those that moved, the
view `run_drift` has the figures, and every outcome is recorded.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.operators import DiscoverOperator
from nightlabel_airflow.params import (
    amount_params,
    how_params,
    limit_params,
    manifest_params,
    quality_params,
    shadow_params,
    source_params,
)
from nightlabel_airflow.tasks import DEFAULT_ARGS, TASK_OF_DEVICE, label_tasks, shadow_task
from nightlabel_airflow.timetables import schedule_from

WHAT = "What to label"

with DAG(
    dag_id="classify_images",
    description="Label the images that have no label yet.",
    schedule=schedule_from(os.environ),
    catchup=False,
    max_active_runs=1,
    params={
        **source_params(WHAT),
        "scope": Param(
            "unlabelled",
            type="string",
            enum=["unlabelled", "not_by_this_model"],
            section=WHAT,
            description="unlabelled: images without an outcome from any model that is or was in production. "
            "not_by_this_model: images without an outcome from the model below.",
        ),
        **manifest_params(WHAT),
        **amount_params(WHAT),
        **how_params(),
        **limit_params(max_dead_ratio=0.5),
        **quality_params(),
        **shadow_params("A shadow model", os.environ),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["images", "nightlabel"],
):
    discover = DiscoverOperator(
        task_id="discover",
        task_of_device=TASK_OF_DEVICE,
        execution_timeout=timedelta(hours=6),
        doc_md="Lists the bucket, or reads the manifest or inventory report that names its objects, leaves out what "
        "has an outcome, and stores the shards of the rest in the results database. Its log says what was found. "
        "Clearing it plans the run anew.",
    )
    shadow_task(discover, label_tasks(discover))
