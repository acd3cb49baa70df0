"""export: rows of a public view -> a CSV, JSON Lines or Parquet file, whole or not at all. Loads pyarrow lazily."""

from __future__ import annotations

import gzip
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

from inference.errors import OutputError, SettingsError
from inference.planning import is_storable

ExportFormat: TypeAlias = Literal["csv", "jsonl", "parquet"]

STANDARD_OUTPUT: Final = "-"

_ENDINGS: Final[dict[str, ExportFormat]] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}

_GROUP_ROWS: Final = 65_536
_GROUP_BYTES: Final = 16 * 1024 * 1024
"""A row group ends at whichever comes first, so that long keys do not make it large."""

_BUFFER_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to."""

    view: str = "latest_prediction"
    output: str = STANDARD_OUTPUT
    """Path of a file; its ending names the format. ``-`` is the standard output."""
    format: ExportFormat | None = None
    """None for what the ending says; CSV on the standard output."""
    bucket: str | None = None
    prefix: str | None = None
    """Beginning of the keys; any string, not a folder."""
    label: str | None = None
    since: datetime | None = None
    """Aware; only rows of this moment or later, by the view's own time."""
    until: datetime | None = None
    """Aware; only rows before this moment."""


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a view."""

    name: str
    kind: str
    """Its type, in Postgres's words."""


def check_export(request: ExportRequest) -> ExportFormat:
    """Refuse an export that cannot be written and return its format.

    Raises:
        SettingsError: names what is wrong and what to give instead.
    """
    output = request.output
    for name, text in (
        ("view", request.view),
        ("bucket", request.bucket),
        ("prefix", request.prefix),
        ("label", request.label),
    ):
        if text is not None and not is_storable(text):
            raise SettingsError(f"{name} is {text!r}; it has to be text in UTF-8, without a NUL")
    if request.since is not None and request.until is not None and request.since >= request.until:
        raise SettingsError(
            f"--since is {request.since.isoformat()}, which is not before --until, {request.until.isoformat()}; "
            "nothing can match"
        )
    if "://" in output:
        raise SettingsError(
            f"--output is {output!r}, and an export is written to a file or to the standard output; pipe it, such as "
            "`python -m inference export | aws s3 cp - s3://bucket/key`"
        )
    chosen = request.format
    if output != STANDARD_OUTPUT:
        path = Path(output)
        ending = _format_of(path)
        if chosen is None and ending is None:
            raise SettingsError(
                f"--output is {output!r}, whose ending names no format; end it in .csv, .jsonl or .parquet "
                "(the first two also with .gz), or give --format"
            )
        chosen = chosen or ending
        if path.exists() and not path.is_file():
            raise SettingsError(f"--output is {output!r}, which is no file; name a file, or - for the standard output")
        if not path.parent.is_dir():
            raise SettingsError(f"--output is {output!r}, and the folder {str(path.parent)!r} is not there; make it")
    chosen = chosen or "csv"
    if chosen == "parquet":
        if output == STANDARD_OUTPUT:
            raise SettingsError("Parquet cannot be written to the standard output; name a file with --output")
        if Path(output).suffix == ".gz":
            raise SettingsError(f"--output is {output!r}, and Parquet is compressed by itself; leave out .gz")
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise SettingsError(
                "pyarrow, which writes Parquet, is not installed here; install nightlabel[parquet], or write CSV"
            ) from None
    return chosen


def _format_of(path: Path) -> ExportFormat | None:
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return _ENDINGS.get(name.suffix.lower())


@contextmanager
def whole_file(output: str) -> Iterator[IO[bytes]]:
    """Lend a file that has its name once the block has ended well; nothing is left of it when the block fails.

    It is written beside its place, under a hidden name that ends in ``.partial``: what was there stays until it is
    replaced, and only a process that is killed outright leaves the hidden file behind.

    Args:
        output: A path, or ``-`` for the standard output, which cannot be taken back.

    Raises:
        OutputError: it cannot be written.
    """
    if output == STANDARD_OUTPUT:
        with _standard_output() as stream:
            yield stream
        return
    # Where a link leads; the link itself stays.
    target = Path(os.path.realpath(output))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with _our_errors(output), partial.open("xb", buffering=_BUFFER_BYTES) as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
                    yield packed  # type: ignore[misc]  # it is written to as a file is
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        with _our_errors(output):
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    if sys.stdout is None:
        raise OutputError("there is no standard output to write to; name a file with --output")
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python would complain once more when it closes standard output at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            "whoever read the standard output has gone, and not everything was written; that is in order if it wanted "
            "no more, as `head` does"
        ) from None
    except OSError as error:
        raise OutputError(f"the standard output cannot be written ({error.strerror or error})") from error


@contextmanager
def _our_errors(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror or error}); nothing of it is left, and what was there before "
            "stays. Make room or name another file"
        ) from error


def write_parquet(
    file: IO[bytes], columns: Sequence[ViewColumn], pages: Iterable[Sequence[Sequence[Any]]]
) -> Iterator[int]:
    """Write rows as Parquet, in row groups of bounded size; yields how many rows each page had once it is taken in.

    Args:
        file: Where to; closed by whoever opened it.
        columns: Of the rows, in their order.
        pages: Some rows at a time, as the database has them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "numeric": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp with time zone": pa.timestamp("us", "UTC"),
    }
    schema = pa.schema(
        [
            (column.name, pa.list_(kinds.get(column.kind.removesuffix("[]"), pa.string())))
            if column.kind.endswith("[]")
            else (column.name, kinds.get(column.kind, pa.string()))
            for column in columns
        ]
    )
    waiting: list[Any] = []
    with pq.ParquetWriter(file, schema) as writer:

        def write_group() -> None:
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting.clear()

        for page in pages:
            values = zip(*page, strict=True)
            arrays = [pa.array(list(column), type=field.type) for column, field in zip(values, schema, strict=True)]
            waiting.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
            yield len(page)
            rows, size_bytes = sum(len(batch) for batch in waiting), sum(batch.nbytes for batch in waiting)
            if rows >= _GROUP_ROWS or size_bytes >= _GROUP_BYTES:
                write_group()
        write_group()
