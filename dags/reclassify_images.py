"""Label existing objects again, with another model.

Chosen are the objects of a bucket that have a label by another model and match every filter of the form: by prefix,
by when that label was recorded, by label, or everything that a model has labelled. What has an outcome by the model
to label with is left out, so the same run triggered again does the rest, whatever ended the first one. Labels of
other models stay, and `latest_prediction` shows the production model's where there is one.

`discover` → `classify_on_cpu` or `classify_on_gpu` (one mapped task per shard) → `report`

**When to run it.** By hand, after a promotion: that labels nothing again by itself. It has no schedule. Tick `dry_run`
first: the log of `discover` and the run's note say how many images match, and about how long they take, by what this
deployment did of late.

**How fast it goes.** As many images a second as `images_per_second` allows, all workers together; without it, as many
as go. The rate may be changed while it runs (docs/labelling-again.md). Its shards leave free slots of the pools to
those of `classify_images` and `retry_dead_letters`. At a slow rate a run is bounded by what its tasks may take; the
rest is `deferred`, and the same run triggered again takes it.

**What it needs.** What `classify_images` needs: the connections `images_s3` and `results_db`, the pools `classify_cpu`
and `classify_gpu`.

**What the counts mean.** The same as there, in the log of `report` and in the view `run_summary`: `discovered =
already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished`. `discovered` are the objects that
match, `already_done` those with an outcome by the model, and `gone` were overwritten or deleted since: the bucket is
not listed, and the next run of `classify_images` finds what is there now.

**When it is red.** As there: the line that begins with a code in brackets, such as `[model_unknown]`, in the log of the
first red task.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.operators import DiscoverLabelledOperator
from nightlabel_airflow.params import (
    amount_params,
    how_params,
    limit_params,
    rate_params,
    source_params,
    text_param,
    time_param,
)
from nightlabel_airflow.tasks import DEFAULT_ARGS, PACED_SHARD_LIMIT, PACED_TASKS, TASK_OF_DEVICE, label_tasks

WHICH = "Which objects"

with DAG(
    dag_id="reclassify_images",
    description="Label existing objects again, with another model.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        **source_params(WHICH),
        "labelled_by": text_param(
            WHICH,
            "Only objects that this model (NAME@VERSION) has labelled; the filters below look at its labels. Empty: at "
            "those that latest_prediction would show without the model to label with.",
        ),
        "label": text_param(WHICH, "Only objects with this label, by its name. Empty: every label."),
        "label_id": text_param(WHICH, "Only objects with this label, by its id. Empty: every label."),
        "since": time_param(WHICH, "Only labels recorded at this time or later (UTC). Empty: no bound."),
        "until": time_param(WHICH, "Only labels recorded before this time (UTC). Empty: no bound."),
        "dead_letters_too": Param(
            False,
            type="boolean",
            section=WHICH,
            description="Objects as well for which there is a dead letter instead of a label.",
        ),
        **amount_params(WHICH),
        **rate_params("How"),
        **how_params(),
        **limit_params(max_dead_ratio=0.5),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["images", "nightlabel"],
):
    label_tasks(
        DiscoverLabelledOperator(
            task_id="discover",
            task_of_device=TASK_OF_DEVICE,
            shard_limit=PACED_SHARD_LIMIT,
            execution_timeout=timedelta(hours=1),
            doc_md="Finds the objects that match, without listing the bucket, leaves out what the model has an outcome "
            "for, and stores the shards of the rest in the results database. Its log says how many there are and how "
            "long they take. Clearing it plans the run anew.",
        ),
        tasks_at_once=PACED_TASKS,
        is_urgent=False,
    )
