"""The ``manifest.json`` of an S3 Inventory report: which bucket it shows, as of when, in which data files. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from inference.errors import ManifestError

_MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One of a report's data files."""

    key: str
    md5: str | None
    """32 hexadecimal digits in small letters; None if the report does not say."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report's ``manifest.json`` says."""

    source_bucket: str
    created_at: datetime
    """Aware, UTC: when S3 began to write the report."""
    file_format: Literal["CSV", "Parquet"]
    columns: tuple[str, ...]
    """Names of the columns of data files in CSV, in order; empty for Parquet, whose files say it themselves."""
    files: tuple[DataFile, ...]


def parse_report(data: bytes, what: str) -> Report:
    """Return what a ``manifest.json`` says.

    Args:
        data: The whole of it.
        what: Its address, for messages.

    Raises:
        ManifestError: it is none, or its data files are in a format that is not read here.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{what} is no JSON ({error}); give the manifest.json of an S3 Inventory report, or a manifest as manifest"
        ) from None
    source, file_format = _text(found, "sourceBucket", what), _text(found, "fileFormat", what)
    if file_format not in {"CSV", "Parquet"}:
        raise ManifestError(
            f"the data files of the inventory report {what} are in {file_format[:40]}, expected CSV or Parquet; "
            "configure one of these for the inventory"
        )
    listed = found.get("files")
    if not isinstance(listed, list):
        raise ManifestError(f"{what} has no list of files; give the manifest.json of an S3 Inventory report")
    schema = _text(found, "fileSchema", what) if file_format == "CSV" else ""
    return Report(
        source_bucket=source,
        created_at=_created_at(found.get("creationTimestamp"), what),
        file_format="CSV" if file_format == "CSV" else "Parquet",
        columns=tuple(name.strip() for name in schema.split(",")) if schema else (),
        files=tuple(_data_file(file, what) for file in listed),
    )


def _data_file(found: object, what: str) -> DataFile:
    key = _text(found, "key", what)
    md5 = found.get("MD5checksum") if isinstance(found, dict) else None
    if md5 is not None and not (isinstance(md5, str) and _MD5.fullmatch(md5.lower())):
        raise ManifestError(f"{what} gives {key!r} the MD5checksum {md5!r}; 32 hexadecimal digits are expected")
    return DataFile(key, None if md5 is None else md5.lower())


def _text(found: Any, name: str, what: str) -> str:  # noqa: ANN401 - whatever JSON holds
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{what} has no {name}; give the manifest.json of an S3 Inventory report")
    return value


def _created_at(value: object, what: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(str(value)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise ManifestError(
            f"the creationTimestamp of {what} is {value!r}; milliseconds since 1970 are expected"
        ) from None
