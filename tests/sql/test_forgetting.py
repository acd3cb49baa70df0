"""Erasure: no trace is left anywhere, nobody else's rows change, the books still balance, and cut short it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest

from inference import wiring
from inference.errors import (
    BucketInUseError,
    OutcomesDetachedError,
    RunUnknownError,
    SchemaMissingError,
    SchemaOutdatedError,
    SettingsError,
    SinkCredentialsError,
    SinkUnavailableError,
    StaleAttemptError,
)
from inference.gate import tables
from inference.gate.comparing import compare
from inference.gate.figures import Answer, Answers, GoldenImage
from inference.settings import Settings
from inference.sinks import forgetting
from inference.types import (
    FORGOTTEN_ETAG,
    ContentDigest,
    CopiedPrediction,
    ForgetRequest,
    Forgettable,
    ImageRef,
    ListedObject,
    ModelId,
    ReviewRequest,
    RunRequest,
    StageSeconds,
    key_of,
)
from inference.types import image_id as identity
from tests.ledger import BUCKET, EPOCH, LABELS, Ledger, Pages, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

PREFIX = "users/4711/"
SECRET = "jane-doe-passport"
KEYS = (f"{PREFIX}{SECRET}.jpg", f"{PREFIX}deep/{SECRET} 'quoted' 🌙.png", f"{PREFIX}{SECRET}-broken.jpg")
NEIGHBOURS = ("users/4711", "users/47110/other.jpg", "users/471/a.jpg", "Users/4711/b.jpg", "z.jpg")
SHA256 = hashlib.sha256(b"what the picture shows").digest()
ETAGS = ("5ec7e70000000000000000000000000a", "5ec7e70000000000000000000000000b")
REQUEST = ForgetRequest(BUCKET, PREFIX, "ticket 17")


def seen(key: str, etag: str, *, minute: int = 0) -> ListedObject:
    return listed(key, etag if key.startswith(PREFIX) else f"{key}-{etag[-1]}", minute=minute)


def of_secret_bytes(ref: Any) -> Any:
    return dataclasses.replace(prediction(ref), content=ContentDigest(SHA256, is_etag_md5=True))


def copied(ref: Any) -> Any:
    return CopiedPrediction(ref, LABELS[0], 0.75, ("cat", "dog"), (0.75, 0.25), "litert")


@pytest.fixture
def planted(ledger: Ledger) -> Ledger:
    """Objects to forget in every place that the product writes to, beside others that look like them."""
    everything = (*KEYS, *NEIGHBOURS)
    made = dict.fromkeys(KEYS[:2], of_secret_bytes) | {KEYS[2]: dead_letter, "z.jpg": copied}
    ledger.work(ledger.plan(*(seen(key, ETAGS[0]) for key in everything)), made)
    ledger.work(ledger.plan(*(seen(key, ETAGS[1], minute=1) for key in everything)), made)  # another version of each
    second = ledger.register("second")
    again = {"model": str(second), "scope": "not_by_this_model"}
    ledger.work(ledger.plan(*(seen(key, ETAGS[1]) for key in everything), **again), made)
    ledger.work(ledger.plan(*(seen(key, ETAGS[1]) for key in KEYS), prefix=f"{PREFIX}{SECRET}"))
    for source in ("manifest", "inventory"):
        address = f"s3://{BUCKET}/{PREFIX}{SECRET}/manifest.json"
        ledger.work(ledger.plan(*(seen(key, ETAGS[1]) for key in everything), **{source: address}))
    ledger.execute("ANALYZE")
    return ledger


@pytest.fixture
def watched(planted: Ledger) -> Ledger:
    """The same, with runs that were judged and images that were reviewed."""
    for run in planted.rows("SELECT run_id FROM nightlabel.run"):
        wiring.judge_run(run["run_id"], sink=planted.sink, settings=planted.settings)
    for key in (KEYS[0], "z.jpg"):
        review = ReviewRequest(BUCKET, key, "dog", "ana", note=f"{SECRET} again" if key in KEYS else "")
        wiring.record_review(planted.settings, review)
        wiring.record_review(planted.settings, dataclasses.replace(review, label="cat"))
    planted.execute("ANALYZE")
    return planted


def needles() -> set[str]:
    """What must not be found: names, hashes and identities, in each form in which a column may hold them."""
    identities = {str(identity(BUCKET, key, etag)) for key in KEYS for etag in ETAGS}
    words = {SECRET, PREFIX, *ETAGS}
    as_bytes = {word.encode().hex() for word in words} | {text.replace("-", "") for text in identities}
    return words | identities | as_bytes | {SHA256.hex()}


NEEDLE = re.compile("|".join(map(re.escape, needles())))


def traces(ledger: Ledger) -> set[str]:
    """Table and column of each place in the schema that holds one of the needles, and the planner's samples of them."""
    tables = ledger.rows(
        "SELECT c.relname AS table, array_agg(a.attname) AS columns "
        "FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'm') "
        "AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.relname"
    )
    found = set()
    with psycopg.connect(ledger.url) as connection:
        for table in tables:
            name, columns = table["table"], table["columns"]
            texts = ", ".join(f'"{column}"::text' for column in columns)
            rows = connection.execute(f'SELECT {texts} FROM nightlabel."{name}"'.encode()).fetchall()
            found |= {f"{name}.{column}" for place, column in enumerate(columns) if holds(row[place] for row in rows)}
    for row in ledger.rows("SELECT * FROM pg_stats WHERE schemaname = 'nightlabel'"):
        if holds([str(row)]):
            found.add(f"statistics of {row['tablename']}.{row['attname']}")
    return found


