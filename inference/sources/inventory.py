"""The objects that an S3 Inventory report shows: its ``manifest.json``, and data files in CSV or Parquet beside it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Final

from inference.errors import ManifestError
from inference.planning import parse_address
from inference.ports import ObjectReader
from inference.sources.looking import Lookup
from inference.sources.opening import Checked, lines_of, on_disk, opened, read_whole
from inference.sources.parquet import parquet_rows
from inference.sources.report import DataFile, Report, parse_report
from inference.sources.rows import INVENTORY_COLUMNS, Row, inventory_csv_rows
from inference.types import ListedObject

_MAX_REPORT_BYTES: Final = 64 * 1024 * 1024
"""A report of ten billion objects names some ten thousand files, in two megabytes."""

_BUFFER_BYTES: Final = 1024 * 1024


class InventorySource:
    """Shows the objects of an inventory report as of when it was made, as a stream: memory stays flat.

    The data files are read from the bucket of the ``manifest.json``, where S3 puts them.

    Args:
        address: ``s3://bucket/…/manifest.json``.
        objects: Reads the report, and looks up what it does not say.
    """

    def __init__(self, address: str, objects: ObjectReader) -> None:
        self._address = address
        self._objects = objects

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        """Yield the current objects of the report whose key begins with ``prefix``, in pages of at most 1,000.

        Raises:
            ManifestError: it is missing, damaged, of another bucket, or in a format that is not read here.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ObjectReader``.
        """
        what = f"the inventory report {self._address}"
        with opened(self._address, "inventory", self._objects) as stream:
            report = parse_report(read_whole(stream, what, max_bytes=_MAX_REPORT_BYTES), what)
        if report.source_bucket != bucket:
            raise ManifestError(
                f"{what} is of the bucket {report.source_bucket!r}, and the run is of {bucket!r}; correct one of the "
                "two"
            )
        lookup = Lookup(self._objects, bucket, prefix, what, report.created_at)
        yield from lookup.pages(row for file in report.files for row in self._rows(report, file))

    def _rows(self, report: Report, file: DataFile) -> Iterator[Row]:
        place = parse_address("inventory", self._address)
        address = f"s3://{place[0] if place else ''}/{file.key}"
        what = f"the data file {address}"
        with opened(address, "inventory's data file", self._objects) as stream:
            checked = Checked(stream, file.md5)
            buffered: io.BufferedReader = io.BufferedReader(checked, _BUFFER_BYTES)
            if report.file_format == "Parquet":
                with on_disk(buffered, what) as copy:
                    checked.check(what)
                    yield from parquet_rows(copy, INVENTORY_COLUMNS, what)
            else:
                yield from inventory_csv_rows(lines_of(buffered, what), report.columns, what)
                checked.check(what)
