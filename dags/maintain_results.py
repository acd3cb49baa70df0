"""Keep the results database small: remove what is not current and what no run needs.

`count` → `maintain`

`count` is a dry run: its log says how many rows would go, and of what. `maintain` removes them.

**When it runs.** Every day at 05:30 UTC, or as `NIGHTLABEL_MAINTENANCE_SCHEDULE` says (a cron expression in UTC; `none`
for runs by hand only). A start that was missed by more than five minutes is left out, so neither unpausing the Dag nor
deploying or restarting Airflow starts a run by surprise. A run by schedule removes what the settings say
(`NIGHTLABEL_MANIFEST_RETENTION_DAYS` and the like, in the README). **A run by hand is a dry run** and ends after
`count` unless `dry_run` is unticked.

**What it removes.** Without a word in the form or the settings, only what nobody can miss:

| step | rows that go | what stays |
| --- | --- | --- |
| `models` | all outcomes of the versions in `drop_models` | a model whose label is shown: refused, with how many |
| `outcomes` | older than `keep_outcome_days` (without it: none) | those of every version that is in a bucket |
| `objects` | keys that are gone for longer than that | keys that exist |
| `manifests` | of runs that ended `keep_manifest_days` ago | |
| `images` | versions that nothing refers to any more | |
| `shards` | of runs that ended `keep_run_days` ago, into one a plan | `run_summary` and `run_cost`, to the digit |
| `label_counts` | what was counted since the last time, into `label_daily`'s table | `label_daily`, to the digit |
| `vacuum` | none: makes room for new ones, and statistics | |

`latest_prediction`, `dead_letter_open`, `dead_letter_reason`, `never_labelled`, `duplicate_content`, `label_daily`,
`run_summary` and `run_cost` are the same before and after, and the next run labels nothing again. `label_by_prefix`
counts only what is still there, after `models` and `outcomes`; `object_outcome` and `label_change` show no dropped
model. An object that comes back after its outcome was removed is a new one.

**What it needs.** The connection `results_db_owner` (type *postgres*, a login in the role `nightlabel_owner`).

**Beside a night.** It works in small transactions, waits for no lock longer than two seconds, and begins nothing after
`time_budget_minutes`; the next run goes on there.

**When it is red.** The line of the log that begins with a code in brackets says why: `[model_in_use]` names how many
labels would be lost. Clearing a task is harmless, and so is running it twice.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param
from nightlabel_airflow.maintenance import CountSuperfluousOperator, MaintainOperator
from nightlabel_airflow.params import WITHOUT_NUL
from nightlabel_airflow.tasks import DEFAULT_ARGS
from nightlabel_airflow.timetables import maintenance_schedule_from

KEEP = "How long to keep"
HOW = "How"


def days(description: str) -> Param:
    """Return a parameter that is a number of days, or empty."""
    return Param(None, type=["null", "integer"], minimum=1, maximum=36_600, section=KEEP, description=description)


with DAG(
    dag_id="maintain_results",
    description="Keep the results database small.",
    schedule=maintenance_schedule_from(os.environ),
    catchup=False,
    max_active_runs=1,
    params={
        "dry_run": Param(
            True,
            type="boolean",
            section=HOW,
            description="Only count what would be removed. Runs by schedule remove it whatever stands here.",
        ),
        "time_budget_minutes": Param(
            60,
            type="integer",
            minimum=1,
            maximum=1_440,
            section=HOW,
            description="Begin nothing more after so many minutes; the next run goes on there.",
        ),
        "keep_manifest_days": days(
            "Drop the manifests of runs that ended longer ago. Empty: NIGHTLABEL_MANIFEST_RETENTION_DAYS."
        ),
        "keep_run_days": days(
            "Make one row of the shards of each plan of runs that ended longer ago. "
            "Empty: NIGHTLABEL_RUN_RETENTION_DAYS."
        ),
        "keep_outcome_days": days(
            "Remove older outcomes of versions that no object holds any more, and objects that are gone for longer. "
            "Empty: NIGHTLABEL_OUTCOME_RETENTION_DAYS, and without that they are kept."
        ),
        "drop_models": Param(
            [],
            type="array",
            items={"type": "string", "maxLength": 200, "pattern": WITHOUT_NUL},
            uniqueItems=True,
            maxItems=100,
            section="Superseded models",
            description="Versions, each as NAME@VERSION, all of whose outcomes are dropped. Refused while "
            "latest_prediction shows one of them; object_outcome, label_change and label_by_prefix show them no more.",
        ),
    },
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["nightlabel"],
):
    count = CountSuperfluousOperator(
        task_id="count",
        execution_timeout=timedelta(hours=25),
        doc_md="Counts what would be removed, and removes nothing. Its log has the numbers.",
    )
    maintain = MaintainOperator(
        task_id="maintain",
        execution_timeout=timedelta(hours=25),
        doc_md="Removes it, in small transactions. Skipped by a dry run. Its log has the numbers.",
    )
    count >> maintain
