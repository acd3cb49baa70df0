"""Labelling existing objects again: which are chosen, what is left out, how fast a run may go, what it is to take."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from inference import wiring
from inference.errors import ModelInUseError, ModelUnknownError, SettingsError, StaleAttemptError
from inference.pacing import CATCH_UP_S, Pacer
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import statement
from inference.types import LabelFilter, Plan, RunRequest, ShardStats, Speed, StageSeconds, Turns
from local_stack.processes import wait_until
from tests.fakes import FakeClock, FakeHandle, FakeStore
from tests.ledger import BUCKET, Ledger, Pages, dead_letter, listed, prediction
from tests.sql.test_running_a_shard import RED, png, runner
from tests.sql.test_views_keep_their_meaning import LABELS, MODELS, make_ledger

pytestmark = pytest.mark.integration

KEYS = ("a", "b", "c", "d")


def label_as(number: int) -> Any:
    return lambda ref: prediction(ref, number)


def first_night(ledger: Ledger, *keys: str, **outcomes: Any) -> Plan:
    """Let the production model label objects, or do otherwise with some."""
    plan = ledger.plan(*(listed(key) for key in keys or KEYS))
    ledger.work(plan, outcomes)
    return plan


def again(ledger: Ledger, request: dict[str, Any] | None = None, **filters: Any) -> Plan:
    """Plan a run that labels again what matches."""
    chosen = LabelFilter(**filters)
    return ledger.sink.plan_run(RunRequest(**{"bucket": BUCKET, **(request or {})}, labelled=chosen), None)


def models_shown(ledger: Ledger) -> dict[str, str]:
    """Key -> version of the model whose label is shown."""
    rows = ledger.rows("SELECT object_key, model_version FROM nightlabel.latest_prediction ORDER BY object_key")
    return {row["object_key"]: row["model_version"] for row in rows}


def test_a_promotion_labels_nothing_again_and_labelling_again_does(ledger: Ledger):
    first_night(ledger, c=dead_letter)
    ledger.register("tiny", "2", "production")
    assert ledger.plan(*(listed(key) for key in KEYS)).to_classify == 0

    plan = again(ledger)
    assert (str(plan.model), plan.discovered, plan.already_done, plan.to_classify) == ("tiny@2", 3, 0, 3)
    ledger.work(plan, {"a": label_as(1)})

    assert ledger.latest() == {"a": "dog", "b": "cat", "d": "cat"}
    assert models_shown(ledger) == {"a": "2", "b": "2", "d": "2"}
    assert ledger.open_dead_letters() == {"c": "undecodable"}, "a dead letter is not tried unless it is asked for"
    by_both = ledger.rows("SELECT model_version, count(*) AS rows FROM nightlabel.object_outcome GROUP BY 1 ORDER BY 1")
    assert by_both == [{"model_version": "1", "rows": 4}, {"model_version": "2", "rows": 3}], "former rows stay"
    assert ledger.summary(plan.run_id)["labelled"] == 3


def test_a_model_that_is_not_in_production_labels_for_comparison_and_is_shown_nowhere(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "candidate")

    ledger.work(again(ledger, {"model": "candidate"}), {"a": label_as(1)})

    assert set(models_shown(ledger).values()) == {"1"}
    assert ledger.rows("SELECT object_key FROM nightlabel.label_change") == [{"object_key": "a"}]
    assert ledger.plan(listed("a", "e2"), *(listed(key) for key in KEYS[1:])).to_classify == 1, "what is new is new"


@pytest.mark.parametrize("is_planned_anew", [False, True], ids=["another run", "the same run planned anew"])
def test_what_was_done_when_a_run_ended_early_is_not_done_again(ledger: Ledger, is_planned_anew: bool):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    same = {"dag_id": "reclassify_images", "airflow_run_id": "by hand"} if is_planned_anew else {}
    first = again(ledger, {"shard_size": 2, **same}, labelled_by="tiny@1")
    [shard, *_] = [ledger.sink.claim_shard(first.run_id, number) for number in first.shards]
    ledger.record(shard, 1, [prediction(ref, 1) for ref in ledger.refs(shard)[:2]])  # and its worker is killed

    second = again(ledger, same, labelled_by="tiny@1")

    assert (second.discovered, second.to_classify) == (4, 2)
    assert second.already_done == (0 if is_planned_anew else 2)
    ledger.work(second, {key: label_as(1) for key in KEYS})
    summary = ledger.summary(second.run_id)
    assert summary["labelled"] == (4 if is_planned_anew else 2), "the run's own count, of both of its plans"
    recorded = ledger.rows("SELECT count(*) AS n, count(DISTINCT image_id) AS images FROM nightlabel.outcome o "
                           "JOIN nightlabel.model m USING (model_id) WHERE m.version = '2'")  # fmt: skip
    assert recorded == [{"n": 4, "images": 4}]
    third = again(ledger, {"dry_run": True}, labelled_by="tiny@1")
    assert (third.discovered, third.already_done, third.to_classify) == (4, 4, 0)


def test_of_two_runs_at_once_each_image_is_recorded_by_one(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    one, other = again(ledger), again(ledger)
    ledger.work(one)
    ledger.work(other)
    assert [ledger.summary(plan.run_id)["labelled"] for plan in (one, other)] == [4, 0]
    assert ledger.summary(other.run_id)["done_elsewhere"] == 4


FILTERS: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    ({}, {}, {"in/a", "in/b", "in/c", "out/d"}),
    ({}, {"prefix": "in/"}, {"in/a", "in/b", "in/c"}),
    ({}, {"prefix": "in%"}, set()),
    ({}, {"bucket": "elsewhere"}, set()),
    ({"label": "crane"}, {}, {"in/b", "in/c"}),
    ({"label_id": "n4"}, {}, {"in/c"}),
    ({"label": "crane"}, {"prefix": "out"}, set()),
    ({"label": "no such label"}, {}, set()),
    ({"labelled_by": "tiny@1"}, {}, {"in/a", "in/b", "in/c", "out/d"}),
    ({"labelled_by": "other@1"}, {}, {"in/a"}),
    ({"labelled_by": "other@1", "label": "crane"}, {}, {"in/a"}),
    ({"label_id": "n1", "dead_letters_too": False}, {}, {"in/a", "out/d"}),
    ({"dead_letters_too": True}, {}, {"in/a", "in/b", "in/c", "out/d", "out/e"}),
    ({"labelled_by": "other@1", "dead_letters_too": True}, {}, {"in/a", "in/b"}),
]


def test_filters_narrow_the_choice(ledger: Ledger):
    """The production model has labelled four of five; another one that was only tried, one, and failed on another."""
    labels = {"in/a": 0, "in/b": 2, "in/c": 3, "out/d": 0}
    made = {key: label_as(number) for key, number in labels.items()}
    first_night(ledger, *labels, "out/e", **{**made, "out/e": dead_letter})
    ledger.register("other")
    shown = [listed("in/a"), listed("in/b")]
    ledger.work(
        ledger.plan(*shown, model="other@1", scope="not_by_this_model", prefix="in/"),
        {"in/a": label_as(2), "in/b": dead_letter},
    )
    ledger.plan(*(listed(key) for key in (*labels, "out/e")))  # a listing of everything: what was not shown is there
    ledger.register("tiny", "2", "production")

    for filters, request, expected in FILTERS:
        plan = again(ledger, request, **filters)
        assert (set(ledger.pending(plan)), plan.discovered) == (expected, len(expected)), (filters, request)


def test_the_label_that_is_looked_at_is_the_one_without_the_model_to_label_with(ledger: Ledger):
    """So the choice is the same before the run, while it goes on, and after it."""
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    ledger.work(again(ledger, {"max_images": 2}, label="cat"), {key: label_as(1) for key in KEYS})
    assert sorted(ledger.latest().values()) == ["cat", "cat", "dog", "dog"]

    assert (again(ledger, {"dry_run": True}, label="cat").discovered) == 4
    assert (again(ledger, {"dry_run": True}, label="dog").discovered) == 0
    ledger.register("tiny", "3", "production")
    assert again(ledger, {"dry_run": True}, label="dog").discovered == 2, "to the next model it is the label"
    assert again(ledger, {"dry_run": True}, label="cat").discovered == 2


def test_times_are_those_of_the_label(ledger: Ledger):
    day = datetime(2026, 11, 20, tzinfo=UTC)
    first_night(ledger)
    for number, key in enumerate(KEYS):
        ledger.execute(
            "UPDATE nightlabel.outcome o SET recorded_at = %s FROM nightlabel.image i "
            "WHERE i.image_id = o.image_id AND i.object_key = %s",
            day + timedelta(days=number),
            key,
        )
    ledger.register("tiny", "2", "production")

    def matching(**times: datetime) -> int:
        return again(ledger, {"dry_run": True}, **times).discovered

    one, two = day + timedelta(days=1), day + timedelta(days=2)
    assert (matching(since=one), matching(until=two), matching(since=one, until=two)) == (3, 2, 1)


def test_what_is_gone_or_overwritten_is_not_chosen_and_nothing_is_taken_for_vanished(ledger: Ledger):
    first_night(ledger)
    ledger.plan(listed("a"), listed("b", "e2"), listed("c"))
    before = ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key")
    ledger.register("tiny", "2", "production")
    plan = again(ledger)
    assert ledger.pending(plan) == ["a", "c"]
    assert ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key") == before


def test_dead_letters_of_the_model_itself_are_done_until_their_time_comes(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    ledger.work(
        again(ledger),
        {"a": dead_letter, "b": lambda ref: dead_letter(ref, "decoder_timeout", is_retryable=True)},
    )
    assert models_shown(ledger) == {"a": "1", "b": "1", "c": "2", "d": "2"}, "the former label is better than none"
    assert again(ledger, {"dry_run": True}).to_classify == 0
    ledger.execute("UPDATE nightlabel.outcome SET retry_after = retry_after - interval '30 days'")
    assert ledger.pending(again(ledger)) == ["b"]


def test_dead_letters_of_the_former_model_are_tried_with_the_new_one_when_asked_for(ledger: Ledger):
    first_night(ledger, c=dead_letter)
    ledger.register("tiny", "2", "production")
    ledger.work(again(ledger, labelled_by="tiny@1", dead_letters_too=True))
    assert set(models_shown(ledger)) == set(KEYS)
    assert ledger.open_dead_letters() == {}


def test_the_model_is_pinned_when_the_run_is_planned(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    plan = again(ledger)
    ledger.register("tiny", "3", "production")
    ledger.work(plan)
    assert ledger.summary(plan.run_id)["model_version"] == "2"


def test_equal_bytes_are_labelled_once_and_copied(ledger: Ledger):
    store = FakeStore({"a": png(RED), "b": png(RED)})
    ledger.work(ledger.sink.plan_run(RunRequest(BUCKET), Pages(store.list_pages(BUCKET, ""))))
    ledger.register("tiny", "2", "production")
    ledger.execute("UPDATE nightlabel.image SET is_etag_md5 = true")
    plan = again(ledger, {"max_images": 1})
    ledger.work(plan)
    [chunk] = ledger.sink.read_manifest(ledger.sink.claim_shard(again(ledger).run_id, 0))
    assert ([copy.ref.key for copy in chunk.copies], chunk.refs) == (["b"], ())


@pytest.mark.parametrize("former", ["tiny@2", "production"])
def test_a_model_cannot_label_again_what_it_has_labelled_itself(ledger: Ledger, former: str):
    ledger.register("tiny", "2", "production")
    with pytest.raises(SettingsError, match="which is tiny@2, the very model to label with"):
        again(ledger, labelled_by=former)
    with pytest.raises(ModelUnknownError, match="no model 'tiny@9' is registered"):
        again(ledger, labelled_by="tiny@9")


def test_a_model_whose_outcomes_were_dropped_chooses_nothing_and_says_why(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    ledger.work(again(ledger))
    ledger.sink.close()  # a session that has looked at a partition keeps it from being dropped
    wiring.maintain(ledger.settings, _drop("tiny@1"))

    with PostgresSink(ledger.settings) as sink:
        request = RunRequest(BUCKET, labelled=LabelFilter(labelled_by="tiny@1"))
        with pytest.raises(ModelInUseError, match="the outcomes of tiny@1 were dropped from the ledger"):
            sink.plan_run(request, None)


def _drop(model: str) -> Any:
    from inference.types import MaintenanceRequest

    return MaintenanceRequest(drop_models=(model,))


def test_max_images_defers_the_rest_and_a_dry_run_only_counts(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    runs = ledger.rows("SELECT count(*) FROM nightlabel.run")
    plan = again(ledger, {"max_images": 3, "dry_run": True, "images_per_second": 5.0})
    assert (plan.discovered, plan.to_classify, plan.deferred) == (4, 3, 1)
    assert ledger.rows("SELECT count(*) FROM nightlabel.run") == runs
    assert ledger.rows("SELECT * FROM nightlabel.run_pace") == []


def worked_out(connection: psycopg.Connection[Any], models: list[int], chosen: dict[str, Any]) -> set[str]:
    """The keys to choose, in plain Python over the rows of the ledger."""
    rows = connection.execute(
        "SELECT o.object_key, c.model_id, c.label, c.label_id, c.recorded_at FROM nightlabel.object o "
        "JOIN nightlabel.outcome c USING (image_id) WHERE o.gone_at IS NULL"
    ).fetchall()
    found = set()
    for key in {key for key, *_ in rows}:
        mine = [row for model in models for row in rows if row[0] == key and row[1] == model]
        labels = [row for row in mine if row[2] is not None]
        best = labels[0] if labels else mine[0] if mine and chosen["dead_letters_too"] else None
        if best is None:
            continue
        _, _, label, label_id, recorded_at = best
        if (
            chosen["label"] in {None, label}
            and chosen["label_id"] in {None, label_id}
            and (chosen["since"] is None or recorded_at >= chosen["since"])
            and (chosen["until"] is None or recorded_at < chosen["until"])
        ):
            found.add(key)
    return found


def test_any_ledger_gives_the_choice_that_is_worked_out_by_hand(ledger: Ledger, seed: int):
    for version in range(2, MODELS + 1):
        ledger.register("tiny", str(version))
    draw = random.Random(seed)  # noqa: S311
    chosen_at_all: Counter[int] = Counter()
    with psycopg.connect(ledger.url) as connection:
        every = [key for [key] in connection.execute("SELECT model_id FROM nightlabel.model").fetchall()]
        for _ in range(20):
            make_ledger(connection, draw)
            connection.execute(statement("create_listing"))
            for _ in range(5):
                models = draw.sample(every, draw.randrange(len(every) + 1))
                times = sorted(datetime(2026, 2, draw.randrange(1, 10), 12, tzinfo=UTC) for _ in range(2))
                chosen = {
                    "label": draw.choice([None, None, *LABELS]),
                    "label_id": draw.choice([None, None, "n1", "n2"]),
                    "since": draw.choice([None, times[0]]),
                    "until": draw.choice([None, times[1]]),
                    "dead_letters_too": draw.random() < 0.5,
                }
                where = {"bucket": "photos", "prefix": "", "models": models}
                connection.execute(statement("find_labelled"), {**where, **chosen})
                found = [key for [key] in connection.execute("DELETE FROM listed RETURNING object_key").fetchall()]
                assert sorted(found) == sorted(worked_out(connection, models, chosen)), (models, chosen)
                chosen_at_all[len(found)] += 1
            connection.rollback()
    assert len(chosen_at_all) > 3


# How fast


def paced(ledger: Ledger, rate: float = 10.0, shards: int = 2) -> Plan:
    first_night(ledger, *(f"{number:03}" for number in range(40)))
    ledger.register("tiny", "2", "production")
    return again(ledger, {"images_per_second": rate, "shard_size": 40 // shards})


def given(ledger: Ledger) -> Any:
    """When the next turn is free."""
    [row] = ledger.rows("SELECT free_at FROM nightlabel.run_pace")
    return row["free_at"]


def test_all_workers_of_a_run_take_turns_from_one_row(ledger: Ledger):
    plan = paced(ledger)
    shards = [ledger.sink.claim_shard(plan.run_id, number) for number in plan.shards]
    with PostgresSink(ledger.settings) as other:
        waits = [(ledger.sink, other)[number % 2].reserve_turns(shards[number % 2], 5) for number in range(6)]
    assert {turns.images_per_second for turns in waits} == {10.0}
    begins = [turns.wait_s for turns in waits]
    assert begins[0] <= 0.0
    assert all(begins[number] <= 0.5 * number for number in range(6)), "each half a second after the one before"
    first = given(ledger)
    ledger.sink.reserve_turns(shards[0], 20)
    assert given(ledger) - first == timedelta(seconds=2)


def test_a_run_that_was_held_up_makes_up_for_seconds_and_not_for_hours(ledger: Ledger):
    plan = paced(ledger)
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.reserve_turns(shard, 1)
    ledger.execute("UPDATE nightlabel.run_pace SET free_at = free_at - interval '2 hours'")
    turns = ledger.sink.reserve_turns(shard, 1)
    assert turns.wait_s == pytest.approx(-CATCH_UP_S, abs=1.0)


def test_an_attempt_that_was_taken_over_gets_no_turn(ledger: Ledger):
    plan = paced(ledger)
    stale = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.claim_shard(plan.run_id, 0)
    with pytest.raises(StaleAttemptError, match="was taken over while it waited for its turn"):
        ledger.sink.reserve_turns(stale, 1)
    assert given(ledger) is None


def test_a_repeated_plan_goes_on_with_the_turns_that_were_given(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    request = {"dag_id": "reclassify_images", "airflow_run_id": "by hand", "images_per_second": 0.5}
    plan = again(ledger, request)
    ledger.sink.reserve_turns(ledger.sink.claim_shard(plan.run_id, 0), 4)
    before = given(ledger)
    again(ledger, request)
    assert given(ledger) == before


def test_the_shards_of_a_run_see_the_rate_and_a_change_of_it(ledger: Ledger):
    plan = paced(ledger, 7.0)
    assert ledger.sink.read_rules(plan.run_id).images_per_second == 7.0
    assert ledger.summary(plan.run_id)["max_images_per_second"] == 7.0
    ledger.execute("UPDATE nightlabel.run_pace SET images_per_second = 3")
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    assert ledger.sink.reserve_turns(shard, 1).images_per_second == 3.0


@pytest.mark.parametrize("rate", ["0", "0.009", "-1", "100001", "'Infinity'", "'NaN'", "NULL"])
def test_a_running_runs_rate_may_not_become_one_that_no_run_could_ask_for(ledger: Ledger, rate: str):
    ledger.execute("INSERT INTO nightlabel.run_pace (run_id, images_per_second) VALUES (gen_random_uuid(), 100000)")
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        ledger.execute(f"UPDATE nightlabel.run_pace SET images_per_second = {rate}")
    ledger.execute("UPDATE nightlabel.run_pace SET images_per_second = 0.01")


def test_a_run_that_keeps_to_a_rate_labels_every_image_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Through the whole of a worker, at a rate that costs the test half a second."""
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(12)})
    ledger.work(ledger.sink.plan_run(RunRequest(BUCKET), Pages(store.list_pages(BUCKET, ""))))
    ledger.register("tiny", "2", "production")
    plan = again(ledger, {"images_per_second": 30.0})
    asked: list[int] = []
    reserve = ledger.sink.reserve_turns
    monkeypatch.setattr(
        ledger.sink, "reserve_turns", lambda shard, images: asked.append(images) or reserve(shard, images)
    )

    stats = wiring.run_shard(
        plan.run_id, 0, store=store, sink=ledger.sink, settings=ledger.settings, load=lambda *_: FakeHandle()
    )

    assert (stats.labelled, stats.unfinished, sum(asked)) == (12, 0, 12)
    assert sorted(store.fetched) == sorted(store.objects)
    assert ledger.sink.finish_run(plan.run_id).state == "succeeded"


