"""The loop over one shard: fetch and decode | batch | predict | write, at once and bounded. Knows no adapter."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

from inference.batching import MAX_HELD_BACK, Batch, batches
from inference.decoding import decode_image
from inference.errors import (
    DecoderCrashedError,
    DecoderTimeoutError,
    ImageError,
    ImageGoneError,
    InferenceError,
    ObjectAccessDeniedError,
    ObjectUnreadableError,
    StoreCredentialsError,
    StoreUnavailableError,
)
from inference.fetching import fetch_image
from inference.memory import Memory, Reserve, no_limit
from inference.pacing import Pacer
from inference.ports import Clock, Decoder, ModelHandle, ObjectStore, ShardSink, Watchdog
from inference.predicting import predict_batch
from inference.types import (
    FORGOTTEN_ETAG,
    CopiedPrediction,
    DeadLetter,
    DecodedImage,
    DoneElsewhere,
    Gone,
    ImageRef,
    Outcome,
    Pixels,
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

MAX_SET_ASIDE = 64
"""Refs that the store did not give us and that wait for a second try; more are tried at once, out of turn."""


def _is_of_the_store(prepared: Prepared) -> bool:
    """Return whether the store may have been asked; not for a copy, nor for what was forgotten."""
    is_forgotten = isinstance(prepared, Gone) and prepared.ref.etag == FORGOTTEN_ETAG
    return not (isinstance(prepared, CopiedPrediction) or is_forgotten)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A ref that the store did not give us, for now."""

    ref: ImageRef
    error: StoreUnavailableError
    is_apart: bool


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


class _Attempt:
    """What one run of the loop keeps: its seconds, and the processes that decode apart, once they are needed."""

    def __init__(self, shard: Shard, sink: ShardSink, clock: Clock, decoder: Callable[[], Decoder] | None) -> None:
        self.shard = shard
        self.timer = _Timer(clock)
        self._sink = sink
        self._make_decoder = decoder
        self._decoder: Decoder | None = None
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._is_isolated = shard.is_isolated

    @property
    def is_isolated(self) -> bool:
        """Whether every image from now on is decoded apart."""
        return self._is_isolated

    def decoder(self) -> Decoder | None:
        """Return what decodes apart; None where nothing does."""
        with self._lock:
            if self._decoder is None and self._make_decoder is not None:
                self._decoder = self._opened.enter_context(self._make_decoder())
            return self._decoder

    def isolate(self) -> None:
        """Note that an image has killed its decoder, for this attempt and the later ones."""
        with self._lock:
            is_known, self._is_isolated = self._is_isolated, True
        if not is_known:
            self._sink.isolate_shard(self.shard)

    def close(self) -> None:
        """End the processes that decode apart."""
        with self._lock:
            self._opened.close()