def holds(texts: Iterable[str | None]) -> bool:
    return any(NEEDLE.search(text) for text in texts if text)


def everything(ledger: Ledger) -> dict[str, list[str]]:
    """Every row of every table."""
    tables = ledger.rows(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'nightlabel'::regnamespace AND relkind = 'r'"
    )
    with psycopg.connect(ledger.url) as connection:
        return {
            table["name"]: sorted(
                text for [text] in connection.execute(f'SELECT t::text FROM nightlabel."{table["name"]}" AS t'.encode())
            )
            for table in tables
        }


def others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        (row for row in rows if row["object_key"] in NEIGHBOURS), key=lambda row: json.dumps(row, default=str)
    )


def forget(ledger: Ledger, request: ForgetRequest = REQUEST, **arguments: Any) -> Forgettable:
    return wiring.forget(request, settings=ledger.settings, **arguments)


def record(ledger: Ledger) -> dict[str, Any]:
    [row] = ledger.rows("SELECT * FROM nightlabel.forgetting")
    return row


def summaries(ledger: Ledger) -> list[dict[str, Any]]:
    """Every run's books, each of which has to balance."""
    runs = ledger.rows("SELECT run_id FROM nightlabel.run ORDER BY started_at")
    return [ledger.summary(run["run_id"]) for run in runs]


def test_no_trace_is_left_in_any_column_of_any_table(watched: Ledger):
    before = traces(watched)
    # Where the product writes them at present; the search itself knows of no table.
    assert before >= {
        "image.object_key", "image.image_id", "image.etag", "image.content_sha256",
        "object.object_key", "object.image_id", "outcome_model_1.image_id", "outcome_model_1.message",
        "outcome_model_2.image_id", "listing.prefix", "run.prefix", "run.parameters",
        "manifest_chunk.object_key", "manifest_chunk.image_id", "manifest_chunk.etag",
        "review.object_key", "review.image_id", "review.etag", "review.note",
        "golden_image.object_key", "golden_image.etag",
        "statistics of image.object_key",
    }  # fmt: skip

    forget(watched)

    assert traces(watched) == set()


