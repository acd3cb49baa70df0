"""A shadow model looks at a share of what a run has labelled: which images, and that nothing else changes by it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from inference import wiring
from inference.errors import RunUnknownError, SettingsError
from inference.models.registry import SHADOW, name_alias
from inference.planning import IMAGES_AT_UNKNOWN_SPEED, SHARE_OF_BUDGET
from inference.types import LabelFilter, ModelId, Plan, RunRequest, ShadowSample, Speed, image_id
from tests.ledger import BUCKET, Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

SHADOW_MODEL = ModelId("shadowy", "1")
KEYS = tuple(f"{number:03}" for number in range(200))


@pytest.fixture
def night(ledger: Ledger) -> Plan:
    """A run that has labelled 200 objects but for one, and a model that holds the alias."""
    plan = ledger.plan(*(listed(key) for key in KEYS))
    ledger.work(plan, {"000": dead_letter})
    ledger.register(SHADOW_MODEL.name, SHADOW_MODEL.version, SHADOW)
    return plan


def shadow(ledger: Ledger, main: Plan, share: float = 1.0, **request: Any) -> Plan:
    asked = RunRequest(**{"bucket": BUCKET, "model": SHADOW, **request}, shadow=ShadowSample(main.run_id, share))
    return ledger.sink.plan_run(asked, None)


def drawn(key: str, etag: str = "e1") -> float:
    """Where an image stands, 0 to 1, as docs/labelling-again.md says."""
    text = f"shadow {image_id(BUCKET, key, etag)}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def test_the_sample_is_drawn_from_the_images_ids_alone(ledger: Ledger, night: Plan):
    for share in (0.0, 0.05, 0.5, 1.0):
        plan = shadow(ledger, night, share)
        expected = {key for key in KEYS[1:] if drawn(key) < share}
        assert set(ledger.pending(plan)) == expected
        assert (plan.discovered, plan.model) == (len(expected), SHADOW_MODEL)
        assert share in {0.0, 1.0} or abs(len(expected) / 199 - share) < 0.1


def test_another_night_draws_the_same_images(ledger: Ledger, night: Plan):
    ledger.register("tiny", "2", "production")
    again = ledger.plan(*(listed(key) for key in KEYS), scope="not_by_this_model")
    ledger.work(again)
    first, second = set(ledger.pending(shadow(ledger, night, 0.3))), set(ledger.pending(shadow(ledger, again, 0.3)))
    assert first == second - {"000"}


def test_it_takes_what_the_run_itself_has_labelled_under_whatever_plan_and_what_is_still_there(ledger: Ledger):
    ledger.work(ledger.plan(listed("before")))
    same = {"dag_id": "classify_images", "airflow_run_id": "night"}
    objects = [listed(key) for key in ("before", "a", "b", "c", "d")]
    first = ledger.plan(*objects, shard_size=2, **same)
    shard = ledger.sink.claim_shard(first.run_id, 0)
    ledger.record(shard, 1, [prediction(ref) for ref in ledger.refs(shard)])
    main = ledger.plan(*objects, **same)
    ledger.work(main)
    assert ledger.summary(main.run_id)["labelled"] == 4
    ledger.plan(*(listed(key, "e2" if key == "b" else "e1") for key in ("before", "a", "b", "c")))
    ledger.register(SHADOW_MODEL.name, SHADOW_MODEL.version, SHADOW)

    assert set(ledger.pending(shadow(ledger, main))) == {"a", "c"}, "b was overwritten, and d deleted"


def everything_shown(ledger: Ledger) -> list[Any]:
    """What one label an object, and what is new, is read from."""
    views = ("latest_prediction", "dead_letter_open", "never_labelled", "dead_letter_reason", "duplicate_content")
    rows = [ledger.rows(f"SELECT * FROM nightlabel.{view} ORDER BY 1, 2") for view in views]
    return [*rows, ledger.rows("SELECT * FROM nightlabel.object ORDER BY 1, 2")]


def test_what_it_finds_is_shown_nowhere_and_makes_nothing_labelled(ledger: Ledger, night: Plan):
    ledger.plan(*(listed(key) for key in KEYS), listed("new"))
    before = everything_shown(ledger)

    plan = shadow(ledger, night)
    ledger.work(plan, {"007": dead_letter})

    assert everything_shown(ledger) == before
    summary = ledger.summary(plan.run_id)
    assert (summary["labelled"], summary["dead"], summary["shadow_of"]) == (198, 1, night.run_id)
    assert ledger.summary(night.run_id)["labelled"] == 199, "the books of the night stay as they were"
    assert ledger.pending(ledger.plan(*(listed(key) for key in KEYS), listed("new"))) == ["new"]
    again = RunRequest(BUCKET, dry_run=True, labelled=LabelFilter())
    assert ledger.sink.plan_run(again, None).discovered == 0, "nor is it a label to be replaced"


def test_a_shadow_alone_labels_nothing_for_the_nights(ledger: Ledger):
    """An image that only a shadow or a candidate has an outcome for is as new as it was."""
    ledger.register(SHADOW_MODEL.name, SHADOW_MODEL.version, SHADOW, "candidate")
    ledger.work(ledger.plan(listed("a"), model=SHADOW, scope="not_by_this_model"))
    assert (ledger.latest(), ledger.pending(ledger.plan(listed("a")))) == ({}, ["a"])


def test_a_second_shadow_run_of_a_night_does_the_rest(ledger: Ledger, night: Plan):
    ledger.work(shadow(ledger, night, 0.2))
    plan = shadow(ledger, night, 0.6)
    assert plan.already_done == sum(1 for key in KEYS[1:] if drawn(key) < 0.2)
    assert set(ledger.pending(plan)) == {key for key in KEYS[1:] if 0.2 <= drawn(key) < 0.6}


def test_its_time_bounds_what_it_takes(ledger: Ledger, night: Plan):
    ledger.execute("UPDATE nightlabel.shard SET started_at = finished_at - interval '100 seconds'")
    plan = shadow(ledger, night, time_budget_s=50.0, dry_run=True)
    assert plan.speed is not None
    assert (plan.speed.images_per_second, plan.speed.is_of_model) == (2.0, False)
    assert (plan.to_classify, plan.deferred) == (int(2 * 50 * SHARE_OF_BUDGET), 199 - int(2 * 50 * SHARE_OF_BUDGET))
    ledger.execute("UPDATE nightlabel.run SET state = 'failed'")
    assert shadow(ledger, night, time_budget_s=50.0, dry_run=True).to_classify == min(199, IMAGES_AT_UNKNOWN_SPEED)


def test_what_ended_by_its_time_says_how_fast_the_model_is(ledger: Ledger, night: Plan):
    """Else a slow model would be planned at other models' speed every night, and never get through."""
    plan = shadow(ledger, night, time_budget_s=100.0, shard_size=50)
    for number in plan.shards:
        shard = ledger.sink.claim_shard(plan.run_id, number)
        if number == 0:
            ledger.record(shard, 1, [prediction(ref) for ref in ledger.refs(shard)[:5]])
        ledger.sink.cut_shard(shard)
    assert ledger.sink.finish_run(plan.run_id).state == "succeeded"
    assert ledger.summary(plan.run_id)["deferred"] == 194
    sql = "UPDATE nightlabel.shard SET {} WHERE run_id = %s AND shard_number {} 0"
    ledger.execute(sql.format("started_at = finished_at - interval '100 seconds'", "="), plan.run_id)
    ledger.execute(sql.format("finished_at = finished_at + interval '1 hour'", ">"), plan.run_id)

    next_night = shadow(ledger, night, time_budget_s=100.0, dry_run=True)

    assert next_night.speed == Speed(0.05, is_of_model=True), "and what only found the time up says nothing of it"
    assert (next_night.already_done, next_night.to_classify, next_night.deferred) == (5, 4, 190)


