"""Dead letters have a life: which runs try one again, how often, and what closes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inference.errors import SettingsError
from inference.planning import decoder_version
from inference.types import DeadLetter, DeadLetterFilter, ImageRef, Plan, RunRequest, Stage
from tests.ledger import BUCKET, Ledger, dead_letter, listed

pytestmark = pytest.mark.integration


def dead(code: str, *, is_retryable: bool = False, stage: Stage = Stage.DECODE) -> Callable[[ImageRef], DeadLetter]:
    """What makes a ref a dead letter."""
    return lambda ref: DeadLetter(ref, stage, code, f"{ref.key} is {code}", is_retryable)


def die(ledger: Ledger, **codes: str) -> None:
    """Let a nightly run end with a dead letter for each key; two of the codes are retryable."""
    retryable = {"access_denied", "decoder_timeout"}
    made = {key: dead(code, is_retryable=code in retryable) for key, code in codes.items()}
    ledger.work(ledger.plan(*(listed(key) for key in codes)), made)


def retry(ledger: Ledger, request: dict[str, Any] | None = None, **filters: Any) -> Plan:
    """Plan a run of the open dead letters that match."""
    chosen = DeadLetterFilter(**filters)
    return ledger.sink.plan_run(RunRequest(**{"bucket": BUCKET, **(request or {})}, dead_letters=chosen), None)


def nights_later(ledger: Ledger) -> None:
    """Let so much time pass that every retryable dead letter's time has come."""
    ledger.execute("UPDATE nightlabel.outcome SET retry_after = retry_after - interval '30 days'")


def states(ledger: Ledger) -> dict[str, tuple[str, int, bool]]:
    """Key -> code, attempts and class of every open dead letter."""
    rows = ledger.rows("SELECT * FROM nightlabel.dead_letter_open")
    return {row["object_key"]: (row["error_code"], row["attempts"], row["permanent"]) for row in rows}


# The nightly run


def test_a_retryable_one_is_tried_on_two_more_nights_and_a_permanent_one_on_none(ledger: Ledger):
    die(ledger, slow="decoder_timeout", broken="undecodable")
    objects = [listed("slow"), listed("broken")]
    seen = []
    for _ in range(4):
        assert ledger.plan(*objects, dry_run=True).to_classify == 0, "not before its time"
        nights_later(ledger)
        plan = ledger.plan(*objects)
        seen.append(ledger.pending(plan))
        ledger.work(plan, {"slow": dead("decoder_timeout", is_retryable=True), "broken": dead("undecodable")})

    assert seen == [["slow"], ["slow"], [], []]
    assert states(ledger) == {"slow": ("decoder_timeout", 3, True), "broken": ("undecodable", 1, True)}


def test_a_permanent_one_of_another_decoder_is_tried_again_once_per_decoder(ledger: Ledger):
    die(ledger, broken="undecodable", huge="too_many_pixels")
    ledger.execute("UPDATE nightlabel.outcome SET decoder = 'pillow 1.0, revision 0'")

    plan = ledger.plan(listed("broken"), listed("huge"))
    assert ledger.pending(plan) == ["broken", "huge"]
    ledger.work(plan, {"huge": dead("too_many_pixels")})

    assert ledger.latest() == {"broken": "cat"}
    assert states(ledger) == {"huge": ("too_many_pixels", 2, True)}
    assert ledger.plan(listed("broken"), listed("huge")).already_done == 2
    decoders = "SELECT label IS NULL AS is_dead, decoder FROM nightlabel.outcome ORDER BY 1"
    assert [tuple(row.values()) for row in ledger.rows(decoders)] == [(False, None), (True, decoder_version())]


def test_what_was_never_decoded_waits_for_no_decoder(ledger: Ledger):
    gone_wrong = dead("empty_object", stage=Stage.FETCH)
    ledger.work(ledger.plan(listed("a"), listed("b")), {"a": gone_wrong, "b": dead("undecodable")})

    rows = ledger.rows("SELECT stage, decoder FROM nightlabel.outcome ORDER BY stage")
    assert rows == [{"stage": "decode", "decoder": decoder_version()}, {"stage": "fetch", "decoder": None}]
    ledger.execute("UPDATE nightlabel.outcome SET decoder = NULL")
    assert ledger.plan(listed("a"), listed("b")).to_classify == 0, "older code did not say which decoder it had"


