"""CSV with right labels -> golden images. Looks up in the store what the file does not say; changes nothing."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from inference.errors import GoldenSetError, ObjectAccessDeniedError
from inference.gate.figures import GoldenImage
from inference.ports import ObjectReader
from inference.sources.opening import lines_of, opened
from inference.types import LabelMap, clean_etag, key_of, stored_key

COLUMNS: Final[Mapping[str, str]] = {
    "bucket": "bucket",
    "key": "key",
    "objectkey": "key",
    "etag": "etag",
    "label": "label",
    "labelid": "label_id",
}
"""What columns mean, by their names in small letters and without underscores; others are let be."""

MAX_IMAGES: Final = 100_000
"""More would make a check of hours."""

_MAX_KEY_BYTES: Final = 1024
_ETAG: Final = re.compile(r"[!#-~]{1,1024}")
_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    bucket: str
    key: str
    etag: str | None
    label_id: str


def read_golden_file(address: str, objects: ObjectReader, labels: LabelMap, *, bucket: str | None) -> list[GoldenImage]:
    """Return the golden images that a CSV file names, each once.

    Its first line names its columns: ``key`` (or ``object_key``), ``label_id`` or ``label``, and, where the command
    does not say it, ``bucket``; ``etag`` if it is known, which a look at the store gives otherwise.

    Args:
        address: ``s3://bucket/key``, or a path on this machine; also as gzip.
        objects: Reads what is in a bucket, and looks up what has no ETag.
        labels: The label map that the labels have to be in.
        bucket: Bucket of rows that name none.

    Raises:
        GoldenSetError: names the line and the column, and what is wrong there.
        ManifestError: the file is missing, cut short, or must not be read.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ObjectReader.head``.
    """
    what = f"the golden set {address}"
    with opened(address, "golden set", objects) as stream:
        rows = _without_repetitions(_rows(lines_of(stream, what), what, _LabelIds(labels), bucket), what)
    if not rows:
        raise GoldenSetError(f"{what} has no rows below its header; give an image with its label on each line")
    etags = _look_up([row for row in rows if row.etag is None], objects, what)
    return [GoldenImage(row.bucket, row.key, row.etag or etags[row.line], row.label_id) for row in rows]


class _LabelIds:
    """Finds the id of a label."""

    def __init__(self, labels: LabelMap) -> None:
        self._names = {label.label_id: label.name for label in labels}
        self._ids: dict[str, list[str]] = defaultdict(list)
        for label in labels:
            self._ids[label.name].append(label.label_id)

    def find(self, label_id: str, name: str) -> str:
        """Return the id.

        Raises:
            _WrongError: there is none, or several.
        """
        if label_id:
            if label_id not in self._names:
                raise _WrongError("label_id", f"{label_id!r}, which is no id of the label map")
            if name and self._names[label_id] != name:
                raise _WrongError("label", f"{name!r}, and the label map calls {label_id} {self._names[label_id]!r}")
            return label_id
        if not name:
            raise _WrongError("label", "nothing, and the right label is needed")
        ids = self._ids.get(name, [])
        if len(ids) > 1:
            raise _WrongError("label", f"{name!r}, which is the name of {' and '.join(ids)}; give its label_id")
        if not ids:
            raise _WrongError("label", f"{name!r}, which is no label of the label map")
        return ids[0]


class _WrongError(Exception):
    """A column, and what is wrong in it."""


def _rows(lines: Iterable[bytes], what: str, ids: _LabelIds, bucket: str | None) -> Iterator[_Row]:
    reader = csv.reader(_decoded(lines, what), strict=True)
    try:
        columns: dict[str, int] | None = None
        width = 0
        for record in reader:
            if not record:
                continue
            if columns is None:
                columns, width = _columns(record, what, bucket), len(record)
                continue
            line = reader.line_num
            if len(record) != width:
                raise GoldenSetError(
                    f"line {line} of {what} has {len(record)} fields and the header has {width}; quote what holds a "
                    "comma, a quote or a line break"
                )
            try:
                yield _row(line, {name: record[place] for name, place in columns.items()}, ids, bucket)
            except _WrongError as error:
                column, wrong = error.args
                raise GoldenSetError(f"line {line} of {what} has in column {column} {wrong}") from None
    except csv.Error as error:
        raise GoldenSetError(
            f"line {reader.line_num} of {what} is no CSV ({error}); separate by commas, and quote what holds a "
            "comma, a quote or a line break"
        ) from None
    if columns is None:
        raise GoldenSetError(f"{what} is empty; its first line has to name its columns, such as key,label_id")


def _decoded(lines: Iterable[bytes], what: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise GoldenSetError(f"line {number} of {what} is not UTF-8 ({error.reason}); write it in UTF-8") from None
        yield text.removeprefix(_BOM) if number == 1 else text


def _columns(header: Sequence[str], what: str, bucket: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, name in enumerate(header):
        meaning = COLUMNS.get(name.strip().lower().replace("_", ""))
        if meaning is None:
            continue
        if meaning in found:
            raise GoldenSetError(f"{what} has the columns {header[found[meaning]]!r} and {name!r}; keep one of them")
        found[meaning] = place
    shown = ", ".join(repr(name[:40]) for name in header[:12])
    if "key" not in found:
        raise GoldenSetError(f"{what} has no column key; it has {shown}")
    if "label_id" not in found and "label" not in found:
        raise GoldenSetError(f"{what} has no column label_id, nor one label; it has {shown}")
    if "bucket" not in found and bucket is None:
        raise GoldenSetError(f"{what} has no column bucket; add it, or give --bucket for all of its rows")
    return found


def _row(line: int, values: Mapping[str, str], ids: _LabelIds, bucket: str | None) -> _Row:
    key = key_of(values["key"])  # as an export of a view has it, or as it is
    if not key:
        raise _WrongError("key", "nothing, and a key is needed")
    try:
        stored_key(key)
    except UnicodeEncodeError:
        raise _WrongError("key", f"{key[:40]!r}, which no store can hold") from None
    if len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES:
        raise _WrongError(
            "key", f"a key that begins {key[:40]!r} and is longer than the {_MAX_KEY_BYTES:,} bytes of S3"
        )
    named = values.get("bucket", "") or bucket
    if not named:
        raise _WrongError("bucket", "nothing; name the bucket, or give --bucket")
    if "\x00" in named:
        raise _WrongError("bucket", f"{named[:40]!r}, which is no name of a bucket")
    etag = clean_etag(values.get("etag", ""))
    if etag and not _ETAG.fullmatch(etag):
        raise _WrongError("etag", f"{etag[:80]!r}, which no store gives; leave it empty to have it looked up")
    label_id = ids.find(values.get("label_id", "").strip(), values.get("label", "").strip())
    return _Row(line, named, key, etag or None, label_id)


def _without_repetitions(rows: Iterable[_Row], what: str) -> list[_Row]:
    """Return each object once.

    Raises:
        GoldenSetError: one stands there twice with different labels, or versions; or there are too many.
    """
    seen: dict[tuple[str, str], _Row] = {}
    for row in rows:
        former = seen.setdefault((row.bucket, row.key), row)
        if former.label_id != row.label_id:
            raise GoldenSetError(
                f"lines {former.line} and {row.line} of {what} give {row.key!r} the labels {former.label_id} and "
                f"{row.label_id}; keep one of them"
            )
        if former.etag and row.etag and former.etag != row.etag:
            raise GoldenSetError(
                f"lines {former.line} and {row.line} of {what} give {row.key!r} the ETags {former.etag} and "
                f"{row.etag}; keep the present one"
            )
        if row.etag and not former.etag:
            seen[row.bucket, row.key] = row
        if len(seen) > MAX_IMAGES:
            raise GoldenSetError(f"{what} names more than {MAX_IMAGES:,} images; a sample of them tells as much")
    return list(seen.values())


def _look_up(rows: Sequence[_Row], objects: ObjectReader, what: str) -> dict[int, str]:
    """Return line -> ETag of what the key holds now.

    Raises:
        GoldenSetError: some keys hold nothing, or are refused; names the first.
    """
    if not rows:
        return {}

    def etag_of(row: _Row) -> str | None:
        try:
            found = objects.head(row.bucket, row.key)
        except ObjectAccessDeniedError:
            return None
        return None if found is None else found.etag

    with ThreadPoolExecutor(objects.connections, "look-up") as pool:
        etags = list(pool.map(etag_of, rows))
    missing = [row for row, etag in zip(rows, etags, strict=True) if etag is None]
    if missing:
        first = missing[0]
        raise GoldenSetError(
            f"line {first.line} of {what} has in column key {first.key!r}, which is not in the bucket "
            f"{first.bucket!r}, or must not be read; so it is with {len(missing)} of {len(rows)} keys without an ETag"
        )
    return {row.line: etag for row, etag in zip(rows, etags, strict=True) if etag is not None}