def test_at_a_slow_rate_what_was_fetched_is_recorded_while_the_next_turn_is_waited_for(ledger: Ledger):
    """Not when a window, or the batches that may be under way, are full: these would hold all of it."""
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(20)})
    planned = ledger.sink.plan_run(RunRequest(BUCKET), Pages(store.list_pages(BUCKET, "")))
    begun = itertools.count()

    def pause(_seconds: float) -> None:
        time.sleep(0.03)  # the image that has just begun gets as far as it can
        expected = next(begun) - 6
        assert wait_until(lambda: len(ledger.latest()) >= expected, timeout_s=20), expected

    pacer = Pacer(lambda _images: Turns(1.0, 1.0), FakeClock(), pause)
    shard_runner = runner(ledger, store, batch_size=1, calls_a_batch=1, window=64, pacer=pacer)
    stats = shard_runner.run(ledger.sink.claim_shard(planned.run_id, 0))
    assert (stats.labelled, next(begun)) == (20, 20)


def test_what_a_run_has_not_got_to_when_its_time_is_up_is_deferred(ledger: Ledger):
    store = FakeStore({f"{number:03}": png(RED, str(number)) for number in range(120)})
    settings = ledger.settings.model_copy(update={"batch_size": 1, "window": 4})
    request = RunRequest(BUCKET, time_budget_s=3600.0, shard_size=60)
    plan = ledger.sink.plan_run(request, Pages(store.list_pages(BUCKET, "")))
    assert plan.shards == (0, 1)

    def times_up(_images: int) -> None:
        ledger.execute("UPDATE nightlabel.run SET started_at = started_at - interval '2 hours'")

    def work(shard_number: int) -> ShardStats:
        return wiring.run_shard(
            plan.run_id, shard_number, store=store, sink=ledger.sink, settings=settings, progress=times_up,
            load=lambda *_: FakeHandle(),
        )  # fmt: skip

    stats = work(0)
    recorded = len(ledger.latest())
    assert 0 < recorded < 60
    assert (stats.images, stats.labelled) == (recorded, recorded)
    assert ledger.summary(plan.run_id)["deferred"] == 60 - recorded
    assert work(0) == stats, "cleared, it has nothing more to begin, and counts nothing twice"
    assert work(1).images == 0, "what had not begun does not begin"
    summary = ledger.sink.finish_run(plan.run_id)
    assert (summary.state, summary.labelled, summary.deferred, summary.unfinished) == (
        "succeeded", recorded, 120 - recorded, 0,
    )  # fmt: skip
    assert ledger.summary(plan.run_id)["discovered"] == 120, "and the books balance"
    assert len(ledger.latest()) == recorded
    rest = ledger.sink.plan_run(RunRequest(BUCKET), Pages(store.list_pages(BUCKET, "")))
    assert rest.to_classify == 120 - recorded, "another run does it"


