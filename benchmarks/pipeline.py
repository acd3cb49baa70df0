"""The product's own loop with some of its stages replaced: ``python -m benchmarks.pipeline OPTIONS`` (JSON).

Everything is replaced through the ports of ``ShardRunner``: ``fetch`` by a store that has the bytes in memory,
``decode`` and ``predict`` by ones that answer at once, ``write`` by a sink that records nothing. What decodes goes
through the port for decoding apart, in the same threads.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.meters import Meter, Root
from inference import wiring
from inference.decoding import decode_image
from inference.memory import Memory, give_freed_memory_back
from inference.ports import ModelHandle, ObjectStore
from inference.runner import ShardRunner
from inference.settings import read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import (
    ImageRef,
    LabelMap,
    ListedObject,
    ManifestChunk,
    ModelId,
    ObjectContent,
    Outcome,
    PixelBatch,
    Pixels,
    Preprocessing,
    RunRequest,
    Scores,
    Shard,
    ShardStats,
    StageSeconds,
)

STAGES: Final = ("fetch", "decode", "predict", "write")


class MemoryStore:
    """Has every object in memory."""

    def __init__(self, real: ObjectStore, refs: Sequence[ImageRef], max_bytes: int) -> None:
        self._real = real
        self._objects = {ref.key: real.fetch(ref, max_bytes=max_bytes) for ref in refs}

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        return self._real.list_pages(bucket, prefix)

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:  # noqa: ARG002 - the port's shape
        return self._objects[ref.key]


class InThreadDecoder:
    """Decodes by a function, in the thread that asks."""

    def __init__(self, decode: Callable[[bytes], Pixels]) -> None:
        self._decode = decode

    def __enter__(self) -> InThreadDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def decode(self, data: bytes) -> Pixels:
        return self._decode(data)


@dataclass(frozen=True, slots=True)
class DummyHandle:
    """Gives every image the same scores, at once."""

    real: ModelHandle

    @property
    def model_id(self) -> ModelId:
        return self.real.model_id

    @property
    def labels(self) -> LabelMap:
        return self.real.labels

    @property
    def preprocessing(self) -> Preprocessing:
        return self.real.preprocessing

    @property
    def engine(self) -> str:
        return self.real.engine

    @property
    def best_batch_size(self) -> int:
        return self.real.best_batch_size

    @property
    def parallel_calls(self) -> int:
        return self.real.parallel_calls

    def predict(self, pixels: PixelBatch) -> Scores:
        return dummy_scores(len(pixels), len(self.labels))


class DummySink:
    """Reads the real manifest and records nothing."""

    def __init__(self, real: PostgresSink) -> None:
        self._real = real
        self._stats = ShardStats()

    def note_in_flight(self, shard: Shard, refs: int) -> None:
        pass

    def isolate_shard(self, shard: Shard) -> None:
        pass

    def release_shard(self, shard: Shard) -> None:
        pass

    def give_up(self) -> None:
        pass

    def read_manifest(self, shard: Shard) -> Iterator[ManifestChunk]:
        return self._real.read_manifest(shard)

    def record_batch(
        self,
        shard: Shard,  # noqa: ARG002 - the port's shape
        batch_number: int,  # noqa: ARG002
        outcomes: Sequence[Outcome],
        *,
        engine: str,  # noqa: ARG002
        seconds: StageSeconds,
        gone: int = 0,  # noqa: ARG002
        done_elsewhere: int = 0,  # noqa: ARG002
    ) -> None:
        self._stats.labelled += len(outcomes)
        self._add(seconds)

    def finish_shard(self, shard: Shard, seconds: StageSeconds) -> ShardStats:
        self._add(seconds)
        self._stats.images = shard.images
        return self._stats

    def _add(self, seconds: StageSeconds) -> None:
        for name, value in asdict(seconds).items():
            setattr(self._stats.seconds, name, getattr(self._stats.seconds, name) + value)


def dummy_scores(images: int, labels: int) -> Scores:
    """Return scores that a model could have given; the first label is the best."""
    row = np.full(labels, 0.5 / (labels - 1), np.float32)
    row[0] = 0.5
    return np.tile(row, (images, 1))


def full_decode(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Decode every pixel with Pillow, then crop and resize: the reference that a faster decoder is measured against."""
    with Image.open(io.BytesIO(data)) as image:
        photo = image.convert("RGB")
    side = max(1, int(preprocessing.crop_fraction * min(photo.size)))
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((preprocessing.width, preprocessing.height), Image.Resampling.BICUBIC))


