"""Text and records -> rows, each the name of an object and what is known of it. Pure; streams, a row at a time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import unquote_plus

from inference.errors import ManifestError
from inference.types import clean_etag

if TYPE_CHECKING:
    from _csv import Reader

Field: TypeAlias = Literal["key", "bucket", "etag", "size", "last_modified", "is_latest", "is_delete_marker"]

COLUMNS: Final[Mapping[str, Field]] = {
    "key": "key",
    "objectkey": "key",
    "bucket": "bucket",
    "etag": "etag",
    "size": "size",
    "sizebytes": "size",
    "lastmodified": "last_modified",
    "lastmodifieddate": "last_modified",
}
"""What a manifest's columns or fields mean, by their names in small letters and without underscores."""

INVENTORY_COLUMNS: Final[Mapping[str, Field]] = {
    **COLUMNS,
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
}
"""The same of an inventory report."""

MAX_KEY_BYTES: Final = 1024
"""Longest key that S3 allows, in UTF-8."""

MAX_SIZE_BYTES: Final = 2**63 - 1

_ETAG: Final = re.compile(r"[!#-~]{1,1024}")
_BOM: Final = b"\xef\xbb\xbf"
_TEXT_OF: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Row:
    """One object as a manifest or an inventory names it."""

    key: str
    bucket: str | None = None
    """None if that is not said."""
    etag: str | None = None
    """Without quotes and weak mark; None if that is not said."""
    size_bytes: int | None = None
    last_modified: datetime | None = None
    """Aware, UTC."""


def csv_rows(lines: Iterable[bytes], what: str) -> Iterator[Row]:
    """Yield the rows of a CSV file whose first line names its columns.

    Args:
        lines: Its lines with their ends, in UTF-8.
        what: Its name, for messages.

    Raises:
        ManifestError: names the line, and what is wrong with it.
    """
    reader = csv.reader(_decoded(lines, what), strict=True)
    records = _records(reader, what)
    header = next(records, None)
    if header is None:
        raise ManifestError(f"{what} is empty; its first line has to name its columns, one of which is key")
    columns = find_columns(header, COLUMNS, what)
    for record in records:
        if len(record) != len(header):
            raise ManifestError(
                f"line {reader.line_num} of {what} has {len(record)} fields and the header has {len(header)}; quote "
                "what holds a comma, a quote or a line break"
            )
        try:
            yield _row({field: record[place] for field, place in columns.items()})
        except _WrongError as error:
            raise ManifestError(f"line {reader.line_num} of {what} has {error}") from None


def inventory_csv_rows(lines: Iterable[bytes], schema: Sequence[str], what: str) -> Iterator[Row]:
    """Yield the current versions of a data file of an inventory report in CSV: no header, and keys in URL encoding.

    Args:
        lines: Its lines with their ends.
        schema: Names of its columns, as the report's ``fileSchema`` has them.
        what: Its name, for messages.

    Raises:
        ManifestError: names the line, and what is wrong with it.
    """
    columns = find_columns(schema, INVENTORY_COLUMNS, what)
    reader = csv.reader(_decoded(lines, what), strict=True)
    for record in _records(reader, what):
        if len(record) != len(schema):
            raise ManifestError(
                f"line {reader.line_num} of {what} has {len(record)} fields and the report's fileSchema has "
                f"{len(schema)}; the report is damaged, take another one"
            )
        values: dict[Field, object] = {field: record[place] for field, place in columns.items()}
        try:
            values["key"] = unquote_plus(record[columns["key"]], errors="strict")
            if is_current(values):
                yield _row(values)
        except UnicodeDecodeError:
            raise ManifestError(
                f"line {reader.line_num} of {what} has the key {record[columns['key']]!r}, which is not UTF-8 in URL "
                "encoding; the report is damaged, take another one"
            ) from None
        except _WrongError as error:
            raise ManifestError(f"line {reader.line_num} of {what} has {error}") from None


def json_rows(lines: Iterable[bytes], what: str) -> Iterator[Row]:
    """Yield the rows of a file with a JSON object on each line; arguments and errors as of ``csv_rows``."""
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.isspace() or not text:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"line {number} of {what} is no JSON ({error}); give one JSON object on each line, such as "
                '{"key": "in/a.jpg"}'
            ) from None
        if not isinstance(record, dict):
            raise ManifestError(f'line {number} of {what} is no JSON object; give one, such as {{"key": "in/a.jpg"}}')
        values: dict[Field, object] = {}
        for name, value in record.items():
            field = COLUMNS.get(_plain(name))
            if field is None:
                continue
            if field in values:
                raise ManifestError(f"line {number} of {what} gives {field} twice; give it once")
            values[field] = value
        if "key" not in values:
            raise ManifestError(f"line {number} of {what} has no field key; every object needs one")
        try:
            yield _row(values)
        except _WrongError as error:
            raise ManifestError(f"line {number} of {what} has {error}") from None