def test_an_attempt_that_was_taken_over_defers_nothing(ledger: Ledger):
    plan = ledger.plan(listed("a"), time_budget_s=100.0)
    stale = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.claim_shard(plan.run_id, 0)
    with pytest.raises(StaleAttemptError):
        ledger.sink.cut_shard(stale)
    assert ledger.summary(plan.run_id)["unfinished"] == 1


# How long


def timed(ledger: Ledger, seconds: float, images: int, **request: Any) -> None:
    """A run that took so long, as the books say."""
    keys = [f"{seconds:g}/{number}" for number in range(images)]
    plan = ledger.plan(*(listed(key) for key in keys), prefix=f"{seconds:g}/", **request)
    ledger.work(plan)
    ledger.execute(
        "UPDATE nightlabel.shard SET started_at = finished_at - make_interval(secs => %s) WHERE run_id = %s",
        seconds,
        plan.run_id,
    )


def test_how_long_it_takes_is_what_this_model_did_of_late_else_what_others_did_else_unknown(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    ledger.execute("UPDATE nightlabel.run SET started_at = started_at - interval '31 days'")
    plan = again(ledger, {"dry_run": True, "images_per_second": 2.0})
    assert (plan.speed, plan.expected_s, plan.least_s) == (None, None, 2.0)

    timed(ledger, 2.5, 10, model="tiny@1")
    plan = again(ledger, {"dry_run": True})
    assert (plan.speed, plan.to_classify) == (Speed(4.0, is_of_model=False), 14)
    assert plan.expected_s == pytest.approx(3.5)

    timed(ledger, 10.0, 20, model="tiny@2")
    timed(ledger, 1.0, 2, model="tiny@2")
    plan = again(ledger, {"dry_run": True})
    assert plan.speed == Speed(2.0, is_of_model=True), "all images over all seconds, so that large runs count for more"
    assert again(ledger, {"dry_run": True, "images_per_second": 0.5}).expected_s == pytest.approx(28.0)
    assert again(ledger, {"dry_run": True, "device": "gpu"}).speed is None, "another device says nothing"


def test_what_kept_to_a_rate_and_what_failed_says_nothing_of_how_fast_one_could_be(ledger: Ledger):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    ledger.execute("UPDATE nightlabel.run SET state = 'failed'")
    ledger.work(again(ledger, {"images_per_second": 50.0, "max_images": 2}))
    assert again(ledger, {"dry_run": True}).speed is None


def test_the_books_say_what_a_run_was_to_take(ledger: Ledger):
    timed(ledger, 5.0, 10)
    ledger.register("tiny", "2", "production")
    plan = again(ledger, {"images_per_second": 1.0})
    summary = ledger.summary(plan.run_id)
    assert (summary["expected_s"], summary["max_images_per_second"], summary["shadow_of"]) == (10.0, 1.0, None)
    nightly = ledger.plan(listed("new"))
    assert ledger.summary(nightly.run_id)["expected_s"] is None


# Rights


def test_a_writer_may_label_again_and_keep_to_a_rate(ledger: Ledger, login):
    first_night(ledger)
    ledger.register("tiny", "2", "production")
    with PostgresSink(login("nightlabel_writer")) as sink:
        plan = sink.plan_run(RunRequest(BUCKET, labelled=LabelFilter(), images_per_second=100.0), None)
        shard = sink.claim_shard(plan.run_id, 0)
        assert sink.reserve_turns(shard, 1).images_per_second == 100.0
        refs = [ref for chunk in sink.read_manifest(shard) for ref in chunk.refs]
        sink.record_batch(shard, 1, [prediction(ref) for ref in refs], engine="litert", seconds=StageSeconds())
        sink.finish_shard(shard, StageSeconds())
        assert sink.finish_run(plan.run_id).labelled == len(KEYS)


def test_a_reader_sees_the_rate_in_the_books_and_not_the_table(ledger: Ledger):
    plan = paced(ledger)
    with psycopg.connect(ledger.url) as connection:
        connection.execute("SET ROLE nightlabel_reader")
        sql = "SELECT max_images_per_second FROM nightlabel.run_summary WHERE run_id = %s"
        assert connection.execute(sql, [plan.run_id]).fetchone() == (10.0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM nightlabel.run_pace")
