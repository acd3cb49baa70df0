"""What the operators say and hand on. That they run is seen end to end, under the real scheduler."""

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException
from nightlabel_airflow import operators
from nightlabel_airflow.params import quality_params

from inference.errors import RunInterruptedError, SettingsError, ShardsUnfinishedError, TooManyDeadError
from inference.judging import Measure, MovedLabel, Verdict
from inference.types import (
    DeadLetterFilter,
    LabelFilter,
    ModelId,
    Plan,
    QualityRules,
    RunRequest,
    RunSummary,
    ShadowSample,
    Speed,
)

RUN_ID = UUID("cf2ebf3f-eb23-a16e-82e2-108fa59fc7e5")
PARAMS = {
    "bucket": "photos", "prefix": "in/", "model": "production", "scope": "unlabelled", "device": "auto",
    "allow_cpu_fallback": False, "max_images": 100, "shard_size": None, "max_dead_ratio": 0.2,
    "min_images_for_ratio": 20, "dry_run": False,
}  # fmt: skip


def plan(**overrides) -> Plan:
    values = {
        "run_id": RUN_ID, "plan_number": 1, "model": ModelId("lite0", "1"), "device": "cpu", "discovered": 120,
        "already_done": 10, "deferred": 10, "to_classify": 100, "to_classify_bytes": 12_300_000,
        "shards": tuple(range(4)), "list_s": 0.25,
    }  # fmt: skip
    return Plan(**values | overrides)


def summary(**overrides) -> RunSummary:
    values = {
        "run_id": RUN_ID, "dag_id": "classify_images", "airflow_run_id": "manual", "state": "succeeded",
        "started_at": datetime(2026, 11, 22, 2, tzinfo=UTC), "finished_at": datetime(2026, 11, 22, 3, tzinfo=UTC),
        "model_name": "lite0", "model_version": "1", "discovered": 1234, "already_done": 1000, "deferred": 100,
        "labelled": 120, "copied": 7, "dead": 11, "gone": 2, "done_elsewhere": 1, "unfinished": 0,
        "images_per_second": 99.96, "list_s": 0.1, "fetch_s": 1.0, "decode_s": 2.0, "predict_s": 3.0, "write_s": 4.0,
    }  # fmt: skip
    return RunSummary(**values | overrides)


def a_context(dag_id: str) -> Any:
    """What an operator sees of a manual run's third try."""
    dag_run = SimpleNamespace(dag_id=dag_id, run_id="manual__1", logical_date=None)
    return {"dag_run": dag_run, "ti": SimpleNamespace(try_number=3)}


def test_the_form_becomes_a_request_without_any_date_of_the_run():
    context = a_context("classify_images")

    request = operators.request_from(PARAMS, bucket="photos", prefix="in/", context=context)

    assert request == RunRequest(
        bucket="photos",
        prefix="in/",
        max_images=100,
        max_dead_ratio=0.2,
        min_images_for_ratio=20,
        dag_id="classify_images",
        airflow_run_id="manual__1",
        plan_attempt=3,
    )


@pytest.mark.parametrize("name", ["manifest", "inventory"])
def test_the_form_may_name_what_names_the_objects(name):
    address = "s3://lists/2026-11-24/manifest.json"

    def request(value):
        form = {**PARAMS, "manifest": None, "inventory": None, name: value}
        return operators.request_from(form, bucket="photos", prefix="in/", context=a_context("classify_images"))

    assert getattr(request(address), name) == address
    assert request("") == request(None), "an empty field of the form"
    assert request(None).is_by_listing
    assert f"of s3://photos/in/, named by {address}, with lite0@1 on cpu" in operators.plan_text(
        plan(), request(address)
    )


def test_the_form_of_the_retry_becomes_a_choice_of_dead_letters():
    form = {name: value for name, value in PARAMS.items() if name != "scope"}
    chosen = {"codes": ["truncated"], "failed_after": "2026-11-20T02:00:00+02:00", "failed_before": None}
    operator = operators.DiscoverDeadLettersOperator(task_id="discover", task_of_device={})

    request = operator.request_of(
        {**form, **chosen, "permanent": "permanent"},
        bucket="photos",
        prefix="",
        context=a_context("retry_dead_letters"),
    )

    assert (request.dag_id, request.scope, request.plan_attempt) == ("retry_dead_letters", "unlabelled", 3)
    assert request.dead_letters == DeadLetterFilter(
        codes=("truncated",), failed_after=datetime(2026, 11, 20, tzinfo=UTC), permanent="permanent"
    )


