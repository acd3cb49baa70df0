"""Shows in the UI, as the note of a Dag run, what it planned and what its report found. A listener in the scheduler.

Tasks cannot write notes; the texts are those that ``discover`` and ``report`` left in their XComs. What stands in the
note already, such as what an operator wrote there, stays above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

NOTE_KEY = "note"
"""XCom of a task: what the Dag run's note is to say of it, once the run has ended."""

OPERATORS = {
    "discover": frozenset({"DiscoverLabelledOperator", "DiscoverSampleOperator"}),
    "report": frozenset({"ReportOperator"}),
}
"""Task -> the operators that leave a text behind, in the order in which their texts are shown."""

MOST_CHARACTERS = 1_000
"""Airflow's own bound on a note."""


@hookimpl
def on_dag_run_success(dag_run: DagRun) -> None:
    """Note what the run planned and found, now that it has ended."""
    write_note(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun) -> None:
    """Note what the run planned and found, which may be why it failed."""
    write_note(dag_run)


def write_note(dag_run: DagRun) -> None:
    """Add to the run's note what its tasks left behind, each text once, if they are ours."""
    there = dag_run.dag.task_dict if dag_run.dag else {}
    ours = [task for task, kinds in OPERATORS.items() if task in there and there[task].task_type in kinds]
    if not ours:
        return

    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    about = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "key": NOTE_KEY}
    for task in ours:
        text = session.scalar(select(XComModel.value).filter_by(task_id=task, **about))
        if isinstance(text, str) and text not in (dag_run.note or ""):
            dag_run.note = "\n\n".join(filter(None, (dag_run.note, text)))[:MOST_CHARACTERS]
