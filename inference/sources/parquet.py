"""Rows of a Parquet file, some at a time. Loads pyarrow when it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from inference.errors import ManifestError
from inference.sources.rows import Field, Row, find_columns, is_current, record_row

_ROWS_AT_ONCE: Final = 1_000
_BUFFER_BYTES: Final = 1024 * 1024


def parquet_rows(file: IO[bytes], known: Mapping[str, Field], what: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file that show what their key holds now.

    Args:
        file: It can be read in any order.
        known: What its columns mean, by their plain names.
        what: Its name, for messages.

    Raises:
        ManifestError: damaged, or a row that cannot be, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ManifestError(
            f"{what} is in Parquet, and pyarrow, which reads that, is not installed here; install nightlabel[parquet], "
            "or write CSV"
        ) from None

    number = 0
    try:
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
        names: list[str] = list(parquet.schema_arrow.names)
        columns = find_columns(names, known, what)
        wanted = [names[place] for place in columns.values()]
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            lists = {field: _values(pa, batch.column(names[place])) for field, place in columns.items()}
            for values in zip(*lists.values(), strict=True):
                number += 1
                record: dict[Field, object] = dict(zip(lists, values, strict=True))
                if isinstance(record["key"], bytes):
                    record["key"] = record["key"].decode()
                if is_current(record):
                    yield record_row(record, what, number)
    except UnicodeDecodeError:
        raise ManifestError(f"row {number} of {what} has a key that is not UTF-8; correct it") from None
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise ManifestError(f"{what} cannot be read as Parquet ({said}); write it anew") from error


def _values(pa: Any, column: Any) -> list[object]:  # noqa: ANN401 - pyarrow has no types
    """Return a column's values as Python has them; times without an offset are UTC."""
    if pa.types.is_timestamp(column.type):
        # Python has no nanoseconds.
        column = column.cast(pa.timestamp("us", "UTC" if column.type.tz else None), safe=False)
    values: list[object] = column.to_pylist()
    return values