AGAIN = {
    "labelled_by": "lite0@1", "label": None, "label_id": "n1", "since": "2026-11-20", "until": None,
    "dead_letters_too": False, "images_per_second": 20,
}  # fmt: skip


def test_the_form_of_labelling_again_becomes_a_choice_of_labels_and_a_rate():
    operator = operators.DiscoverLabelledOperator(
        task_id="discover", task_of_device={}, shard_limit=timedelta(seconds=225)
    )

    request = operator.request_of(
        {**PARAMS, **AGAIN}, bucket="photos", prefix="", context=a_context("reclassify_images")
    )

    assert request.labelled == LabelFilter(
        label_id="n1", since=datetime(2026, 11, 20, tzinfo=UTC), labelled_by="lite0@1"
    )
    assert (request.images_per_second, request.longest_shard_s, request.plan_attempt) == (20, 225.0, 3)
    assert request.is_by_ledger
    with pytest.raises(SettingsError, match="until is 'never'; give a date or time"):
        operators.labels_from({**AGAIN, "until": "never"})


def test_the_form_of_a_shadow_run_becomes_a_sample_of_a_run_with_a_time_budget():
    operator = operators.DiscoverSampleOperator(task_id="discover", task_of_device={})
    form = {**PARAMS, "run_id": str(RUN_ID), "share": 0.25, "max_minutes": 30}

    request = operator.request_of(form, bucket="photos", prefix="", context=a_context("shadow_images"))

    assert (request.shadow, request.time_budget_s) == (ShadowSample(RUN_ID, 0.25), 1800.0)
    with pytest.raises(SettingsError, match="run_id is ''; give the run_id of run_summary, such as"):
        operators.sample_from({**form, "run_id": ""})


def test_the_plan_of_labelling_again_says_how_much_and_how_long_also_as_a_note():
    request = RunRequest("photos", labelled=LabelFilter(), images_per_second=2.0, dry_run=True)
    planned = plan(images_per_second=2.0, speed=Speed(80.0, is_of_model=True))

    assert operators.plan_text(planned, request).endswith(
        "deferred 10; it takes about 50 s at the 2 images/s that it keeps to; runs of this model did 80 of late"
    )
    assert operators.note_text(planned, request) == (
        "A dry run would label 100 images again with lite0@1, which takes about 50 s at the 2 images/s that it keeps "
        "to; runs of this model did 80 of late. 120 match, of which it has done 10 already and defers 10."
    )
    assert "Planned to classify 100 images for comparison with" in operators.note_text(
        plan(), RunRequest("photos", shadow=ShadowSample(RUN_ID, 0.1))
    )


class Reported:
    """The task instance of the shadow's start: what the report of its run has said."""

    def __init__(self, counts: dict[str, Any] | None, *, is_paused: bool = False) -> None:
        self.counts, self.is_paused = counts, is_paused

    def get_dag(self, dag_id: str) -> SimpleNamespace:
        assert dag_id == "shadow_images"
        return SimpleNamespace(is_paused=self.is_paused)

    def xcom_pull(self, *, task_ids: str) -> dict[str, Any] | None:
        assert task_ids == "report"
        return self.counts


SUCCEEDED = {"state": "succeeded", "labelled": 120, "run_id": str(RUN_ID)}


