"""The same bytes under another key: the label is copied, counted, and never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from inference.batching import MAX_COPIES
from inference.settings import read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import ImageRef, ListedObject, ObjectContent, RunRequest, ShardStats
from tests.fakes import FakeHandle, FakeStore
from tests.ledger import EPOCH, Ledger, Pages
from tests.sql.test_running_a_shard import BLACK, RED, plan, png, runner

pytestmark = pytest.mark.integration


def night(ledger: Ledger, store: FakeStore, **changes: Any) -> ShardStats:
    """Plan and do everything that the store shows."""
    planned = plan(ledger, store)
    loop = runner(ledger, store, **changes)
    [stats] = [loop.run(ledger.sink.claim_shard(planned.run_id, number)) for number in planned.shards]
    ledger.sink.finish_run(planned.run_id)
    return stats


def outcome(ledger: Ledger, key: str) -> dict[str, Any]:
    [row] = ledger.rows(
        "SELECT o.label, o.label_id, o.score, o.top_labels, o.top_scores, o.engine, o.is_copied, i.content_sha256 "
        "FROM nightlabel.outcome o JOIN nightlabel.image i USING (image_id) WHERE i.object_key = %s",
        key,
    )
    return row


def test_the_same_bytes_under_another_key_get_the_label_without_being_read(ledger: Ledger):
    store = FakeStore({"cat": png(RED), "dog": png(BLACK)})
    night(ledger, store)
    store.put("copy of cat", png(RED))
    store.put("copy of dog", png(BLACK))
    store.put("new", png(RED, "other bytes"))
    store.fetched.clear()

    stats = night(ledger, store)

    assert store.fetched == ["new"]
    assert (stats.labelled, stats.copied) == (3, 2)
    assert ledger.latest() == {
        "cat": "cat", "dog": "dog", "copy of cat": "cat", "copy of dog": "dog", "new": "cat",
    }  # fmt: skip
    computed, copied = outcome(ledger, "dog"), outcome(ledger, "copy of dog")
    assert computed.pop("content_sha256") is not None
    assert copied.pop("content_sha256") is None, "nobody has read it"
    assert (computed.pop("is_copied"), copied.pop("is_copied")) == (False, True)
    assert copied == computed
    [summary] = ledger.rows("SELECT * FROM nightlabel.run_summary ORDER BY started_at DESC LIMIT 1")
    assert (summary["labelled"], summary["copied"], summary["unfinished"]) == (3, 2, 0)


class OddStore(FakeStore):
    """Gives ETags of its own, and the bytes of some of them are not what they say."""

    etags: dict[str, str]

    def list_pages(self, bucket: str, prefix: str) -> Any:
        found = [
            ListedObject(bucket, key, self.etags[key], len(body), EPOCH) for key, body in sorted(self.objects.items())
        ]
        yield [entry for entry in found if entry.key.startswith(prefix)]

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        self.fetched.append(ref.key)
        return ObjectContent(self.objects[ref.key], is_etag_md5=False)


@pytest.mark.parametrize(
    "etag", ["9b2cf535f27731c974343645a3985328-2", "9b2cf535f27731c974343645a3985328", "0123", "etag"]
)
def test_an_etag_that_was_not_seen_to_be_the_md5_of_what_was_read_says_nothing(ledger: Ledger, etag: str):
    store = OddStore({"a": png(RED)})
    store.etags = {"a": etag, "b": etag}
    night(ledger, store)
    store.put("b", png(RED))

    assert night(ledger, store).copied == 0
    assert store.fetched == ["a", "b"]


def listed_as(store: FakeStore, key: str, **changes: Any) -> Pages:
    """A listing that shows an object otherwise than it is."""
    [entry] = [entry for page in store.list_pages(store.bucket, key) for entry in page]
    fields = {name: getattr(entry, name) for name in ("bucket", "key", "etag", "size_bytes", "last_modified")}
    return Pages([[ListedObject(**{**fields, **changes})]])


def test_another_size_under_the_same_etag_is_computed(ledger: Ledger):
    store = FakeStore({"a": png(RED)})
    night(ledger, store)
    store.put("b", png(RED))
    planned = ledger.sink.plan_run(
        RunRequest(bucket=store.bucket, prefix="b"), listed_as(store, "b", size_bytes=len(png(RED)) - 1)
    )

    [chunk] = ledger.sink.read_manifest(ledger.sink.claim_shard(planned.run_id, 0))

    assert ([ref.key for ref in chunk.refs], chunk.copies) == (["b"], ())


def test_a_dead_letter_and_another_models_label_are_not_copied(ledger: Ledger):
    store = FakeStore({"bad": b"no image", "cat": png(RED)})
    night(ledger, store)
    store.put("bad again", b"no image")
    ledger.register("better", "1", "production")
    store.put("cat again", png(RED))
    store.fetched.clear()

    stats = night(ledger, store, handle=FakeHandle())

    assert sorted(store.fetched) == ["bad again", "cat again"]
    assert (stats.labelled, stats.dead, stats.copied) == (1, 1, 0)


def test_copying_can_be_turned_off(ledger: Ledger):
    store = FakeStore({"a": png(RED)})
    night(ledger, store)
    store.put("b", png(RED))
    with PostgresSink(read_settings(database_url=ledger.url, copy_labels=False)) as sink:
        stats = night(ledger, store, sink=sink)

    assert (stats.labelled, stats.copied) == (1, 0)
    assert store.fetched == ["a", "b"]


def test_an_image_with_a_copied_label_vouches_for_no_other(ledger: Ledger):
    """Nobody has read it; what vouches is the one that was read, however long ago."""
    store = FakeStore({"a": png(RED)})
    night(ledger, store)
    store.put("b", png(RED))
    night(ledger, store)
    ledger.execute("UPDATE nightlabel.image SET is_etag_md5 = false WHERE object_key = 'a'")
    store.put("c", png(RED))

    assert night(ledger, store).copied == 0


def test_what_was_read_by_code_that_did_not_look_at_the_md5_vouches_once_it_is_read_again(ledger: Ledger):
    store = FakeStore({"a": png(RED)})
    night(ledger, store)
    ledger.execute("UPDATE nightlabel.image SET is_etag_md5 = false")
    ledger.register("better", "1", "production")
    again = plan(ledger, store, scope="not_by_this_model")
    runner(ledger, store).run(ledger.sink.claim_shard(again.run_id, 0))
    store.put("b", png(RED))

    assert night(ledger, store).copied == 1


def test_thousands_of_copies_are_recorded_hundreds_at_a_time_and_counted_once(ledger: Ledger):
    store = FakeStore({"0": png(RED)})
    night(ledger, store)
    for number in range(1, 2_400):
        store.put(f"{number}", png(RED))
    store.put("x", png(BLACK))
    written: list[int] = []

    stats = night(ledger, store, progress=written.append)

    assert (stats.images, stats.labelled, stats.copied) == (2_400, 2_400, 2_399)
    assert max(written) == MAX_COPIES
    assert len(written) < 12
    assert sum(written) == 2_400


def test_what_was_copied_is_counted_as_such_by_the_next_attempt_and_by_the_next_plan(ledger: Ledger):
    store = FakeStore({"a": png(RED)})
    night(ledger, store)
    store.put("b", png(RED))
    store.put("c", png(BLACK))
    planned = plan(ledger, store, dag_id="d", airflow_run_id="r")
    first = ledger.sink.claim_shard(planned.run_id, 0)
    [chunk] = ledger.sink.read_manifest(first)
    ledger.record(first, 1, [*chunk.copies])
    assert ledger.summary(planned.run_id)["copied"] == 1

    ledger.sink.claim_shard(planned.run_id, 0)
    assert ledger.summary(planned.run_id)["copied"] == 1

    again = plan(ledger, store, dag_id="d", airflow_run_id="r")
    summary = ledger.summary(again.run_id)
    assert (again.run_id, again.to_classify) == (planned.run_id, 1)
    assert (summary["labelled"], summary["copied"]) == (1, 1)
