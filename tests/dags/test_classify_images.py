"""The Dag as Airflow's real DagBag reads it, and as the scheduler gets it out of the database."""

import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk import Connection, TriggerRule
from airflow.sdk.exceptions import ParamValidationError
from nightlabel_airflow import connections
from nightlabel_airflow.operators import share_warning
from nightlabel_airflow.params import shadow_params
from nightlabel_airflow.retries import RETRY_BY_ERROR
from nightlabel_airflow.timetables import NightlyTimetable

from inference.settings import Settings
from inference.types import QUALITY_THRESHOLDS, RunRequest

# Airflow itself warns when it reads .airflowignore: its pathspec pattern has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def bag():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS))


@pytest.fixture(scope="module")
def dag(bag):
    return bag.dags["classify_images"]


@pytest.fixture(scope="module")
def as_scheduled(dag):
    """Return the Dag after its way through JSON, as scheduler and api-server see it."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_every_dag_file_is_read_without_an_error(bag):
    assert bag.import_errors == {}
    assert set(bag.dags) == {path.stem for path in DAGS.glob("*.py")}


def test_the_tasks_their_order_and_where_they_run(dag):
    assert {
        task.task_id: (sorted(task.upstream_task_ids), task.queue, task.pool, task.trigger_rule) for task in dag.tasks
    } == {
        "discover": ([], "default", "default_pool", TriggerRule.ALL_SUCCESS),
        "classify_on_cpu": (["discover"], "cpu", "classify_cpu", TriggerRule.ALL_SUCCESS),
        "classify_on_gpu": (["discover"], "gpu", "classify_gpu", TriggerRule.ALL_SUCCESS),
        "report": (["classify_on_cpu", "classify_on_gpu"], "default", "default_pool", TriggerRule.ALL_DONE),
        "shadow": (["discover", "report"], "default", "default_pool", TriggerRule.ALL_DONE_SETUP_SUCCESS),
    }


def test_the_state_of_the_run_never_hangs_on_its_shadow(as_scheduled):
    """A teardown task does not count among those by which Airflow judges a run."""
    shadow = as_scheduled.get_task("shadow")
    assert shadow.is_teardown
    assert not shadow.on_failure_fail_dagrun
    assert shadow.downstream_task_ids == set()
    assert not any(task.is_teardown for task in as_scheduled.tasks if task is not shadow)


def test_there_is_one_mapped_task_per_shard_and_its_name_says_which(as_scheduled):
    for task_id in ("classify_on_cpu", "classify_on_gpu"):
        task = as_scheduled.get_task(task_id)
        assert task.is_mapped
        assert task.expand_input.value["shard_number"].operator.task_id == "discover"
        assert task.partial_kwargs["map_index_template"] == "shard {{ task.shard_number }}"


def test_the_device_that_was_not_chosen_can_be_skipped_before_it_is_mapped(as_scheduled):
    assert as_scheduled.get_task("discover").inherits_from_skipmixin


def test_runs_come_one_at_a_time_and_never_for_the_past(dag):
    assert (dag.max_active_runs, dag.catchup, dag.start_date) == (1, False, None)


def test_the_schedule_of_the_scheduler_is_ours(as_scheduled):
    assert type(as_scheduled.timetable) is NightlyTimetable
    assert as_scheduled.timetable.summary == "0 2 * * *"


def test_the_scheduler_waits_for_the_next_night_when_it_first_sees_the_dag(as_scheduled):
    from airflow.sdk.timezone import utcnow
    from nightlabel_airflow.timetables import GRACE

    start = as_scheduled.next_dagrun_info(last_automated_run_info=None).run_after

    assert (start.hour, start.minute) == (2, 0)
    assert start >= utcnow() - GRACE


def test_every_task_is_tried_again_by_the_class_of_its_error_and_none_runs_for_ever(dag):
    for task in dag.tasks:
        assert task.retry_policy is RETRY_BY_ERROR
        assert (task.retries, task.retry_delay) == (2 if task.task_id == "shadow" else 6, timedelta(seconds=10))
        assert (task.retry_exponential_backoff, task.max_retry_delay) == (2, timedelta(minutes=15))
        assert task.execution_timeout is not None


def test_the_form_has_every_parameter_described_bounded_and_in_a_section(dag):
    assert list(dag.params) == [
        "bucket", "prefix", "scope", "manifest", "inventory", "max_images", "dry_run", "model", "device",
        "allow_cpu_fallback", "shard_size", "max_dead_ratio", "min_images_for_ratio", "quality_action",
        "quality_min_images", "quality_js", "quality_psi", "quality_moved_share", "quality_low_score_rise",
        "quality_score_drop", "quality_dead_rise", "shadow_share",
    ]  # fmt: skip
    for name, param in ((name, dag.params.get_param(name)) for name in dag.params):
        assert param.description.endswith("."), name
        assert param.schema["section"], name
        bounds = [{"maxLength", "pattern"}, {"enum"}, {"minimum", "maximum"}]
        assert param.schema["type"] == "boolean" or any(both <= set(param.schema) for both in bounds), name


def test_the_form_and_the_library_agree_on_names_and_defaults(dag):
    defaults = {field.name: field.default for field in fields(RunRequest)}
    form = {name: dag.params[name] for name in dag.params if name != "bucket" and not name.startswith("quality_")}

    assert form.pop("shadow_share") == Settings.model_fields["shadow_share"].default == 0
    assert form == {name: defaults[name] for name in form}
    assert set(defaults) - set(form) == {
        "bucket", "dead_letters", "labelled", "shadow", "images_per_second", "longest_shard_s", "time_budget_s",
        "dag_id", "airflow_run_id", "plan_attempt",
    }  # fmt: skip


def test_the_form_has_every_threshold_of_the_labels_and_leaves_it_to_the_settings(dag):
    form = {name.removeprefix("quality_"): dag.params[name] for name in dag.params if name.startswith("quality_")}

    assert list(form) == ["action", "min_images", *QUALITY_THRESHOLDS]
    assert form == dict.fromkeys(form), "also what moved labels do, whatever the process that parses the Dag has"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality_action", "ignore"),
        ("quality_js", 1.5),
        ("quality_psi", -0.1),
        ("quality_score_drop", "some"),
        ("quality_min_images", 0),
        ("bucket", "b" * 64),
        ("prefix", "p" * 1025),
        ("model", ""),
        ("scope", "everything"),
        ("device", "tpu"),
        ("allow_cpu_fallback", "perhaps"),
        ("max_images", 0),
        ("max_images", 10**23),
        ("prefix", "a\x00"),
        ("max_images", "many"),
        ("shard_size", 0),
        ("max_dead_ratio", -0.1),
        ("max_dead_ratio", 1.1),
        ("shadow_share", -0.1),
        ("shadow_share", 1.1),
        ("shadow_share", None),
        ("min_images_for_ratio", 0),
        ("dry_run", None),
        ("manifest", "/data/new.csv"),
        ("manifest", "s3://lists"),
        ("manifest", "https://lists.example/new.csv"),
        ("inventory", "manifest.json"),
        ("inventory", "s3://lists/" + "k" * 2048),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_anything_runs(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)

    with pytest.raises(ParamValidationError):
        Param(value, description=param.description, **param.schema).resolve()


@pytest.mark.parametrize("value", [None, "", "s3://lists/new.csv.gz", "s3://lists/a b/é.jsonl"])
@pytest.mark.parametrize("name", ["manifest", "inventory"])
def test_what_names_the_objects_may_be_left_out_or_lie_in_a_bucket(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)

    assert Param(value, description=param.description, **param.schema).resolve() == value


def test_the_dag_explains_itself(dag, as_scheduled):
    assert dag.description == "Label the images that have no label yet."
    assert sorted(dag.tags) == ["images", "nightlabel"]
    for word in ("NIGHTLABEL_SCHEDULE", "images_s3", "results_db", "classify_cpu", "dead_letter_open", "unfinished"):
        assert word in as_scheduled.doc_md
    for task in dag.tasks:
        assert task.doc_md, task.task_id


def test_parsing_again_gives_the_same_dag_so_that_no_versions_pile_up(dag):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagBag(str(DAGS)).dags["classify_images"]

    assert json.dumps(DagSerialization.to_dict(again)) == json.dumps(DagSerialization.to_dict(dag))


def test_a_database_may_be_away_for_ten_minutes(dag):
    """What the retries wait at least, without the jitter that Airflow adds."""
    for task in (task for task in dag.tasks if task.task_id != "shadow"):
        pauses = [task.retry_delay * task.retry_exponential_backoff**number for number in range(task.retries)]
        assert sum((min(pause, task.max_retry_delay) for pause in pauses), timedelta()) >= timedelta(minutes=10)


@pytest.mark.parametrize(("value", "share"), [(None, 0), ("", 0), (" 0.25 ", 0.25), ("1", 1)])
def test_the_environment_sets_the_share_of_scheduled_runs(value, share):
    environment = {} if value is None else {"NIGHTLABEL_SHADOW_SHARE": value}
    assert shadow_params("x", environment)["shadow_share"].value == share


@pytest.mark.parametrize("value", ["half", "1.5", "-0.1", "nan", "0,5"])
def test_a_share_that_is_none_never_stops_the_nights(value, monkeypatch):
    """It counts as 0 where the Dag is read, nothing where a task reads its settings, and ``discover`` warns."""
    environment = {"NIGHTLABEL_SHADOW_SHARE": value}
    assert shadow_params("x", environment)["shadow_share"].value == 0
    warning = share_warning(environment)
    assert warning is not None
    assert warning.startswith(f"NIGHTLABEL_SHADOW_SHARE is {value!r} and counts as 0")
    assert share_warning({"NIGHTLABEL_SHADOW_SHARE": "0.5"}) is share_warning({}) is None
    monkeypatch.setenv("NIGHTLABEL_SHADOW_SHARE", value)
    database = Connection(conn_id="results_db", conn_type="postgres", host="h", schema="d")
    monkeypatch.setattr(connections, "get_connection", lambda *_args, **_kwargs: database)
    assert connections.open_settings().shadow_share == 0