def test_a_sample_that_cannot_mean_anything_is_refused(ledger: Ledger, night: Plan):
    with pytest.raises(SettingsError, match="is of the bucket 'photos', not of 'scans'"):
        shadow(ledger, night, bucket="scans")
    with pytest.raises(SettingsError, match=r"tiny@1 is the model of run .* itself, so there is nothing to compare"):
        shadow(ledger, night, model="production")
    done = shadow(ledger, night, 0.1)
    with pytest.raises(SettingsError, match="is a shadow itself"):
        shadow(ledger, done, model="production")
    ledger.execute("DELETE FROM nightlabel.manifest_chunk")
    with pytest.raises(RunUnknownError, match="has no manifest to draw from"):
        shadow(ledger, night)
    with pytest.raises(RunUnknownError, match="there is no run"):
        ledger.sink.plan_run(RunRequest(BUCKET, model=SHADOW, shadow=ShadowSample(uuid4(), 0.5)), None)


def test_the_comparison_counts_the_images_that_both_have_labelled(ledger: Ledger, night: Plan):
    made = {key: (lambda ref: prediction(ref, 1, 0.5)) for key in KEYS[1:51]}
    ledger.work(shadow(ledger, night), {**made, "100": dead_letter})

    [row] = ledger.rows("SELECT * FROM nightlabel.shadow_daily")
    assert row == {
        "day": datetime.now(UTC).date(),
        "model_name": "tiny", "model_version": "1",
        "shadow_model_name": "shadowy", "shadow_model_version": "1",
        "images": 198, "same": 148, "agreement": pytest.approx(148 / 198, rel=1e-6),
        "mean_score": 0.75, "shadow_mean_score": pytest.approx((50 * 0.5 + 148 * 0.75) / 198, rel=1e-6),
        "shadow_dead": 1,
    }  # fmt: skip


def test_labels_that_no_shadow_run_gave_are_not_compared(ledger: Ledger, night: Plan):
    ledger.work(ledger.plan(*(listed(key) for key in KEYS), model=SHADOW, scope="not_by_this_model"))
    assert ledger.rows("SELECT * FROM nightlabel.shadow_daily") == []


def test_without_a_shadow_of_its_own_a_run_has_none(ledger: Ledger):
    main = ledger.plan(listed("a"))
    ledger.work(main)
    books, request = ledger.sink.read_summary(main.run_id), RunRequest(BUCKET)

    def run(share: float = 1.0, **changes: Any) -> object:
        return wiring.shadow(replace(books, **changes), request, share, settings=ledger.settings)

    assert (wiring.find_shadow(ledger.sink), run()) == (None, None), "no model holds the alias"
    with ledger.sink.asking() as connection:
        name_alias(connection, SHADOW, ModelId("tiny", "1"), reason="a test")
    assert run() is None, "it is the run's own model"
    ledger.register(SHADOW_MODEL.name, SHADOW_MODEL.version, SHADOW)
    assert wiring.find_shadow(ledger.sink) == SHADOW_MODEL
    assert (run(0.0), run(labelled=0)) == (None, None), "nothing is asked for, or there"
    assert len(ledger.rows("SELECT * FROM nightlabel.run")) == 1
