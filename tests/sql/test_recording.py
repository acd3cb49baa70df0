"""Claiming, recording and closing: once each, whatever attempts overlap and whatever answers are lost."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Self

import psycopg
import pytest

from inference.errors import RunInterruptedError, RunUnknownError, StaleAttemptError
from inference.sinks import postgres
from inference.sinks.postgres import PostgresSink
from inference.types import ImageRef, Label, Prediction, ScoredLabel, StageSeconds
from tests.ledger import Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration


def test_a_batch_writes_outcomes_and_counts_together(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"), listed("c"), listed("d"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    a, b, c, _ = ledger.refs(shard)
    ledger.sink.record_batch(
        shard,
        1,
        [prediction(a, 1, 0.5), prediction(b, 3), dead_letter(c)],
        engine="litert",
        seconds=StageSeconds(1.0, 2.0, 3.0, 4.0),
        gone=1,
    )
    summary = ledger.summary(plan.run_id)

    assert (summary["labelled"], summary["dead"], summary["gone"], summary["unfinished"]) == (2, 1, 1, 0)
    assert [summary[name] for name in ("fetch_s", "decode_s", "predict_s", "write_s")] == [1.0, 2.0, 3.0, 4.0]
    rows = {row["object_key"]: row for row in ledger.rows("SELECT * FROM nightlabel.latest_prediction")}
    assert {key: (row["label"], row["label_id"], row["score"]) for key, row in rows.items()} == {
        "a": ("dog", "n2", 0.5),
        "b": ("crane", "n4", 0.75),
    }
    assert (rows["a"]["top_labels"], rows["a"]["top_scores"]) == (["dog", "cat"], [0.5, 0.5])
    [dead] = ledger.rows("SELECT * FROM nightlabel.dead_letter_open")
    assert (dead["object_key"], dead["stage"], dead["message"], dead["permanent"]) == (
        "c",
        "decode",
        "c is broken",
        True,
    )
    assert ledger.rows("SELECT DISTINCT content_sha256 FROM nightlabel.image WHERE object_key IN ('a', 'b')") == [
        {"content_sha256": b"\x01" * 32}
    ]


def test_a_batch_sent_twice_is_recorded_once(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    a, b = ledger.refs(shard)
    for _ in range(3):
        ledger.record(shard, 1, [prediction(a)], gone=0)
    ledger.record(shard, 2, [prediction(b)])
    ledger.record(shard, 1, [prediction(a)])

    summary = ledger.summary(plan.run_id)
    assert (summary["labelled"], summary["done_elsewhere"], summary["unfinished"]) == (2, 0, 0)


def test_an_attempt_that_was_taken_over_can_write_no_more(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    old = ledger.sink.claim_shard(plan.run_id, 0)
    a, b = ledger.refs(old)
    new = ledger.sink.claim_shard(plan.run_id, 0)

    with pytest.raises(StaleAttemptError, match=r"attempt 1 of shard 0 .* taken over by attempt 2"):
        ledger.record(old, 1, [prediction(a)])
    with pytest.raises(StaleAttemptError):
        ledger.sink.finish_shard(old, StageSeconds())
    assert ledger.rows("SELECT * FROM nightlabel.outcome") == []

    ledger.record(new, 1, [prediction(a), prediction(b)])
    assert ledger.sink.finish_shard(new, StageSeconds()).labelled == 2


def test_a_new_attempt_counts_what_the_last_one_recorded_and_does_the_rest(ledger: Ledger):
    plan = ledger.plan(*(listed(key) for key in "abcd"))
    first = ledger.sink.claim_shard(plan.run_id, 0)
    a, b, _, _ = ledger.refs(first)
    ledger.record(first, 1, [prediction(a), dead_letter(b)], gone=1)  # c was gone, then the worker died

    second = ledger.sink.claim_shard(plan.run_id, 0)
    assert ledger.summary(plan.run_id)["unfinished"] == 2, "what was gone is looked at again"
    c, d = ledger.refs(second)
    assert (c.key, d.key) == ("c", "d")
    ledger.record(second, 1, [prediction(d)], gone=1)
    stats = ledger.sink.finish_shard(second, StageSeconds())
    assert (stats.labelled, stats.dead, stats.gone, stats.unfinished) == (2, 1, 1, 0)


def test_two_runs_that_hold_the_same_image_record_it_once_and_both_books_balance(ledger: Ledger):
    one, two = ledger.plan(listed("a"), listed("b")), ledger.plan(listed("a"), listed("b"))
    shard_one, shard_two = ledger.sink.claim_shard(one.run_id, 0), ledger.sink.claim_shard(two.run_id, 0)
    a, b = ledger.refs(shard_one)
    ledger.record(shard_one, 1, [prediction(a, 1)])
    ledger.record(shard_two, 1, [prediction(a, 2), prediction(b, 2)])
    ledger.record(shard_one, 2, [dead_letter(b)])

    assert ledger.latest() == {"a": "dog", "b": "crane"}
    first, second = ledger.summary(one.run_id), ledger.summary(two.run_id)
    assert (first["labelled"], first["dead"], first["done_elsewhere"], first["unfinished"]) == (1, 0, 1, 0)
    assert (second["labelled"], second["done_elsewhere"], second["unfinished"]) == (1, 1, 0)


def test_what_another_run_settles_between_claim_and_reading_is_counted_as_done_elsewhere(ledger: Ledger):
    objects = [listed(f"{number:04}") for number in range(1_500)]
    mine, theirs = ledger.plan(*objects), ledger.plan(*objects)
    shard = ledger.sink.claim_shard(mine.run_id, 0)
    chunks = ledger.sink.read_manifest(shard)
    first = next(chunks)
    assert (len(first.refs), first.done_elsewhere) == (1_000, 0)
    ledger.work(theirs)

    ledger.record(shard, 1, [prediction(ref) for ref in first.refs])
    [second] = chunks
    assert (second.refs, second.done_elsewhere) == ((), 500)
    ledger.record(shard, 2, [], done_elsewhere=second.done_elsewhere)
    ledger.sink.finish_shard(shard, StageSeconds())

    summary = ledger.sink.finish_run(mine.run_id)
    assert (summary.labelled, summary.done_elsewhere, summary.unfinished) == (0, 1_500, 0)
    assert summary.is_balanced
    assert summary.state == "succeeded"


def test_a_lost_connection_is_made_again_and_nothing_is_counted_twice(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    a, b = ledger.refs(shard)
    ledger.record(shard, 1, [prediction(a)])
    ledger.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        "pg_backend_pid()"
    )
    ledger.record(shard, 1, [prediction(a)])  # the answer of the first time might have been lost
    ledger.record(shard, 2, [prediction(b)])
    assert ledger.sink.finish_shard(shard, StageSeconds()).labelled == 2


def test_an_outcome_is_a_label_or_an_error_and_never_both(ledger: Ledger):
    [model] = ledger.rows("SELECT model_id FROM nightlabel.model")
    columns = "(image_id, model_id, run_id, label, label_id, score, top_labels, top_scores, engine, "
    columns += "stage, error_code, message)"
    good = ["'cat'", "'n1'", "0.5", "'{cat}'", "'{0.5}'", "'litert'", "NULL", "NULL", "NULL"]
    dead = ["NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "'decode'", "'undecodable'", "'broken'"]
    for values in (
        [*good[:6], *dead[6:]],
        ["NULL"] * 9,
        [*good[:4], "NULL", *good[5:]],
        [*dead[:8], "NULL"],
        ["NULL", *good[1:]],
        [*good[:2], "1.5", *good[3:]],
        [*good[:4], "'{0.5,0.1}'", *good[5:]],
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            ledger.execute(
                f"INSERT INTO nightlabel.outcome {columns} "
                f"VALUES (gen_random_uuid(), {model['model_id']}, gen_random_uuid(), {', '.join(values)})"
            )


def test_a_message_may_hold_what_hostile_bytes_put_into_it(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    [ref] = ledger.refs(shard)
    letter = dead_letter(ref)
    hostile = type(letter)(
        ref, letter.stage, letter.error_code, "nul \x00 half \ud800 'quotes' \\u0000 " + "x" * 5000, False
    )
    ledger.record(shard, 1, [hostile])
    [row] = ledger.rows("SELECT message FROM nightlabel.dead_letter_open")
    assert row["message"].startswith("nul \ufffd half ? 'quotes' \\u0000 xxx")
    assert len(row["message"]) == 1_000


def test_labels_come_back_with_quotes_commas_line_breaks_and_emoji(ledger: Ledger):
    odd = ["it's", 'a "quoted" one', "{a,b}", "NULL", "back\\slash", "line\nbreak", "🌙 é", "\\N", " ", "%(a)s $1"]
    plan = ledger.plan(*(listed(f"{place}") for place in range(len(odd))))

    def labelled(ref: ImageRef) -> Prediction:
        label = Label(odd[int(ref.key)], f"id {odd[int(ref.key)]}")
        return replace(prediction(ref), top=(ScoredLabel(label, 0.5), ScoredLabel(label, 0.25)))

    ledger.work(plan, dict.fromkeys((f"{place}" for place in range(len(odd))), labelled))
    rows = {row["object_key"]: row for row in ledger.rows("SELECT * FROM nightlabel.latest_prediction")}
    assert {
        key: (row["label"], row["label_id"], row["top_labels"], row["top_scores"]) for key, row in rows.items()
    } == {f"{place}": (text, f"id {text}", [text, text], [0.5, 0.25]) for place, text in enumerate(odd)}
    days = ledger.rows("SELECT label, images FROM nightlabel.label_daily")
    assert {row["label"]: row["images"] for row in days} == dict.fromkeys(odd, 1)


@pytest.mark.parametrize("days", [-400, 3])
def test_a_workers_clock_that_is_wrong_moves_only_when_a_dead_letter_is_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, days: int
):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=days)

    monkeypatch.setattr(postgres, "datetime", Wrong)
    [before] = ledger.rows("SELECT now() AS moment")
    plan = ledger.plan(listed("a"), listed("b"))
    ledger.work(plan, {"b": lambda ref: dead_letter(ref, is_retryable=True)})
    [after] = ledger.rows("SELECT now() AS moment")

    times = [row["predicted_at"] for row in ledger.rows("SELECT predicted_at FROM nightlabel.latest_prediction")]
    [letter] = ledger.rows("SELECT failed_at, retry_after FROM nightlabel.dead_letter_open")
    summary = ledger.summary(plan.run_id)
    times += [letter["failed_at"], summary["started_at"], summary["finished_at"]]
    times += [row["first_seen_at"] for row in ledger.rows("SELECT first_seen_at FROM nightlabel.image")]
    assert all(before["moment"] <= moment <= after["moment"] for moment in times)
    expected = before["moment"] + timedelta(days=days, seconds=ledger.settings.dead_letter_retry_s)
    assert abs(letter["retry_after"] - expected) < timedelta(minutes=10)


def test_a_run_fails_when_images_are_unfinished_and_says_so(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    assert ledger.sink.finish_run(plan.run_id).state == "failed"
    assert ledger.sink.read_message(plan.run_id) == "2 images have no outcome; the next run finds them again"
    ledger.work(plan)
    assert ledger.summary(plan.run_id)["state"] == "succeeded", "a cleared task may finish it after all"


@pytest.mark.parametrize(
    ("dead", "images", "limits", "state"),
    [
        (1, 4, {"max_dead_ratio": 0.25, "min_images_for_ratio": 1}, "succeeded"),
        (2, 4, {"max_dead_ratio": 0.25, "min_images_for_ratio": 1}, "failed"),
        (4, 4, {"max_dead_ratio": 0.25, "min_images_for_ratio": 5}, "succeeded"),
        (1, 1, {"max_dead_ratio": 0.0, "min_images_for_ratio": 0}, "failed"),
        (0, 3, {"max_dead_ratio": 0.0, "min_images_for_ratio": 0}, "succeeded"),
        (3, 3, {"max_dead_ratio": 1.0, "min_images_for_ratio": 0}, "succeeded"),
    ],
)
def test_too_many_dead_letters_fail_a_run_from_a_number_of_images_on(ledger: Ledger, dead, images, limits, state):
    keys = [str(number) for number in range(images)]
    plan = ledger.plan(*(listed(key) for key in keys), **limits)
    ledger.work(plan, dict.fromkeys(keys[:dead], dead_letter))
    assert ledger.summary(plan.run_id)["state"] == state
    assert len(ledger.open_dead_letters()) == dead, "outcomes are written all the same"


def test_an_unknown_run_or_shard_is_named(ledger: Ledger):
    with pytest.raises(RunUnknownError, match="no shard 7"):
        ledger.sink.claim_shard(ledger.plan(listed("a")).run_id, 7)
    with pytest.raises(RunUnknownError, match="there is no run"):
        ledger.sink.finish_run(uuid.uuid4())
    with pytest.raises(RunUnknownError, match="never planned; see the log of its task discover"):
        ledger.sink.find_run("classify_images", "none")


def test_a_manifest_is_dropped_some_days_after_its_run(ledger: Ledger):
    old, fresh = ledger.plan(listed("a")), ledger.plan(listed("b"))
    ledger.work(old)
    ledger.execute("UPDATE nightlabel.run SET finished_at = now() - interval '30 days' WHERE run_id = %s", old.run_id)
    ledger.work(fresh)
    assert {row["run_id"] for row in ledger.rows("SELECT run_id FROM nightlabel.manifest_chunk")} == {fresh.run_id}
    assert ledger.summary(old.run_id)["labelled"] == 1
    with pytest.raises(RunUnknownError, match="was dropped some days after it ended"):
        ledger.sink.claim_shard(old.run_id, 0)


def test_a_sink_can_be_opened_twice_and_closed_twice(ledger: Ledger):
    with PostgresSink(ledger.settings) as other:
        assert other.resolve_model("production").name == "tiny"
        other.close()


def test_giving_up_ends_a_wait_for_the_database_at_once(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    [ref] = ledger.refs(shard)
    ended: list[Exception] = []

    def write() -> None:
        try:
            ledger.record(shard, 1, [prediction(ref)])
        except Exception as error:  # noqa: BLE001  # the assertion below shows it
            ended.append(error)

    with psycopg.connect(ledger.url) as other:
        other.execute("LOCK TABLE nightlabel.outcome")
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.3)
        ledger.sink.give_up()
        writer.join(5)
        assert not writer.is_alive()
    assert [type(error) for error in ended] == [RunInterruptedError]
    assert ledger.sink.finish_run(plan.run_id).state == "failed", "the books can still be closed"


def test_an_attempt_that_did_not_say_that_it_ended_leaves_what_it_noted_as_suspects(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    first = ledger.sink.claim_shard(plan.run_id, 0)
    assert (first.suspects, first.is_isolated) == (0, False)
    ledger.sink.note_in_flight(first, 7)

    second = ledger.sink.claim_shard(plan.run_id, 0)
    assert (second.suspects, second.is_isolated) == (7, False), "the first was killed"


def test_an_attempt_that_was_released_or_has_finished_leaves_no_suspects(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    for end in (ledger.sink.release_shard, lambda shard: ledger.sink.finish_shard(shard, StageSeconds())) * 2:
        shard = ledger.sink.claim_shard(plan.run_id, 0)
        assert (shard.suspects, shard.is_isolated) == (0, False)
        ledger.sink.note_in_flight(shard, 7)
        end(shard)
    last = ledger.sink.claim_shard(plan.run_id, 0)
    assert (last.suspects, last.is_isolated) == (0, False)


def test_a_clean_end_clears_the_suspects_and_the_second_unclean_one_isolates_the_shard_for_good(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    seen = []
    for is_clean in (False, True, False, True, True):
        shard = ledger.sink.claim_shard(plan.run_id, 0)
        seen.append((shard.suspects, shard.is_isolated))
        ledger.sink.note_in_flight(shard, 7)
        if is_clean:
            ledger.sink.release_shard(shard)
    assert seen == [(0, False), (7, False), (0, False), (7, True), (0, True)]


def test_an_image_that_killed_its_decoder_isolates_the_shard_and_no_other(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"), shard_size=1)
    one = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.isolate_shard(one)
    ledger.sink.release_shard(one)
    assert ledger.sink.claim_shard(plan.run_id, 0).is_isolated
    assert not ledger.sink.claim_shard(plan.run_id, 1).is_isolated


def test_an_attempt_that_was_taken_over_has_no_say_in_suspects_and_isolation(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    old = ledger.sink.claim_shard(plan.run_id, 0)
    new = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.note_in_flight(new, 7)
    ledger.sink.note_in_flight(old, 1)
    ledger.sink.isolate_shard(old)
    ledger.sink.release_shard(old)
    [row] = ledger.rows("SELECT in_flight, is_isolated, ended_attempt FROM nightlabel.shard")
    assert row == {"in_flight": 7, "is_isolated": False, "ended_attempt": 0}


def test_a_claim_whose_answer_was_lost_is_no_unclean_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    plan = ledger.plan(listed("a"))
    claim = ledger.sink._retried

    def lose_the_answer_twice(work):
        for _ in range(2):
            work()  # committed, and nobody hears of it
        return claim(work)

    monkeypatch.setattr(ledger.sink, "_retried", lose_the_answer_twice)
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    assert (shard.attempt, shard.is_isolated) == (3, False)
    assert ledger.rows("SELECT unclean_ends FROM nightlabel.shard") == [{"unclean_ends": 0}]


def test_an_attempt_that_ends_after_an_outage_says_so_over_a_new_connection(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    ledger.sink.note_in_flight(shard, 7)
    ledger.sink.close()  # as an outage leaves it
    ledger.sink.release_shard(shard)
    assert ledger.sink.claim_shard(plan.run_id, 0).suspects == 0


def test_a_run_that_fails_for_one_shard_names_the_shard(ledger: Ledger):
    limits = {"shard_size": 10, "max_dead_ratio": 0.5, "min_images_for_ratio": 5}
    plan = ledger.plan(*(listed(f"{number:02}", minute=number) for number in range(40)), **limits)
    ledger.work(plan, {f"{number:02}": dead_letter for number in range(10, 17)})
    assert ledger.sink.read_message(plan.run_id) == (
        "in 1 of the shards, shard 1 first, more images are dead letters than max_dead_ratio, 0.5, allows; "
        "see dead_letter_open; most often undecodable (7)"
    )
