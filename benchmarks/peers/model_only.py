"""The model alone in this environment, to choose the flags with which TensorFlow is fastest; writes no row."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers.common import Job, load_model

SECONDS = 4.0
BATCH_SIZES = (8, 32)


def run(job: Job) -> dict[str, float]:
    """Return images a second on made-up pixels, by the batch size."""
    model = load_model(job)
    found = {}
    for size in BATCH_SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (size, job.side, job.side, 3), np.uint8)
        model.predict(pixels)
        images, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < SECONDS:
            model.predict(pixels)
            images += len(pixels)
        found[str(size)] = images / passed
    return found