@pytest.mark.parametrize("now_listed", [[], [listed("a", "e2")]], ids=["deleted", "overwritten"])
def test_a_deleted_or_overwritten_object_closes_its_dead_letter(ledger: Ledger, now_listed):
    die(ledger, a="truncated")
    assert states(ledger) == {"a": ("truncated", 1, True)}

    ledger.work(ledger.plan(*now_listed))

    assert states(ledger) == {}
    assert retry(ledger).discovered == 0
    assert len(ledger.rows("SELECT * FROM nightlabel.outcome WHERE error_code IS NOT NULL")) == 1, "it stays on record"


# By hand


def test_by_hand_all_that_are_open_are_tried_whatever_their_class_and_time(ledger: Ledger):
    die(ledger, denied="access_denied", broken="undecodable", cut="truncated")

    plan = retry(ledger)
    assert (plan.discovered, plan.already_done, plan.to_classify) == (3, 0, 3)
    ledger.work(plan, {"denied": dead("access_denied", is_retryable=True), "cut": dead("truncated")})

    assert ledger.latest() == {"broken": "cat"}
    assert states(ledger) == {"denied": ("access_denied", 2, False), "cut": ("truncated", 2, True)}
    summary = ledger.summary(plan.run_id)
    assert (summary["discovered"], summary["labelled"], summary["dead"]) == (3, 1, 2)


def test_the_bucket_is_not_listed_so_that_nothing_is_taken_for_vanished(ledger: Ledger):
    die(ledger, broken="undecodable")
    ledger.work(ledger.plan(listed("broken"), listed("sound")))
    before = ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key")
    ledger.work(retry(ledger))
    assert ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key") == before
    assert ledger.latest() == {"broken": "cat", "sound": "cat"}


@pytest.mark.parametrize(
    ("filters", "request_", "expected"),
    [
        ({"codes": ("undecodable",)}, {}, {"in/a", "out/d"}),
        ({"codes": ("undecodable", "truncated")}, {}, {"in/a", "in/b", "out/d"}),
        ({}, {"prefix": "in/"}, {"in/a", "in/b", "in/c"}),
        ({"permanent": "permanent"}, {}, {"in/a", "in/b", "out/d"}),
        ({"permanent": "retryable"}, {}, {"in/c"}),
        ({"codes": ("undecodable",)}, {"prefix": "in"}, {"in/a"}),
        ({}, {"bucket": "elsewhere"}, set()),
        ({}, {"prefix": "in%"}, set()),
    ],
)
def test_filters_narrow_the_choice(ledger: Ledger, filters, request_, expected):
    codes = {"in/a": "undecodable", "in/b": "truncated", "in/c": "access_denied", "out/d": "undecodable"}
    die(ledger, **codes)
    plan = retry(ledger, request_, **filters)
    assert set(ledger.pending(plan)) == expected
    assert plan.discovered == len(expected)


def test_times_narrow_the_choice(ledger: Ledger):
    day = datetime(2026, 11, 20, tzinfo=UTC)
    for number, key in enumerate("abc"):
        die(ledger, **{key: "undecodable"})
        ledger.execute(
            "UPDATE nightlabel.outcome o SET recorded_at = %s FROM nightlabel.image i "
            "WHERE i.image_id = o.image_id AND i.object_key = %s",
            day + timedelta(days=number),
            key,
        )
    ledger.plan(*(listed(key) for key in "abc"))

    def matching(**times: datetime) -> int:
        return retry(ledger, {"dry_run": True}, **times).discovered

    one, two = day + timedelta(days=1), day + timedelta(days=2)
    assert matching(failed_after=one) == 2
    assert matching(failed_before=two) == 2
    assert matching(failed_after=one, failed_before=two) == 1


def test_max_images_defers_the_rest(ledger: Ledger):
    die(ledger, a="undecodable", b="undecodable", c="undecodable")
    plan = retry(ledger, {"max_images": 2})
    assert (plan.discovered, plan.to_classify, plan.deferred) == (3, 2, 1)


def test_a_dry_run_only_counts(ledger: Ledger):
    die(ledger, a="undecodable")
    runs = ledger.rows("SELECT count(*) FROM nightlabel.run")
    assert retry(ledger, {"dry_run": True}).to_classify == 1
    assert ledger.rows("SELECT count(*) FROM nightlabel.run") == runs


def test_of_two_runs_with_the_same_dead_letter_the_slower_one_leaves_it_alone(ledger: Ledger):
    die(ledger, a="undecodable")
    first, second = retry(ledger), retry(ledger)
    ledger.work(first)
    ledger.work(second, {"a": dead("undecodable")})
    assert ledger.latest() == {"a": "cat"}
    summary = ledger.summary(second.run_id)
    assert (summary["dead"], summary["done_elsewhere"], summary["unfinished"]) == (0, 1, 0)


