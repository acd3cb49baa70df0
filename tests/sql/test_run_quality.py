"""A run's labels beside those before it, in a real database: counted rightly, compared with the right nights, kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from inference import wiring
from inference.errors import LabelsMovedError, RunUnknownError, SinkCredentialsError
from inference.judging import Verdict
from inference.settings import Settings
from inference.sinks import quality
from inference.sinks.maintaining import maintain
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import statement
from inference.types import (
    DeadLetterFilter,
    LabelFilter,
    ListedObject,
    MaintenanceRequest,
    Plan,
    QualityRules,
    RunRequest,
)
from tests.ledger import LABELS, NIGHTS_LIKE_IT, Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

RULES = QualityRules(min_images=100)


def objects(night: str, images: int, *, etag: str = "e1") -> list[ListedObject]:
    return [listed(f"in/{night}/{number:04}.jpg", etag) for number in range(images)]


def labelled(night: str, mix: dict[int, int], *, low: int = 0, dead: int = 0) -> tuple[list[ListedObject], dict]:
    """Objects of a night with what becomes of them: so many of each label, the first of them with a low score."""
    columns = [column for column, images in mix.items() for _ in range(images)]
    found = objects(night, len(columns) + dead)
    made: dict[str, Callable[[Any], Any]] = {}
    for place, (entry, column) in enumerate(zip(found, columns, strict=False)):
        score = 0.125 if place < low else 0.75
        made[entry.key] = lambda ref, column=column, score=score: prediction(ref, column, score)
    made |= {entry.key: dead_letter for entry in found[len(columns) :]}
    return found, made


def nightly(ledger: Ledger, night: str, mix: dict[int, int], *, low: int = 0, dead: int = 0, **request: Any) -> Plan:
    """A run that labels a night's images, of one source whatever the night: those of the nights before are gone."""
    found, made = labelled(night, mix, low=low, dead=dead)
    plan = ledger.plan(*found, **({"prefix": "in/", "max_dead_ratio": 1.0} | request))
    ledger.work(plan, made)
    return plan


def a_week(ledger: Ledger, mix: dict[int, int], **more: Any) -> Plan:
    """Seven judged nights, which is what it takes before the next one is; returns the last."""
    plan = nightly(ledger, "week", mix, **more)
    judged(ledger, plan)
    ledger.rows(NIGHTS_LIKE_IT, 6, plan.run_id)
    return plan


def judged(ledger: Ledger, plan: Plan, rules: QualityRules = RULES, **settings: Any) -> Verdict:
    chosen = ledger.settings.model_copy(update=settings)
    verdict = wiring.judge_run(plan.run_id, sink=ledger.sink, settings=chosen, rules=rules)
    assert verdict is not None
    return verdict


def drift(ledger: Ledger, plan: Plan) -> dict[str, Any]:
    [row] = ledger.rows("SELECT * FROM nightlabel.run_drift WHERE run_id = %s", plan.run_id)
    return row


def counted(ledger: Ledger, plan: Plan) -> dict[str, int]:
    rows = ledger.rows("SELECT label, images FROM nightlabel.run_label WHERE run_id = %s AND images > 0", plan.run_id)
    return {row["label"]: row["images"] for row in rows}


def test_a_planted_label_is_reported_in_that_run_and_named(ledger: Ledger):
    a_week(ledger, {0: 120, 1: 80})
    plan = nightly(ledger, "4", {0: 90, 1: 60, 2: 50})
    verdict = judged(ledger, plan)

    assert verdict.name == "moved"
    row = drift(ledger, plan)
    assert (row["verdict"], row["images"], row["nights"], row["images_before"]) == ("moved", 200, 7, 1400)
    assert row["moved_labels"][0] == "crane"
    assert (row["shares_before"][0], row["shares_now"][0]) == (0, 0.25)
    assert {"moved_share", "js_distance"} <= set(row["moved"])
    assert row["js_distance"] > row["js_ordinary"] > 0
    assert row["reason"] == verdict.reason
    assert "crane 0.0% -> 25.0%" in verdict.reason


