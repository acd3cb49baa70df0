"""Discovery by a manifest or an inventory: it shows some objects, as of some time, and never that anything is gone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inference.errors import SettingsError
from inference.sinks.postgres import PostgresSink
from inference.types import DeadLetterFilter, ListedObject, Plan, RunRequest
from tests.ledger import BUCKET, EPOCH, Ledger, Pages, dead_letter, listed

pytestmark = pytest.mark.integration

MANIFEST = {"manifest": "s3://lists/new.csv"}
LONG_AGO = EPOCH + timedelta(days=1)


def shown(key: str, etag: str = "e1", *, seen_at: datetime | None = None, minute: int = 0) -> ListedObject:
    """One object of a manifest; seen when the run began, unless said otherwise."""
    return dataclasses.replace(listed(key, etag, minute=minute), seen_at=seen_at)


def noted(ledger: Ledger) -> dict[str, str]:
    """Key -> ETag of what the ledger takes for existing."""
    rows = ledger.rows(
        "SELECT o.object_key, i.etag FROM nightlabel.object o JOIN nightlabel.image i USING (image_id) "
        "WHERE o.gone_at IS NULL"
    )
    return {row["object_key"]: row["etag"] for row in rows}


def test_what_a_manifest_names_is_labelled_and_nothing_else_is_taken_for_gone(ledger: Ledger):
    ledger.work(ledger.plan(listed("in/a"), listed("in/b"), listed("out")))

    plan = ledger.plan(shown("in/b"), shown("in/c"), prefix="in/", **MANIFEST)

    assert (plan.discovered, plan.already_done, plan.to_classify) == (2, 1, 1)
    ledger.work(plan)
    assert set(ledger.latest()) == {"in/a", "in/b", "in/c", "out"}
    assert len(ledger.rows("SELECT * FROM nightlabel.listing")) == 1, "only the listing is one"
    assert ledger.summary(plan.run_id)["labelled"] == 1


def test_the_run_remembers_where_its_objects_came_from(ledger: Ledger):
    ledger.plan(shown("a"), **MANIFEST)
    ledger.plan(shown("a"), inventory="s3://lists/photos/daily/2026-11-24T01-00Z/manifest.json")
    ledger.plan(listed("a"))

    [by_manifest, by_inventory, by_listing] = [
        row["parameters"] for row in ledger.rows("SELECT parameters FROM nightlabel.run ORDER BY started_at")
    ]
    assert by_manifest["manifest"] == "s3://lists/new.csv"
    assert by_inventory["inventory"] == "s3://lists/photos/daily/2026-11-24T01-00Z/manifest.json"
    assert by_listing.keys().isdisjoint({"manifest", "inventory"})


def test_a_row_that_was_looked_up_now_is_what_the_key_holds(ledger: Ledger):
    ledger.work(ledger.plan(listed("a", "one")))
    ledger.work(ledger.plan(shown("a", "two"), **MANIFEST))
    assert noted(ledger) == {"a": "two"}
    ledger.work(ledger.plan(shown("a", "one"), **MANIFEST))
    assert noted(ledger) == {"a": "one"}, "it was turned back, and somebody has looked"


@pytest.mark.parametrize("seen_at", [LONG_AGO, EPOCH])
def test_a_stale_row_turns_nothing_back(ledger: Ledger, seen_at):
    ledger.work(ledger.plan(listed("changed", "new"), listed("deleted"), listed("same")))
    ledger.work(ledger.plan(listed("changed", "new"), listed("same")))
    before = ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key")

    rows = [shown(key, etag, seen_at=seen_at) for key, etag in (("changed", "old"), ("deleted", "e1"), ("never", "x"))]
    plan = ledger.plan(*rows, shown("same", seen_at=seen_at), **MANIFEST)

    assert ledger.rows("SELECT * FROM nightlabel.object ORDER BY object_key") == before
    assert set(ledger.latest()) == {"changed", "same"}
    assert (plan.discovered, plan.already_done) == (4, 2), "a version is a version; fetching finds that it is gone"
    [shard] = [ledger.sink.claim_shard(plan.run_id, number) for number in plan.shards]
    refs = ledger.refs(shard)
    assert {ref.key for ref in refs} == {"changed", "never"}
    ledger.record(shard, 1, [], gone=len(refs))
    ledger.sink.finish_run(plan.run_id)
    assert ledger.summary(plan.run_id)["gone"] == 2


def test_a_row_from_after_the_last_listing_is_news(ledger: Ledger):
    ledger.work(ledger.plan(listed("a", "one"), listed("b"), listed("c")))
    ledger.work(ledger.plan(listed("a", "one"), listed("c")))
    now = datetime.now(UTC)

    plan = ledger.plan(*(shown(key, "two", seen_at=now) for key in "abd"), **MANIFEST)
    ledger.work(plan)

    assert noted(ledger) == {"a": "two", "b": "two", "c": "e1", "d": "two"}


def test_a_listing_of_another_prefix_says_nothing_about_a_row(ledger: Ledger):
    ledger.plan(listed("in/a"), prefix="in/")
    ledger.work(ledger.plan(shown("out/a", seen_at=LONG_AGO), shown("in/b", seen_at=LONG_AGO), **MANIFEST))
    assert noted(ledger) == {"in/a": "e1", "out/a": "e1"}


def test_of_two_manifests_the_one_that_describes_the_later_time_counts(ledger: Ledger):
    earlier, later = LONG_AGO, LONG_AGO + timedelta(hours=1)
    ledger.work(ledger.plan(shown("a", "late", seen_at=later), **MANIFEST))
    ledger.work(ledger.plan(shown("a", "early", seen_at=earlier), **MANIFEST))
    assert noted(ledger) == {"a": "late"}
    ledger.work(ledger.plan(shown("a", "latest", seen_at=later + timedelta(seconds=1)), **MANIFEST))
    assert noted(ledger) == {"a": "latest"}


def test_a_time_in_the_future_counts_as_now_and_the_next_listing_knows_better(ledger: Ledger):
    ledger.work(ledger.plan(shown("a", "odd", seen_at=datetime(2999, 1, 1, tzinfo=UTC)), **MANIFEST))
    assert noted(ledger) == {"a": "odd"}
    ledger.work(ledger.plan(listed("a", "real")))
    assert noted(ledger) == {"a": "real"}
    ledger.plan()
    assert noted(ledger) == {}


def test_a_listing_that_ends_late_hides_nothing_that_a_manifest_has_shown_meanwhile(ledger: Ledger):
    def night() -> Iterator[Sequence[ListedObject]]:
        with PostgresSink(ledger.settings) as other:
            other.plan_run(RunRequest(BUCKET, **MANIFEST), Pages([[shown("new"), shown("a", "two")]]))
        yield [listed("a", "one"), listed("b")]

    ledger.work(ledger.sink.plan_run(RunRequest(bucket=BUCKET), Pages(night())))
    assert noted(ledger) == {"a": "two", "b": "e1", "new": "e1"}
    ledger.plan(listed("a", "two"), listed("b"))
    assert noted(ledger) == {"a": "two", "b": "e1"}, "the next listing tells that it is gone"


def test_a_key_that_a_manifest_repeats_counts_once_as_its_newest_version(ledger: Ledger):
    rows = [shown("a", "old", minute=1), shown("a", "new", minute=2), shown("b"), shown("b")]
    plan = ledger.plan(*rows, **MANIFEST)
    assert plan.discovered == 2
    ledger.work(plan)
    assert noted(ledger) == {"a": "new", "b": "e1"}


def test_the_books_of_a_manifest_balance_with_every_kind_of_outcome(ledger: Ledger):
    ledger.work(ledger.plan(listed("done"), listed("dead")), {"dead": dead_letter})

    def plan(**more: Any) -> Plan:
        return ledger.plan(*(shown(key) for key in ("done", "dead", "x", "y", "z")), max_images=2, **MANIFEST, **more)

    assert plan(dry_run=True).to_classify == 2
    made = plan()
    ledger.work(made, {"y": dead_letter})
    summary = ledger.summary(made.run_id)
    counts = ("discovered", "already_done", "deferred", "labelled", "dead")
    assert [summary[name] for name in counts] == [5, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"manifest": "s3://b/k", "inventory": "s3://b/k"}, "both a manifest and an inventory are given"),
        ({"manifest": "s3://b/k", "dead_letters": DeadLetterFilter()}, "takes no manifest; leave out 's3://b/k'"),
        ({"manifest": ""}, "manifest is ''; give an object as s3://bucket/key, or the path of a file"),
        ({"manifest": "s3://b"}, "manifest is 's3://b'; give an object as s3://bucket/key"),
        ({"manifest": "https://b/k.csv"}, "give an object as s3://bucket/key"),
        ({"manifest": "a\x00"}, "has to be text in UTF-8, without a NUL"),
        ({"manifest": "/data/a.csv", "airflow_run_id": "x"}, "which a worker would look for on its own disk"),
        ({"inventory": "manifest.json"}, "give the manifest.json of a report in its bucket"),
    ],
)
def test_a_source_that_cannot_be_is_refused_before_anything_is_read(ledger: Ledger, request_, sentence):
    def unread() -> Iterator[Sequence[ListedObject]]:
        raise AssertionError("it was read")
        yield []

    with pytest.raises(SettingsError) as caught:
        ledger.sink.plan_run(RunRequest(bucket=BUCKET, **request_), Pages(unread()))
    assert sentence in str(caught.value)
