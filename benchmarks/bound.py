"""What inference alone would do: ``python -m benchmarks.bound OPTIONS`` (JSON). Pixels in memory, nothing else runs.

The engine, its batch size and its threads are those of the product's worker, so that no pipeline around this engine on
this machine can be faster.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.meters import Meter, Root
from inference.decoding import decode_image
from inference.models.bundled import BUNDLED_MODEL
from inference.models.resolve import load_handle
from inference.settings import read_settings
from inference.types import ModelId
from inference.wiring import open_model_store


def run(
    paths: list[str], *, seconds: float, batch_size: int | None = None, model: str = str(BUNDLED_MODEL)
) -> dict[str, Any]:
    """Predict the same images over and over.

    Args:
        paths: Images; decoded beforehand.
        seconds: How long to go on; whole batches.
        batch_size: Images a call; None for what the worker uses.
        model: NAME@VERSION, in the model store.
    """
    settings = read_settings()
    store = open_model_store(settings)
    manifest = store.read_manifest(ModelId(*model.split("@")))
    handle = load_handle(manifest, store.check_files(manifest, "litert"), "litert", settings.engine_threads)
    size = batch_size or settings.batch_size or handle.best_batch_size
    pixels = np.stack([decode_image(Path(path).read_bytes(), handle.preprocessing) for path in paths])
    batches = [np.ascontiguousarray(pixels[start : start + size]) for start in range(0, len(pixels) - size + 1, size)]
    for batch in batches[:4]:
        handle.predict(batch)

    def predict_until(end: float) -> int:
        calls = itertools.count()
        for call in calls:
            if time.perf_counter() >= end:
                return call
            handle.predict(batches[call % len(batches)])
        return 0

    with ThreadPoolExecutor(handle.parallel_calls) as callers, Meter([Root("inference", os.getpid())]) as meter:
        began = time.perf_counter()
        calls = sum(callers.map(predict_until, [began + seconds] * handle.parallel_calls))
        passed = time.perf_counter() - began
    images = calls * size
    return {"images": images, "seconds": passed, "per_second": images / passed, "cpu_s": meter.cpu_s(), "batch": size}


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
