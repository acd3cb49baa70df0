"""models: archives of models -> files in a folder, as if whoever made them meant harm. Reads and writes disk.

Nothing is written outside the folder, no link and no device is made, nothing is overwritten, no program runs, and what
comes out is bounded, however small the archive is.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from inference.errors import ModelSourceError

MAX_FILES: Final = 10_000
"""Most files in an archive; a SavedModel has some ten."""

MAX_BYTES: Final = 16 * 1024**3
"""Most bytes of all files of one model; the largest image classifiers have some 3 GB."""

_PIECE_BYTES: Final = 1024 * 1024

_HEADER_BYTES: Final = 1024 * 1024
"""Most bytes of what a tar archive says of one file; a name and its times take some 1,500."""

_ALL_HEADERS_BYTES: Final = 32 * 1024 * 1024
_GLOBAL_HEADERS: Final = 1_000

ZIP_START: Final = b"PK\x03\x04"
"""What a zip archive begins with."""

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"

BROKEN: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""What reading a damaged or encrypted archive raises, besides OSError and ValueError."""


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar archive, compressed or not, or a zip archive, by its content."""
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) == ZIP_START:
            return True
    # The first header alone, not by tarfile.open: that reads whatever the archive says that its headers hold.
    try:
        with _unpacked(path) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
    except (*BROKEN, OSError, ValueError):
        return False
    return True


def extract(archive: Path, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
    """Write the files of an archive below a folder.

    Args:
        archive: ``.tar``, ``.tar.gz`` and the like, or ``.zip``; judged by its content.
        folder: Empty.
        max_files: Most entries.
        max_bytes: Most bytes of all files, as they come out.

    Raises:
        ModelSourceError: a name that leads out of the folder, a link, a device, a name twice, too much, or damaged.
    """
    with archive.open("rb") as file:
        is_zip = file.read(2) == ZIP_START[:2]
    bounds = _Bounds(archive, folder, max_files, max_bytes)
    with _reading(archive):
        if is_zip:
            _extract_zip(archive, bounds)
        else:
            _extract_tar(archive, bounds)


class _Bounds:
    """Where the files of one archive go, and how much of it there may be."""

    def __init__(self, archive: Path, folder: Path, max_files: int, max_bytes: int) -> None:
        self._archive, self._folder = archive, folder
        self._files_left, self._bytes_left = max_files, max_bytes
        self._max_files, self._max_bytes = max_files, max_bytes

    def place(self, name: str) -> Path | None:
        """Return where an entry goes; None for the folder itself."""
        self._files_left -= 1
        if self._files_left < 0:
            raise self._refused(f"more than {self._max_files:,} entries, which no model has")
        parts = PurePosixPath(name).parts
        if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or "\x00" in name or name[1:2] == ":":
            raise self._refused(f"the entry {name[:100]!r}, which leads out of the folder that it is extracted to")
        return self._folder.joinpath(*parts) if parts else None

    def write(self, source: IO[bytes], target: Path, name: str) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise self._refused(f"the entry {name[:100]!r} twice, or as a file and as a folder") from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise self._refused(f"the entry {name[:100]!r}, whose name is too long for this disk") from None
        with file:
            while piece := source.read(_PIECE_BYTES):
                self._bytes_left -= len(piece)
                if self._bytes_left < 0:
                    raise self._refused(f"more than {self._max_bytes:,} bytes when extracted, which no model has")
                file.write(piece)

    def refuse_kind(self, name: str, kind: str) -> ModelSourceError:
        return self._refused(f"the entry {name[:100]!r}, which is {kind} and no file")

    def refuse_headers(self) -> ModelSourceError:
        return self._refused(
            f"headers of more than {_HEADER_BYTES:,} bytes for one file, or {_ALL_HEADERS_BYTES:,} for all, which no "
            "model has"
        )

    def _refused(self, what: str) -> ModelSourceError:
        return ModelSourceError(f"the archive {self._archive.name} holds {what}; pack the model anew from its files")


def _unpacked(archive: Path) -> IO[bytes]:
    """Open an archive, decompressed if it begins as gzip, bzip2 or xz do."""
    with archive.open("rb") as file:
        start = file.read(len(_XZ))
    if start.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(archive))
    if start.startswith(_BZIP2):
        return cast("IO[bytes]", bz2.open(archive))
    if start.startswith(_XZ):
        return cast("IO[bytes]", lzma.open(archive))
    return archive.open("rb")


class _Bounded:
    """The stream that tarfile reads. It reads a header whole, however long that says it is, unless this refuses."""

    def __init__(self, stream: IO[bytes], bounds: _Bounds) -> None:
        self._stream, self._bounds = stream, bounds
        self._all_left = _ALL_HEADERS_BYTES
        self._left: int | None = _HEADER_BYTES

    def expect_header(self) -> None:
        """What is read from now on is what the archive says of its next file."""
        self._left = _HEADER_BYTES

    def expect_content(self) -> None:
        """What is read from now on is a file's content, which is bounded where it is written."""
        self._left = None

    def read(self, size: int = -1) -> bytes:
        if self._left is not None:
            if not 0 <= size <= min(self._left, self._all_left):
                raise self._bounds.refuse_headers()
            self._left -= size
            self._all_left -= size
        try:
            return self._stream.read(size)
        except OSError as error:
            if error.errno is not None:
                raise
            raise tarfile.ReadError(str(error)) from error  # gzip's and bzip2's own, for what is damaged

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()


def _extract_tar(archive: Path, bounds: _Bounds) -> None:
    with _unpacked(archive) as stream:
        bounded = _Bounded(stream, bounds)
        with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all headers are kept till the end
                if len(tar.pax_headers) > _GLOBAL_HEADERS:
                    raise bounds.refuse_headers()
                bounded.expect_content()
                _extract_entry(tar, entry, bounds)
                bounded.expect_header()


def _extract_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo, bounds: _Bounds) -> None:
    target = bounds.place(entry.name)
    if entry.isdir() or target is None:
        return
    if not entry.isreg() or entry.issparse():
        kinds = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link"}
        raise bounds.refuse_kind(entry.name, "sparse" if entry.issparse() else kinds.get(entry.type, "a device"))
    source = tar.extractfile(entry)
    with source if source is not None else io.BytesIO() as stream:
        bounds.write(stream, target, entry.name)


def _extract_zip(archive: Path, bounds: _Bounds) -> None:
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            target = bounds.place(entry.filename)
            if entry.is_dir() or target is None:
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in {0, stat.S_IFREG}:
                raise bounds.refuse_kind(entry.filename, "a link" if kind == stat.S_IFLNK else "a device")
            with packed.open(entry) as stream:
                bounds.write(stream, target, entry.filename)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except (*BROKEN, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ModelSourceError(
            f"the archive {archive.name} is damaged or encrypted ({reason}); pack it anew"
        ) from error