def test_ordinary_nights_are_kept_with_their_figures(ledger: Ledger):
    nightly_mix = {0: 120, 1: 80}
    a_week(ledger, nightly_mix, low=20, dead=4)
    plan = nightly(ledger, "2", nightly_mix, low=22, dead=5)
    assert judged(ledger, plan).name == "ordinary"

    row = drift(ledger, plan)
    assert (row["verdict"], row["reason"], row["moved"], row["moved_labels"]) == ("ordinary", "", [], [])
    assert (row["images"], row["dead"]) == (200, 5)
    assert row["mean_score"] == pytest.approx((22 * 0.125 + 178 * 0.75) / 200)
    assert row["mean_score_before"] == pytest.approx((20 * 0.125 + 180 * 0.75) / 200)
    assert (row["low_score_share"], row["low_score_share_before"]) == (pytest.approx(0.11), pytest.approx(0.1))
    assert (row["dead_ratio"], row["dead_ratio_before"]) == (pytest.approx(5 / 205), pytest.approx(4 / 204))
    assert (row["js_distance"], row["psi"], row["moved_share"]) == (0, 0, 0)


def test_without_enough_images_or_history_it_is_recorded_as_not_judged_and_why(ledger: Ledger):
    few = nightly(ledger, "1", {0: 99})
    assert judged(ledger, few).name == "not_judged"
    assert drift(ledger, few)["reason"] == "99 labels are too few to judge, 100 are needed"
    first = nightly(ledger, "2", {0: 100})
    assert judged(ledger, first).name == "not_judged"
    row = drift(ledger, first)
    assert row["reason"] == "the nights before hold 99 labels of this model, 100 are needed"
    assert (row["images"], row["js_distance"], row["moved"]) == (100, None, [])
    assert counted(ledger, few) == {"cat": 99}, "it is history all the same"


def test_what_is_counted_is_what_the_run_recorded_and_nothing_else(ledger: Ledger):
    """Whatever other runs recorded on the same day, in several plans and shards, by retries and by copies."""
    nightly(ledger, "0", {1: 150})
    found, made = labelled("1", {0: 60, 1: 30, 2: 15, 3: 5}, low=7, dead=3)
    request = {"prefix": "in/1/", "dag_id": "classify_images", "airflow_run_id": "r1", "max_dead_ratio": 1.0}
    first = ledger.plan(*found, shard_size=40, **request)
    shard = ledger.sink.claim_shard(first.run_id, 0)
    refs = ledger.refs(shard)
    ledger.record(shard, 1, [made[ref.key](ref) for ref in refs[:25]])
    plan = ledger.plan(*found, shard_size=50, **request)  # planned again: what was recorded is carried
    ledger.work(plan, made)
    nightly(ledger, "2", {0: 150})

    assert plan.run_id == first.run_id
    judged(ledger, plan)
    assert counted(ledger, plan) == {"cat": 60, "dog": 30, "crane": 20}
    row = drift(ledger, plan)
    books = ledger.summary(plan.run_id)
    assert (row["images"], row["dead"]) == (books["labelled"], books["dead"]) == (110, 3)
    assert row["low_score_share"] == pytest.approx(7 / 110)


def test_judging_again_gives_the_same_row_and_counts_nothing_twice(ledger: Ledger):
    a_week(ledger, {0: 120, 1: 80})
    plan = nightly(ledger, "2", {0: 100, 2: 100})
    first = judged(ledger, plan)
    before = drift(ledger, plan)
    judged(ledger, nightly(ledger, "3", {3: 300}))

    assert judged(ledger, plan) == first, "a later run is none of those before it"
    after = drift(ledger, plan)
    assert before.pop("judged_at") < after.pop("judged_at")
    assert after == before
    assert sum(counted(ledger, plan).values()) == 200


