"""The model alone in this environment, to choose the flags with which TensorFlow is fastest; writes no row."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers.common import Job, load_model

SECONDS = 4.0
BATCH_SIZES = (8, 32)


def run(job: Job) -> dict[str, dict[str, float]]:
    """Return images and CPU milliseconds on made-up pixels, by the batch size."""
    model = load_model(job)
    found = {}
    for size in BATCH_SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (size, job.side, job.side, 3), np.uint8)
        model.predict(pixels)
        images, began, cpu_began_s = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - began) < SECONDS:
            model.predict(pixels)
            images += len(pixels)
        cpu_ms = 1000 * (time.process_time() - cpu_began_s) / images
        found[str(size)] = {"per_second": images / passed, "cpu_ms": cpu_ms}
    return found
