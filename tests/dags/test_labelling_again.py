"""The Dags that label existing objects again and that run a shadow model, as Airflow's real DagBag reads them."""

import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import ParamValidationError
from nightlabel_airflow import tasks
from nightlabel_airflow.operators import SHADOW_DAG

from inference.planning import LEAST_RATE, MOST_RATE, largest_shard
from inference.types import LabelFilter, RunRequest

# Airflow itself warns when it reads .airflowignore: its pathspec pattern has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"
MAPPED = ("classify_on_cpu", "classify_on_gpu")


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS)).dags


@pytest.fixture(scope="module")
def again(dags):
    return dags["reclassify_images"]


@pytest.fixture(scope="module")
def shadow(dags):
    return dags[SHADOW_DAG]


@pytest.fixture(params=["reclassify_images", SHADOW_DAG])
def either(dags, request):
    return dags[request.param]


def shape(dag):
    """How the tasks of a Dag hang together, where they run and how they are tried again; without a night's shadow."""
    return {
        task.task_id: (
            sorted(task.upstream_task_ids), task.queue, task.pool, task.trigger_rule, task.retries, task.retry_delay,
            task.retry_exponential_backoff, task.max_retry_delay, task.retry_policy, task.is_mapped,
        )
        for task in dag.tasks
        if task.task_id != "shadow"
    }  # fmt: skip


def test_their_tasks_are_those_of_the_nightly_run(dags, either):
    assert shape(either) == shape(dags["classify_images"])
    assert all(task.execution_timeout and task.doc_md for task in either.tasks)


def test_they_never_start_by_themselves_and_once_at_a_time(either):
    assert (either.schedule, either.catchup, either.max_active_runs, either.start_date) == (None, False, 1, None)


def test_a_free_slot_of_a_pool_goes_to_a_nightly_run_or_a_retry_first(dags):
    weights = {
        name: {task_id: weight(dag.get_task(task_id)) for task_id in MAPPED}
        for name, dag in ((name, serialized(dag)) for name, dag in dags.items())
        if MAPPED[0] in dag.task_dict
    }
    slower = {"reclassify_images", SHADOW_DAG}
    most = max(weight for name in slower for weight in weights[name].values())
    assert all(weight > most for name in set(weights) - slower for weight in weights[name].values())
    assert {"classify_images", "retry_dead_letters"} <= set(weights)


def weight(task):
    """As the scheduler works it out for each instance of a task."""
    return task.weight_rule.get_weight(SimpleNamespace(task=task))


def serialized(dag):
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_a_shard_that_shares_its_rate_with_as_many_as_may_run_ends_well_before_its_time_out(again):
    at_once = {again.get_task(task_id).partial_kwargs["max_active_tis_per_dagrun"] for task_id in MAPPED}
    limits = {again.get_task(task_id).execution_timeout for task_id in MAPPED}
    assert (at_once, limits) == ({tasks.PACED_TASKS}, {tasks.TASK_LIMIT})

    limit = again.get_task("discover").shard_limit
    for rate in (0.1, 3.0, 200.0):
        images = largest_shard(RunRequest("b", images_per_second=rate, longest_shard_s=limit.total_seconds()))
        assert timedelta(seconds=images * tasks.PACED_TASKS / rate) <= tasks.TASK_LIMIT / 2


def test_the_forms_have_every_parameter_described_bounded_and_in_a_section(again, shadow):
    limits = ["max_dead_ratio", "min_images_for_ratio"]
    how = ["model", "device", "allow_cpu_fallback", "shard_size", *limits]
    assert list(again.params) == [
        "bucket", "prefix", "labelled_by", "label", "label_id", "since", "until", "dead_letters_too", "max_images",
        "dry_run", "images_per_second", *how,
    ]  # fmt: skip
    assert list(shadow.params) == ["bucket", "prefix", "run_id", "share", "max_images", "dry_run", "max_minutes", *how]
    for dag in (again, shadow):
        for name, param in ((name, dag.params.get_param(name)) for name in dag.params):
            assert param.description.endswith("."), name
            assert param.schema["section"], name
            bounds = [{"maxLength", "pattern"}, {"maxLength", "format"}, {"enum"}, {"minimum", "maximum"}]
            assert param.schema["type"] == "boolean" or any(both <= set(param.schema) for both in bounds), name


def test_the_form_and_the_library_agree_on_names_defaults_and_bounds(again, shadow):
    request = {field.name: field.default for field in fields(RunRequest)}
    chosen = {field.name: field.default for field in fields(LabelFilter)}
    form = {name: again.params[name] for name in again.params if name != "bucket"}
    assert form == {name: {**request, **chosen}[name] for name in form}
    assert set(chosen) <= set(form)
    rate = again.params.get_param("images_per_second").schema
    assert (rate["minimum"], rate["maximum"]) == (LEAST_RATE, MOST_RATE)

    assert shadow.params["model"] == "shadow"
    assert shadow.params["max_dead_ratio"] == 1.0, "it is for comparison, and dead letters are part of it"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images_per_second", 0),
        ("images_per_second", -1),
        ("images_per_second", 1e6),
        ("images_per_second", "fast"),
        ("label", "a\x00"),
        ("label", "a" * 401),
        ("labelled_by", 7),
        ("since", 20261120),
        ("dead_letters_too", "perhaps"),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_anything_runs(again, name, value):
    refused(again, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("run_id", "1; DROP"), ("run_id", "a" * 37), ("share", 1.5), ("share", None), ("max_minutes", 0)],
)
def test_so_is_one_of_a_shadow_run(shadow, name, value):
    refused(shadow, name, value)


def refused(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)
    with pytest.raises(ParamValidationError):
        Param(value, description=param.description, **param.schema).resolve()


def test_the_dags_explain_themselves(again, shadow):
    assert again.description == "Label existing objects again, with another model."
    assert shadow.description == "Let a shadow model look at a share of what a nightly run has labelled."
    for dag, words in (
        (again, ("dry_run", "images_per_second", "already_done", "latest_prediction", "images_s3", "classify_cpu")),
        (shadow, ("shadow_daily", "shadow_share", "run_id", "max_minutes", "latest_prediction")),
    ):
        assert sorted(dag.tags) == ["images", "nightlabel"]
        assert [word for word in words if word not in dag.doc_md] == []
