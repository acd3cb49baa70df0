"""What all peers share: the job, the store's client, the decoder, the models, the table. No peer's library here."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

EVENTS = "BENCH_EVENTS"
"""Variable that names the file of events."""
INSERT = "INSERT INTO peer_prediction (peer, object_key, label_id, score, predicted_at) VALUES (%s, %s, %s, %s, %s)"
COLUMNS = ("peer", "object_key", "label_id", "score", "predicted_at")


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is to do; the store is found by the ``AWS_*`` variables."""

    peer: str
    """Written with every row."""
    bucket: str
    prefix: str
    database: str
    """URL."""
    engine: str
    """``tensorflow`` or ``litert``."""
    saved_model: str
    """Folder; input ``images`` float32 (batch, side, side, 3), 0 to 1, output ``logits``."""
    litert_model: str
    """File; input uint8, 0 to 255, output logits."""
    label_ids: tuple[str, ...]
    """In column order."""
    side: int
    """Pixels of the model's input."""
    crop_fraction: float
    batch_size: int
    threads: int
    """Of the engine."""
    choices: dict[str, Any]
    """The peer's own, such as how many processes decode."""


def make_client(connections: int = 16) -> Any:
    """Return an S3 client."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=connections, s3={"addressing_style": "path"}))


@cache
def client_of_process() -> Any:
    """Return this process's client; made once."""
    return make_client()


def list_keys(job: Job) -> list[str]:
    """Return every key under the prefix."""
    pages = make_client().get_paginator("list_objects_v2").paginate(Bucket=job.bucket, Prefix=job.prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def note(event: str) -> None:
    """Note that something happened now, in the file that all processes of a peer share."""
    with open(os.environ[EVENTS], "a", encoding="ascii") as file:
        file.write(f"{event} {time.time()!r}\n")


@cache
def note_first_fetch() -> None:
    """Note that this process fetches its first object; later calls do nothing."""
    note("fetch")


@contextmanager
def loading() -> Iterator[None]:
    """Note when the model began to load and when it was ready."""
    note("loading")
    yield
    note("ready")


def fetch(bucket: str, key: str) -> bytes:
    """Return an object's bytes."""
    note_first_fetch()
    data: bytes = client_of_process().get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


def decode(data: bytes, side: int, crop_fraction: float) -> np.ndarray:
    """Return the middle of an image as uint8 (side, side, 3); the same pixels as the product's for an upright photo."""
    with Image.open(io.BytesIO(data)) as image:
        photo = image.convert("RGB")
    crop = max(1, int(crop_fraction * min(photo.size)))
    left, top = (photo.width - crop) // 2, (photo.height - crop) // 2
    square = photo.crop((left, top, left + crop, top + crop))
    return np.array(square.resize((side, side), Image.Resampling.BICUBIC))


class TensorFlowModel:
    """The SavedModel, loaded once and warmed up."""

    def __init__(self, job: Job) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        self._tf = tf
        self._model = tf.saved_model.load(job.saved_model)
        signature = self._model.signatures["serving_default"]

        def from_pixels(pixels: Any) -> Any:
            return tf.nn.softmax(signature(images=tf.cast(pixels, tf.float32) / 255.0)["logits"])

        spec = tf.TensorSpec((None, job.side, job.side, 3), tf.uint8)
        self._function = tf.function(from_pixels, input_signature=[spec], autograph=False).get_concrete_function()
        self.predict(np.zeros((job.batch_size, job.side, job.side, 3), np.uint8))

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities (batch, labels) of uint8 pixels."""
        answer: np.ndarray = self._function(self._tf.constant(pixels)).numpy()
        return answer


class LiteRTModel:
    """The converted model in LiteRT, loaded once and warmed up."""

    def __init__(self, job: Job) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=job.litert_model, num_threads=job.threads)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = 0
        self.predict(np.zeros((job.batch_size, job.side, job.side, 3), np.uint8))

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities (batch, labels) of uint8 pixels."""
        if len(pixels) != self._batch:
            self._interpreter.resize_tensor_input(self._input, list(pixels.shape), strict=True)
            self._interpreter.allocate_tensors()
            self._batch = len(pixels)
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(pixels))
        self._interpreter.invoke()
        return softmax(self._interpreter.get_tensor(self._output))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, row by row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    answer: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return answer


def load_model(job: Job) -> TensorFlowModel | LiteRTModel:
    """Return the job's model."""
    with loading():
        return LiteRTModel(job) if job.engine == "litert" else TensorFlowModel(job)


def best(scores: np.ndarray, job: Job) -> tuple[list[str], list[float]]:
    """Return the best label's id and score of each row."""
    columns = scores.argmax(axis=1)
    return [job.label_ids[column] for column in columns], scores[np.arange(len(scores)), columns].tolist()


def rows_of(job: Job, keys: Sequence[str], scores: np.ndarray) -> list[tuple[str, str, str, float, datetime]]:
    """Return the rows of a batch that was just predicted."""
    label_ids, top = best(scores, job)
    now = datetime.now(UTC)
    return [(job.peer, *row, now) for row in zip(keys, label_ids, top, strict=True)]


def connect(job: Job) -> Any:
    """Return a connection to the database."""
    import psycopg

    return psycopg.connect(job.database)


def write(connection: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows in one transaction."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(INSERT, list(rows))


def batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield slices of ``size``; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
