"""Bring a new model into production: register, check, ask, promote.

`register` → `check` → `approve` → `promote`

- `register` fetches the model of `source`, converts and verifies it, and puts it into the model store. Without a
  `source` it takes the model that is registered as `name` and `version`.
- `check` asks the model about the golden set, and it and the production model about at most `images` images that
  production labelled in the last `days` days (drawn by `seed`); compares, judges by the thresholds, records the
  verdict.
- `approve` shows the report to a person and waits for an answer, without a worker. No answer within `approval_hours`
  is a no. A model that the gate has stopped is a no at once.
- `promote` lets `production` name the model. It is skipped after a no.

**When it runs.** By hand only. Up to 16 models can be on their way, such as waiting for an answer; one at a time is
registered, and one checked. A check is one of the past once another model was promoted.

**What it changes.** Nothing until somebody approves under *Required Actions*; then the alias `production`. A night
that is under way keeps its model, the next one takes the new one, and **nothing is labelled again by it**: what is
labelled keeps its label until the image changes, or somebody labels it again.

**What the gate asks for.** The thresholds of `python -m inference models thresholds show`: enough golden images, a
least top-1, a loss against production that is ruled out, a least agreement with production. The log of `check`, the
body of the question and the view `model_check` say which were missed, and by how much.

**To override the gate** fill in `override_reason`. The question is asked all the same, under the title OVERRIDE; a
yes promotes the model, and the history keeps that it was forced, by whom, and the reason. `why` is the reason
otherwise.

**How the model wants its images** is said by its `family`, or by `input_height`, `input_width`, `crop_fraction`,
`resize_filter`, `input_mean`, `input_scale`, `output` and `background_columns`; it is never guessed. `labels`,
`licence`, `sha256` and `int8` are about the model itself.

**What it needs.** The connections `images_s3` and `results_db`, for `promote` also `results_db_owner` (a login in the
role `nightlabel_owner`), and workers of the queue `cpu` that share the model store; to register one, TensorFlow on
them.

**When it is red.** In the log of the red task, read the line that begins with a code in brackets: `[alias_moved]` and
`[promotion_refused]` mean that the check is one of the past; clear `check` and what follows it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.params import model_params, text
from nightlabel_airflow.promotion import (
    APPROVE_TASK,
    CHECK_TASK,
    REGISTER_TASK,
    ApprovePromotionOperator,
    CheckModelOperator,
    PromoteModelOperator,
    RegisterModelOperator,
)
from nightlabel_airflow.tasks import DEFAULT_ARGS

CHECK, ANSWER = "How to check it", "Who decides"

with DAG(
    dag_id="register_model",
    description="Bring a new model into production: register, check, ask, promote.",
    schedule=None,
    catchup=False,
    max_active_runs=16,  # a question may wait for days, and others are not to wait for it
    params={
        **model_params("The model", "How it wants its images"),
        "days": Param(
            7,
            type="integer",
            minimum=0,
            maximum=3_660,
            section=CHECK,
            description="Compare it with production on images that production labelled in so many days. 0: on the "
            "golden set only.",
        ),
        "images": Param(
            500,
            type="integer",
            minimum=0,
            maximum=100_000,
            section=CHECK,
            description="At most so many of these images, drawn at random.",
        ),
        "seed": Param(
            0,
            type="integer",
            minimum=0,
            maximum=2_147_483_647,
            section=CHECK,
            description="What they are drawn by: the same number draws the same images.",
        ),
        "why": text(ANSWER, "Why it is promoted, for the history. Empty: the name of this run."),
        "approval_hours": Param(
            72,
            type="number",
            exclusiveMinimum=0,
            maximum=8_760,
            section=ANSWER,
            description="Hours to wait for an answer; after that it is a no.",
        ),
        "override_reason": text(
            ANSWER,
            "Ask even if the gate stops the model, and promote it with a yes; for this reason, which is kept. Empty: "
            "what the gate stops is not promoted.",
        ),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["nightlabel"],
):
    register = RegisterModelOperator(
        task_id=REGISTER_TASK,
        queue="cpu",
        max_active_tis_per_dag=1,
        execution_timeout=timedelta(hours=2),
        doc_md="Fetches, converts, verifies and registers the model, or finds the registered one. Registering the same "
        "model again changes nothing.",
    )
    check = CheckModelOperator(
        task_id=CHECK_TASK,
        queue="cpu",
        max_active_tis_per_dag=1,
        execution_timeout=timedelta(hours=6),
        doc_md="Judges the model by the golden set and beside production. Its log has the report. Labels nothing.",
    )
    approve = ApprovePromotionOperator(
        task_id=APPROVE_TASK,
        doc_md="Waits for a person under Required Actions; silence is a no. Skipped when the gate has stopped the "
        "model.",
    )
    promote = PromoteModelOperator(
        task_id="promote",
        execution_timeout=timedelta(minutes=30),
        doc_md="Lets production name the model, as long as nothing has changed since the check.",
    )
    register >> check >> approve >> promote
