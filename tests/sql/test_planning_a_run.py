"""Discovery in the database: what is new, changed, vanished, done, deferred; and the shards of what is left."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from inference.errors import ModelUnknownError, SettingsError, StoreUnavailableError
from inference.models import registry
from inference.planning import decoder_version
from inference.settings import read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import DeadLetterFilter, ListedObject, ModelId, RunRequest, image_id, key_of
from tests.ledger import BUCKET, Ledger, Pages, dead_letter, listed

pytestmark = pytest.mark.integration


def test_the_identity_of_an_image_is_what_the_contract_says():
    found = image_id("photos", "in/2026/11/café 1.jpg", "9b2cf535f27731c974343645a3985328")
    assert str(found) == "cf2ebf3f-eb23-a16e-82e2-108fa59fc7e5"
    assert found == image_id("photos", "in/2026/11/café 1.jpg", 'W/"9b2cf535f27731c974343645a3985328"')


def test_a_first_run_plans_everything_in_one_shard(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"), listed("c"))

    assert (plan.discovered, plan.already_done, plan.deferred, plan.to_classify) == (3, 0, 0, 3)
    assert plan.shards == (0,)
    assert ledger.pending(plan) == ["a", "b", "c"]
    assert ledger.summary(plan.run_id)["unfinished"] == 3


def test_an_empty_prefix_is_a_run_with_zero_counts_that_succeeds(ledger: Ledger):
    plan = ledger.plan()
    summary = ledger.sink.finish_run(plan.run_id)

    assert plan.shards == ()
    assert summary.state == "succeeded"
    assert (summary.discovered, summary.labelled, summary.unfinished) == (0, 0, 0)


def test_a_second_run_finds_everything_already_done(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")), {"b": dead_letter})

    plan = ledger.plan(listed("a"), listed("b"))

    assert (plan.discovered, plan.already_done, plan.to_classify, plan.shards) == (2, 2, 0, ())
    assert ledger.sink.finish_run(plan.run_id).state == "succeeded"


def test_an_overwritten_object_is_labelled_anew_and_going_back_shows_the_first_label_again(ledger: Ledger):
    ledger.work(ledger.plan(listed("a", "one")))
    assert ledger.latest() == {"a": "cat"}

    second = ledger.plan(listed("a", "two"))
    assert (second.already_done, second.to_classify) == (0, 1)
    assert ledger.latest() == {}, "the new version has no label yet"
    ledger.work(second, {"a": dead_letter})
    assert (ledger.latest(), ledger.open_dead_letters()) == ({}, {"a": "undecodable"})

    third = ledger.plan(listed("a", "one"))
    assert (third.already_done, third.to_classify) == (1, 0)
    assert (ledger.latest(), ledger.open_dead_letters()) == ({"a": "cat"}, {})


def test_a_deleted_object_leaves_the_latest_predictions_and_keeps_its_history(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    ledger.plan(listed("b"))

    assert set(ledger.latest()) == {"b"}
    assert len(ledger.rows("SELECT * FROM nightlabel.outcome")) == 2
    assert ledger.rows("SELECT sum(images) AS images FROM nightlabel.label_daily") == [{"images": 2}]

    ledger.plan(listed("a"), listed("b"))
    assert set(ledger.latest()) == {"a", "b"}, "it came back as it was"


def test_objects_outside_the_prefix_are_not_taken_for_vanished(ledger: Ledger):
    ledger.work(ledger.plan(listed("in/a"), listed("in_2"), listed("out")))
    ledger.plan(listed("in/a"), prefix="in/")
    assert set(ledger.latest()) == {"in/a", "in_2", "out"}
    ledger.plan(prefix="in")
    assert set(ledger.latest()) == {"out"}


def test_a_percent_sign_or_underscore_in_a_prefix_means_itself(ledger: Ledger):
    ledger.work(ledger.plan(listed("a%b/1"), listed("axb/1"), listed("a_b/1")))
    ledger.plan(prefix="a%b")
    assert set(ledger.latest()) == {"axb/1", "a_b/1"}
    ledger.plan(prefix="a_b")
    assert set(ledger.latest()) == {"axb/1"}


def test_a_listing_that_breaks_off_changes_nothing(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    before = ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key")

    def broken() -> Iterator[Sequence[ListedObject]]:
        yield [listed("c")]
        raise StoreUnavailableError("the store went away")

    with pytest.raises(StoreUnavailableError):
        ledger.sink.plan_run(RunRequest(bucket=BUCKET), Pages(broken()))

    assert ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key") == before
    assert len(ledger.rows("SELECT * FROM nightlabel.run")) == 1
    assert ledger.plan(listed("a"), listed("b"), listed("c")).to_classify == 1, "the connection is still good"


def test_a_key_that_a_listing_repeats_counts_once_as_its_newest_version(ledger: Ledger):
    plan = ledger.plan(listed("a", "old", minute=1), listed("b"), listed("a", "new", minute=2), listed("b"))
    assert plan.discovered == 2
    assert {(row["object_key"], row["etag"]) for row in ledger.rows("SELECT * FROM nightlabel.image")} == {
        ("a", "new"),
        ("b", "e1"),
    }


KEYS = [
    "with space",
    "100%",
    "a+b",
    "a//b",
    "/leading",
    "trailing/",
    "emoji 🌙",
    "line\nbreak",
    "tab\t\x01",
    "q'\"\\",
    "é" * 512,
]


def test_every_key_that_s3_allows_comes_back_exactly(ledger: Ledger):
    plan = ledger.plan(*(listed(key) for key in KEYS))
    assert sorted(ledger.pending(plan)) == sorted(KEYS)
    ledger.work(plan)
    assert sorted(ledger.latest()) == sorted(KEYS)


def test_a_key_that_postgres_cannot_store_does_not_keep_the_others_from_their_labels(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
):
    plan = ledger.plan(listed("a"), listed("half\ud800"), listed("z"))
    assert ledger.pending(plan) == ["a", "z"]
    assert "half\\ud800" in caplog.text


NO_TEXT = [
    "in/nul\x00.jpg",
    "in/caf\udce9.jpg",
    "in/\udcff\x00\udc80",
    "in/looks like one \U0010f700.jpg",
    "in/a\\x00.jpg",
]


def test_keys_that_are_no_text_get_outcomes_and_come_back_exactly(ledger: Ledger):
    plan = ledger.plan(*(listed(key) for key in NO_TEXT), prefix="in/")
    assert sorted(ledger.pending(plan)) == sorted(NO_TEXT)
    ledger.work(plan, {NO_TEXT[1]: dead_letter})

    stored = {*ledger.latest(), *ledger.open_dead_letters()}
    assert sorted(map(key_of, stored)) == sorted(NO_TEXT)
    assert NO_TEXT[4] in stored, "an ordinary key is stored as it is"
    assert len(stored) == len(NO_TEXT)
    ids = {row["image_id"] for row in ledger.rows("SELECT image_id FROM nightlabel.outcome")}
    assert ids == {image_id(BUCKET, key, "e1") for key in NO_TEXT}
    assert ledger.plan(*(listed(key) for key in NO_TEXT), prefix="in/").already_done == len(NO_TEXT)

    ledger.plan(*(listed(key) for key in NO_TEXT[:1]), prefix="in/")
    assert set(map(key_of, ledger.latest())) == {NO_TEXT[0]}, "the others are gone"
    ledger.plan(*(listed(key) for key in NO_TEXT), prefix="in/")
    retried = ledger.sink.plan_run(RunRequest(BUCKET, prefix="in/caf", dead_letters=DeadLetterFilter()), None)
    assert ledger.pending(retried) == [NO_TEXT[1]]


def test_a_prefix_that_looks_like_what_stands_for_a_byte_is_that_of_its_own_keys(ledger: Ledger):
    keys = ["in/\U0010f700/a", "in/\x00/a"]
    ledger.work(ledger.plan(*(listed(key) for key in keys)))
    ledger.plan(prefix="in/\U0010f700/")
    assert set(map(key_of, ledger.latest())) == {"in/\x00/a"}


def test_max_images_defers_the_newest_and_the_next_run_takes_them(ledger: Ledger):
    objects = [listed(key, minute=minute) for minute, key in enumerate("dcba")]
    plan = ledger.plan(*objects, max_images=3)
    assert (plan.discovered, plan.deferred, plan.to_classify) == (4, 1, 3)
    assert ledger.pending(plan) == ["d", "c", "b"]
    ledger.work(plan)
    assert ledger.summary(plan.run_id)["deferred"] == 1

    assert ledger.pending(ledger.plan(*objects)) == ["a"]


def test_a_backlog_is_cut_into_shards_and_chunks_in_order(ledger: Ledger):
    keys = [f"{number:05}" for number in range(2_500)]
    plan = ledger.plan(*(listed(key) for key in keys), shard_size=1_200)

    assert plan.shards == (0, 1, 2)
    assert ledger.pending(plan) == keys
    chunks = ledger.rows(
        "SELECT shard_number, cardinality(image_id) AS images FROM nightlabel.manifest_chunk ORDER BY 1, chunk_number"
    )
    assert [(chunk["shard_number"], chunk["images"]) for chunk in chunks] == [
        (0, 1_000), (0, 200), (1, 1_000), (1, 200), (2, 100),
    ]  # fmt: skip


def test_a_dry_run_says_what_would_be_done_and_keeps_nothing(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b", size_bytes=50), dry_run=True)

    assert (plan.discovered, plan.to_classify, plan.to_classify_bytes, plan.shards) == (2, 2, 150, ())
    for table in ("image", "object", "run", "shard", "manifest_chunk"):
        assert ledger.rows(f"SELECT * FROM nightlabel.{table}") == []


def test_a_promotion_does_not_label_the_whole_bucket_again(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")))
    ledger.register("better", "1", "production")

    plan = ledger.plan(listed("a"), listed("b"))
    assert (plan.model.name, ledger.pending(plan)) == ("better", ["b"])
    ledger.work(plan)
    assert {
        row["object_key"]: row["model_name"] for row in ledger.rows("SELECT * FROM nightlabel.latest_prediction")
    } == {
        "a": "tiny",
        "b": "better",
    }


def test_the_other_scope_labels_again_and_the_production_models_label_wins(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")))
    ledger.register("better", "1", "production")
    plan = ledger.plan(listed("a"), scope="not_by_this_model")
    assert ledger.pending(plan) == ["a"]
    ledger.work(plan)

    [row] = ledger.rows("SELECT * FROM nightlabel.latest_prediction")
    assert row["model_name"] == "better"
    assert len(ledger.rows("SELECT * FROM nightlabel.outcome")) == 2


def test_a_model_outside_the_production_line_is_recorded_beside_it_and_once(ledger: Ledger):
    ledger.register("other")
    plan = ledger.plan(listed("a"), model="other@1")
    ledger.work(plan)
    assert ledger.latest() == {}
    assert ledger.plan(listed("a"), model="other@1").already_done == 1
    assert ledger.plan(listed("a")).to_classify == 1


def test_an_unknown_model_is_refused_by_naming_those_there_are(ledger: Ledger):
    with pytest.raises(ModelUnknownError, match=r"no model 'nope@7' is registered; registered are: production, tiny@1"):
        ledger.plan(listed("a"), model="nope@7")
    with pytest.raises(SettingsError, match="NAME@VERSION"):
        ledger.plan(listed("a"), model="tiny@")


def test_a_retried_discovery_takes_over_and_keeps_one_plan(ledger: Ledger):
    first = ledger.plan(listed("a"), listed("b"), dag_id="classify_images", airflow_run_id="night")
    stale = ledger.sink.claim_shard(first.run_id, 0)
    second = ledger.plan(listed("a"), listed("b"), listed("c"), dag_id="classify_images", airflow_run_id="night")

    assert (second.run_id, second.plan_number) == (first.run_id, 2)
    assert ledger.sink.find_run("classify_images", "night") == first.run_id
    assert ledger.pending(second) == ["a", "b", "c"]
    with pytest.raises(Exception, match="taken over") as caught:
        ledger.record(stale, 1, [])
    assert type(caught.value).__name__ == "StaleAttemptError"
    ledger.work(second)
    assert ledger.summary(first.run_id)["labelled"] == 3


def test_a_retryable_dead_letter_is_tried_again_when_its_time_has_come_and_then_left_alone(ledger: Ledger):
    def denied(ref):
        return dead_letter(ref, "access_denied", is_retryable=True)

    ledger.work(ledger.plan(listed("a")), {"a": denied})
    assert ledger.plan(listed("a")).already_done == 1, "not before its time"
    for attempts, is_permanent in ((2, False), (3, True)):
        ledger.execute("UPDATE nightlabel.outcome SET retry_after = now() - interval '1 hour'")
        plan = ledger.plan(listed("a"))
        assert ledger.pending(plan) == ["a"]
        ledger.work(plan, {"a": denied})
        [row] = ledger.rows("SELECT * FROM nightlabel.dead_letter_open")
        assert (row["attempts"], row["permanent"]) == (attempts, is_permanent)
        assert ledger.summary(plan.run_id)["dead"] == 1
    assert ledger.plan(listed("a")).already_done == 1


def test_a_retry_that_succeeds_closes_the_dead_letter(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")), {"a": lambda ref: dead_letter(ref, "access_denied", is_retryable=True)})
    ledger.execute("UPDATE nightlabel.outcome SET retry_after = now() - interval '1 hour'")
    ledger.work(ledger.plan(listed("a")))
    assert (ledger.latest(), ledger.open_dead_letters()) == ({"a": "cat"}, {})


def test_a_listing_may_last_longer_than_a_statement(ledger: Ledger):
    def slow() -> Iterator[Sequence[ListedObject]]:
        yield [listed("a")]
        time.sleep(1.3)
        yield [listed("b")]

    impatient = read_settings(database_url=ledger.url, database_statement_timeout_s=1)
    with PostgresSink(impatient) as sink:
        assert sink.plan_run(RunRequest(bucket=BUCKET), Pages(slow())).discovered == 2


def test_an_older_listing_that_ends_later_hides_nothing_that_the_newer_one_saw(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")))

    def older() -> Iterator[Sequence[ListedObject]]:
        with PostgresSink(ledger.settings) as other:
            other.plan_run(RunRequest(bucket=BUCKET), Pages([[listed("a"), listed("b", "new")]]))
        yield [listed("b", "old")]

    ledger.sink.plan_run(RunRequest(bucket=BUCKET), Pages(older()))
    shown = {
        row["object_key"]: row["etag"]
        for row in ledger.rows(
            "SELECT o.object_key, i.etag FROM nightlabel.object o JOIN nightlabel.image i USING (image_id) "
            "WHERE o.gone_at IS NULL"
        )
    }
    assert shown == {"a": "e1", "b": "new"}


def test_a_listing_that_ends_late_still_shows_what_no_newer_one_has_looked_at(ledger: Ledger):
    def night() -> Iterator[Sequence[ListedObject]]:
        with PostgresSink(ledger.settings) as other:  # an arrival, while the whole bucket is being listed
            other.plan_run(RunRequest(bucket=BUCKET, prefix="in/new/"), Pages([[listed("in/new/b", "new")]]))
        yield [listed("in/a"), listed("in/new/b", "old"), listed("in/new/c", "old"), listed("z")]

    ledger.work(ledger.plan(listed("in/a", "former"), listed("in/new/c"), listed("y")))
    ledger.work(ledger.sink.plan_run(RunRequest(bucket=BUCKET), Pages(night())))

    assert set(ledger.latest()) == {"in/a", "z"}, "y vanished, and of in/new/ the arrival knows better"


def test_discoveries_of_one_bucket_at_once_all_end_with_the_same_objects(ledger: Ledger):
    failures: list[Exception] = []

    def discover(number: int) -> None:
        mine = [listed(f"{key:03}", f"e{number % 2}") for key in range(200) if key % 5 != number]
        try:
            with PostgresSink(ledger.settings) as sink:
                sink.plan_run(RunRequest(bucket=BUCKET), Pages([mine]))
        except Exception as error:  # noqa: BLE001  # the assertion below shows it
            failures.append(error)

    threads = [threading.Thread(target=discover, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.rows("SELECT count(*) AS runs FROM nightlabel.run") == [{"runs": 6}]


def test_a_discovery_that_is_cleared_keeps_what_the_run_recorded_before(ledger: Ledger):
    limits = {"dag_id": "classify_images", "airflow_run_id": "night", "max_dead_ratio": 0.2, "min_images_for_ratio": 1}
    objects = [listed(key) for key in "abc"]
    first = ledger.plan(*objects, **limits)
    ledger.work(first, {"a": dead_letter})
    assert ledger.summary(first.run_id)["state"] == "failed"

    again = ledger.plan(*objects, listed("d"), **limits)
    assert (again.already_done, again.to_classify) == (0, 1)
    ledger.work(again)
    summary = ledger.summary(first.run_id)
    assert (summary["labelled"], summary["dead"], summary["already_done"]) == (3, 1, 0)
    assert summary["state"] == "failed", "clearing a task is no way around the ratio"


def test_unchanged_objects_are_not_written_again_and_a_new_upload_of_the_same_bytes_shows_its_time(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    before = ledger.rows("SELECT xmin::text, * FROM nightlabel.object ORDER BY object_key")
    ledger.plan(listed("a"), listed("b", minute=5))
    after = ledger.rows("SELECT xmin::text, * FROM nightlabel.object ORDER BY object_key")
    assert after[0] == before[0]
    [b] = ledger.rows("SELECT last_modified FROM nightlabel.latest_prediction WHERE object_key = 'b'")
    assert b["last_modified"] == listed("b", minute=5).last_modified


@pytest.mark.parametrize(
    "impossible",
    [
        {"prefix": "\udcff"},
        {"model": "a\x00"},
        {"min_images_for_ratio": 2**31},
        {"shard_size": 0},
        {"max_dead_ratio": 2},
    ],
)
def test_a_request_that_cannot_mean_anything_is_refused(ledger: Ledger, impossible):
    with pytest.raises(SettingsError):
        ledger.plan(**impossible)


HOUR = timedelta(hours=1)
MODELS = {"tiny": 1, "older": 2, "elsewhere": 3}


def settles(outcome: dict[str, object], decoder: str) -> bool:
    """Whether one outcome means that its image need not be looked at, as the promise reads."""
    if outcome["error_code"] is None:
        return True
    return outcome["due"] is not True and outcome["decoder"] in {None, decoder}


@pytest.mark.parametrize("scope", ["unlabelled", "not_by_this_model"])
@pytest.mark.parametrize("model", ["tiny@1", "elsewhere@1"])
def test_what_is_pending_is_what_no_outcome_settles_whatever_outcomes_there_are(
    ledger: Ledger, scope: str, model: str, seed: int
):
    rng = random.Random(seed)  # noqa: S311 - outcomes, no secrets
    ledger.register("older", "1", "production")
    ledger.register("elsewhere", "1")
    with ledger.sink.asking() as connection:
        registry.name_alias(connection, "production", ModelId("tiny", "1"), reason="again")
    line = ["tiny", "older"] if scope == "unlabelled" else []
    asked = {*line, model.partition("@")[0]}
    decoder = decoder_version()
    objects = [listed(f"{number:03}", minute=rng.randrange(50)) for number in range(80)]
    expected = []
    for entry in objects:
        attempts = {}
        is_settled = False
        for name in rng.sample(sorted(MODELS), k=rng.choice([0, 1, 1, 2, 3])):
            is_dead = rng.random() < 0.7
            outcome = {
                "error_code": "decoder_timeout" if is_dead else None,
                "due": rng.choice([True, False, None]) if is_dead else None,
                "decoder": rng.choice([None, decoder, "another"]) if is_dead else None,
            }
            attempts[name] = rng.randrange(1, 4)
            is_settled |= name in asked and settles(outcome, decoder)
            label, dead = ("cat", None) if not is_dead else (None, "decode")
            retry_after = None if outcome["due"] is None else datetime.now(UTC) + HOUR * (-1 if outcome["due"] else 1)
            ledger.execute(
                "INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, "
                "engine, stage, error_code, message, attempts, retry_after, decoder, run_id) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                *(image_id(entry.bucket, entry.key, entry.etag), MODELS[name]),
                *((label, label, 0.5, [label], [0.5], "litert") if label else [None] * 6),
                *(dead, outcome["error_code"], dead, attempts[name], retry_after, outcome["decoder"], UUID(int=1)),
            )
        if not is_settled:
            mine = attempts.get(model.partition("@")[0], 0)
            expected.append((mine > 0, entry.last_modified, entry.key, mine))

    plan = ledger.plan(*objects, scope=scope, model=model)

    shards = [ledger.sink.claim_shard(plan.run_id, number) for number in plan.shards]
    found = [(ref.key, ref.prior_attempts) for shard in shards for ref in ledger.refs(shard)]
    assert 0 < len(expected) < 80
    assert plan.already_done == 80 - len(expected)
    assert found == [(key, attempts) for _, _, key, attempts in sorted(expected)]
