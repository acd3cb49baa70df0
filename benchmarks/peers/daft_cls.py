"""Daft: ``download`` in Rust, a function that decodes, and ``@daft.cls`` with a batch method that predicts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import daft
import numpy as np
from daft import DataType
from daft.io import IOConfig, S3Config

from benchmarks.peers.common import COLUMNS, Job, best, connect, decode, list_keys, load_model, note_first_fetch, write


def run(job: Job) -> None:
    """Classify everything under the prefix."""
    daft.set_runner_native()
    if job.choices["morsel"]:
        daft.set_execution_config(default_morsel_size=job.choices["morsel"])
    store = IOConfig(
        s3=S3Config(
            endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"],
            key_id=os.environ["AWS_ACCESS_KEY_ID"],
            access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region_name=os.environ["AWS_REGION"],
            use_ssl=False,
            max_connections=16,
        )
    )
    shape = (job.side, job.side, 3)
    result = DataType.struct(
        {"label_id": DataType.string(), "score": DataType.float64(), "predicted_at": DataType.string()}
    )

    @daft.func(return_dtype=DataType.tensor(DataType.uint8(), shape))
    def prepare(data: bytes) -> np.ndarray:
        return decode(data, job.side, job.crop_fraction)

    @daft.cls(max_concurrency=1, use_process=False)
    class Classifier:
        def __init__(self) -> None:
            self._model = load_model(job)

        @daft.method.batch(return_dtype=result, batch_size=job.batch_size)
        def classify(self, pixels: daft.Series) -> list[dict[str, Any]]:
            batch = np.stack(pixels.to_pylist())
            label_ids, scores = best(self._model.predict(batch), job)
            now = datetime.now(UTC).isoformat()
            pairs = zip(label_ids, scores, strict=True)
            return [{"label_id": label_id, "score": score, "predicted_at": now} for label_id, score in pairs]

    keys = list_keys(job)
    frame = daft.from_pydict({"key": keys, "url": [f"s3://{job.bucket}/{key}" for key in keys]})
    frame = frame.with_column("pixels", prepare(frame["url"].download(io_config=store)))
    frame = frame.with_column("answer", Classifier().classify(frame["pixels"])).select("key", "answer")

    note_first_fetch()  # in Rust, out of our sight
    with connect(job) as connection:
        for part in frame.iter_partitions():
            write(connection, _rows(job, part.to_pydict()))


def _rows(job: Job, columns: dict[str, list[Any]]) -> Iterator[tuple[Any, ...]]:
    for key, answer in zip(columns["key"], columns["answer"], strict=True):
        row = {"peer": job.peer, "object_key": key, **answer}
        yield tuple(row[name] for name in COLUMNS)
