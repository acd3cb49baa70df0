"""Opens what names a run's objects, in a bucket or on disk, as a stream; trouble with it becomes a sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

from inference.errors import ManifestError
from inference.planning import parse_address
from inference.ports import ObjectReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line: a key has 1,024 bytes at most, and escaped it has some thousand."""

_PIECE_BYTES: Final = 1024 * 1024


@contextmanager
def opened(address: str, name: str, objects: ObjectReader) -> Iterator[io.BufferedReader]:
    """Open an address ``s3://bucket/key`` or a path, to be read once.

    Args:
        address: Where it is.
        name: What was given it as, for messages: ``manifest`` or ``inventory``.
        objects: Reads what is in a bucket.

    Raises:
        ManifestError: it is not there, or must not be read.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ObjectReader.open``.
    """
    place = parse_address(name, address)
    try:
        stream = open(address, "rb") if place is None else objects.open(*place)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise ManifestError(f"there is no {address}, which is given as the {name}; correct the address") from None
    except PermissionError as error:
        raise ManifestError(f"the {name} {address} must not be read ({error}); allow it") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"the {name} {address} cannot be read ({error}); correct the address") from None
    with stream:
        yield stream


def lines_of(stream: io.BufferedReader, what: str) -> Iterator[bytes]:
    """Yield the lines of a text with their ends, decompressed if it is gzip.

    Raises:
        ManifestError: damaged or cut short, or something else than lines.
    """
    number = 0
    with _reading(what):
        text = gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == b"\x1f\x8b" else stream
    while True:
        number += 1
        with _reading(what):
            line = text.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise ManifestError(
                f"line {number} of {what} has more than {MAX_LINE_BYTES:,} bytes; give one object on each line"
            )
        yield line


def is_parquet(stream: io.BufferedReader, what: str) -> bool:
    """Return whether a stream begins as Parquet does; nothing of it is consumed."""
    with _reading(what):
        return stream.peek(4)[:4] == b"PAR1"


@contextmanager
def on_disk(stream: io.BufferedReader, what: str) -> Iterator[IO[bytes]]:
    """Copy a stream into a temporary file that can be read in any order.

    Raises:
        ManifestError: it cannot be read, or there is no room for it.
    """
    with _room_for(what):
        file = tempfile.TemporaryFile(prefix="nightlabel-")  # noqa: SIM115 - closed below
    with file:
        while True:
            with _reading(what):
                piece = stream.read(_PIECE_BYTES)
            if not piece:
                break
            with _room_for(what):
                file.write(piece)
        with _room_for(what):
            file.seek(0)
        yield file


@contextmanager
def _room_for(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ManifestError(
            f"there is no room for a copy of {what} in the folder for temporary files ({error.strerror}); free some, "
            "or name another folder with TMPDIR"
        ) from None


def read_whole(stream: io.BufferedReader, what: str, *, max_bytes: int) -> bytes:
    """Return all of a stream.

    Raises:
        ManifestError: it cannot be read, or has more bytes than allowed.
    """
    with _reading(what):
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ManifestError(f"{what} has more than {max_bytes:,} bytes, which nothing like it has; check the address")
    return data


class Checked(io.RawIOBase):
    """A stream that is compared with its checksum once it was read.

    Args:
        stream: What is read; stays open.
        md5: 32 hexadecimal digits; None for no comparison.
    """

    def __init__(self, stream: io.BufferedReader, md5: str | None) -> None:
        self._stream, self._md5 = stream, md5
        self._found = hashlib.md5(usedforsecurity=False)

    def readable(self) -> bool:
        return True

    def readinto(self, into: WriteableBuffer, /) -> int:
        """Fill a buffer as far as bytes come; 0 at the end."""
        view = memoryview(into).cast("B")
        count = self._stream.readinto(view)
        self._found.update(view[:count])
        return count

    def check(self, what: str) -> None:
        """Read what is left, and compare.

        Raises:
            ManifestError: these are other bytes than were written.
        """
        with _reading(what):
            while piece := self._stream.read(_PIECE_BYTES):
                self._found.update(piece)
        if self._md5 is not None and self._found.hexdigest() != self._md5:
            raise ManifestError(
                f"{what} has the MD5 {self._found.hexdigest()}, and its report says {self._md5}; it is damaged or was "
                "replaced, take another report"
            )


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Translate what reading raises; trouble of the store is ours already."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(f"{what} is cut short or damaged ({error}); write it anew") from error
    except OSError as error:
        raise ManifestError(f"{what} cannot be read to its end ({error}); give it again once it can") from error
