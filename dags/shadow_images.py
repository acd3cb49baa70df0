"""Let a shadow model look at a share of what a nightly run has labelled.

For comparison only: what it finds is never in `latest_prediction`, and no image counts as labelled because of it. The
view `shadow_daily` says how often both models agree on the same images.

`discover` → `classify_on_cpu` or `classify_on_gpu` (one mapped task per shard) → `report`

**When it runs.** `classify_images` starts it after a run that succeeded, if its `shadow_share` is above 0 and the
alias `shadow` names a model other than the run's. It is a Dag of its own, so that a nightly run never waits for it
and is never red because of it. While this Dag is paused, as a new one may be, no run of it is started. One that waited
until a day after the end of its night is skipped. By hand: with the `run_id` of a run whose manifest is still there,
some days after its end.

**Which images.** Of those that the run has labelled, a share that is drawn from each image's id: the same images
whichever night, run or model, and a larger share holds every image of a smaller one.

**How long it takes.** `max_minutes` at most: as many images are planned as that is likely to do for, by what this
deployment did of late, and 1,000 at most where the model is new to it. A shard that is at work when the time is up ends
after its batch, and the run succeeds with what it got to.

**What it needs.** What `classify_images` needs. Its shards leave free slots of the pools to those of that Dag.

**What the counts mean.** As there. `discovered` is the sample, `already_done` those with an outcome by the shadow
model, `deferred` those for which the time was not likely to do, or did not.

**When it is red.** The line that begins with a code in brackets, such as `[model_unknown]`, in the log of the first red
task. Nothing hangs on it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.operators import MOST_SHADOW_MINUTES, DiscoverSampleOperator
from nightlabel_airflow.params import amount_params, how_params, limit_params, source_params
from nightlabel_airflow.tasks import DEFAULT_ARGS, TASK_OF_DEVICE, label_tasks

WHICH = "Which images"

with DAG(
    dag_id="shadow_images",
    description="Let a shadow model look at a share of what a nightly run has labelled.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    params={
        **source_params(WHICH),
        "run_id": Param(
            "",
            type="string",
            maxLength=36,
            pattern="^[0-9a-fA-F-]*$",
            section=WHICH,
            description="The run_id of run_summary of the run that has labelled them.",
        ),
        "share": Param(
            0.1,
            type="number",
            minimum=0,
            maximum=1,
            section=WHICH,
            description="Share of the images that the run has labelled (0 to 1).",
        ),
        **amount_params(WHICH),
        "max_minutes": Param(
            30,
            type="integer",
            minimum=1,
            maximum=MOST_SHADOW_MINUTES,
            section="How",
            description="Take this long at most; what will not fit in is left out.",
        ),
        **how_params(model="shadow"),
        **limit_params(max_dead_ratio=1.0),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["images", "nightlabel"],
):
    label_tasks(
        DiscoverSampleOperator(
            task_id="discover",
            task_of_device=TASK_OF_DEVICE,
            execution_timeout=timedelta(hours=1),
            doc_md="Draws the sample out of what the run has labelled, and stores its shards in the results database. "
            "Its log says how many images it is and how long they take.",
        ),
        is_urgent=False,
    )
