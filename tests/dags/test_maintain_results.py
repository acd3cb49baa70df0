"""The Dag that keeps the results database small, as Airflow's real DagBag reads it."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError
from nightlabel_airflow.retries import RETRY_BY_ERROR
from nightlabel_airflow.timetables import NightlyTimetable

from inference.types import MaintenanceRequest

# Airflow itself warns when it reads .airflowignore: its pathspec pattern has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS)).dags


@pytest.fixture(scope="module")
def dag(dags):
    return dags["maintain_results"]


@pytest.fixture(scope="module")
def as_scheduled(dag):
    """Return the Dag after its way through JSON, as scheduler and api-server see it."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_the_dry_run_comes_first_and_may_be_all(dag, as_scheduled):
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == {
        "count": [],
        "maintain": ["count"],
    }
    assert as_scheduled.get_task("count").inherits_from_skipmixin
    for task in dag.tasks:
        assert task.retry_policy is RETRY_BY_ERROR
        assert task.execution_timeout
        assert task.doc_md


def test_it_runs_once_at_a_time_after_the_night_and_never_by_surprise(dag, dags, as_scheduled):
    assert (dag.catchup, dag.max_active_runs, dag.start_date) == (False, 1, None)
    assert type(as_scheduled.timetable) is NightlyTimetable
    hours = [dags[name].timetable.summary.split()[1] for name in ("classify_images", "maintain_results")]
    assert hours == ["2", "5"]


def test_a_run_by_hand_is_a_dry_run_unless_somebody_says_otherwise(dag):
    assert dag.params["dry_run"] is True


def test_the_form_and_the_library_agree_on_names_and_defaults(dag):
    defaults = {field.name: field.default for field in fields(MaintenanceRequest)}
    form = {name: dag.params[name] for name in dag.params}

    assert form | {"drop_models": (), "dry_run": False} == defaults


def test_the_form_has_every_parameter_described_bounded_and_in_a_section(dag):
    for name, param in ((name, dag.params.get_param(name)) for name in dag.params):
        assert param.description.endswith("."), name
        assert param.schema["section"], name
        assert param.schema["type"] == "boolean" or {"minimum", "maximum"} <= set(param.schema) or name == "drop_models"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_manifest_days", 0),
        ("keep_run_days", "some"),
        ("keep_outcome_days", -1),
        ("keep_outcome_days", 10**9),
        ("time_budget_minutes", 0),
        ("time_budget_minutes", None),
        ("drop_models", "tiny@1"),
        ("drop_models", ["tiny@1", "tiny@1"]),
        ("drop_models", ["a\x00@1"]),
        ("dry_run", None),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_anything_runs(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)

    with pytest.raises(ParamValidationError):
        Param(value, description=param.description, **param.schema).resolve()


def test_the_dag_explains_itself(dag, as_scheduled):
    assert dag.description == "Keep the results database small."
    for word in ("NIGHTLABEL_MAINTENANCE_SCHEDULE", "results_db_owner", "dry_run", "latest_prediction", *dag.params):
        assert word in as_scheduled.doc_md


def test_parsing_again_gives_the_same_dag_so_that_no_versions_pile_up(dag):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagBag(str(DAGS)).dags["maintain_results"]

    assert json.dumps(DagSerialization.to_dict(again)) == json.dumps(DagSerialization.to_dict(dag))
