"""The listener that finds missing pools, on a real metadata database (in memory)."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from nightlabel_airflow import pools
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def dag():
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(
        json.loads(json.dumps(DagSerialization.to_dict(DagBag(str(DAGS)).dags["classify_images"])))
    )


@pytest.fixture
def session():
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def dag_run(session, dag):
    run = DagRun(
        dag_id="classify_images",
        run_id="manual__1",
        run_type=DagRunType.MANUAL,
        state=DagRunState.RUNNING,
        run_after=datetime(2026, 11, 22, tzinfo=UTC),
    )
    session.add(run)
    session.flush()
    run.dag = dag
    return run


def add_pools(session, *names):
    session.add_all(Pool(pool=name, slots=1, description="", include_deferred=False) for name in names)
    session.flush()


def left_behind(session):
    return [(row.task_id, row.key, row.value) for row in session.scalars(select(XComModel))]


@pytest.mark.parametrize(
    ("existing", "missing"),
    [
        ((), ["classify_cpu", "classify_gpu"]),
        (("classify_cpu",), ["classify_gpu"]),
        (("classify_gpu",), ["classify_cpu"]),
    ],
)
def test_missing_pools_are_left_where_discover_reads_them(session, dag_run, existing, missing):
    add_pools(session, "default_pool", *existing)

    pools.on_dag_run_running(dag_run=dag_run)

    assert left_behind(session) == [("report", "missing_pools", missing)]


def test_nothing_is_left_if_all_pools_exist(session, dag_run):
    add_pools(session, "classify_cpu", "classify_gpu")

    pools.on_dag_run_running(dag_run=dag_run)

    assert left_behind(session) == []


def test_a_run_that_is_cleared_after_the_pools_were_made_is_told_so(session, dag_run):
    pools.on_dag_run_running(dag_run=dag_run)
    add_pools(session, "classify_cpu", "classify_gpu")

    pools.on_dag_run_running(dag_run=dag_run)

    assert left_behind(session) == []


def test_runs_of_other_peoples_dags_are_none_of_our_business(session, dag_run):
    from airflow.sdk import DAG, BaseOperator
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("theirs", schedule=None) as theirs:
        BaseOperator(task_id="report", pool="no_such_pool")
    dag_run.dag = DagSerialization.from_dict(DagSerialization.to_dict(theirs))

    pools.on_dag_run_running(dag_run=dag_run)

    assert left_behind(session) == []


def test_the_listener_is_registered_as_airflow_wants_it():
    from airflow.listeners.listener import get_listener_manager
    from airflow.plugins_manager import ensure_plugins_loaded, integrate_listener_plugins

    ensure_plugins_loaded()
    manager = get_listener_manager()
    integrate_listener_plugins(manager)

    assert [hook.plugin for hook in manager.hook.on_dag_run_running.get_hookimpls()] == [pools]
