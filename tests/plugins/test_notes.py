"""The listener that shows in a run's note what it planned and found, on a real metadata database (in memory)."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from nightlabel_airflow import notes
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

TEXT = "A dry run would label 100 images again with lite0@2, which takes about 50 s."


@pytest.fixture
def session():
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def a_run(session, *, note=None, **operators):
    run = DagRun(
        dag_id="reclassify_images",
        run_id="manual__1",
        run_type=DagRunType.MANUAL,
        state=DagRunState.SUCCESS,
        run_after=datetime(2026, 11, 22, tzinfo=UTC),
        note=note,
    )
    session.add(run)
    session.flush()
    tasks = operators or {"discover": "DiscoverLabelledOperator", "report": "ReportOperator"}
    run.dag = SimpleNamespace(task_dict={task: SimpleNamespace(task_type=kind) for task, kind in tasks.items()})
    return run


def leave_behind(session, run, text, *, task="discover"):
    session.add(
        XComModel(
            dag_run_id=run.id, dag_id=run.dag_id, run_id=run.run_id, task_id=task, key="note", value=text, map_index=-1,
        )
    )  # fmt: skip
    session.flush()


@pytest.mark.parametrize("tell", [notes.on_dag_run_success, notes.on_dag_run_failed])
def test_what_the_run_planned_is_its_note_once_it_has_ended(session, tell):
    run = a_run(session)
    leave_behind(session, run, TEXT)

    tell(dag_run=run)
    session.flush()

    session.expire_all()
    assert session.get(DagRun, run.id).note == TEXT


def test_what_the_report_found_stands_below_it_and_both_once(session):
    run = a_run(session)
    leave_behind(session, run, TEXT)
    leave_behind(session, run, "Labels unlike those before: psi 0.5", task="report")

    notes.on_dag_run_failed(dag_run=run)
    notes.on_dag_run_success(dag_run=run)  # cleared, and through this time

    assert run.note == f"{TEXT}\n\nLabels unlike those before: psi 0.5"


def test_what_somebody_has_written_stays_above(session):
    run = a_run(session, note="ask Legal first")
    leave_behind(session, run, TEXT)

    notes.on_dag_run_success(dag_run=run)

    assert run.note == f"ask Legal first\n\n{TEXT}"


def test_a_note_is_no_longer_than_airflow_allows(session):
    run = a_run(session, note="long " * 190)
    leave_behind(session, run, TEXT)

    notes.on_dag_run_success(dag_run=run)

    assert len(run.note) == 1_000


def test_a_run_that_left_nothing_gets_none(session):
    run = a_run(session)
    notes.on_dag_run_success(dag_run=run)
    assert not run.note


def test_a_run_of_another_dag_with_tasks_of_these_names_gets_none(session):
    run = a_run(session, discover="PythonOperator", report="BashOperator")
    leave_behind(session, run, TEXT)
    notes.on_dag_run_success(dag_run=run)
    assert not run.note
