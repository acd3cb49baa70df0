"""The objects that a manifest names: a CSV, JSON Lines, Parquet or plain text file, in a bucket or on disk."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from inference.errors import ManifestError
from inference.ports import ObjectReader
from inference.sources.looking import Lookup
from inference.sources.opening import is_parquet, lines_of, on_disk, opened
from inference.sources.parquet import parquet_rows
from inference.sources.rows import COLUMNS, Row, csv_rows, json_rows, key_rows
from inference.types import ListedObject, key_of

_READERS: Final = {
    ".csv": csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".txt": key_rows,
}


class ManifestSource:
    """Shows the objects that a manifest names, as a stream: memory does not grow with its length.

    Args:
        address: ``s3://bucket/key``, or a path on this machine.
        objects: Reads a manifest that is in a bucket, and looks up what it does not say.
    """

    def __init__(self, address: str, objects: ObjectReader) -> None:
        self._address = address
        self._objects = objects

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        """Yield the objects that the manifest names whose key begins with ``prefix``, in pages of at most 1,000.

        Raises:
            ManifestError: it is missing, damaged, has a row that cannot be, or is of other buckets only.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ObjectReader``.
        """
        what = f"the manifest {self._address}"
        with opened(self._address, "manifest", self._objects) as stream:
            yield from Lookup(self._objects, bucket, prefix, what).pages(map(_as_stored, self._rows(stream, what)))

    def _rows(self, stream: io.BufferedReader, what: str) -> Iterator[Row]:
        name = posixpath.basename(self._address).lower()
        if name == "manifest.json":
            raise ManifestError(f"{what} looks like that of an S3 Inventory report; give it as inventory instead")
        if is_parquet(stream, what):
            with on_disk(stream, what) as file:
                yield from parquet_rows(file, COLUMNS, what)
            return
        ending = posixpath.splitext(name.removesuffix(".gz"))[1]
        if ending == ".parquet":
            raise ManifestError(f"{what} does not begin as a Parquet file does; write it anew")
        if ending not in _READERS:
            raise ManifestError(
                f"the name of {what} does not say what it is; it has to end in .csv, .jsonl, .parquet or .txt "
                "(a key on each line), or in one of these and .gz"
            )
        yield from _READERS[ending](lines_of(stream, what), what)


def _as_stored(row: Row) -> Row:
    """Return a row with its key as the store has it: an export of a view is a manifest, and has keys as views do."""
    key = key_of(row.key)
    return row if key == row.key else replace(row, key=key)