def start_shadow(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, Any] | None, model: ModelId | None, *, is_paused: bool = False
) -> None:
    """Run the task as it is after a report, where ``model`` holds the alias."""
    sink = SimpleNamespace(read_summary=lambda run_id: summary(run_id=run_id))
    monkeypatch.setattr("inference.wiring.find_shadow", lambda _sink: model)
    monkeypatch.setattr("nightlabel_airflow.connections.open_settings", lambda: SimpleNamespace(shadow_minutes=45))
    monkeypatch.setattr("nightlabel_airflow.connections.open_sink", lambda _settings: nullcontext(sink))
    source = SimpleNamespace(bucket="photos", prefix="in/")
    monkeypatch.setattr("nightlabel_airflow.connections.default_source", lambda **_given: source)
    context = {
        **a_context("classify_images"),
        "ti": Reported(counts, is_paused=is_paused),
        "params": {**PARAMS, "shadow_share": 0.25},
    }
    operators.ShadowOperator(task_id="shadow").execute(context)


def test_after_a_run_that_succeeded_its_shadow_is_started_once_for_the_run(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DagRunTriggerException) as started:
        start_shadow(monkeypatch, SUCCEEDED, ModelId("lite2", "1"))

    error = started.value
    assert (error.trigger_dag_id, error.dag_run_id) == ("shadow_images", "shadow_of__manual__1")
    assert (error.reset_dag_run, error.wait_for_completion) == (True, False)
    assert error.conf == {
        "bucket": "photos", "prefix": "in/", "run_id": str(RUN_ID), "share": 0.25, "max_minutes": 45,
        "model": "lite2@1", "device": "auto", "allow_cpu_fallback": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "model", "reason"),
    [
        (None, ModelId("lite2", "1"), "the run did not succeed"),
        ({"shards": 3, "to_classify": 9}, ModelId("lite2", "1"), "the run did not succeed"),
        ({**SUCCEEDED, "labelled": 0}, ModelId("lite2", "1"), "labelled nothing"),
        (SUCCEEDED, None, "no model holds the alias shadow"),
        (SUCCEEDED, ModelId("lite0", "1"), "names lite0@1, the model of the run itself"),
    ],
    ids=["failed", "dry run", "nothing new", "no shadow", "its own"],
)
def test_where_there_is_nothing_to_compare_no_shadow_is_started(monkeypatch: pytest.MonkeyPatch, counts, model, reason):
    with pytest.raises(AirflowSkipException, match=reason):
        start_shadow(monkeypatch, counts, model)


def test_while_its_dag_is_paused_no_shadow_is_put_in_line(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AirflowSkipException, match="the Dag shadow_images is paused; unpause it, then clear this task"):
        start_shadow(monkeypatch, SUCCEEDED, ModelId("lite2", "1"), is_paused=True)


@pytest.mark.parametrize(
    ("dag_run_id", "ended", "is_late"),
    [
        ("shadow_of__scheduled__1", timedelta(hours=25), True),
        ("shadow_of__scheduled__1", timedelta(hours=23), False),
        ("shadow_of__scheduled__1", None, False),
        ("manual__1", timedelta(days=5), False),
    ],
    ids=["long over", "just over", "not over", "somebody asks for it"],
)
def test_a_shadow_that_waited_until_its_night_was_long_over_is_skipped(dag_run_id, ended, is_late):
    finished_at = None if ended is None else datetime.now(UTC) - ended
    sink: Any = SimpleNamespace(read_summary=lambda run_id: summary(run_id=run_id, finished_at=finished_at))
    context: Any = {"dag_run": SimpleNamespace(run_id=dag_run_id)}
    operator = operators.DiscoverSampleOperator(task_id="discover", task_of_device={})

    late = operator.too_late(RunRequest("photos", shadow=ShadowSample(RUN_ID, 0.1)), sink, context)

    assert (late is not None) == is_late
    assert late is None or late.startswith(f"run {RUN_ID} ended at ")


def test_the_report_of_a_run_that_was_left_out_is_skipped_and_not_red():
    told = {operators.PLAN_KEY: None, operators.LATE_KEY: "more than a day ago"}
    context: Any = {"ti": SimpleNamespace(xcom_pull=lambda *, task_ids, key: told[key])}
    with pytest.raises(AirflowSkipException, match="more than a day ago"):
        operators.ReportOperator(task_id="report").execute(context)


def test_a_time_that_is_none_is_refused_by_its_name():
    with pytest.raises(SettingsError, match="failed_before is 'yesterday'; give a date or time such as"):
        operators.dead_letters_from(
            {"codes": [], "failed_after": None, "failed_before": "yesterday", "permanent": "any"}
        )


