"""Each stage alone, by the product's public functions: ``python -m benchmarks.stages OPTIONS`` (JSON).

No other stage runs meanwhile: objects are in memory before they are decoded, pixels before they are predicted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.meters import Meter, Root
from benchmarks.pipeline import dummy_scores, full_decode
from inference import wiring
from inference.decoding import decode_image
from inference.fetching import fetch_image
from inference.predicting import predict_batch
from inference.settings import Settings, read_settings
from inference.types import (
    ContentDigest,
    DecodedImage,
    ImageRef,
    Prediction,
    RunRequest,
    ScoredLabel,
    StageSeconds,
)

T = TypeVar("T")
R = TypeVar("R")


class Stopwatch:
    """Measures one stage: images a second, CPU by process, and how long one call takes."""

    def __init__(self, servers: dict[str, int]) -> None:
        self._roots = [Root("worker", os.getpid()), *(Root(name, pid) for name, pid in servers.items())]

    def over(self, work: Callable[[T], R], items: Sequence[T], *, threads: int, images: int) -> dict[str, Any]:
        """Call ``work`` on every item, in so many threads."""
        took: list[float] = []

        def timed(item: T) -> R:
            began = time.perf_counter()
            try:
                return work(item)
            finally:
                took.append(time.perf_counter() - began)

        with Meter(self._roots) as meter:
            began = time.perf_counter()
            if threads == 1:
                for item in items:
                    timed(item)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    for _ in pool.map(timed, items):
                        pass
            seconds = time.perf_counter() - began
        p50, p99 = np.percentile(took, [50, 99]) * 1000 if took else (0.0, 0.0)
        return {
            "images": images,
            "seconds": seconds,
            "per_second": images / seconds,
            "threads": threads,
            "cpu_s": meter.cpu_s(),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }


def run(bucket: str, prefix: str, files: dict[str, list[str]], servers: dict[str, int]) -> dict[str, Any]:
    """Measure every stage.

    Args:
        bucket: Name.
        prefix: Beginning of the keys of the small JPEGs.
        files: Kind -> images on disk, to decode.
        servers: Name -> pid of store and database.

    Returns:
        Stage -> its figures.
    """
    settings = read_settings()
    watch = Stopwatch(servers)
    store = wiring.open_store(settings)
    found: dict[str, Any] = {}
    with wiring.open_sink(settings) as sink:
        handle = wiring.load_model(sink.resolve_model("production"), sink, settings, device="cpu")
        next(iter(store.list_pages(bucket, prefix)))  # connects
        listed: list[ImageRef] = []

        def list_all(_: object) -> None:
            for page in store.list_pages(bucket, prefix):
                listed.extend(ImageRef(item.bucket, item.key, item.etag, item.size_bytes) for item in page)

        found["list"] = watch.over(list_all, [None], threads=1, images=1)
        found["list"] |= {"images": len(listed), "per_second": len(listed) / found["list"]["seconds"]}

        def fetch(ref: ImageRef) -> int:
            return len(fetch_image(ref, store, max_bytes=settings.max_object_bytes).data)

        found["fetch"] = watch.over(fetch, listed, threads=settings.fetch_threads, images=len(listed))

        for kind, paths in files.items():
            objects = [Path(path).read_bytes() for path in paths]
            for name, decode in (
                (f"decode {kind}", lambda data: decode_image(data, handle.preprocessing)),
                (f"full decode {kind}", lambda data: full_decode(data, handle.preprocessing)),
            ):
                found[name] = watch.over(decode, objects, threads=settings.decode_threads, images=len(objects))

        found["predict"] = _predict(watch, handle, settings, files["small"])
        found["write"] = _write(watch, sink, handle, store, RunRequest(bucket, prefix), settings)
    return found


def _predict(watch: Stopwatch, handle: Any, settings: Settings, paths: list[str]) -> dict[str, Any]:
    content = ContentDigest(bytes(32))
    images = [
        DecodedImage(ImageRef("", path, "", 1), decode_image(Path(path).read_bytes(), handle.preprocessing), content)
        for path in paths
    ]
    size = settings.batch_size or handle.best_batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    predict_batch(batches[0], handle)
    return watch.over(
        lambda batch: predict_batch(batch, handle), batches, threads=handle.parallel_calls, images=len(images)
    )


def _write(
    watch: Stopwatch, sink: Any, handle: Any, store: Any, request: RunRequest, settings: Settings
) -> dict[str, Any]:
    """Record a made-up label for every image, in batches as the worker does."""
    plan = wiring.discover(request, store=store, sink=sink)
    row = dummy_scores(1, len(handle.labels))[0]
    top = tuple(ScoredLabel(handle.labels[column], float(row[column])) for column in range(settings.top_k))
    size = wiring.CALLS_A_BATCH * (settings.batch_size or handle.best_batch_size)
    work = []
    for number in plan.shards:
        shard = sink.claim_shard(plan.run_id, number)
        refs = [ref for chunk in sink.read_manifest(shard) for ref in chunk.refs]
        for batch, refs_of_batch in enumerate(_slices(refs, size), start=1):
            # Every image has content of its own.
            outcomes = [Prediction(ref, top, ContentDigest(ref.image_id.bytes * 2)) for ref in refs_of_batch]
            work.append((shard, batch, outcomes))

    def record(item: tuple[Any, int, list[Prediction]]) -> None:
        shard, batch, outcomes = item
        sink.record_batch(shard, batch, outcomes, engine=handle.engine, seconds=StageSeconds())

    return watch.over(record, work, threads=1, images=sum(len(outcomes) for _, _, outcomes in work))


def _slices(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
