"""A plain loop, as one task of many a Dag: fetch and decode a batch, predict it, insert it."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.common import Job, batches, connect, decode, fetch, list_keys, load_model, rows_of, write


def run(job: Job) -> None:
    """Classify everything under the prefix."""
    model = load_model(job)
    with connect(job) as connection:
        for keys in batches(list_keys(job), job.batch_size):
            pixels = np.stack([decode(fetch(job.bucket, key), job.side, job.crop_fraction) for key in keys])
            write(connection, rows_of(job, keys, model.predict(pixels)))