@pytest.mark.parametrize("shards", [0, 200, 1024], ids=["none", "as many as are planned", "as many as Airflow allows"])
def test_xcom_carries_numbers_and_counts_under_48_kilobytes(shards):
    planned = plan(shards=tuple(range(shards)), discovered=10**9)

    pushed = json.dumps([list(planned.shards), operators.plan_counts(planned), operators.summary_counts(summary())])

    assert len(pushed) < 48 * 1024


def test_the_plan_is_one_sentence():
    text = operators.plan_text(plan(), RunRequest("photos", "in/"))

    assert text == (
        "Planned to classify 100 images (12.3 MB) of s3://photos/in/ with lite0@1 on cpu in 4 shards; "
        "discovered 120 in 0.2 s, already done 10, deferred 10"
    )


def test_a_dry_run_says_that_it_only_would():
    text = operators.plan_text(plan(shards=()), RunRequest("photos", dry_run=True))

    assert text.startswith("A dry run would classify 100 images")


def test_the_plan_of_a_retry_speaks_of_dead_letters():
    text = operators.plan_text(plan(), RunRequest("photos", dead_letters=DeadLetterFilter()))

    assert text.startswith("Planned to try 100 dead letters again (12.3 MB) of s3://photos/ with lite0@1 on cpu in 4")


def test_the_report_shows_every_count():
    lines = operators.summary_text(summary()).splitlines()

    assert lines[0] == f"Run {RUN_ID} succeeded, model lite0@1, 100.0 images/s"
    assert [line.rsplit(maxsplit=1) for line in lines[1:9]] == [
        ["  discovered", "1,234"],
        ["  already done", "1,000"],
        ["  deferred", "100"],
        ["  labelled", "120"],
        ["  dead", "11"],
        ["  gone", "2"],
        ["  done elsewhere", "1"],
        ["  unfinished", "0"],
    ]
    assert "7 copied" in lines[9]
    assert "predict 3.0" in lines[9]


def test_the_counts_that_the_report_returns_add_up():
    counts = operators.summary_counts(summary())

    assert counts["discovered"] == sum(counts[name] for name in operators.COUNTS if name != "discovered")


def test_a_run_that_did_nothing_has_no_speed():
    assert operators.summary_text(summary(images_per_second=None)).splitlines()[0].endswith("no speed")


def test_unfinished_shards_are_the_reason_before_dead_images_are():
    error = operators.failure_of(summary(state="failed", unfinished=30, dead=500), "30 images have no outcome")

    assert isinstance(error, ShardsUnfinishedError)
    assert str(error).startswith("30 of 1234 images were left unfinished (120 labelled, 500 dead)")


def test_too_many_dead_images_fail_the_run_with_what_the_ledger_says_of_them():
    message = "80 of 200 classified images are dead letters, and max_dead_ratio is 0.2; most often truncated (80)"

    error = operators.failure_of(summary(state="failed", dead=80), message)

    assert isinstance(error, TooManyDeadError)
    assert str(error) == f"{message}; every outcome is recorded all the same"


MOVED = Verdict(
    "moved",
    "psi 0.412 (ordinary up to 0.100); moved most: ship 0.0% -> 20.0%",
    (Measure("psi", 0.4123, None, 0.05, 0.1, True), Measure("mean_score", 0.7, 0.75, 0.6, 0.03, False)),
    (MovedLabel("ship", 0.0, 0.2),),
    nights=28,
    images_before=14_000,
)


def test_the_form_goes_before_the_settings_where_it_says_something():
    settings = QualityRules("warn", 500, js=0.2, psi=0.3)
    form = {"quality_action": "fail", "quality_min_images": 600.0, "quality_js": None, "quality_psi": 0.0}

    assert operators.quality_rules_from(form, settings) == QualityRules("fail", 600, js=0.2, psi=0.0)
    untouched = {name: param.value for name, param in quality_params().items()}
    failing = replace(settings, action="fail")
    assert operators.quality_rules_from(untouched, failing) == failing, "the form as it is opened"
    assert operators.quality_rules_from(PARAMS, settings) == settings, "a Dag without these parameters"


