"""Rows -> pages of objects of one bucket and prefix; what a row does not say is looked up in the store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from inference.errors import ManifestError, ObjectAccessDeniedError, StoreCredentialsError
from inference.ports import ObjectReader
from inference.sources.rows import Row
from inference.types import ListedObject, stored_key

logger = logging.getLogger(__name__)

PAGE_SIZE: Final = 1_000


class Lookup:
    """Turns rows into objects, a page at a time, and says at the end what it left out and why.

    A row with ETag, size and time of last modification is taken as it is; any other one is looked up, and what its key
    holds now counts. Rows of other buckets, and keys that hold nothing or are refused, are left out and counted.

    Args:
        objects: Looks objects up, as many at a time as it has connections.
        bucket: The run's.
        prefix: Beginning of the keys that count.
        what: Name of what holds the rows, for messages.
        described_at: When all rows were true; None if each was when its object was last modified.
    """

    def __init__(
        self, objects: ObjectReader, bucket: str, prefix: str, what: str, described_at: datetime | None = None
    ) -> None:
        self._objects, self._bucket, self._prefix, self._what = objects, bucket, prefix, what
        self._described_at = described_at
        self._rows = self._found = self._looked_up = 0
        self._others, self._unstorable = _Count(), _Count()
        self._missing, self._refused = _Count(), _Count()
        self._refusal: ObjectAccessDeniedError | None = None

    def pages(self, rows: Iterator[Row]) -> Iterator[Sequence[ListedObject]]:
        """Yield the objects in pages of at most 1,000.

        Raises:
            ManifestError: every row is of another bucket.
            StoreCredentialsError: the store refuses every object that was looked up, and no other row is left.
            BucketMissingError, StoreUnavailableError: as of ``ObjectReader.head``.
        """
        chosen = (row for row in rows if self._concerns(row))
        with ThreadPoolExecutor(self._objects.connections, "look-up") as pool:
            while chunk := list(itertools.islice(chosen, PAGE_SIZE)):
                described = [_described(row, self._bucket, self._described_at) for row in chunk]
                unknown = [row for row, found in zip(chunk, described, strict=True) if found is None]
                answers = pool.map(self._look_up, unknown)
                looked_up = [self._seen(row, answer) for row, answer in zip(unknown, answers, strict=True)]
                page = [found for found in (*described, *looked_up) if found is not None]
                self._found += len(page)
                yield page
        self._tell()

    def _concerns(self, row: Row) -> bool:
        self._rows += 1
        if row.bucket is not None and row.bucket != self._bucket:
            self._others.add(row.bucket)
            return False
        if not row.key.startswith(self._prefix):
            return False
        try:
            stored_key(row.key)
        except UnicodeEncodeError:
            self._unstorable.add(row.key)
            return False
        return True

    def _look_up(self, row: Row) -> ListedObject | ObjectAccessDeniedError | None:
        try:
            return self._objects.head(self._bucket, row.key)
        except ObjectAccessDeniedError as error:
            return error

    def _seen(self, row: Row, found: ListedObject | ObjectAccessDeniedError | None) -> ListedObject | None:
        self._looked_up += 1
        if isinstance(found, ObjectAccessDeniedError):
            self._refusal = self._refusal or found
            self._refused.add(row.key)
            return None
        if found is None:
            self._missing.add(row.key)
        return found

    def _tell(self) -> None:
        what, others = self._what, self._others
        if others.count and others.count == self._rows:
            raise ManifestError(
                f"every one of the {self._rows:,} rows of {what} is of another bucket, such as {others.example!r}, "
                f"and the run is of {self._bucket!r}; correct one of the two"
            )
        if self._refusal is not None and not self._found:
            raise StoreCredentialsError(f"of {what} nothing can be looked up: {self._refusal}") from self._refusal
        logger.info(
            "Read %d rows of %s: %d objects, %d of them looked up", self._rows, what, self._found, self._looked_up
        )
        if not self._rows:
            logger.warning("There are no rows in %s", what)
        elif not self._found and not self._missing.count and not self._unstorable.count:
            logger.warning("None of the %d rows of %s has a key that begins with %r", self._rows, what, self._prefix)
        for left_out, why in (
            (others, "are of another bucket"),
            (self._missing, "name an object that is not there"),
            (self._refused, f"name an object that the store refuses ({self._refusal})"),
            (self._unstorable, "have a key that no store can hold"),
        ):
            if left_out.count:
                logger.warning(
                    "Left out %d rows of %s that %s, such as %r", left_out.count, what, why, left_out.example
                )


class _Count:
    """How many, and the first of them."""

    __slots__ = ("count", "example")

    def __init__(self) -> None:
        self.count = 0
        self.example = ""

    def add(self, example: str) -> None:
        if not self.count:
            self.example = example
        self.count += 1


def _described(row: Row, bucket: str, described_at: datetime | None) -> ListedObject | None:
    """Return the object of a row that says everything about it; None for any other row."""
    if row.etag is None or row.size_bytes is None or row.last_modified is None:
        return None
    # What was modified after a report was begun was seen later still.
    seen_at = row.last_modified if described_at is None else max(described_at, row.last_modified)
    return ListedObject(bucket, row.key, row.etag, row.size_bytes, row.last_modified, seen_at)
