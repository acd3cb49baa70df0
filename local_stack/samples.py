"""The sample photos: real ones out of installed wheels, and three objects that are no good. Pure, but for reading.

Credits and licences are in ``SAMPLES.md``. The packages that carry the photos are found, not imported.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from local_stack.processes import StackError

PREFIX = "samples/"
BOMB_SIDE = 20_000
"""Pixels; squared it is eight times what is decoded by default, out of 50 KB."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo inside a wheel, and how it is stored."""

    key: str
    package: str
    path: str
    """Inside the package's folder."""
    as_format: Literal["JPEG", "PNG", "WEBP"] | None = None
    """What to encode it as; None stores the bytes as they are."""


PHOTOS = (
    Photo("cat.png", "skimage", "data/chelsea.png"),
    Photo("coffee.webp", "skimage", "data/coffee.png", "WEBP"),
    Photo("rocket.jpg", "skimage", "data/rocket.jpg"),
    Photo("astronaut.jpg", "skimage", "data/astronaut.png", "JPEG"),
    Photo("pavilion.jpg", "sklearn", "datasets/images/china.jpg"),
    Photo("flower.jpg", "sklearn", "datasets/images/flower.jpg"),
)


def sample_objects() -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of every sample; the same each time.

    Raises:
        StackError: a package that carries photos is not installed.
    """
    for photo in PHOTOS:
        yield PREFIX + photo.key, photo_bytes(photo)
    yield PREFIX + "bad/truncated.jpg", truncated_jpeg()
    yield PREFIX + "bad/text.jpg", text_in_disguise()
    yield PREFIX + "bad/bomb.png", decompression_bomb()


def photo_bytes(photo: Photo) -> bytes:
    """Return a photo, encoded as the sample wants it.

    Raises:
        StackError: the package that carries it is not installed.
    """
    spec = find_spec(photo.package)
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [path for folder in folders if (path := Path(folder) / photo.path).exists()]
    if not paths:
        raise StackError(
            f"The sample photo {photo.path} of the package {photo.package} is not there; "
            "install nightlabel[local-stack]."
        )
    if photo.as_format is None:
        return paths[0].read_bytes()

    from PIL import Image

    encoded = io.BytesIO()
    with Image.open(paths[0]) as image:
        image.convert("RGB").save(encoded, photo.as_format, quality=90)
    return encoded.getvalue()


def truncated_jpeg() -> bytes:
    """Return a JPEG that ends in the middle of its pixels, as after a broken upload."""
    whole = photo_bytes(next(photo for photo in PHOTOS if photo.key == "rocket.jpg"))
    return whole[: len(whole) // 2]


def text_in_disguise() -> bytes:
    """Return what somebody renamed to ``.jpg``."""
    return b"This is a text file, whatever its name says.\n"


def decompression_bomb(side: int = BOMB_SIDE) -> bytes:
    """Return a valid PNG of a few dozen KB that decodes to ``side`` x ``side`` pixels.

    Args:
        side: Pixels.
    """
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)  # one bit a pixel, grey
    row = b"\0" * (1 + (side + 7) // 8)  # the filter's number, then the pixels
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