@dataclass(frozen=True, slots=True)
class ShardRunner:
    """Classifies what is left of a shard: every ref ends as an outcome in the sink, or as gone.

    Threads fetch and decode, as many predict as the handle serves at a time, one writes; the caller's hands on from one
    to the other. Memory is bounded by ``window`` decoded images and by ``fetch_threads`` objects that were fetched and
    are not decoded yet, and these by ``memory``.

    What the last attempt may have been busy with when it was killed is decoded in processes apart, before anything
    else: an image that kills or hangs its decoder is found there, and costs nobody else a label.
    """

    store: ObjectStore
    handle: ModelHandle
    sink: ShardSink
    clock: Clock
    batch_size: int
    """Images in one call of the model."""
    calls_a_batch: int
    """Calls of the model whose outcomes are recorded at once."""
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
    decoder: Callable[[], Decoder] | None = None
    """Starts the processes that decode apart. Without it suspects are decoded like all others."""
    watchdog: Watchdog | None = None
    """Ends this process when one of its own threads hangs in a decoder."""
    memory: Memory | None = None
    """What there is for objects and for decoding; None for no bound."""
    pacer: Pacer | None = None
    """Lets images begin in their turn; None where the run has no rate to keep to."""
    _decoding: threading.Semaphore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the turnstile of the decoders."""
        object.__setattr__(self, "_decoding", threading.Semaphore(self.decode_threads))

    @property
    def in_flight(self) -> int:
        """Most refs without outcome that may have been decoded, or be at it, at any moment.

        Those in the window, those of the batches that are filled, predicted and written, and those set aside.
        """
        set_aside = MAX_SET_ASIDE + TROUBLE_BEFORE_GIVING_UP
        batches_at_a_time = 1 + self._predicting_at_most + WRITES_BEHIND
        return self.window + batches_at_a_time * (self._recorded_at_once + MAX_HELD_BACK) + set_aside

    @property
    def _recorded_at_once(self) -> int:
        return self.calls_a_batch * self.batch_size

    @property
    def _predicting_at_most(self) -> int:
        """Batches that are being predicted, and one more that waits for it, so that no call waits for a batch."""
        return self.handle.parallel_calls + 1

    def run(self, shard: Shard) -> ShardStats:
        """Classify what is left of a claimed shard and close it.

        Returns:
            The shard's counts over all attempts.

        Raises:
            TransientError: store or database are unavailable, or memory is short; what was recorded stays. A store
                that fails on a few keys only costs these a retryable dead letter.
            ConfigurationError, ModelError: nothing of this shard can be classified as things are.
            StaleAttemptError: a newer attempt has taken over.
        """
        attempt = _Attempt(shard, self.sink, self.clock, self.decoder)
        try:
            self.sink.note_in_flight(shard, self.in_flight)
            self._work(attempt)
            return self.sink.finish_shard(shard, attempt.timer.take())
        except BaseException:
            self.sink.release_shard(shard)
            raise
        finally:
            attempt.close()

    def _work(self, attempt: _Attempt) -> None:
        with (
            ThreadPoolExecutor(self.fetch_threads, thread_name_prefix="fetch-decode") as io,
            ThreadPoolExecutor(self.handle.parallel_calls, thread_name_prefix="predict") as engine,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        ):
            try:
                self._record_in_order(
                    attempt, batches(self._prepared(attempt, io), self._recorded_at_once), engine, writer
                )
            except BaseException as error:
                if not isinstance(error, Exception):
                    self.sink.give_up()  # somebody wants us to end: what waits for the database waits no longer
                # What is queued is dropped; what is being written ends on its own terms.
                io.shutdown(wait=False, cancel_futures=True)
                engine.shutdown(wait=False, cancel_futures=True)
                writer.shutdown(wait=False, cancel_futures=True)
                attempt.close()
                raise

    def _record_in_order(
        self, attempt: _Attempt, filled: Iterator[Batch], engine: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> None:
        """Have batches predicted, several at a time, and written, one after the other.

        Raises:
            InferenceError: what ended the batches, once those before it are recorded, or what predicting or
                writing met.
        """
        predicting: deque[Future[list[Outcome]]] = deque()
        writes: deque[Future[None]] = deque()
        trouble: InferenceError | None = None
        for number in itertools.count(1):
            try:
                batch = next(filled)
            except StopIteration:
                break
            except InferenceError as error:
                trouble = error
                break
            while predicting and (predicting[0].done() or len(predicting) >= self._predicting_at_most):
                predicting.popleft().result()
            while writes and (writes[0].done() or len(writes) >= self._predicting_at_most + WRITES_BEHIND):
                writes.popleft().result()
            predicting.append(engine.submit(self._predict, batch, attempt))
            # It is the writer that waits for the prediction, so that it is recorded at once, also while the next batch
            # takes long to come.
            writes.append(writer.submit(self._write, attempt, number, batch, predicting[-1]))
        for write in writes:
            write.result()
        if trouble is not None:
            raise trouble

    def _prepared(self, attempt: _Attempt, io: ThreadPoolExecutor) -> Iterator[Prepared]:
        """Yield every ref fetched and decoded, in manifest order, and counts of refs that were settled elsewhere."""
        troubles: deque[_Trouble] = deque()
        in_a_row = 0
        for prepared in self._judged(self._in_order(attempt, io)):
            if not isinstance(prepared, _Trouble):
                if _is_of_the_store(prepared):
                    in_a_row = 0
                yield prepared
                continue
            in_a_row += 1
            troubles.append(prepared)
            if in_a_row >= TROUBLE_BEFORE_GIVING_UP:
                raise prepared.error
            if len(troubles) > MAX_SET_ASIDE:
                yield self._prepare_at_last(troubles.popleft(), attempt)
        for trouble in troubles:
            yield self._prepare_at_last(trouble, attempt)

    def _judged(self, prepared: Iterator[Prepared | _Trouble]) -> Iterator[Prepared | _Trouble]:
        """Hold refusals back until an object came: only then it is the key, and not the right to read, that is missing.

        Raises:
            StoreCredentialsError: the store gives no object at all.
        """
        refused: list[DeadLetter] = []
        for item in prepared:
            if isinstance(item, DeadLetter) and item.error_code == ObjectAccessDeniedError.code:
                refused.append(item)
                if len(refused) >= TROUBLE_BEFORE_GIVING_UP:
                    raise StoreCredentialsError(
                        f"the object store refuses each of the first {len(refused)} objects ({item.message}); no image "
                        "is to blame, so check the credentials, and that s3:GetObject is allowed"
                    )
                continue
            yield item
            if isinstance(item, DecodedImage) or (isinstance(item, DeadLetter) and item.stage is Stage.DECODE):
                break
        yield from refused
        yield from prepared

    def _in_order(self, attempt: _Attempt, io: ThreadPoolExecutor) -> Iterator[Prepared | _Trouble]:
        waiting: deque[Future[Prepared | _Trouble]] = deque()
        suspects, cleared = attempt.shard.suspects, 0
        for chunk in self.sink.read_manifest(attempt.shard):
            if chunk.done_elsewhere:
                yield DoneElsewhere(chunk.done_elsewhere)
            upcoming = itertools.count(len(chunk.copies) + len(chunk.refs), -1)
            for copy in chunk.copies:
                self._wait_for_turn(next(upcoming))
                yield copy
            for ref in chunk.refs:
                # The last suspect is cleared before an image is decoded in this process again: were there another one
                # that kills it, this attempt would end as the last one did.
                while waiting and (
                    len(waiting) >= self.window
                    or 0 < suspects <= cleared
                    or (self.pacer is not None and waiting[0].done())  # the next turn may be long in coming
                ):
                    prepared = waiting.popleft().result()
                    cleared += not isinstance(prepared, Gone)  # what has vanished was not what the last one was at
                    yield prepared
                if cleared >= suspects:
                    suspects = 0
                self._wait_for_turn(next(upcoming))
                waiting.append(io.submit(self._prepare, ref, attempt, is_apart=suspects > 0))
        while waiting:
            yield waiting.popleft().result()

    def _wait_for_turn(self, upcoming: int) -> None:
        """Wait until the next image may begin. No stage is waited for in it, and nothing is locked or counted."""
        if self.pacer is not None:
            self.pacer.wait(upcoming)

    def _prepare_at_last(self, trouble: _Trouble, attempt: _Attempt) -> Prepared:
        """Try a ref again that the store did not give us, and condemn it only if the store answers otherwise.

        Raises:
            StoreUnavailableError: it does not answer at all; no image is to blame.
        """
        again = self._prepare(trouble.ref, attempt, is_apart=trouble.is_apart)
        if not isinstance(again, _Trouble):
            return again
        if again.error.is_for_all:
            raise again.error
        next(iter(self.store.list_pages(trouble.ref.bucket, trouble.ref.key)), None)
        code, retryable = ObjectUnreadableError.code, ObjectUnreadableError.is_retryable
        return DeadLetter(trouble.ref, Stage.FETCH, code, f"{again.error}; the store answers otherwise", retryable)

    def _prepare(self, ref: ImageRef, attempt: _Attempt, *, is_apart: bool) -> Prepared | _Trouble:
        timer = attempt.timer
        stage, began, content = Stage.FETCH, timer.now(), None
        try:
            with self._room_for_object(min(ref.size_bytes, self.max_object_bytes)):
                try:
                    fetched = fetch_image(ref, self.store, max_bytes=self.max_object_bytes)
                finally:
                    timer.add(Stage.FETCH, began)
                stage, content = Stage.DECODE, fetched.content
                with self._decoding:
                    began = timer.now()
                    try:
                        pixels = self._decode(ref, fetched.data, attempt, is_apart=is_apart)
                    finally:
                        timer.add(Stage.DECODE, began)
        except ImageGoneError:
            return Gone(ref)
        except StoreUnavailableError as error:
            return _Trouble(ref, error, is_apart)
        except ImageError as error:
            if isinstance(error, DecoderCrashedError | DecoderTimeoutError):
                attempt.isolate()
            return DeadLetter(ref, stage, error.code, str(error), error.is_retryable, content)
        return DecodedImage(ref, pixels, content)

    def _decode(self, ref: ImageRef, data: bytes, attempt: _Attempt, *, is_apart: bool) -> Pixels:
        if (is_apart or attempt.is_isolated) and (decoder := attempt.decoder()) is not None:
            return decoder.decode(data)
        preprocessing, max_pixels = self.handle.preprocessing, self.max_pixels
        reserve: Reserve = no_limit if self.memory is None else self.memory.decoding.reserve
        if self.watchdog is None:
            return decode_image(data, preprocessing, max_pixels=max_pixels, reserve=reserve)
        with self.watchdog.over(ref.key) as turn:

            @contextmanager
            def reserve_off_the_clock(wanted: int) -> Iterator[None]:
                turn.pause()  # it may wait for others, and longer than an image may take
                with reserve(wanted):
                    turn.restart()
                    yield

            return decode_image(data, preprocessing, max_pixels=max_pixels, reserve=reserve_off_the_clock)

    def _room_for_object(self, size_bytes: int) -> AbstractContextManager[None]:
        return nullcontext() if self.memory is None else self.memory.objects.reserve(size_bytes)

    def _predict(self, batch: Batch, attempt: _Attempt) -> list[Outcome]:
        began = attempt.timer.now()
        size = self.batch_size if self.memory is None else self.memory.images_a_call(self.batch_size)
        predictions = [
            prediction
            for start in range(0, len(batch.images), size)
            for prediction in predict_batch(batch.images[start : start + size], self.handle, top_k=self.top_k)
        ]
        attempt.timer.add(Stage.PREDICT, began)
        return [*predictions, *batch.copies, *batch.dead]

    def _write(self, attempt: _Attempt, number: int, batch: Batch, predicted: Future[list[Outcome]]) -> None:
        outcomes = predicted.result()
        began = attempt.timer.now()
        self.sink.record_batch(
            attempt.shard,
            number,
            outcomes,
            engine=self.handle.engine,
            seconds=attempt.timer.take(),
            gone=batch.gone,
            done_elsewhere=batch.done_elsewhere,
        )
        attempt.timer.add(Stage.WRITE, began)
        if self.progress is not None:
            self.progress(batch.refs)
