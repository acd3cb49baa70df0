"""Pages of a listing in the form in which Postgres copies them fastest. Pure."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from inference.types import ListedObject, clean_etag, stored_key

logger = logging.getLogger(__name__)

BEGINNING: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What comes before the first row of a copy in binary format."""

END: Final = b"\xff\xff"
"""What comes after the last one."""

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_HEAD: Final = struct.Struct(">hi16si").pack
_BETWEEN: Final = struct.Struct(">i").pack
_TAIL: Final = struct.Struct(">iqiq").pack
_TIME: Final = struct.Struct(">iq").pack
_NULL: Final = struct.pack(">i", -1)
_COLUMNS: Final = 6
_ODD: Final = b"\0"


def binary_rows(page: Sequence[ListedObject], *, encoding: str = "utf-8") -> bytes:
    """Return the rows (image_id, object_key, etag, size_bytes, last_modified, seen_at) of a page.

    The columns are of the types uuid, text, text, bigint, timestamptz and timestamptz. A key that Postgres cannot store
    as text is stored as ``types.stored_key`` says; one that no store can hold is left out, and logged.

    Args:
        page: Objects of one bucket.
        encoding: How the connection encodes text, in Python's words.
    """
    return b"".join(_rows(page, encoding))


def _rows(page: Sequence[ListedObject], encoding: str) -> Iterator[bytes]:
    sha256, is_utf8 = hashlib.sha256, encoding in {"utf-8", "utf8"}
    for found in page:
        stored = found.key
        try:
            key = stored.encode()
        except UnicodeEncodeError:
            key = _ODD
        is_odd = b"\0" in key or b"\xf4\x8f" in key  # how the characters begin that stand for bytes
        if is_odd:
            try:
                stored, key = stored_key(stored), stored.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                logger.warning("Left out the key %r: no store can hold it", found.key)
                continue
        etag = clean_etag(found.etag).encode("utf-8", "surrogateescape")
        identity = sha256(b"%b\0%b\0%b" % (found.bucket.encode("utf-8", "surrogateescape"), key, etag)).digest()
        text = found.etag.encode(encoding)
        if is_odd or not is_utf8:
            key = stored.encode(encoding)
        yield _HEAD(_COLUMNS, 16, identity[:16], len(key))
        yield key
        yield _BETWEEN(len(text))
        yield text
        yield _TAIL(8, found.size_bytes, 8, _microseconds(found.last_modified))
        yield _NULL if found.seen_at is None else _TIME(8, _microseconds(found.seen_at))


def _microseconds(moment: datetime) -> int:
    """Return a moment as Postgres counts it."""
    since = moment - _POSTGRES_EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
