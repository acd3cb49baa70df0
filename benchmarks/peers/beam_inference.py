"""Apache Beam: ``RunInference`` with the TensorFlow model handler, on the local runner that needs no download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerNumpy
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.peers.common import Job, connect, cores, decode, fetch, list_keys, loading, rows_of, softmax, write


class Prepare(beam.DoFn):
    """Fetches and decodes; what the network takes is a float image."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, key: str) -> Iterator[tuple[str, np.ndarray]]:
        pixels = decode(fetch(self._job.bucket, key), self._job.side, self._job.crop_fraction)
        yield key, pixels.astype(np.float32) / np.float32(255.0)


class NotingHandler(TFModelHandlerNumpy):
    """Notes when its model was loaded."""

    def load_model(self) -> Any:
        with loading():
            return super().load_model()


class Insert(beam.DoFn):
    """Inserts predictions in batches."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        self._connection = connect(self._job)

    def start_bundle(self) -> None:
        self._rows: list[Any] = []

    def process(self, element: tuple[str, PredictionResult]) -> None:
        key, result = element
        self._rows += rows_of(self._job, [key], softmax(np.asarray(result.inference)[None]))
        if len(self._rows) >= self._job.batch_size:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def teardown(self) -> None:
        self._connection.close()

    def _flush(self) -> None:
        write(self._connection, self._rows)
        self._rows = []


def run(job: Job) -> None:
    """Classify everything under the prefix."""
    handler = NotingHandler(job.saved_model, min_batch_size=job.batch_size, max_batch_size=job.batch_size)
    options = PipelineOptions(
        runner="FnApiRunner",
        direct_num_workers=job.choices["workers"] or cores(),
        direct_running_mode=job.choices["mode"],
    )
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(list_keys(job))
            | beam.Reshuffle()
            | beam.ParDo(Prepare(job))
            | RunInference(KeyedModelHandler(handler))
            | beam.ParDo(Insert(job))
        )