def test_a_label_that_is_no_longer_there_is_counted_no_longer(ledger: Ledger):
    plan = nightly(ledger, "1", {0: 100, 1: 1})
    judged(ledger, plan)
    ledger.execute("DELETE FROM nightlabel.outcome WHERE label = 'dog'")
    judged(ledger, plan)
    assert counted(ledger, plan) == {"cat": 100}


def test_each_model_is_compared_with_itself(ledger: Ledger):
    judged(ledger, nightly(ledger, "1", {0: 200}))
    ledger.register("second", "1", "production")
    plan = nightly(ledger, "2", {1: 200})
    verdict = judged(ledger, plan)
    assert (verdict.name, verdict.images_before) == ("not_judged", 0)
    assert judged(ledger, nightly(ledger, "3", {1: 200})).images_before == 200


def test_each_bucket_is_compared_with_itself(ledger: Ledger):
    judged(ledger, nightly(ledger, "1", {0: 200}))
    found, made = labelled("2", {1: 200})
    plan = ledger.plan(*(replace(entry, bucket="scans") for entry in found), bucket="scans")
    ledger.work(plan, made)
    assert judged(ledger, plan).name == "not_judged"


@pytest.mark.parametrize("by", ["prefix", "dag_id"])
def test_each_source_of_a_bucket_is_compared_with_itself_from_its_first_night_on(ledger: Ledger, by: str):
    """Two sources that take turns: of the command line with a prefix each, or with a Dag each."""

    def night(name: str, mix: dict[int, int]) -> Verdict:
        source = {"prefix": f"in/{name[0]}/"} if by == "prefix" else {"dag_id": name[0], "airflow_run_id": name}
        return judged(ledger, nightly(ledger, f"{name[0]}/{name[1]}", mix, **source))

    assert night("a1", {0: 200}).name == "not_judged"
    first = night("b1", {1: 200})
    assert (first.name, first.images_before) == ("not_judged", 0), "the other source is nothing to compare with"
    for number in range(2, 9):
        found = [night(f"a{number}", {0: 200}), night(f"b{number}", {1: 200})]
        assert "moved" not in [verdict.name for verdict in found]
        assert [verdict.nights for verdict in found] == [number - 1] * 2
    assert [verdict.name for verdict in found] == ["ordinary"] * 2
    assert night("b9", {0: 200}).name == "moved"


def test_what_others_of_the_bucket_run_does_not_crowd_out_a_sources_own_nights(ledger: Ledger):
    """However many there are: the newest 500 are those of the source."""
    judged(ledger, nightly(ledger, "1", {0: 200}))
    plan = nightly(ledger, "other", {1: 200}, prefix="other/")
    judged(ledger, plan)
    ledger.rows(NIGHTS_LIKE_IT, 600, plan.run_id)
    assert judged(ledger, nightly(ledger, "2", {0: 200})).nights == 1


@pytest.mark.parametrize("kind", ["retry", "again"])
def test_a_run_that_labels_again_is_no_night_and_no_history(ledger: Ledger, kind: str):
    judged(ledger, nightly(ledger, "1", {0: 200}, dead=150))
    if kind == "retry":
        plan = ledger.sink.plan_run(RunRequest(bucket="photos", dead_letters=DeadLetterFilter()), None)
    else:
        ledger.execute("DELETE FROM nightlabel.outcome WHERE label IS NULL")
        plan = ledger.plan(*objects("1", 350), prefix="in/1/", scope="not_by_this_model")
    ledger.work(plan)
    verdict = judged(ledger, plan)

    assert (verdict.name, drift(ledger, plan)["images"]) == ("not_judged", 150)
    assert "no night" in verdict.reason
    assert counted(ledger, plan) == {}
    assert judged(ledger, nightly(ledger, "2", {0: 200})).images_before == 200