def test_what_belongs_to_others_stays_as_it_was(watched: Ledger):
    queries = (
        "SELECT * FROM nightlabel.latest_prediction",
        "SELECT * FROM nightlabel.dead_letter_open",
        "SELECT * FROM nightlabel.image",
        "SELECT * FROM nightlabel.object",
        "SELECT i.object_key, o.* FROM nightlabel.outcome AS o JOIN nightlabel.image AS i USING (image_id)",
        "SELECT * FROM nightlabel.review",
        "SELECT * FROM nightlabel.golden_image",
    )
    before = [others(watched.rows(query)) for query in queries]
    listings = watched.rows("SELECT * FROM nightlabel.listing WHERE prefix = ''")
    assert all(before[index] for index in (0, 2, 3, 4, 5, 6))

    forget(watched)

    assert [others(watched.rows(query)) for query in queries] == before
    assert watched.latest()["z.jpg"] == "cat", "a label that was copied from equal bytes is the copy's own"
    assert set(watched.latest()) == set(NEIGHBOURS)
    assert watched.open_dead_letters() == {}
    assert watched.rows("SELECT * FROM nightlabel.listing") == listings


def test_a_dry_run_counts_what_would_go_and_changes_nothing(planted: Ledger):
    before = everything(planted)
    found = wiring.count_forgettable(REQUEST, settings=planted.settings)

    assert everything(planted) == before
    assert found.examples == tuple(sorted(KEYS, key=str.encode))
    assert (found.images, found.objects) == (6, 3)
    assert found.outcomes == len(planted.rows("SELECT image_id FROM nightlabel.outcome")) - 3 * len(NEIGHBOURS)
    assert (found.listings, found.runs) == (1, 3)
    assert forget(planted) == dataclasses.replace(found, examples=())
    assert wiring.count_forgettable(REQUEST, settings=planted.settings) == Forgettable()
    assert wiring.count_forgettable(REQUEST, settings=planted.settings).is_nothing


def test_the_record_says_who_and_when_and_why_but_not_what(planted: Ledger):
    taken = forget(planted)
    row = record(planted)

    assert row["prefix_sha256"] == hashlib.sha256(PREFIX.encode()).digest()
    assert (row["bucket"], row["reason"], row["requested_by"]) == (BUCKET, "ticket 17", "postgres")
    assert (row["is_whole_bucket"], row["started_at"] < row["finished_at"]) == (False, True)
    counts = ("images", "objects", "outcomes", "manifest_refs", "listings", "runs")
    assert {name: row[name] for name in counts} == {name: getattr(taken, name) for name in counts}


def test_sums_of_labels_are_without_what_was_forgotten(planted: Ledger):
    def sums() -> dict[tuple[str, str], int]:
        rows = planted.rows("SELECT model_name, label, sum(images)::int AS n FROM nightlabel.label_daily GROUP BY 1, 2")
        return {(row["model_name"], row["label"]): row["n"] for row in rows}

    before = sums()
    forget(planted)
    gone = {("tiny", "cat"): 4, ("second", "cat"): 2}
    assert sums() == {key: images - gone.get(key, 0) for key, images in before.items()}


def test_reviews_and_golden_images_are_counted_with_the_keys_that_they_hold(watched: Ledger):
    found = wiring.count_forgettable(REQUEST, settings=watched.settings)
    assert (found.images, found.objects) == (6, len(KEYS) + 2 + 1)
    assert forget(watched) == dataclasses.replace(found, examples=())
    assert wiring.count_forgettable(REQUEST, settings=watched.settings).is_nothing


def test_no_later_run_is_compared_with_what_was_forgotten(watched: Ledger):
    def counted() -> list[tuple[Any, ...]]:
        """Of each run that was judged: labels counted one by one, labels in all, dead letters, scores."""
        rows = watched.rows(
            "SELECT q.images, q.dead, q.score_sum, q.score_square_sum, "
            "(SELECT sum(l.images)::int FROM nightlabel.run_label AS l WHERE l.run_id = q.run_id) AS labels "
            "FROM nightlabel.run_quality AS q JOIN nightlabel.run AS r USING (run_id) ORDER BY r.started_at"
        )
        return [tuple(row.values()) for row in rows]

    every = len(KEYS) + len(NEIGHBOURS)
    labelled = every - 1  # one of the keys is dead
    of_secret, of_others = 2, len(NEIGHBOURS)
    assert counted()[0] == (labelled, 1, labelled * 0.75, labelled * 0.5625, labelled)

    forget(watched)
    assert counted()[0] == (of_others, 0, of_others * 0.75, of_others * 0.5625, of_others)
    assert labelled - of_others == of_secret


