"""The loop over one shard: fetch and decode | batch | predict | write, at once and bounded. Knows no adapter."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from inference.batching import Batch, batches
from inference.decoding import decode_image
from inference.errors import ImageError, ImageGoneError, ObjectUnreadableError, StoreUnavailableError
from inference.fetching import fetch_image
from inference.ports import Clock, ModelHandle, ObjectStore, OutcomeSink
from inference.predicting import predict_batch
from inference.types import (
    DeadLetter,
    DecodedImage,
    DoneElsewhere,
    Gone,
    ImageRef,
    Outcome,
    Prepared,
    Shard,
    ShardStats,
    Stage,
    StageSeconds,
)

logger = logging.getLogger(__name__)

WRITES_BEHIND = 2
"""Batches that may wait to be written while the next ones are predicted; more would only grow what a crash repeats."""

TROUBLE_BEFORE_GIVING_UP = 16
"""Fetches in a row that may fail before the trouble is taken for the store's and not for those keys'."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A ref that the store did not give us, for now."""

    ref: ImageRef
    error: StoreUnavailableError


class _Timer:
    """Adds up the busy seconds of the stages over all threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = StageSeconds()

    def now(self) -> float:
        return self._clock.monotonic()

    def add(self, stage: Stage, since: float) -> None:
        """Add what passed since a time to a stage."""
        passed = self._clock.monotonic() - since
        name = f"{stage.value}_s"
        with self._lock:
            setattr(self._seconds, name, getattr(self._seconds, name) + passed)

    def take(self) -> StageSeconds:
        """Return what was added since the last call."""
        with self._lock:
            seconds, self._seconds = self._seconds, StageSeconds()
        return seconds


@dataclass(frozen=True, slots=True)
class ShardRunner:
    """Classifies what is left of a shard: every ref ends as an outcome in the sink, or as gone.

    Threads fetch and decode, one writes, the caller's predicts. Memory is bounded by ``window`` decoded images and
    by ``fetch_threads`` objects that were fetched and are not decoded yet.
    """

    store: ObjectStore
    handle: ModelHandle
    sink: OutcomeSink
    clock: Clock
    batch_size: int
    fetch_threads: int
    decode_threads: int
    """How many of the threads that fetch may decode at a time."""
    window: int
    """Images between fetch and predict at most."""
    max_object_bytes: int
    max_pixels: int
    top_k: int = 5
    progress: Callable[[int], None] | None = None
    """Called with the number of images of each batch after it was written."""
    _decoding: threading.Semaphore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the turnstile of the decoders."""
        object.__setattr__(self, "_decoding", threading.Semaphore(self.decode_threads))

    def run(self, shard: Shard) -> ShardStats:
        """Classify what is left of a claimed shard and close it.

        Returns:
            The shard's counts over all attempts.

        Raises:
            TransientError: store or database are unavailable; what was recorded stays. A store that fails on a few
                keys only costs these a retryable dead letter.
            ConfigurationError, ModelError: nothing of this shard can be classified as things are.
            StaleAttemptError: a newer attempt has taken over.
        """
        timer = _Timer(self.clock)
        with (
            ThreadPoolExecutor(self.fetch_threads, thread_name_prefix="fetch-decode") as io,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        ):
            writes: deque[Future[None]] = deque()
            try:
                for number, batch in enumerate(batches(self._prepared(shard, io, timer), self.batch_size), start=1):
                    outcomes = self._predict(batch, timer)
                    while len(writes) >= WRITES_BEHIND:
                        writes.popleft().result()
                    writes.append(writer.submit(self._write, shard, number, batch, outcomes, timer))
                for write in writes:
                    write.result()
            except BaseException as error:
                if not isinstance(error, Exception):
                    self.sink.give_up()  # somebody wants us to end: what waits for the database waits no longer
                # What is queued is dropped; what is being written ends on its own terms.
                io.shutdown(wait=False, cancel_futures=True)
                writer.shutdown(wait=False, cancel_futures=True)
                raise
        return self.sink.finish_shard(shard, timer.take())

    def _prepared(self, shard: Shard, io: ThreadPoolExecutor, timer: _Timer) -> Iterator[Prepared]:
        """Yield every ref fetched and decoded, in manifest order, and counts of refs that were settled elsewhere."""
        troubles: list[_Trouble] = []
        in_a_row = 0
        for prepared in self._in_order(shard, io, timer):
            if not isinstance(prepared, _Trouble):
                in_a_row = 0
                yield prepared
                continue
            in_a_row += 1
            troubles.append(prepared)
            if in_a_row >= TROUBLE_BEFORE_GIVING_UP:
                raise prepared.error
        for trouble in troubles:
            yield self._prepare_at_last(trouble, timer)

    def _in_order(self, shard: Shard, io: ThreadPoolExecutor, timer: _Timer) -> Iterator[Prepared | _Trouble]:
        waiting: deque[Future[Prepared | _Trouble]] = deque()
        for chunk in self.sink.read_manifest(shard):
            if chunk.done_elsewhere:
                yield DoneElsewhere(chunk.done_elsewhere)
            for ref in chunk.refs:
                if len(waiting) >= self.window:
                    yield waiting.popleft().result()
                waiting.append(io.submit(self._prepare, ref, timer))
        while waiting:
            yield waiting.popleft().result()

    def _prepare_at_last(self, trouble: _Trouble, timer: _Timer) -> Prepared:
        """Try a ref again that the store did not give us, and condemn it only if the store answers otherwise.

        Raises:
            StoreUnavailableError: it does not answer at all; no image is to blame.
        """
        again = self._prepare(trouble.ref, timer)
        if not isinstance(again, _Trouble):
            return again
        if again.error.is_for_all:
            raise again.error
        next(iter(self.store.list_pages(trouble.ref.bucket, trouble.ref.key)), None)
        code, retryable = ObjectUnreadableError.code, ObjectUnreadableError.is_retryable
        return DeadLetter(trouble.ref, Stage.FETCH, code, f"{again.error}; the store answers otherwise", retryable)

    def _prepare(self, ref: ImageRef, timer: _Timer) -> Prepared | _Trouble:
        stage, began, content_sha256 = Stage.FETCH, timer.now(), None
        try:
            try:
                fetched = fetch_image(ref, self.store, max_bytes=self.max_object_bytes)
            finally:
                timer.add(Stage.FETCH, began)
            stage, content_sha256 = Stage.DECODE, fetched.content_sha256
            with self._decoding:
                began = timer.now()
                try:
                    pixels = decode_image(fetched.data, self.handle.preprocessing, max_pixels=self.max_pixels)
                finally:
                    timer.add(Stage.DECODE, began)
        except ImageGoneError:
            return Gone(ref)
        except StoreUnavailableError as error:
            return _Trouble(ref, error)
        except ImageError as error:
            return DeadLetter(ref, stage, error.code, str(error), error.is_retryable, content_sha256)
        return DecodedImage(ref, pixels, content_sha256)

    def _predict(self, batch: Batch, timer: _Timer) -> list[Outcome]:
        began = timer.now()
        predictions = predict_batch(batch.images, self.handle, top_k=self.top_k)
        timer.add(Stage.PREDICT, began)
        return [*predictions, *batch.dead]

    def _write(self, shard: Shard, number: int, batch: Batch, outcomes: list[Outcome], timer: _Timer) -> None:
        began = timer.now()
        self.sink.record_batch(
            shard,
            number,
            outcomes,
            engine=self.handle.engine,
            seconds=timer.take(),
            gone=batch.gone,
            done_elsewhere=batch.done_elsewhere,
        )
        timer.add(Stage.WRITE, began)
        if self.progress is not None:
            self.progress(batch.refs)