def run(
    bucket: str, prefix: str, *, dummies: Sequence[str], decoder: str = "product", servers: dict[str, int] | None = None
) -> dict[str, Any]:
    """Classify what is new under a prefix in this process.

    Args:
        bucket: Name.
        prefix: Beginning of the keys.
        dummies: Stages to replace: fetch, decode, predict, write.
        decoder: ``product`` or ``full``; the latter decodes every pixel with Pillow.
        servers: Name -> pid of servers whose CPU seconds are counted too.

    Returns:
        Images, seconds, CPU seconds by process, busy seconds by stage; without loading model and libraries.
    """
    settings = read_settings()
    wiring.load_libraries()
    store = wiring.open_store(settings)
    with wiring.open_sink(settings) as sink:
        plan = wiring.discover(RunRequest(bucket=bucket, prefix=prefix), store=store, sink=sink)
        handle = wiring.load_model(plan.model, sink, settings, device="cpu")
        give_freed_memory_back()
        decode = _decoder(decoder, dummies, handle.preprocessing, settings.max_pixels)
        stats = ShardStats()
        roots = [Root("worker", os.getpid()), *(Root(name, pid) for name, pid in (servers or {}).items())]
        seconds = 0.0
        cpu: dict[str, float] = {}
        for number in plan.shards:
            shard = replace(sink.claim_shard(plan.run_id, number), is_isolated=True)
            used: ObjectStore = store
            if "fetch" in dummies:
                refs = [ref for chunk in sink.read_manifest(shard) for ref in chunk.refs]
                used = MemoryStore(store, refs, settings.max_object_bytes)
            runner = ShardRunner(
                store=used,
                handle=DummyHandle(handle) if "predict" in dummies else handle,
                sink=DummySink(sink) if "write" in dummies else sink,
                clock=wiring.SystemClock(),
                batch_size=settings.batch_size or handle.best_batch_size,
                calls_a_batch=wiring.CALLS_A_BATCH,
                fetch_threads=settings.fetch_threads,
                decode_threads=settings.decode_threads,
                window=settings.window,
                max_object_bytes=settings.max_object_bytes,
                max_pixels=settings.max_pixels,
                decoder=lambda: InThreadDecoder(decode),
                memory=Memory.of_process(settings.memory_limit),
            )
            with Meter(roots) as meter:
                began = time.perf_counter()
                done = runner.run(shard)
                seconds += time.perf_counter() - began
            for name, cpu_s in meter.cpu_s().items():
                cpu[name] = cpu.get(name, 0.0) + cpu_s
            stats.images += done.images
            stats.labelled += done.labelled
            stats.dead += done.dead
            for name, value in asdict(done.seconds).items():
                setattr(stats.seconds, name, getattr(stats.seconds, name) + value)
    return {
        "images": stats.images,
        "labelled": stats.labelled,
        "dead": stats.dead,
        "seconds": seconds,
        "per_second": stats.images / seconds if seconds else 0.0,
        "cpu_s": cpu,
        "stage_s": asdict(stats.seconds),
    }


def _decoder(
    name: str, dummies: Sequence[str], preprocessing: Preprocessing, max_pixels: int
) -> Callable[[bytes], Pixels]:
    if "decode" in dummies:
        grey = np.full((preprocessing.height, preprocessing.width, 3), 128, np.uint8)
        return lambda data: grey  # noqa: ARG005 - whatever it is given
    if name == "full":
        return lambda data: full_decode(data, preprocessing)
    return lambda data: decode_image(data, preprocessing, max_pixels=max_pixels)


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