def test_the_books_of_every_run_stay_and_a_shard_that_is_done_again_counts_them_as_gone(planted: Ledger):
    before = summaries(planted)
    forget(planted)
    assert summaries(planted) == before

    [first, *_] = planted.rows("SELECT run_id FROM nightlabel.run ORDER BY started_at")
    shard = planted.sink.claim_shard(first["run_id"], 0)
    left = planted.refs(shard)
    assert len(left) == len(KEYS)
    for ref in left:
        assert ref.key.startswith("nightlabel-forgotten/")
        assert (ref.etag, ref.size_bytes) == (FORGOTTEN_ETAG, 1)
    [chunk] = planted.rows(
        "SELECT image_id FROM nightlabel.manifest_chunk WHERE run_id = %s AND shard_number = 0", first["run_id"]
    )
    assert {ref.image_id for ref in left} <= set(chunk["image_id"]), "whatever is recorded of them is found again"
    planted.record(shard, 1, [], gone=len(left))
    planted.sink.finish_shard(shard, StageSeconds())
    planted.sink.finish_run(first["run_id"])
    summary = planted.summary(first["run_id"])
    assert (summary["state"], summary["labelled"], summary["gone"]) == ("succeeded", len(NEIGHBOURS), len(KEYS))
    assert traces(planted) == set()


def test_what_is_still_in_the_bucket_is_found_again(planted: Ledger):
    forget(planted)
    plan = planted.plan(*(seen(key, ETAGS[1]) for key in KEYS), prefix=PREFIX)
    assert plan.to_classify == len(KEYS)
    planted.work(plan)
    assert set(planted.latest()) == {*KEYS, *NEIGHBOURS}


def test_a_run_at_work_on_the_objects_is_waited_for(planted: Ledger):
    plan = planted.plan(seen(KEYS[0], "new"), seen("new", "new"), shard_size=1)
    claimed = [planted.sink.claim_shard(plan.run_id, number) for number in plan.shards]
    shards = {ref.key: shard for shard in claimed for ref in planted.refs(shard)}
    before = everything(planted)

    with pytest.raises(BucketInUseError, match=rf"the run {plan.run_id} is at work .* wait until it has ended"):
        forget(planted)
    assert everything(planted) == before
    assert forget(planted, ForgetRequest(BUCKET, "users/471/")).objects == 1, "it is not at work on that"

    planted.record(shards[KEYS[0]], 1, [prediction(planted.refs(shards[KEYS[0]])[0])])
    planted.sink.finish_shard(shards[KEYS[0]], StageSeconds())
    forget(planted)
    planted.record(shards["new"], 1, [prediction(planted.refs(shards["new"])[0])])
    planted.sink.finish_shard(shards["new"], StageSeconds())
    planted.sink.finish_run(plan.run_id)
    assert planted.summary(plan.run_id)["labelled"] == 2
    assert planted.latest().keys() == {"new"}, "the listing showed no other key"
    assert traces(planted) == set()


def test_a_shard_that_nobody_began_counts_them_as_gone(planted: Ledger):
    plan = planted.plan(seen(KEYS[0], "new"), seen("new", "new"))
    forget(planted)
    shard = planted.sink.claim_shard(plan.run_id, 0)
    refs = planted.refs(shard)
    assert [ref.key for ref in refs if not ref.key.startswith("nightlabel-forgotten/")] == ["new"]
    planted.record(shard, 1, [prediction(ref) for ref in refs if ref.key == "new"], gone=1)
    planted.sink.finish_shard(shard, StageSeconds())
    planted.sink.finish_run(plan.run_id)
    summary = planted.summary(plan.run_id)
    assert (summary["state"], summary["labelled"], summary["gone"]) == ("succeeded", 1, 1)
    assert traces(planted) == set()


