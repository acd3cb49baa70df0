"""The Dag that tries dead letters again, as Airflow's real DagBag reads it."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError

from inference.errors import dead_letter_codes
from inference.types import DeadLetterFilter, RunRequest

# Airflow itself warns when it reads .airflowignore: its pathspec pattern has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS)).dags


@pytest.fixture(scope="module")
def dag(dags):
    return dags["retry_dead_letters"]


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


def test_its_tasks_are_those_of_the_nightly_run(dags, dag):
    assert shape(dag) == shape(dags["classify_images"])
    assert dag.get_task("discover").task_type == "DiscoverDeadLettersOperator"
    assert all(task.execution_timeout and task.doc_md for task in dag.tasks)


def test_it_never_starts_by_itself_and_once_at_a_time(dag):
    assert (dag.schedule, dag.catchup, dag.max_active_runs, dag.start_date) == (None, False, 1, None)


def test_the_device_that_was_not_chosen_can_be_skipped_before_it_is_mapped(dag):
    from airflow.serialization.serialized_objects import DagSerialization

    as_scheduled = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert as_scheduled.get_task("discover").inherits_from_skipmixin


def test_the_form_has_every_parameter_described_bounded_and_in_a_section(dag):
    assert list(dag.params) == [
        "bucket", "prefix", "codes", "failed_after", "failed_before", "permanent", "max_images", "dry_run", "model",
        "device", "allow_cpu_fallback", "shard_size", "max_dead_ratio", "min_images_for_ratio",
    ]  # fmt: skip
    for name, param in ((name, dag.params.get_param(name)) for name in dag.params):
        assert param.description.endswith("."), name
        assert param.schema["section"], name
        bounds = [{"maxLength", "pattern"}, {"maxLength", "format"}, {"enum"}, {"minimum", "maximum"}, {"maxItems"}]
        assert param.schema["type"] == "boolean" or any(both <= set(param.schema) for both in bounds), name


def test_the_codes_are_a_list_to_choose_from(dag):
    codes = dag.params.get_param("codes")
    assert tuple(codes.schema["examples"]) == tuple(codes.schema["items"]["enum"]) == dead_letter_codes()
    assert {"truncated", "too_many_pixels", "access_denied"} <= set(dead_letter_codes())


def test_the_form_and_the_library_agree_on_names_and_defaults(dag):
    request = {field.name: field.default for field in fields(RunRequest)}
    chosen = {field.name: field.default for field in fields(DeadLetterFilter)}
    form = {name: dag.params[name] for name in dag.params if name != "bucket"}

    assert form.pop("max_dead_ratio") == 1.0, "all of them may fail again"
    form["codes"] = tuple(form["codes"])
    assert form == {name: {**request, **chosen}[name] for name in form}
    assert set(chosen) <= set(form)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("codes", ["no_such_code"]),
        ("codes", ["store_unavailable"]),
        ("codes", ["truncated", "truncated"]),
        ("codes", "truncated"),
        ("permanent", "yes"),
        ("failed_after", 20261120),
        ("failed_before", "2" * 41),
        ("max_images", 0),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_anything_runs(dag, name, value):
    from airflow.sdk import Param

    param = dag.params.get_param(name)

    with pytest.raises(ParamValidationError):
        Param(value, description=param.description, **param.schema).resolve()


def test_the_dag_explains_itself(dag):
    assert dag.description == "Try images again that could not be labelled."
    assert sorted(dag.tags) == ["images", "nightlabel"]
    for word in ("dead_letter_open", "images_s3", "results_db", "classify_cpu", "max_dead_ratio", "gone"):
        assert word in dag.doc_md