def test_after_a_promotion_they_are_tried_with_the_new_model(ledger: Ledger):
    die(ledger, a="undecodable", b="truncated")
    ledger.register("better", "1", "production")

    plan = retry(ledger)
    assert (plan.model.name, plan.discovered) == ("better", 2)
    ledger.work(plan, {"b": dead("not_an_image")})

    assert ledger.latest() == {"a": "cat"}
    assert states(ledger) == {"b": ("not_an_image", 1, True)}
    assert retry(ledger, {"dry_run": True}, codes=("truncated",)).discovered == 0, "the newer model's is the open one"
    assert retry(ledger, {"dry_run": True}, codes=("not_an_image",)).discovered == 1


def test_of_a_model_that_was_never_in_production_its_own_are_tried(ledger: Ledger):
    ledger.register("other")
    die(ledger, a="undecodable")
    ledger.work(ledger.plan(listed("a"), listed("b"), model="other@1"), {"b": dead("truncated")})
    ledger.work(ledger.plan(listed("a"), listed("b")))

    plan = retry(ledger, {"model": "other@1"})
    assert ledger.pending(plan) == ["b"]
    ledger.work(plan)
    assert retry(ledger, {"model": "other@1"}).discovered == 0
    assert states(ledger) == {"a": ("undecodable", 1, True)}


def test_a_retry_whose_discovery_is_cleared_tries_nothing_twice_and_keeps_its_books(ledger: Ledger):
    die(ledger, a="undecodable", b="truncated", c="truncated")
    airflow = {"dag_id": "retry_dead_letters", "airflow_run_id": "manual"}
    first = retry(ledger, {**airflow, "max_images": 2})
    ledger.work(first, {"b": dead("truncated")})

    again = retry(ledger, airflow)
    assert ledger.pending(again) == ["c"]
    ledger.work(again)
    summary = ledger.summary(first.run_id)
    assert (summary["discovered"], summary["labelled"], summary["dead"]) == (3, 2, 1)
    assert states(ledger) == {"b": ("truncated", 2, True)}


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"codes": ("undecodeable",)}, r"code 'undecodeable'; the codes are access_denied, .*undecodable$"),
        ({"codes": ("store_unavailable",)}, "no dead letter has the code 'store_unavailable'"),
        ({"permanent": "yes"}, "it is any, permanent or retryable"),
        (
            {"failed_after": datetime(2026, 2, 1, tzinfo=UTC), "failed_before": datetime(2026, 1, 1, tzinfo=UTC)},
            "nothing can match",
        ),
    ],
)
def test_a_choice_that_cannot_mean_anything_is_refused(ledger: Ledger, filters, sentence):
    with pytest.raises(SettingsError, match=sentence):
        retry(ledger, **filters)


# Why a run failed


def test_a_run_with_too_many_dead_letters_names_the_most_frequent_codes(ledger: Ledger):
    keys = [f"{number:02}" for number in range(12)]
    codes = ["truncated"] * 5 + ["not_an_image"] * 3 + ["undecodable"] * 2 + ["access_denied"]
    plan = ledger.plan(*(listed(key) for key in keys), shard_size=6, min_images_for_ratio=1)
    ledger.work(plan, {key: dead(code) for key, code in zip(keys, codes, strict=False)})

    assert ledger.sink.read_message(plan.run_id) == (
        "11 of 12 classified images are dead letters, and max_dead_ratio is 0.5; see dead_letter_open; "
        "most often truncated (5), not_an_image (3), undecodable (2)"
    )
    assert ledger.sink.top_reasons(plan.run_id, 0) == (("truncated", 5), ("not_an_image", 1))
    assert ledger.sink.top_reasons(plan.run_id, 1)[0] == ("not_an_image", 2)
    ledger.sink.finish_run(plan.run_id)
    assert (ledger.sink.read_message(plan.run_id) or "").count("most often") == 1, "closing it again says it once"


def test_a_run_names_no_codes_that_another_one_recorded(ledger: Ledger):
    mine, theirs = ledger.plan(listed("a"), listed("b")), ledger.plan(listed("a"))
    ledger.work(theirs, {"a": dead("truncated")})
    ledger.work(mine, {"b": dead("undecodable")})
    assert ledger.sink.top_reasons(mine.run_id) == (("undecodable", 1),)


def test_a_run_that_succeeds_or_is_unfinished_names_no_codes(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    ledger.sink.finish_run(plan.run_id)
    assert "most often" not in (ledger.sink.read_message(plan.run_id) or "")
    ledger.work(plan, {"a": dead_letter})
    assert ledger.sink.read_message(plan.run_id) is None