def test_an_attempt_that_is_silent_for_long_can_write_no_more(planted: Ledger):
    plan = planted.plan(seen(KEYS[0], "new"))
    shard = planted.sink.claim_shard(plan.run_id, 0)
    planted.sink.note_in_flight(shard, 1)
    refs = planted.refs(shard)
    sql = "UPDATE nightlabel.shard SET heartbeat_at = now() - interval '16 minutes' WHERE run_id = %s"
    planted.execute(sql, plan.run_id)
    forget(planted)

    with pytest.raises(StaleAttemptError):
        planted.record(shard, 1, [dead_letter(ref) for ref in refs])
    assert traces(planted) == set()
    again = planted.sink.claim_shard(plan.run_id, 0)
    assert again.suspects == 1, "what it had begun is still suspect"


def test_what_was_cut_short_goes_on_and_has_one_record(planted: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forgetting, "IMAGES_AT_ONCE", 2)
    expected = dataclasses.replace(wiring.count_forgettable(REQUEST, settings=planted.settings), examples=())

    def stop(_images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget(planted, progress=stop)
    assert (record(planted)["finished_at"], record(planted)["images"]) == (None, 2)
    assert traces(planted)

    with pytest.raises(SinkUnavailableError):  # as when the server is restarted
        forget(planted, progress=lambda _images: kill_forgetters(planted))
    assert (record(planted)["finished_at"], record(planted)["images"]) == (None, 4)

    done: list[int] = []
    assert forget(planted, progress=done.append) == expected
    assert done == [2]
    assert record(planted)["finished_at"]
    assert traces(planted) == set()

    forget(planted)
    assert len(planted.rows("SELECT * FROM nightlabel.forgetting")) == 2, "a request of its own, that found nothing"


def kill_forgetters(ledger: Ledger) -> None:
    ledger.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'nightlabel forget' AND datname = current_database()"
    )


def test_objects_that_a_discovery_notes_meanwhile_are_forgotten_too(planted: Ledger):
    noted = []

    def discover(_images: int) -> None:
        if not noted:
            planted.plan(*(seen(key, "c" * 32) for key in KEYS), prefix=PREFIX)
            noted.append(True)

    taken = forget(planted, progress=discover)
    assert (taken.images, taken.objects) == (6 + 3, 3 + 3)
    assert traces(planted) == set()


def test_objects_that_are_noted_again_and_again_are_said(planted: Ledger):
    def discover(images: int) -> None:
        planted.plan(*(seen(key, f"{images}{len(summaries(planted))}") for key in KEYS), prefix=PREFIX)

    with pytest.raises(BucketInUseError, match="were noted again while they were forgotten; delete them"):
        forget(planted, progress=discover)
    assert record(planted)["finished_at"] is None
    forget(planted)
    assert traces(planted) == set()


def test_keys_that_are_no_text_are_forgotten_by_their_beginning_as_the_views_show_it(ledger: Ledger):
    ledger.work(ledger.plan(*map(listed, ("caf\udce9/1", "caf\udce9/nul\x00", "caf\udcea/1", "café/1"))))
    [shown] = {key.partition("/")[0] for key in ledger.latest() if key_of(key).startswith("caf\udce9")}
    assert forget(ledger, ForgetRequest(BUCKET, f"{shown}/")).objects == 2
    assert {key_of(key) for key in ledger.latest()} == {"caf\udcea/1", "café/1"}


def take_out(ledger: Ledger, how_far: str) -> None:
    """Take the partition of the first model out of the ledger, or be interrupted at it."""
    detach = "ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_1 CONCURRENTLY"
    with psycopg.connect(ledger.url, autocommit=True) as connection, psycopg.connect(ledger.url) as reader:
        if how_far == "detached":
            connection.execute(detach)
            return
        reader.execute("SELECT FROM nightlabel.outcome")  # an analyst's transaction that does not end
        connection.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(detach)
    assert ledger.rows("SELECT FROM pg_inherits WHERE inhdetachpending")


