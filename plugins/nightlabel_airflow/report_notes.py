"""Shows in the UI, as the note of a Dag run, that its labels have moved: a listener, since tasks cannot write notes.

The text is the one that ``report`` left in its XCom. What stands in the note already stays above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

REPORT_NOTE_KEY = "note"
"""XCom of the task ``report``: what the Dag run's note is to say, once it has ended."""

REPORT_TASK = "report"
REPORT_OPERATOR = "ReportOperator"

MOST_CHARACTERS = 1_000
"""Airflow's own bound on a note."""


@hookimpl
def on_dag_run_success(dag_run: DagRun) -> None:
    """Note what the report found, now that the run has ended."""
    note_report(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun) -> None:
    """Note what the report found, which may be why the run failed."""
    note_report(dag_run)


def note_report(dag_run: DagRun) -> None:
    """Add what the run's task ``report`` left behind to the run's note, once, if it is one of ours."""
    task = dag_run.dag.task_dict.get(REPORT_TASK) if dag_run.dag else None
    if task is None or task.task_type != REPORT_OPERATOR:
        return

    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    text = session.scalar(
        select(XComModel.value).filter_by(
            dag_id=dag_run.dag_id, run_id=dag_run.run_id, task_id=REPORT_TASK, key=REPORT_NOTE_KEY
        )
    )
    if isinstance(text, str) and text not in (dag_run.note or ""):
        dag_run.note = "\n\n".join(filter(None, (dag_run.note, text)))[:MOST_CHARACTERS]