def test_the_log_has_every_figure_of_the_labels_and_names_those_that_moved():
    lines = operators.verdict_text(MOVED).splitlines()

    assert lines == [
        "The labels are NOT like those of the 28 runs before (14,000 labels)",
        "  psi               0.412, ordinary to 0.050, threshold 0.1  <-- moved",
        "  mean score        0.700, before 0.750, ordinary to 0.600, threshold 0.03",
        "  ship: 0.0% before, 20.0% now",
    ]
    assert operators.verdict_text(Verdict("not_judged", "too few")) == "Labels not judged: too few"
    assert "are like" in operators.verdict_text(Verdict("ordinary", ""))


def test_what_the_report_returns_of_the_labels_is_small():
    counts = operators.verdict_counts(MOVED)

    assert counts == {"verdict": "moved", "reason": MOVED.reason, "psi": 0.4123, "mean_score": 0.7}
    assert operators.verdict_counts(None) is None
    json.dumps(counts)


def test_missing_pools_are_named_with_the_command_that_makes_them():
    message = operators.missing_pools_message(["classify_cpu"])

    assert message.startswith("The pool classify_cpu did not exist when this run started")
    assert "`airflow pools set classify_cpu 1 'One task at a time'`" in message
    assert "\n" not in message


def test_progress_is_told_at_most_every_ten_seconds():
    told: list[int] = []
    now = [0.0]
    progress = operators.Progress(told.append, clock=lambda: now[0])

    for second in range(36):
        now[0] = float(second)
        progress(8)

    assert told == [11 * 8, 21 * 8, 31 * 8]


def test_a_run_whose_configuration_has_a_typing_error_is_refused():
    operators.check_conf({"bucket": "b"}, {"bucket": "", "prefix": ""})
    operators.check_conf(None, {"bucket": ""})
    with pytest.raises(
        SettingsError, match="names 'buckt', which is no parameter of this Dag; there are bucket, prefix"
    ):
        operators.check_conf({"buckt": "x"}, {"bucket": "", "prefix": ""})


class AskedSink:
    def __init__(self, *, is_asking_here: bool) -> None:
        self.is_asking_here = is_asking_here
        self.given_up = 0

    def give_up(self) -> None:
        self.given_up += 1


def test_a_task_that_is_asked_to_end_does_so_at_once_or_when_the_database_has_heard():
    idle, asking = AskedSink(is_asking_here=False), AskedSink(is_asking_here=True)
    task = operators.ClassifyShardOperator(task_id="classify", shard_number=0)
    task.on_kill()  # before it has begun, or after it has ended

    task._sink = idle
    with pytest.raises(RunInterruptedError):
        task.on_kill()
    task.on_kill()  # the second time what is being put in order goes on
    assert idle.given_up == 1

    task._sink = asking
    task.on_kill()
    assert asking.given_up == 1


def test_a_report_says_that_nothing_was_judged_when_judging_breaks_and_is_green(monkeypatch, caplog):
    """Whatever the rules: the run's books are whole, and every outcome is recorded."""
    from nightlabel_airflow import connections

    from inference import wiring
    from inference.settings import read_settings

    def broken(*_: Any, **__: Any) -> Verdict:
        raise ZeroDivisionError("float division by zero")

    sink = SimpleNamespace(find_run=lambda *_: RUN_ID, read_message=lambda _: None)
    monkeypatch.setattr(connections, "open_settings", read_settings)
    monkeypatch.setattr(connections, "open_sink", lambda _: nullcontext(sink))
    monkeypatch.setattr(wiring, "finish_run", lambda *_, **__: summary())
    monkeypatch.setattr(wiring, "judge_run", broken)
    context = a_context("classify_images")
    context["ti"].xcom_pull = lambda **_: {"run_id": str(RUN_ID)}
    context["params"] = PARAMS | {"quality_action": "fail"}

    counts = operators.ReportOperator(task_id="report").execute(context)

    assert counts["labelled"] == 120
    assert counts["quality"]["verdict"] == "not_judged"
    assert "ZeroDivisionError: float division by zero" in counts["quality"]["reason"]
    assert f"The labels of run {RUN_ID} were not judged" in caplog.text