def test_only_the_days_that_are_asked_for_are_history(ledger: Ledger):
    for night, age in (("1", 40), ("2", 27), ("3", 3)):
        plan = nightly(ledger, night, {0: 100})
        judged(ledger, plan)
        sql = "UPDATE nightlabel.run SET started_at = started_at - make_interval(days => %s) WHERE run_id = %s"
        ledger.execute(sql, age, plan.run_id)
    plan = nightly(ledger, "4", {0: 100})
    assert judged(ledger, plan).nights == 2
    assert judged(ledger, plan, quality_history_days=7).nights == 1
    assert judged(ledger, plan, quality_history_days=60).nights == 3


def test_what_was_labelled_before_runs_were_counted_is_no_history(ledger: Ledger):
    """As after an upgrade: labels are there, of every bucket and kind of run, and no run of theirs was ever judged."""
    for bucket, label in (("photos", 1), ("scans", 0)):
        found, made = labelled(bucket, {label: 200})
        ledger.work(ledger.plan(*(replace(entry, bucket=bucket) for entry in found), bucket=bucket), made)
    ledger.execute("UPDATE nightlabel.outcome SET recorded_at = recorded_at - interval '3 days'")
    ledger.execute("UPDATE nightlabel.run SET started_at = started_at - interval '3 days'")
    verdict = judged(ledger, nightly(ledger, "1", {0: 200}))
    assert (verdict.name, verdict.nights, verdict.images_before) == ("not_judged", 0, 0)


def test_after_a_promotion_and_labelling_again_the_next_night_is_compared_with_neither(ledger: Ledger):
    """Of one label all images are labelled again, which is no night of the new model."""
    for night in ("1", "2", "3"):
        judged(ledger, nightly(ledger, night, {0: 150, 1: 150}))
    ledger.register("second", "1", "production")
    again = ledger.sink.plan_run(RunRequest(bucket="photos", labelled=LabelFilter(label="cat")), None)
    ledger.work(again)
    assert judged(ledger, again).name == "not_judged"
    verdict = judged(ledger, nightly(ledger, "4", {0: 150, 1: 150}))
    assert (verdict.name, verdict.images_before) == ("not_judged", 0)


def test_another_low_score_does_not_compare_with_what_was_counted_by_the_former_one(ledger: Ledger):
    a_week(ledger, {0: 200}, low=10)
    plan = nightly(ledger, "2", {0: 200}, low=10)
    assert judged(ledger, plan, low_score=0.8).measure("low_score_share") is None
    assert drift(ledger, plan)["low_score_share"] == 1
    assert judged(ledger, plan).measure("low_score_share") is not None


def test_a_run_without_any_outcome_and_one_that_is_unknown(ledger: Ledger):
    plan = ledger.plan()
    ledger.sink.finish_run(plan.run_id)
    assert judged(ledger, plan).reason == "0 labels are too few to judge, 100 are needed"
    assert drift(ledger, plan)["mean_score"] is None
    with pytest.raises(RunUnknownError):
        judged(ledger, replace(plan, run_id="cf2ebf3f-eb23-a16e-82e2-108fa59fc7e5"))


def test_a_run_whose_judging_breaks_is_counted_and_recorded_as_not_judged_and_why(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any) -> Verdict:
        raise ZeroDivisionError("float division by zero")

    plan = nightly(ledger, "1", {0: 200})
    monkeypatch.setattr(quality, "judge", broken)
    assert judged(ledger, plan).name == "not_judged"
    row = drift(ledger, plan)
    assert (row["verdict"], row["images"]) == ("not_judged", 200)
    assert "ZeroDivisionError: float division by zero" in row["reason"]
    assert counted(ledger, plan) == {"cat": 200}, "later nights have it to compare with"


def test_whatever_breaks_while_a_run_is_judged_the_command_goes_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quality, "judge_run", lambda *_, **__: 1 / 0)
    plan = nightly(ledger, "1", {0: 200})
    verdict, doubt = wiring._judged(plan.run_id, sink=ledger.sink, settings=ledger.settings, rules=RULES)
    assert verdict is not None
    assert (verdict.name, doubt) == ("not_judged", None)


