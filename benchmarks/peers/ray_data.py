"""Ray Data: read, map, and ``map_batches`` with a class that loads the model once, and ``write_sql``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.peers.common import INSERT, Job, best, connect, cores, decode, fetch, list_keys, load_model


class Classifier:
    """Loads the model when its process starts."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = load_model(job)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        label_ids, scores = best(self._model.predict(np.stack(list(batch["pixels"]))), self._job)
        return {
            "peer": [self._job.peer] * len(label_ids),
            "object_key": batch["key"],
            "label_id": label_ids,
            "score": scores,
            "predicted_at": [datetime.now(UTC).isoformat()] * len(label_ids),
        }


def run(job: Job) -> None:
    """Classify everything under the prefix."""
    import ray

    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        pixels = decode(fetch(job.bucket, row["item"]), job.side, job.crop_fraction)
        return {"key": row["item"], "pixels": pixels}

    keys = list_keys(job)
    blocks = max(cores(), len(keys) // job.choices["block_images"])
    dataset = ray.data.from_items(keys, override_num_blocks=min(blocks, len(keys)))
    dataset = dataset.map(prepare, num_cpus=job.choices["fetch_cpus"])
    dataset = dataset.map_batches(
        Classifier, fn_constructor_args=(job,), batch_size=job.batch_size, concurrency=1, num_cpus=1
    )
    dataset.write_sql(INSERT, lambda: connect(job))
    ray.shutdown()
