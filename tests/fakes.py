"""Fakes of the ports: state that a test can read, no patching. Contract tests hold them to the real adapters."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from inference.errors import (
    BucketMissingError,
    ImageGoneError,
    InferenceError,
    ObjectAccessDeniedError,
    ObjectTooLargeError,
)
from inference.types import (
    ImageRef,
    Label,
    LabelMap,
    ListedObject,
    ModelId,
    ObjectContent,
    PixelBatch,
    Preprocessing,
    Scores,
)

FAKE_TIME = datetime(2026, 11, 1, tzinfo=UTC)
"""When every object here was last modified."""


class FakeStore:
    """One bucket in memory."""

    def __init__(
        self, objects: Mapping[str, bytes] | None = None, *, bucket: str = "photos", page_size: int = 3
    ) -> None:
        self.bucket = bucket
        self.page_size = page_size
        self.objects: dict[str, bytes] = dict(objects or {})
        self.denied: set[str] = set()
        """Keys that may be listed but not read."""
        self.trouble: InferenceError | None = None
        """What every call raises, if anything."""
        self.fetched: list[str] = []
        """Keys in the order in which they were asked for."""

    def put(self, key: str, body: bytes) -> str:
        self.objects[key] = body
        return etag_of(body)

    def delete(self, key: str) -> None:
        del self.objects[key]

    def ref(self, key: str) -> ImageRef:
        """The image version that a key holds now."""
        return ImageRef(self.bucket, key, etag_of(self.objects[key]), len(self.objects[key]))

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        self._check(bucket)
        listed = [
            ListedObject(bucket, key, etag_of(body), len(body), FAKE_TIME)
            for key, body in sorted(self.objects.items(), key=lambda entry: entry[0].encode("utf-8", "surrogateescape"))
            if key.startswith(prefix)
        ]
        for start in range(0, len(listed), self.page_size):
            yield listed[start : start + self.page_size]

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        self._check(ref.bucket)
        self.fetched.append(ref.key)
        body = self.objects.get(ref.key)
        if ref.key in self.denied:
            raise ObjectAccessDeniedError("the object store refuses this object")
        if body is None:
            raise ImageGoneError("the object was deleted after it was listed")
        if ref.etag and etag_of(body) != ref.etag:
            raise ImageGoneError("the object was overwritten after it was listed")
        if len(body) > max_bytes:
            raise ObjectTooLargeError(f"the object has {len(body):,} bytes, more than the {max_bytes:,} bytes allowed")
        return ObjectContent(body, is_etag_md5=ref.etag == etag_of(body))

    def _check(self, bucket: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        if bucket != self.bucket:
            raise BucketMissingError(f"there is no bucket {bucket!r}")


class FakeHandle:
    """A model that looks at the red of the first pixel only, so that a mix-up between images shows.

    Full red is the first label, no red the last; the best label has a score of 0.9.
    """

    def __init__(
        self,
        labels: Sequence[str] = ("cat", "dog"),
        *,
        model_id: ModelId | None = None,
        height: int = 4,
        width: int = 4,
        best_batch_size: int = 4,
    ) -> None:
        self.labels: LabelMap = tuple(Label(name, f"n{index:08}") for index, name in enumerate(labels))
        self.model_id = model_id or ModelId("fake", "1")
        self.preprocessing = Preprocessing(height, width, crop_fraction=1.0, resize_filter="nearest")
        self.engine = "litert"
        self.best_batch_size = best_batch_size
        self.parallel_calls = 1
        self.batch_sizes: list[int] = []
        """Images of each call so far."""

    def predict(self, pixels: PixelBatch) -> Scores:
        self.batch_sizes.append(len(pixels))
        last = len(self.labels) - 1
        best = np.rint((255 - pixels[:, 0, 0, 0].astype(float)) / 255 * last).astype(int)
        scores = np.full((len(pixels), len(self.labels)), 0.1 / last if last else 0.0, np.float32)
        scores[np.arange(len(pixels)), best] = 0.9 if last else 1.0
        return scores


class FakeClock:
    """Time that only moves when a test moves it, or by ``step_s`` at each look."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def etag_of(body: bytes) -> str:
    """The ETag that stores give an object that was uploaded in one piece."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class FakeObjects:
    """Objects of any bucket in memory, by bucket and key, looked up and read one by one."""

    def __init__(self, objects: Mapping[tuple[str, str], bytes] | None = None, *, connections: int = 4) -> None:
        self.objects = dict(objects or {})
        self.connections = connections
        self.denied: set[str] = set()
        """Keys that are refused."""
        self.trouble: Exception | None = None
        """What every call raises, if anything."""
        self.looked_up: list[str] = []
        """Keys in the order in which they were asked for."""

    def head(self, bucket: str, key: str) -> ListedObject | None:
        if self.trouble is not None:
            raise self.trouble
        self.looked_up.append(key)
        if key in self.denied:
            raise ObjectAccessDeniedError("the object store refuses this object")
        body = self.objects.get((bucket, key))
        return None if body is None else ListedObject(bucket, key, etag_of(body), len(body), FAKE_TIME)

    def open(self, bucket: str, key: str) -> io.BufferedReader:
        if self.trouble is not None:
            raise self.trouble
        if key in self.denied:
            raise PermissionError("the object store refuses this object")
        if (bucket, key) not in self.objects:
            raise FileNotFoundError(key)
        return io.BufferedReader(io.BytesIO(self.objects[bucket, key]))