@pytest.mark.parametrize("how_far", ["pending", "detached"])
def test_outcomes_that_are_no_part_of_the_ledger_are_not_passed_over(planted: Ledger, how_far: str):
    take_out(planted, how_far)
    before = everything(planted)
    assert any(place.startswith("outcome_model_1.") for place in traces(planted))
    for attempt in (wiring.count_forgettable, wiring.forget):
        with pytest.raises(
            OutcomesDetachedError,
            match=r"the table outcome_model_1 is no whole part of the ledger, .* end the maintenance .*"
            r"`python -m inference maintain`.* move it to another schema",
        ):
            attempt(REQUEST, settings=planted.settings)
    assert everything(planted) == before

    if how_far == "pending":
        planted.execute("ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_1 FINALIZE")
    planted.execute("DROP TABLE nightlabel.outcome_model_1")
    forget(planted)
    assert traces(planted) == set()


@pytest.mark.parametrize("how_far", ["pending", "detached"])
def test_a_forgetting_does_not_end_while_outcomes_have_left_the_ledger_meanwhile(
    planted: Ledger, how_far: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forgetting, "IMAGES_AT_ONCE", 2)
    with pytest.raises(OutcomesDetachedError, match="outcome_model_1 is no whole part"):
        forget(planted, progress=lambda _images: None if has_left(planted) else take_out(planted, how_far))
    assert record(planted)["finished_at"] is None
    assert traces(planted)
    sql = "SELECT nightlabel.finish_forgetting(%s, %s, %s) AS is_finished"
    [row] = planted.rows(sql, record(planted)["forgetting_id"], BUCKET, PREFIX)
    assert row["is_finished"] is False, "whoever calls the functions is not told otherwise"


def test_a_partition_that_leaves_while_the_rest_is_counted_is_noticed(planted: Ledger):
    forget(planted)
    done: list[Any] = []
    sql = f"SELECT nightlabel.finish_forgetting(gen_random_uuid(), '{BUCKET}', '{PREFIX}') AS is_finished"
    finishing = threading.Thread(target=lambda: done.extend(planted.rows(sql)))
    with psycopg.connect(planted.url) as administrator:
        administrator.execute("ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_1")
        finishing.start()
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND query ^@ 'SELECT nightlabel.finish_forgetting'"
        )
        while not planted.rows(waiting):
            assert finishing.is_alive()
    finishing.join()
    assert done == [{"is_finished": False}]


def has_left(ledger: Ledger) -> bool:
    attached = "SELECT FROM pg_inherits WHERE inhrelid = 'nightlabel.outcome_model_1'::regclass"
    return not ledger.rows(f"{attached} AND NOT inhdetachpending")


def test_outcomes_that_an_administrator_has_archived_elsewhere_are_theirs(planted: Ledger):
    take_out(planted, "detached")
    planted.execute("CREATE SCHEMA archive")
    planted.execute("ALTER TABLE nightlabel.outcome_model_1 SET SCHEMA archive")
    forget(planted)
    assert traces(planted) == set()


def test_the_whole_bucket_and_no_other_one(planted: Ledger):
    other = [ListedObject("elsewhere", key, "e", 1, EPOCH) for key in ("a", PREFIX)]
    planted.work(planted.sink.plan_run(RunRequest("elsewhere"), Pages([other])))
    taken = forget(planted, ForgetRequest(BUCKET, ""))

    assert (taken.objects, taken.images) == (len(KEYS) + len(NEIGHBOURS), 2 * (len(KEYS) + len(NEIGHBOURS)))
    assert {row["bucket"] for row in planted.rows("SELECT * FROM nightlabel.latest_prediction")} == {"elsewhere"}
    assert record(planted)["is_whole_bucket"]
    for table in ("image", "object"):
        assert planted.rows(f"SELECT bucket FROM nightlabel.{table} WHERE bucket = %s", BUCKET) == []
    assert wiring.count_forgettable(ForgetRequest(BUCKET, ""), settings=planted.settings).is_nothing


