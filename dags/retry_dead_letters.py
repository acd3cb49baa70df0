"""Try dead letters again: images that could not be labelled.

Chosen are the open dead letters of a bucket (the view `dead_letter_open`) that match every filter of the form,
permanent ones too and whatever their time. Each is fetched, decoded and classified as any new image; a label closes it,
and another failure makes one attempt more of it.

`discover` → `classify_on_cpu` or `classify_on_gpu` (one mapped task per shard) → `report`

**When to run it.** By hand, once the cause is gone: a limit was raised, a right was granted, a decoder was mended. It
has no schedule. Retryable dead letters need no hand: `classify_images` tries them again on the next two nights. Nor
does an object that was overwritten: its new version is a new image.

**What it needs.** What `classify_images` needs: the connections `images_s3` and `results_db`, the pools `classify_cpu`
and `classify_gpu`.

**What the counts mean.** The same as there, in the log of `report` and in the view `run_summary`:
`discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished`. `discovered` are the dead
letters that match, `dead` failed again, and `gone` were overwritten or deleted since: the bucket is not listed, and the
next run of `classify_images` finds what is there now and closes these.

**When it is red.** As there: the line that begins with a code in brackets, such as `[bad_setting]`, in the log of the
first red task. The run fails for too many dead letters only if you lower `max_dead_ratio`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.operators import DiscoverDeadLettersOperator
from nightlabel_airflow.params import amount_params, how_params, limit_params, source_params
from nightlabel_airflow.tasks import DEFAULT_ARGS, TASK_OF_DEVICE, label_tasks

from inference.errors import dead_letter_codes

WHICH = "Which dead letters"
CODES = list(dead_letter_codes())

with DAG(
    dag_id="retry_dead_letters",
    description="Try images again that could not be labelled.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        **source_params(WHICH),
        "codes": Param(
            [],
            type="array",
            items={"type": "string", "enum": CODES},
            uniqueItems=True,
            maxItems=len(CODES),
            examples=CODES,
            section=WHICH,
            description="Only dead letters with one of these error codes. Empty: every code.",
        ),
        "failed_after": Param(
            None,
            type=["null", "string"],
            format="date-time",
            maxLength=40,
            section=WHICH,
            description="Only dead letters recorded at this time or later; UTC without an offset. Empty: no bound.",
        ),
        "failed_before": Param(
            None,
            type=["null", "string"],
            format="date-time",
            maxLength=40,
            section=WHICH,
            description="Only dead letters recorded before this time; UTC without an offset. Empty: no bound.",
        ),
        "permanent": Param(
            "any",
            type="string",
            enum=["any", "permanent", "retryable"],
            section=WHICH,
            description="permanent: only those that no nightly run would try again. retryable: only those that one "
            "would try again in its time. any: both.",
        ),
        **amount_params(WHICH),
        **how_params(),
        **limit_params(max_dead_ratio=1.0),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["images", "nightlabel"],
):
    label_tasks(
        DiscoverDeadLettersOperator(
            task_id="discover",
            task_of_device=TASK_OF_DEVICE,
            execution_timeout=timedelta(hours=1),
            doc_md="Finds the dead letters that match, without listing the bucket, and stores the shards of them in "
            "the results database. Its log says how many there are. Clearing it plans the run anew, without what it "
            "has tried already.",
        )
    )