def key_rows(lines: Iterable[bytes], what: str) -> Iterator[Row]:
    """Yield the rows of a file with a key on each line, as it is; arguments and errors as of ``csv_rows``."""
    for number, line in enumerate(_decoded(lines, what), start=1):
        key = line.removesuffix("\n").removesuffix("\r")
        if not key:
            continue
        try:
            yield _row({"key": key})
        except _WrongError as error:
            raise ManifestError(f"line {number} of {what} has {error}") from None


def record_row(values: Mapping[Field, object], what: str, number: int) -> Row:
    """Return the row of a record of typed values.

    Args:
        values: By field.
        what: Name of the file, for messages.
        number: The record's place in it, from 1.

    Raises:
        ManifestError: names the row, and what is wrong with it.
    """
    try:
        return _row(values)
    except _WrongError as error:
        raise ManifestError(f"row {number} of {what} has {error}") from None


def find_columns(names: Sequence[str], known: Mapping[str, Field], what: str) -> dict[Field, int]:
    """Return the place of each column that means something here.

    Raises:
        ManifestError: there is no column ``key``, or two columns mean the same.
    """
    found: dict[Field, int] = {}
    for place, name in enumerate(names):
        field = known.get(_plain(name))
        if field is None:
            continue
        if field in found:
            raise ManifestError(f"{what} has the columns {names[found[field]]!r} and {name!r}; keep one of them")
        found[field] = place
    if "key" not in found:
        shown = ", ".join(repr(name[:40]) for name in names[:12])
        raise ManifestError(f"{what} has no column key; it has {shown or 'none'}")
    return found


def is_current(values: Mapping[Field, object]) -> bool:
    """Return whether a record of an inventory shows what its key holds now, not a former version or a deletion."""
    return _is_true(values.get("is_latest"), default=True) and not _is_true(
        values.get("is_delete_marker"), default=False
    )


class _WrongError(Exception):
    """What is wrong with a row, to go on after “the line has”."""


def _is_true(value: object, *, default: bool) -> bool:
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TEXT_OF:
        return _TEXT_OF[value.lower()]
    raise _WrongError(f"{value!r} where true or false is expected")


def _row(values: Mapping[Field, object]) -> Row:
    bucket = values.get("bucket")
    if bucket is not None and not isinstance(bucket, str):
        raise _WrongError(f"the bucket {_shown(bucket)}; it has to be text")
    return Row(
        _key(values["key"]),
        bucket or None,
        _etag(values.get("etag")),
        _size(values.get("size")),
        _moment(values.get("last_modified")),
    )


def _key(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"the key {_shown(value)}; it has to be text")
    if not value:
        raise _WrongError("an empty key")
    # A character takes four bytes at most.
    if len(value) * 4 > MAX_KEY_BYTES and len(value.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise _WrongError(f"a key that begins {value[:40]!r} and is longer than the {MAX_KEY_BYTES:,} bytes of S3")
    return value


def _etag(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _WrongError(f"the etag {_shown(value)}; it has to be text, as the store gave it")
    etag = clean_etag(value)
    if not _ETAG.fullmatch(etag):
        raise _WrongError(f"the etag {value[:80]!r}, which no store gives; leave it out to have it looked up")
    return etag


def _size(value: object) -> int | None:
    if value is None or value == "":
        return None
    size = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20 else value
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_SIZE_BYTES:
        raise _WrongError(f"the size {_shown(value)}; it has to be a number of bytes, 0 or more")
    return size


def _moment(value: object) -> datetime | None:
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(moment, datetime):
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    raise _WrongError(f"the last_modified {_shown(value)}; give a time such as 2026-11-24T02:00:00Z")


def _shown(value: object) -> str:
    return repr(value)[:80] + ("" if isinstance(value, str) else f" ({type(value).__name__})")


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "")


def _decoded(lines: Iterable[bytes], what: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield (line.removeprefix(_BOM) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise ManifestError(f"line {number} of {what} is not UTF-8 ({error.reason}); write it in UTF-8") from None


def _records(reader: Reader, what: str) -> Iterator[list[str]]:
    """Yield the records of a CSV file that are not empty."""
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError(
                f"line {reader.line_num} of {what} is no CSV ({error}); separate by commas, and quote what holds a "
                "comma, a quote or a line break"
            ) from None
        if record:
            yield record