def test_only_an_owner_forgets_and_others_are_told_so(planted: Ledger, login):
    before = everything(planted)
    for group in ("nightlabel_writer", "nightlabel_reader"):
        settings = login(group)
        for attempt in (wiring.forget, wiring.count_forgettable):
            with pytest.raises(SinkCredentialsError, match=r"the user 'u\d_.* may not forget; .* of nightlabel_owner"):
                attempt(REQUEST, settings=settings)
        with psycopg.connect(settings.required_database_url()) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT nightlabel.forget_images(gen_random_uuid(), 'photos', '', '{}')")
            connection.rollback()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM nightlabel.forgetting")
    assert everything(planted) == before

    owner = login("nightlabel_owner")
    wiring.forget(REQUEST, settings=owner)
    assert record(planted)["requested_by"] == psycopg.conninfo.conninfo_to_dict(owner.required_database_url())["user"]
    assert traces(planted) == set()


def test_a_role_that_may_execute_the_functions_needs_no_more(planted: Ledger, login):
    officer = login("nightlabel_reader")
    user = psycopg.conninfo.conninfo_to_dict(officer.required_database_url())["user"]
    planted.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA nightlabel TO {user}")
    assert wiring.count_forgettable(REQUEST, settings=officer).objects == len(KEYS)
    wiring.forget(REQUEST, settings=officer)
    assert traces(planted) == set()


def test_a_schema_that_cannot_forget_is_named_with_what_to_do(ledger: Ledger, login):
    ledger.execute("DROP FUNCTION nightlabel.begin_forgetting")
    with pytest.raises(SchemaOutdatedError, match="older than forgetting; run `python -m inference migrate`"):
        forget(ledger)
    ledger.execute("DROP SCHEMA nightlabel CASCADE")
    with pytest.raises(SchemaMissingError, match="run `python -m inference migrate`"):
        forget(ledger)


def test_a_request_that_cannot_mean_anything_is_refused(ledger: Ledger):
    with pytest.raises(SettingsError, match="no bucket is given"):
        forget(ledger, ForgetRequest("", "a"))
    for request in (ForgetRequest("b\x00", "a"), ForgetRequest("b", "a\ud800"), ForgetRequest("b", "a", "\x00")):
        with pytest.raises(SettingsError, match="text in UTF-8, without a NUL"):
            forget(ledger, request)


def test_a_run_that_was_forgotten_can_still_be_named(planted: Ledger):
    forget(planted)
    for summary in summaries(planted):
        assert planted.sink.read_summary(summary["run_id"]).state == "succeeded"
    with pytest.raises(RunUnknownError):
        planted.sink.find_run("cli", "never")


# As a command


