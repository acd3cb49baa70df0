"""What a model says of some images, by the very loop of a night: fetch, decode, predict. Nothing reaches the ledger."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

from inference.gate.figures import Answer, Answers
from inference.isolation import IsolatedDecoders
from inference.memory import Memory
from inference.ports import Clock, ModelHandle, ObjectStore
from inference.runner import ShardRunner
from inference.settings import Settings
from inference.types import (
    DeadLetter,
    ImageRef,
    ManifestChunk,
    Outcome,
    PixelBatch,
    Prediction,
    Shard,
    ShardStats,
    StageSeconds,
)

GONE: Final = "gone"
_CHUNK: Final = 1_000
_ROUNDS: Final = 4


class AnswerSink:
    """Keeps what a model said of each image, and nothing else of it.

    Args:
        refs: What it is asked about, each once.
        right: Image id -> id of the right label, where that is known.
    """

    def __init__(self, refs: Sequence[ImageRef], right: Mapping[UUID, str]) -> None:
        self._refs, self._right = tuple(refs), right
        self.answers: dict[UUID, Answer] = {}
        self.dead: dict[UUID, str] = {}

    def note_in_flight(self, shard: Shard, refs: int) -> None:
        """Nobody comes after this attempt."""

    def isolate_shard(self, shard: Shard) -> None:
        """Every image is decoded apart already."""

    def release_shard(self, shard: Shard) -> None:
        """Nobody else wants it."""

    def give_up(self) -> None:
        """Nothing is waited for here."""

    def read_manifest(self, shard: Shard) -> Iterator[ManifestChunk]:
        """Yield every ref."""
        for start in range(0, len(self._refs), _CHUNK):
            yield ManifestChunk(self._refs[start : start + _CHUNK], done_elsewhere=0)

    def record_batch(
        self,
        shard: Shard,
        batch_number: int,
        outcomes: Sequence[Outcome],
        *,
        engine: str,
        seconds: StageSeconds,
        gone: int = 0,
        done_elsewhere: int = 0,
    ) -> None:
        """Keep what is judged of each outcome."""
        for outcome in outcomes:
            image_id = outcome.ref.image_id
            if isinstance(outcome, Prediction):
                self.answers[image_id] = _answer(outcome, self._right.get(image_id))
            elif isinstance(outcome, DeadLetter):
                self.dead[image_id] = outcome.error_code

    def finish_shard(self, shard: Shard, seconds: StageSeconds) -> ShardStats:
        """Return the counts."""
        gone = len(self._refs) - len(self.answers) - len(self.dead)
        return ShardStats(images=len(self._refs), labelled=len(self.answers), dead=len(self.dead), gone=gone)


def answer(
    handle: ModelHandle,
    golden: Mapping[ImageRef, str],
    recent: Sequence[ImageRef],
    *,
    store: ObjectStore,
    settings: Settings,
    clock: Clock,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """Ask a model about golden and recent images.

    Each image is decoded in a process apart, so that one which kills its decoder costs only itself; one that cannot be
    read is counted.

    Args:
        handle: The model.
        golden: Golden images -> id of their right label.
        recent: Other images.
        store: Where they are.
        settings: Sizes and limits, as of a night.
        clock: Tells the seconds.
        progress: Called with the number of images of each batch.

    Raises:
        InferenceError: as of ``ShardRunner.run``; no image is to blame.
    """
    refs = (*golden, *recent)
    sink = AnswerSink(refs, {ref.image_id: label_id for ref, label_id in golden.items()})
    if refs:
        # The right label may stand in any place; where none is known only the best one counts.
        top_k = len(handle.labels) if golden else 1
        _runner(handle, sink, store, settings, clock, top_k, progress).run(_shard(handle, len(refs)))
    return Answers(
        handle.model_id,
        handle.engine,
        sink.answers,
        {ref.image_id: sink.dead.get(ref.image_id, GONE) for ref in refs if ref.image_id not in sink.answers},
        label_ids=frozenset(label.label_id for label in handle.labels),
    )


def with_speed(answers: Answers, handle: ModelHandle, clock: Clock, *, for_s: float) -> Answers:
    """Return answers with how many images a second the engine does by itself, as many calls at a time as in a night.

    The fastest of some rounds counts: others may be at work on the machine.

    Args:
        answers: Of this model.
        handle: The model.
        clock: Tells the seconds.
        for_s: How long to measure in all, in seconds.
    """
    import numpy as np

    shape = (handle.best_batch_size, handle.preprocessing.height, handle.preprocessing.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    handle.predict(pixels)  # the first call makes what the later ones use
    with ThreadPoolExecutor(handle.parallel_calls) as pool:
        rates = [_calls_a_second(handle, pixels, pool, clock, for_s / _ROUNDS) for _ in range(_ROUNDS)]
    return replace(answers, images_per_second=max(rates) * handle.best_batch_size)


def _calls_a_second(
    handle: ModelHandle, pixels: PixelBatch, pool: ThreadPoolExecutor, clock: Clock, for_s: float
) -> float:
    started = clock.monotonic()

    def work(_caller: int) -> int:
        for calls in itertools.count(1):
            handle.predict(pixels)
            if clock.monotonic() - started >= for_s:
                return calls
        raise AssertionError  # the count has no end

    calls = sum(pool.map(work, range(handle.parallel_calls)))
    return calls / max(clock.monotonic() - started, 1e-9)


def _answer(prediction: Prediction, right: str | None) -> Answer:
    if right is None:
        return Answer(prediction.label, prediction.score)
    for rank, scored in enumerate(prediction.top, start=1):
        if scored.label.label_id == right:
            return Answer(prediction.label, prediction.score, rank, scored.score)
    return Answer(prediction.label, prediction.score, None, 0.0)


def _shard(handle: ModelHandle, images: int) -> Shard:
    return Shard(
        run_id=uuid4(),
        plan_number=1,
        shard_number=0,
        attempt=1,
        model=handle.model_id,
        model_key=0,
        device="cpu",
        images=images,
        is_isolated=True,
    )


def _runner(
    handle: ModelHandle,
    sink: AnswerSink,
    store: ObjectStore,
    settings: Settings,
    clock: Clock,
    top_k: int,
    progress: Callable[[int], None] | None,
) -> ShardRunner:
    memory = Memory.of_process(settings.memory_limit)
    return ShardRunner(
        store=store,
        handle=handle,
        sink=sink,
        clock=clock,
        batch_size=settings.batch_size or handle.best_batch_size,
        calls_a_batch=1,
        fetch_threads=settings.fetch_threads,
        decode_threads=settings.decode_threads,
        window=settings.window,
        max_object_bytes=settings.max_object_bytes,
        max_pixels=settings.max_pixels,
        top_k=top_k,
        progress=progress,
        decoder=lambda: IsolatedDecoders(
            memory.processes(settings.decode_threads),
            handle.preprocessing,
            max_pixels=settings.max_pixels,
            timeout_s=settings.decode_timeout_s,
            reserve=memory.decoding.reserve,
        ),
        memory=memory,
    )
