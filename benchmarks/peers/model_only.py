"""The model alone in this environment, to choose the flags with which TensorFlow is fastest; writes no row."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers.common import Job, load_model

SECONDS = 6.0


def run(job: Job) -> dict[str, float]:
    """Return images a second on made-up pixels."""
    model = load_model(job)
    pixels = np.random.default_rng(0).integers(0, 256, (job.batch_size, job.side, job.side, 3), np.uint8)
    model.predict(pixels)
    images, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        model.predict(pixels)
        images += len(pixels)
    return {"per_second": images / passed}