def test_off_looks_at_nothing_and_leaves_no_row(ledger: Ledger):
    plan = nightly(ledger, "1", {0: 200})
    off = replace(RULES, action="off")
    assert wiring.judge_run(plan.run_id, sink=ledger.sink, settings=ledger.settings, rules=off) is None
    assert ledger.rows("SELECT FROM nightlabel.run_quality") == []


def test_a_worker_may_judge_and_a_reader_may_look(ledger: Ledger, login: Callable[[str | None], Settings]):
    plan = nightly(ledger, "1", {0: 200})
    writer, reader = login("nightlabel_writer"), login("nightlabel_reader")
    with PostgresSink(writer) as sink:
        assert wiring.judge_run(plan.run_id, sink=sink, settings=writer, rules=RULES) is not None
    with pytest.raises(SinkCredentialsError):
        PostgresSink(reader)


def test_the_sentence_of_the_failure_names_the_labels_and_that_the_books_are_whole(ledger: Ledger):
    a_week(ledger, {0: 120, 1: 80})
    plan = nightly(ledger, "2", {2: 200})
    error = wiring.labels_moved(plan.run_id, judged(ledger, plan))

    assert isinstance(error, LabelsMovedError)
    assert "crane 0.0% -> 100.0%" in str(error)
    assert "the run's books are whole" in str(error)
    assert "docs/watching-the-labels.md" in str(error)
    assert ledger.summary(plan.run_id)["state"] == "succeeded"


def test_only_the_outcomes_of_the_runs_own_days_are_read(ledger: Ledger):
    """By the index of days: the plan reads no other part of the ledger."""
    plan = nightly(ledger, "1", dict.fromkeys(range(len(LABELS)), 100))
    today = datetime.now(UTC).date()
    what = {"run_id": plan.run_id, "model_id": 1, "low_score": 0.3, "first_day": today, "last_day": today}
    with psycopg.connect(ledger.url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE nightlabel.outcome")
        connection.execute("SET enable_seqscan = off")
        explained = str(connection.execute("EXPLAIN " + statement("quality_labels"), what).fetchall())
    assert "Bitmap Index Scan" in explained
    assert re.search(r"Index Cond: .*::date >= .*::date <= ", explained)


def test_maintenance_keeps_every_verdict_and_what_later_runs_are_compared_with(ledger: Ledger):
    for night, age in (("1", 400), ("2", 30)):
        plan = nightly(ledger, night, {0: 120, 1: 80})
        judged(ledger, plan)
        back = (
            "SET started_at = started_at - make_interval(days => %s), finished_at = now() - make_interval(days => %s)"
        )
        ledger.execute(f"UPDATE nightlabel.run {back} WHERE run_id = %s", age, age, plan.run_id)
    ledger.execute("UPDATE nightlabel.object SET gone_at = now() - interval '1 year'")
    ledger.execute("UPDATE nightlabel.outcome SET recorded_at = now() - interval '1 year'")
    verdicts = ledger.rows("SELECT * FROM nightlabel.run_quality")
    request = MaintenanceRequest(keep_outcome_days=7, keep_run_days=7)
    kept = ledger.settings.model_copy(update={"quality_history_days": 60})

    dry = maintain(kept, replace(request, dry_run=True))
    assert {step.name: step.rows for step in dry.steps}["run_labels"] == 2
    assert len(ledger.rows("SELECT FROM nightlabel.run_label")) == 4
    done = maintain(kept, request)
    assert {step.name: step.rows for step in done.steps}["run_labels"] == 2
    assert ledger.rows("SELECT FROM nightlabel.outcome") == []
    assert counted(ledger, plan) == {"cat": 120, "dog": 80}, "as long as it may be asked for"
    assert ledger.rows("SELECT * FROM nightlabel.run_quality") == verdicts