def environment(settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTLABEL_")}
    return {**kept, "NIGHTLABEL_DATABASE_URL": settings.required_database_url()}


def command(settings: Settings, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "inference", "forget", *arguments]
    given = {"stdin": subprocess.DEVNULL, **more}
    return subprocess.run(words, env=environment(settings), capture_output=True, text=True, check=False, **given)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_in_the_middle_is_gone_on_with(planted: Ledger, end: signal.Signals):
    arguments = ("--bucket", BUCKET, "--prefix", PREFIX, "--yes")
    expected = dataclasses.replace(wiring.count_forgettable(REQUEST, settings=planted.settings), examples=())
    with psycopg.connect(planted.url) as discovery:
        discovery.execute("SELECT pg_advisory_lock(hashtextextended('nightlabel.bucket ' || %s, 0))", [BUCKET])
        words = [sys.executable, "-m", "inference", "forget", *arguments]
        with subprocess.Popen(
            words,
            env=environment(planted.settings),
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            waiting = (
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' "
                "AND application_name = 'nightlabel forget'"
            )
            deadline = time.monotonic() + 60
            while not planted.rows(waiting):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(end)
            _, said = process.communicate(timeout=30)
    if end is not signal.SIGKILL:
        assert (process.returncode, said.partition(";")[0]) == (130, "interrupted")
        assert "the same command goes on with the rest" in said
    # Of a process that was killed the server may still do the one transaction that it had been given.
    assert record(planted)["finished_at"] is None
    assert record(planted)["manifest_refs"] == expected.manifest_refs > 0

    assert forget(planted) == expected
    assert record(planted)["finished_at"]
    assert traces(planted) == set()


def test_the_command_asks_or_is_told_yes(planted: Ledger):
    before = everything(planted)
    settings, where = planted.settings, ("--bucket", BUCKET)
    dry = command(settings, *where, "--prefix", PREFIX, "--dry-run", "--json")
    assert json.loads(dry.stdout)["images"] == 6
    assert json.loads(dry.stdout)["dry_run"] is True
    for wrong, sentence in (
        ((*where, "--prefix", PREFIX), "nobody can be asked here; look at --dry-run, then give --yes"),
        ((*where, "--prefix", "", "--yes"), "give --whole-bucket if that is meant"),
        ((*where, "--yes"), "one of the arguments --prefix --whole-bucket is required"),
        ((*where, "--prefix", "a", "--whole-bucket", "--yes"), "not allowed with argument"),
    ):
        refused = command(settings, *wrong)
        assert (refused.returncode, sentence in refused.stderr) == (2, True), refused.stderr
    assert everything(planted) == before

    parent, child = os.openpty()
    os.write(parent, b"no\n")
    refused = command(settings, *where, "--prefix", PREFIX, stdin=child)
    assert (refused.returncode, "nothing was forgotten, since the answer was not yes" in refused.stderr) == (2, True)
    assert KEYS[0] in refused.stderr
    assert everything(planted) == before
    os.write(parent, b"yes\n")
    done = command(settings, *where, "--prefix", PREFIX, stdin=child)
    os.close(parent)
    os.close(child)
    assert (done.returncode, done.stdout.startswith("forgot 6 image versions of 3 objects")) == (0, True), done.stderr
    assert "still in the bucket is found again by the next run" in done.stdout
    assert traces(planted) == set()

    again = command(settings, *where, "--whole-bucket", "--yes", "--json")
    assert json.loads(again.stdout)["objects"] == len(NEIGHBOURS)


def judge(ledger: Ledger, *keys: str) -> None:
    """Have a golden set of objects, and a check by it that found another label for each of them."""
    tiny = ModelId("tiny", "1")
    refs = [ImageRef(BUCKET, key, ETAGS[1] if key.startswith(PREFIX) else f"{key}-b", 100) for key in keys]
    say = {
        label: Answers(tiny, "litert", {ref.image_id: Answer(label, 0.9) for ref in refs}, {}) for label in LABELS[:2]
    }
    comparison = compare(*say.values(), golden=dict.fromkeys(refs, "n1"), recent=[], days=7, confidence=0.95)
    with ledger.sink.asking() as connection:
        images = [GoldenImage(ref.bucket, ref.key, ref.etag, "n1") for ref in refs]
        tables.write_golden_images(connection, "default", images, origin="csv", replace=False)
        tables.record_check(
            connection,
            comparison,
            [],
            thresholds=tables.read_thresholds(connection, "tiny"),
            golden_set=tables.read_golden_set(connection, "default"),
            model_sha256="0",
        )


def test_golden_images_and_what_checks_found_of_an_image_are_forgotten_too(planted: Ledger):
    judge(planted, KEYS[0], KEYS[2], NEIGHBOURS[1])
    assert traces(planted) >= {"golden_image.object_key", "golden_image.etag", "gate_check.flips"}
    found = wiring.count_forgettable(REQUEST, settings=planted.settings)

    assert (found.images, found.objects) == (6, 3 + 2), "a golden image counts as an object"
    assert forget(planted) == dataclasses.replace(found, examples=())
    assert traces(planted) == set()
    for name in ("golden_image", "model_check_flip"):
        assert planted.rows(f"SELECT object_key FROM nightlabel.{name}") == [{"object_key": NEIGHBOURS[1]}]
    assert planted.rows("SELECT golden_images FROM nightlabel.model_check") == [{"golden_images": 3}]
