"""The Dag that brings a model into production, as Airflow's real DagBag reads it."""

import json
from pathlib import Path

import pytest
from airflow.sdk import TriggerRule
from airflow.sdk.exceptions import ParamValidationError
from nightlabel_airflow.retries import RETRY_BY_ERROR

from inference.gate.figures import CheckRequest

# Airflow itself warns when it reads .airflowignore: its pathspec pattern has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def dag():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS)).dags["register_model"]


@pytest.fixture(scope="module")
def as_scheduled(dag):
    """Return the Dag after its way through JSON, as scheduler and api-server see it."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_nothing_is_promoted_before_somebody_was_asked_and_nobody_before_the_check(dag, as_scheduled):
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == {
        "register": [],
        "check": ["register"],
        "approve": ["check"],
        "promote": ["approve"],
    }
    assert {task.trigger_rule for task in dag.tasks} == {TriggerRule.ALL_SUCCESS}
    assert as_scheduled.get_task("approve").inherits_from_skipmixin
    for task in dag.tasks:
        assert task.retry_policy is RETRY_BY_ERROR
        assert task.doc_md
        assert bool(task.execution_timeout) is (task.task_id != "approve"), (
            "a person is waited for without a bound here"
        )
    assert {task.queue for task in dag.tasks if task.task_id in {"register", "check"}} == {"cpu"}


def test_silence_is_a_no(dag):
    approve = dag.get_task("approve")
    assert (approve.options, approve.defaults, approve.multiple) == (["Approve", "Reject"], ["Reject"], False)
    assert not approve.fail_on_reject


def test_it_runs_by_hand_only_and_a_question_that_waits_holds_up_no_other_model(dag, as_scheduled):
    assert (dag.schedule, dag.catchup, dag.max_active_runs, dag.start_date) == (None, False, 16, None)
    at_once = {task.task_id: task.max_active_tis_per_dag for task in as_scheduled.tasks}
    assert at_once == {"register": 1, "check": 1, "approve": None, "promote": None}, "what is heavy, one at a time"


def test_the_form_and_the_library_agree_on_the_defaults_of_a_check(dag):
    defaults = CheckRequest("")
    assert (dag.params["days"], dag.params["images"], dag.params["seed"]) == (
        defaults.days, defaults.images, defaults.seed,
    )  # fmt: skip


def test_the_form_has_every_parameter_described_bounded_and_in_a_section(dag):
    for name, param in ((name, dag.params.get_param(name)) for name in dag.params):
        assert param.description.endswith("."), name
        assert param.schema["section"], name
        kind = param.schema["type"]
        bounds = {"maxLength"} if kind == "string" and "enum" not in param.schema else set()
        bounds |= {"maximum"} if "number" in kind or "integer" in kind else set()
        assert bounds <= set(param.schema), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "a\x00"),
        ("version", None),
        ("source", "s3://models/" + "s" * 2_048),
        ("source", "/etc/passwd"),
        ("source", "models/cats"),
        ("source", "http://127.0.0.1:8500/m/1"),
        ("labels", "/etc/passwd"),
        ("labels", "https://x.example/labels.txt"),
        ("sha256", "abc"),
        ("resize_filter", "sinc"),
        ("output", "scores"),
        ("crop_fraction", 0),
        ("input_height", 0),
        ("input_scale", 0),
        ("days", -1),
        ("days", 1.5),
        ("images", 10**6),
        ("approval_hours", 0),
        ("approval_hours", None),
        ("override_reason", "x" * 1_001),
        ("int8", None),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_anything_runs(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)

    with pytest.raises(ParamValidationError):
        Param(value, description=param.description, **param.schema).resolve()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classification/5"),
        ("source", "google/mobilenet-v2/tensorFlow2/100-224-classification/2"),
        ("source", " s3://models/resnet.tar.gz "),
        ("source", ""),
        ("labels", "imagenet"),
        ("labels", "s3://models/labels.csv"),
    ],
)
def test_what_may_be_fetched_passes(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)
    assert Param(value, description=param.description, **param.schema).resolve() == value


def test_the_form_as_it_stands_is_valid(dag):
    for name in dag.params:
        dag.params.get_param(name).resolve()


def test_the_dag_explains_itself(dag, as_scheduled):
    assert dag.description == "Bring a new model into production: register, check, ask, promote."
    for word in ("results_db_owner", "Required Actions", "model_check", "labelled again", *dag.params):
        assert word in as_scheduled.doc_md, word


def test_parsing_again_gives_the_same_dag_so_that_no_versions_pile_up(dag):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagBag(str(DAGS)).dags["register_model"]

    assert json.dumps(DagSerialization.to_dict(again)) == json.dumps(DagSerialization.to_dict(dag))
