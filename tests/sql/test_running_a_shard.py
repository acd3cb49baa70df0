"""The loop over a shard against the real ledger: every image one outcome, bounded, and again after any failure."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference import wiring
from inference.decoding import decode_image
from inference.errors import (
    DecoderCrashedError,
    DecoderTimeoutError,
    ImageError,
    MemoryLimitError,
    ModelExecutionError,
    ObjectAccessDeniedError,
    RunInterruptedError,
    SinkUnavailableError,
    StaleAttemptError,
    StoreCredentialsError,
    StoreUnavailableError,
)
from inference.memory import Budget, Memory
from inference.runner import ShardRunner
from inference.types import (
    ForgetRequest,
    ImageRef,
    ObjectContent,
    Outcome,
    PixelBatch,
    Pixels,
    Plan,
    RunRequest,
    Scores,
    Shard,
    ShardStats,
    key_of,
)
from inference.wiring import SystemClock
from local_stack.processes import wait_until
from tests.fakes import FakeHandle, FakeStore
from tests.ledger import Ledger, Pages

pytestmark = pytest.mark.integration

RED, BLACK = (255, 0, 0), (0, 0, 0)


def png(color: tuple[int, int, int], note: str = "", *, size: tuple[int, int] = (6, 6)) -> bytes:
    """A small picture of one colour; red is a cat and black a dog to the fake model."""
    picture, out = Image.new("RGB", size, color), io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue() + note.encode()


def plan(ledger: Ledger, store: FakeStore, **request: Any) -> Plan:
    return ledger.sink.plan_run(RunRequest(bucket=store.bucket, **request), Pages(store.list_pages(store.bucket, "")))


def runner(ledger: Ledger, store: FakeStore, **changes: Any) -> ShardRunner:
    parts: dict[str, Any] = {
        "store": store,
        "handle": FakeHandle(),
        "sink": ledger.sink,
        "clock": SystemClock(),
        "batch_size": 4,
        "calls_a_batch": 1,
        "fetch_threads": 3,
        "decode_threads": 2,
        "window": 8,
        "max_object_bytes": 100_000,
        "max_pixels": 10_000,
    }
    return ShardRunner(**{**parts, **changes})


def run(ledger: Ledger, planned: Plan, store: FakeStore, **changes: Any) -> ShardStats:
    return runner(ledger, store, **changes).run(ledger.sink.claim_shard(planned.run_id, 0))


def test_every_image_gets_exactly_one_outcome_and_its_own(ledger: Ledger):
    store = FakeStore({"a": png(RED), "b": png(BLACK), "c": b"not an image", "d": png(RED), "e/": b"", "f": b""})
    store.put("g", png(RED))
    store.denied.add("g")
    store.put("h", png(BLACK) + b"x" * 100_000)
    planned = plan(ledger, store)
    store.put("i", png(RED))  # arrives too late
    stats = run(ledger, planned, store)

    assert ledger.latest() == {"a": "cat", "b": "dog", "d": "cat"}
    assert ledger.open_dead_letters() == {
        "c": "not_an_image",
        "e/": "folder_placeholder",
        "f": "empty_object",
        "g": "access_denied",
        "h": "object_too_large",
    }
    assert (stats.images, stats.labelled, stats.dead, stats.unfinished) == (8, 3, 5, 0)
    assert {
        (row["object_key"], row["stage"], row["permanent"]) for row in ledger.rows("SELECT * FROM dead_letter_open")
    } == {
        ("c", "decode", True),
        ("e/", "fetch", True),
        ("f", "fetch", True),
        ("g", "fetch", False),
        ("h", "fetch", True),
    }
    ledger.sink.finish_run(planned.run_id)
    assert ledger.summary(planned.run_id)["state"] == "succeeded"


def test_keys_that_are_no_text_are_read_labelled_and_condemned_like_others(ledger: Ledger):
    store = FakeStore(
        {"nul\x00": png(RED), "caf\udce9": png(BLACK), "\udcff\x00": b"not an image", "\U0010f700": png(RED)}
    )
    planned = plan(ledger, store)
    run(ledger, planned, store)

    assert {key_of(key): label for key, label in ledger.latest().items()} == {
        "nul\x00": "cat",
        "caf\udce9": "dog",
        "\U0010f700": "cat",
    }
    assert {key_of(key): code for key, code in ledger.open_dead_letters().items()} == {"\udcff\x00": "not_an_image"}
    assert ledger.sink.finish_run(planned.run_id).state == "succeeded"
    assert plan(ledger, store).already_done == 4


def test_what_was_forgotten_before_a_shard_begins_is_gone(ledger: Ledger):
    store = FakeStore({"a": png(RED), "b/1": png(RED), "b/2": png(BLACK)})
    planned = plan(ledger, store)
    wiring.forget(ForgetRequest(store.bucket, "b/"), settings=ledger.settings)
    stats = run(ledger, planned, store)

    assert (stats.labelled, stats.gone, stats.unfinished) == (1, 2, 0)
    assert ledger.sink.finish_run(planned.run_id).state == "succeeded"
    assert ledger.summary(planned.run_id)["gone"] == 2
    assert ledger.latest() == {"a": "cat"}
    assert store.fetched == ["a"], "what stands for the others is not asked for"


class GuardedStore(FakeStore):
    """Gives what lies under one prefix and refuses every other key, there or not, as S3 does where rights end."""

    allowed = "shown/"

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        if not ref.key.startswith(self.allowed):
            self.fetched.append(ref.key)
            raise ObjectAccessDeniedError("the object store refuses this object")
        return super().fetch(ref, max_bytes=max_bytes)


@pytest.mark.parametrize("kept", [0, 1])
def test_what_was_forgotten_is_gone_where_the_store_refuses_every_key_that_it_does_not_allow(ledger: Ledger, kept: int):
    forgotten = {f"shown/a/{number}": png(RED, str(number)) for number in range(20)}
    store = GuardedStore(forgotten | {f"shown/b/{number}": png(RED) for number in range(kept)})
    planned = plan(ledger, store)
    wiring.forget(ForgetRequest(store.bucket, "shown/a/"), settings=ledger.settings)
    stats = run(ledger, planned, store)

    assert (stats.labelled, stats.gone, stats.dead, stats.unfinished) == (kept, 20, 0, 0)
    assert ledger.sink.finish_run(planned.run_id).state == "succeeded"
    assert ledger.open_dead_letters() == {}
    assert store.fetched == [f"shown/b/{number}" for number in range(kept)]


def test_what_was_forgotten_does_not_hide_that_the_store_refuses_everything_else(ledger: Ledger):
    store = GuardedStore({f"{prefix}/{number:02}": png(RED) for prefix in "ab" for number in range(20)})
    planned = plan(ledger, store)
    wiring.forget(ForgetRequest(store.bucket, "a/"), settings=ledger.settings)
    with pytest.raises(StoreCredentialsError, match="refuses each of the first 16 objects"):
        run(ledger, planned, store)
    assert ledger.open_dead_letters() == {}


def test_what_was_deleted_or_overwritten_since_the_listing_is_gone_and_found_by_the_next_run(ledger: Ledger):
    store = FakeStore({"a": png(RED), "b": png(RED), "c": png(RED)})
    planned = plan(ledger, store)
    store.delete("a")
    store.put("b", png(BLACK))
    stats = run(ledger, planned, store)
    assert (stats.labelled, stats.dead, stats.gone, stats.unfinished) == (1, 0, 2, 0)
    assert ledger.sink.finish_run(planned.run_id).state == "succeeded"

    following = plan(ledger, store)
    assert (following.discovered, following.to_classify) == (2, 1)
    run(ledger, following, store)
    assert ledger.latest() == {"b": "dog", "c": "cat"}


class FailingStore(FakeStore):
    """Goes away after a number of objects."""

    left = 10

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailableError("the store went away")
        return super().fetch(ref, max_bytes=max_bytes)


def test_a_store_that_goes_away_condemns_no_image_and_the_next_attempt_does_the_rest(ledger: Ledger):
    store = FailingStore({f"{number:02}": png(RED, str(number)) for number in range(30)})
    planned = plan(ledger, store)
    with pytest.raises(StoreUnavailableError):
        run(ledger, planned, store)
    half = ledger.summary(planned.run_id)
    assert 0 < half["labelled"] <= 10
    assert (half["dead"], half["state"]) == (0, "running")

    store.left = 1_000
    store.fetched.clear()
    stats = run(ledger, planned, store)
    assert (stats.labelled, stats.unfinished) == (30, 0)
    assert len(store.fetched) == 30 - half["labelled"], "what was recorded is not fetched again"


class PickyStore(FakeStore):
    """Fails on some keys, each time."""

    picky: frozenset[str] = frozenset()

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        if ref.key in self.picky:
            raise StoreUnavailableError("the store answered 500")
        return super().fetch(ref, max_bytes=max_bytes)


def test_a_key_that_the_store_fails_on_each_time_costs_only_itself(ledger: Ledger):
    store = PickyStore({f"{number:02}": png(RED, str(number)) for number in range(20)})
    store.picky = frozenset({"00", "07", "19"})
    stats = run(ledger, plan(ledger, store), store)
    assert (stats.labelled, stats.dead, stats.unfinished) == (17, 3, 0)
    assert ledger.open_dead_letters() == dict.fromkeys(("00", "07", "19"), "fetch_failed")
    assert {row["permanent"] for row in ledger.rows("SELECT * FROM dead_letter_open")} == {False}


def test_what_was_forgotten_is_no_answer_of_a_store_that_fails_on_everything_else(ledger: Ledger):
    keys = [f"{number:02}" for number in range(30)]
    store = PickyStore({key: png(RED, key) for key in keys})
    store.picky = frozenset(keys)
    planned = plan(ledger, store)
    for key in ("10", "20"):
        wiring.forget(ForgetRequest(store.bucket, key), settings=ledger.settings)
    with pytest.raises(StoreUnavailableError):
        run(ledger, planned, store)
    assert ledger.open_dead_letters() == {}


def test_a_store_that_refuses_every_object_condemns_none(ledger: Ledger):
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(30)})
    store.denied = set(store.objects)
    planned = plan(ledger, store)
    with pytest.raises(StoreCredentialsError, match="refuses each of the first 16 objects"):
        run(ledger, planned, store)
    assert ledger.open_dead_letters() == {}

    store.denied = {f"{number:02}" for number in range(12)}
    stats = run(ledger, planned, store)
    assert (stats.labelled, stats.dead, stats.unfinished) == (18, 12, 0)
    assert ledger.open_dead_letters() == dict.fromkeys(store.denied, "access_denied")


def test_a_few_objects_that_are_all_refused_are_dead_letters_that_are_tried_again(ledger: Ledger):
    """Too few to tell the store from the keys; were it taken for the store, they would fail their shard each night."""
    store = FakeStore({"a": png(RED), "b": png(BLACK)})
    store.denied = {"a", "b"}
    assert run(ledger, plan(ledger, store), store).dead == 2
    assert {row["permanent"] for row in ledger.rows("SELECT * FROM dead_letter_open")} == {False}


def test_a_store_that_answers_nobody_at_the_end_is_not_the_fault_of_the_last_keys(ledger: Ledger):
    class Down(FailingStore):
        def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
            try:
                return super().fetch(ref, max_bytes=max_bytes)
            finally:
                if self.left == -4:  # the last four keys were refused: from now on nobody is answered
                    self.trouble = StoreUnavailableError("the store went away")

    store = Down({f"{number:02}": png(RED, str(number)) for number in range(20)})
    store.left = 16
    planned = plan(ledger, store)

    with pytest.raises(StoreUnavailableError):
        run(ledger, planned, store)
    assert ledger.open_dead_letters() == {}


class BrokenHandle(FakeHandle):
    """Fails at its third call."""

    def predict(self, pixels: PixelBatch) -> Scores:
        if len(self.batch_sizes) == 2:
            raise ModelExecutionError("the engine failed")
        return super().predict(pixels)


class NotANumberHandle(FakeHandle):
    def predict(self, pixels: PixelBatch) -> Scores:
        return np.full_like(super().predict(pixels), np.nan)


def test_an_engine_that_fails_ends_the_shard_and_blames_no_image(ledger: Ledger):
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(30)})
    planned = plan(ledger, store)
    with pytest.raises(ModelExecutionError):
        run(ledger, planned, store, handle=BrokenHandle())
    with pytest.raises(ModelExecutionError):
        run(ledger, planned, store, handle=NotANumberHandle())
    assert len(ledger.latest()) in {0, 4, 8}
    assert ledger.open_dead_letters() == {}


def test_images_are_batched_across_objects_and_the_last_batch_is_smaller(ledger: Ledger):
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(10)})
    handle, seen = FakeHandle(), []
    run(ledger, plan(ledger, store), store, handle=handle, progress=seen.append)
    assert handle.batch_sizes == [4, 4, 2]
    assert seen == [4, 4, 2]


def test_a_stretch_of_bad_images_is_written_without_waiting_for_a_good_one(ledger: Ledger):
    store = FakeStore({f"{number:03}": f"text {number}".encode() for number in range(150)})
    seen: list[int] = []
    stats = run(ledger, plan(ledger, store), store, progress=seen.append)
    assert stats.dead == 150
    assert seen == [64, 64, 22]


class SlowHandle(FakeHandle):
    """Holds every call until it is let go, and notes how far fetching came meanwhile."""

    def __init__(self, store: FakeStore) -> None:
        super().__init__()
        self.store = store
        self.seen: list[int] = []

    def predict(self, pixels: PixelBatch) -> Scores:
        time.sleep(0.05)  # time enough for threads that would run ahead
        self.seen.append(len(self.store.fetched) - sum(self.batch_sizes) - len(pixels))
        return super().predict(pixels)


def test_fetching_runs_ahead_of_a_slow_model_by_no_more_than_the_window(ledger: Ledger):
    store = FakeStore({f"{number:03}": png(RED, str(number)) for number in range(80)})
    handle = SlowHandle(store)
    run(ledger, plan(ledger, store), store, handle=handle, window=8)
    assert max(handle.seen) <= 8 + 4 + 3, "the window, a batch that waits for the model, and one that is being filled"
    assert max(handle.seen[:-3]) > 0, "it does run ahead"


def test_an_attempt_that_is_taken_over_stops_and_leaves_the_books_to_the_new_one(ledger: Ledger):
    store = FakeStore({f"{number:03}": png(RED, str(number)) for number in range(40)})
    planned = plan(ledger, store)

    class TakenOver(FakeHandle):
        def predict(self, pixels: PixelBatch) -> Scores:
            if len(self.batch_sizes) == 2:
                ledger.sink.claim_shard(planned.run_id, 0)
            return super().predict(pixels)

    with pytest.raises(StaleAttemptError):
        run(ledger, planned, store, handle=TakenOver())
    stats = run(ledger, planned, store)
    assert (stats.labelled, stats.unfinished) == (40, 0)
    assert ledger.summary(planned.run_id)["labelled"] == 40


def test_two_attempts_at_once_end_with_each_image_recorded_once(ledger: Ledger):
    store = FakeStore({f"{number:03}": png(RED, str(number)) for number in range(200)})
    planned = plan(ledger, store)
    ended: list[str] = []

    def attempt() -> None:
        try:
            run(ledger, planned, store)
            ended.append("done")
        except StaleAttemptError:
            ended.append("stale")

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert "done" in ended
    ledger.sink.finish_run(planned.run_id)
    summary = ledger.summary(planned.run_id)
    assert (summary["labelled"], summary["unfinished"], summary["state"]) == (200, 0, "succeeded")


def test_an_attempt_that_is_asked_to_end_does_so_at_its_next_batch_and_says_that_it_has(ledger: Ledger):
    store = FakeStore({f"{number:03}": png(RED, str(number)) for number in range(200)})
    planned = plan(ledger, store)

    class Asked(FakeHandle):
        def predict(self, pixels: PixelBatch) -> Scores:
            if len(self.batch_sizes) == 3:
                assert wait_until(lambda: bool(ledger.latest()), 10)
                ledger.sink.give_up()
            return super().predict(pixels)

    with pytest.raises((RunInterruptedError, SinkUnavailableError)):  # the latter if a batch was being recorded
        run(ledger, planned, store, handle=Asked())

    assert 0 < len(ledger.latest()) < 40
    assert ledger.rows("SELECT attempt, ended_attempt FROM nightlabel.shard") == [{"attempt": 1, "ended_attempt": 1}]


def test_the_seconds_of_each_stage_are_kept(ledger: Ledger):
    store = FakeStore({f"{number:02}": png(RED, str(number)) for number in range(20)})
    planned = plan(ledger, store)
    stats = run(ledger, planned, store)
    seconds = stats.seconds
    assert min(seconds.fetch_s, seconds.decode_s, seconds.predict_s, seconds.write_s) > 0
    assert ledger.summary(planned.run_id)["decode_s"] == pytest.approx(seconds.decode_s)


class Turns:
    """A watchdog that ends nothing, and notes which images are decoded in this process."""

    def __init__(self, events: list[tuple[str, str]]) -> None:
        self.events = events

    @contextmanager
    def over(self, name: str) -> Iterator[Turns]:
        self.events.append(("here", name))
        yield self

    def pause(self) -> None:
        self.events.append(("pause", ""))

    def restart(self) -> None:
        self.events.append(("restart", ""))


class Apart:
    """A decoder apart that is none, notes what it decodes, and reports some images as crashes."""

    def __init__(self, events: list[tuple[str, str]], **problems: ImageError) -> None:
        self.events = events
        self.problems = problems
        self.opened = 0

    def __enter__(self) -> Apart:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.opened -= 1

    def decode(self, data: bytes) -> Pixels:
        key = data.rpartition(b"#")[2].decode()
        self.events.append(("apart", key))
        time.sleep(0.005)
        if key in self.problems:
            raise self.problems[key]
        pixels = decode_image(data, FakeHandle().preprocessing)
        self.events.append(("was apart", key))
        return pixels


def marked(count: int) -> FakeStore:
    """Pictures that carry their keys."""
    keys = [f"{number:02}" for number in range(count)]
    return FakeStore({key: png(RED, f"#{key}") for key in keys})


def after_a_kill(ledger: Ledger, planned: Plan, in_flight: int) -> Shard:
    """The claim of the attempt after one that was killed."""
    killed = ledger.sink.claim_shard(planned.run_id, 0)
    ledger.sink.note_in_flight(killed, in_flight)
    return ledger.sink.claim_shard(planned.run_id, 0)


def names(events: list[tuple[str, str]], where: str) -> set[str]:
    return {name for at, name in events if at == where}


def test_suspects_are_decoded_apart_before_any_image_is_decoded_here_again(ledger: Ledger):
    store, events = marked(40), []
    shard = after_a_kill(ledger, plan(ledger, store), 10)
    apart = Apart(events)
    stats = runner(ledger, store, decoder=lambda: apart, watchdog=Turns(events)).run(shard)

    assert (stats.labelled, stats.unfinished) == (40, 0)
    assert {f"{number:02}" for number in range(10)} <= names(events, "apart")
    assert len(names(events, "apart")) < 10 + 8, "and no more of the others than the window holds"
    assert names(events, "here") == set(store.objects) - names(events, "apart")
    first_here = next(index for index, (at, _) in enumerate(events) if at == "here")
    assert {at for at, _ in events[first_here:]} <= {"here", "pause", "restart"}
    assert apart.opened == 0


def test_images_that_vanished_do_not_use_up_the_suspects(ledger: Ledger):
    store, events = marked(40), []
    planned = plan(ledger, store)
    shard = after_a_kill(ledger, planned, 10)
    for number in range(15):
        store.delete(f"{number:02}")
    stats = runner(ledger, store, decoder=lambda: Apart(events), watchdog=Turns(events)).run(shard)
    assert (stats.labelled, stats.gone) == (25, 15)
    assert {f"{number:02}" for number in range(15, 25)} <= names(events, "apart")
    assert names(events, "here") > {"38", "39"}


@pytest.mark.parametrize("problem", [DecoderCrashedError("killed"), DecoderTimeoutError("hung")])
def test_an_image_that_kills_or_hangs_the_decoder_apart_keeps_the_rest_of_the_shard_there(
    ledger: Ledger, problem: ImageError
):
    store, events = marked(30), []
    planned = plan(ledger, store)
    shard = after_a_kill(ledger, planned, 5)
    decoder = Apart(events, **{"03": problem})
    stats = runner(ledger, store, decoder=lambda: decoder, watchdog=Turns(events)).run(shard)
    assert (stats.labelled, stats.dead) == (29, 1)
    assert ledger.open_dead_letters() == {"03": problem.code}
    assert names(events, "apart") == set(store.objects)
    assert names(events, "here") == set()
    assert ledger.sink.claim_shard(planned.run_id, 0).is_isolated


def test_after_the_second_kill_every_image_is_decoded_apart(ledger: Ledger):
    store, events = marked(30), []
    planned = plan(ledger, store)
    after_a_kill(ledger, planned, 3)
    shard = ledger.sink.claim_shard(planned.run_id, 0)
    stats = runner(ledger, store, decoder=lambda: Apart(events), watchdog=Turns(events)).run(shard)
    assert stats.labelled == 30
    assert names(events, "apart") == set(store.objects)


def test_an_attempt_that_fails_by_itself_is_followed_by_one_without_suspects(ledger: Ledger):
    store = FailingStore(marked(30).objects)
    planned = plan(ledger, store)
    for trouble in range(3):
        store.left = 3 + trouble
        shard = ledger.sink.claim_shard(planned.run_id, 0)
        assert (shard.suspects, shard.is_isolated) == (0, False)
        with pytest.raises(StoreUnavailableError):
            runner(ledger, store).run(shard)
    store.left = 1_000
    with pytest.raises(ModelExecutionError):
        run(ledger, planned, store, handle=NotANumberHandle())
    shard = ledger.sink.claim_shard(planned.run_id, 0)
    assert (shard.suspects, shard.is_isolated) == (0, False)


def test_what_may_be_in_flight_is_noted_before_the_first_image_is_fetched(ledger: Ledger):
    noted: list[int] = []

    class Looking(FakeStore):
        def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
            noted.append(ledger.rows("SELECT in_flight FROM nightlabel.shard")[0]["in_flight"])
            return super().fetch(ref, max_bytes=max_bytes)

    store = Looking({"a": png(RED)})
    planned = plan(ledger, store)
    loop = runner(ledger, store)
    loop.run(ledger.sink.claim_shard(planned.run_id, 0))
    assert noted == [loop.in_flight]


def test_waiting_for_memory_is_not_counted_as_decoding(ledger: Ledger):
    store, events = marked(1), []
    run(ledger, plan(ledger, store), store, watchdog=Turns(events))
    assert events == [("here", "00"), ("pause", ""), ("restart", "")]


def memory(limit: int, used: int, *, objects: int = 10**9, decoding: int = 10**9) -> Memory:
    return Memory(limit, Budget(objects, "the object"), Budget(decoding, "decoding the image"), lambda: used)


def test_near_the_memory_limit_the_model_is_given_fewer_images_at_once(ledger: Ledger):
    store, handle = marked(9), FakeHandle()
    stats = run(ledger, plan(ledger, store), store, handle=handle, memory=memory(100, 95))
    assert stats.labelled == 9
    assert handle.batch_sizes == [1] * 9


def test_over_the_memory_limit_the_attempt_ends_and_the_next_one_does_the_rest(ledger: Ledger):
    store = marked(9)
    planned = plan(ledger, store)
    with pytest.raises(MemoryLimitError):
        run(ledger, planned, store, memory=memory(100, 101))
    assert ledger.open_dead_letters() == {}
    shard = ledger.sink.claim_shard(planned.run_id, 0)
    assert shard.suspects == 0
    assert runner(ledger, store).run(shard).labelled == 9


def test_what_is_larger_than_all_memory_for_it_is_a_retryable_dead_letter(ledger: Ledger):
    store = marked(4)
    store.put("large", png(RED, "#" + "x" * 5_000))
    store.put("wide", png(RED, "#wide", size=(90, 90)))
    stats = run(ledger, plan(ledger, store), store, memory=memory(100, 0, objects=5_000, decoding=20_000))
    assert (stats.labelled, stats.dead) == (4, 2)
    assert ledger.open_dead_letters() == dict.fromkeys(("large", "wide"), "decoder_out_of_memory")
    assert {row["permanent"] for row in ledger.rows("SELECT * FROM nightlabel.dead_letter_open")} == {False}


class Slow:
    """Stages that take a random time, and count at each moment what was begun and has no outcome yet."""

    def __init__(self, ledger: Ledger, seed: int, keys: list[str]) -> None:
        self.sink = ledger.sink
        self.chance = Random(seed)  # noqa: S311 - speeds, and no secret
        self.keys = keys
        self.lock = threading.Lock()
        self.begun: set[str] = set()
        self.settled: set[str] = set()
        self.most = 0
        self.furthest = 0

    def sleep(self, most_s: float) -> None:
        with self.lock:
            seconds = self.chance.random() ** 4 * most_s
        time.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sink, name)

    def record_batch(self, shard: Shard, number: int, outcomes: list[Outcome], **counts: Any) -> None:
        self.sleep(0.1)
        self.sink.record_batch(shard, number, outcomes, **counts)
        with self.lock:
            self.settled |= {outcome.ref.key for outcome in outcomes}

    @contextmanager
    def over(self, name: str) -> Iterator[Turns]:
        with self.lock:
            self.begun.add(name)
            open_keys = [key for key in self.keys if key not in self.settled]
            self.most = max(self.most, len(self.begun - self.settled))
            self.furthest = max(self.furthest, open_keys.index(name))
        self.sleep(0.01)
        yield Turns([])


class Forgetful(FakeStore):
    """Does not give some objects when it is asked for the first time."""

    forgets: set[str]

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        body = super().fetch(ref, max_bytes=max_bytes)
        if ref.key in self.forgets:
            self.forgets.discard(ref.key)
            raise StoreUnavailableError("the store answered 500")
        return body


@pytest.mark.parametrize(("window", "batch_size"), [(3, 2), (16, 4)])
def test_what_was_begun_and_has_no_outcome_is_always_among_the_first_that_are_noted(
    ledger: Ledger, seed: int, window: int, batch_size: int
):
    chance = Random(seed)  # noqa: S311 - which images are bad, and no secret
    keys, bodies, share_of_bad = [f"{number:04}" for number in range(1_000)], {}, 0.0
    for number, key in enumerate(keys):
        if number % 50 == 0:
            share_of_bad = chance.choice((0.0, 0.2, 0.9, 1.0))
        bodies[key] = f"text {key}".encode() if chance.random() < share_of_bad else png(RED, key)
    store = Forgetful(bodies)
    store.forgets = set(chance.sample(keys, 150))
    planned = plan(ledger, store, max_dead_ratio=1.0)
    vanished = set(chance.sample(keys, 100))
    for key in vanished:
        store.delete(key)
    slow = Slow(ledger, seed, [key for key in keys if key not in vanished])
    loop = runner(
        ledger, store, sink=slow, watchdog=slow, window=window, batch_size=batch_size, fetch_threads=8, decode_threads=4
    )

    stats = loop.run(ledger.sink.claim_shard(planned.run_id, 0))

    assert (stats.labelled + stats.dead, stats.gone, stats.unfinished) == (900, 100, 0)
    print(f"most {slow.most}, furthest {slow.furthest} of {loop.in_flight}")  # noqa: T201 - shown when it fails
    assert window < slow.most <= loop.in_flight
    assert slow.furthest < loop.in_flight
