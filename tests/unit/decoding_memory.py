"""Measures what decoding takes at most, each image in a process of its own: ``python -m tests.unit.decoding_memory``.

Prints a JSON object: for each kind of image the bytes that were taken and those that were asked for beforehand.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from inference.decoding import decode_image
from inference.memory import give_freed_memory_back
from inference.types import Preprocessing
from tests.data.make_images import chunk, png, saved

SIDE = 2_000
WHOLE = Preprocessing(height=672, width=672, crop_fraction=1.0, resize_filter="bicubic")
"""Of a square picture the crop is as large as the image, and for this model none is decoded at a fraction of its size:
the most that decoding can take."""

SHRUNK = Preprocessing(height=224, width=224, crop_fraction=1.0, resize_filter="bicubic")
"""For this one JPEGs are decoded at a quarter of their size."""

SMALL = saved(Image.new("RGB", (16, 16)), "JPEG")


def smooth() -> Image.Image:
    """A square picture that is quick to make and small to store."""
    shades = np.linspace(0, 255, SIDE, dtype=np.uint8)
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = shades[:, None], shades, 99
    return Image.fromarray(pixels)


def sixteen_bits(channels: int, colour_type: int, before: bytes = b"") -> bytes:
    row = struct.pack(">H", 0x3000) * channels * SIDE
    return png([row] * SIDE, SIDE, SIDE, 16, colour_type, before=before)


def jpegs(rgb: Image.Image) -> dict[str, Callable[[], bytes]]:
    return {
        "JPEG": lambda: saved(rgb, "JPEG"),
        "JPEG, progressive": lambda: saved(rgb, "JPEG", progressive=True, subsampling=0),
        "JPEG, CMYK": lambda: saved(rgb.convert("CMYK"), "JPEG"),
        "JPEG, CMYK, progressive": lambda: saved(rgb.convert("CMYK"), "JPEG", progressive=True),
    }


def others(rgb: Image.Image) -> dict[str, Callable[[], bytes]]:
    few = rgb.quantize(64)
    return {
        "PNG": lambda: saved(rgb, "PNG", compress_level=1),
        "PNG, RGBA": lambda: saved(rgb.convert("RGBA"), "PNG", compress_level=1),
        "PNG, RGB with a transparent colour": lambda: saved(rgb, "PNG", compress_level=1, transparency=(1, 2, 3)),
        "PNG, RGBA of 16 bits": lambda: sixteen_bits(4, 6),
        "PNG, grey of 16 bits with a transparent shade": lambda: sixteen_bits(
            1, 0, chunk(b"tRNS", struct.pack(">H", 0x3000))
        ),
        "PNG, palette with transparency": lambda: saved(few, "PNG", transparency=0),
        "WebP": lambda: saved(rgb, "WEBP", method=0),
        "WebP, RGBA": lambda: saved(rgb.convert("RGBA"), "WEBP", method=0),
        "WebP, lossless": lambda: saved(rgb, "WEBP", method=0, lossless=True),
        "GIF": lambda: saved(few, "GIF"),
        "GIF with transparency": lambda: saved(few, "GIF", transparency=0),
        "BMP": lambda: saved(rgb, "BMP"),
    }


def highest_bytes() -> int:
    """The most memory that this process has had since it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(data: bytes, preprocessing: Preprocessing) -> tuple[int, int]:
    """Decode in a fork of this process; return the bytes taken and asked for."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        asked = 0

        @contextmanager
        def reserve(wanted: int) -> Iterator[None]:
            nonlocal asked
            asked += wanted
            yield

        decode_image(SMALL, preprocessing)  # the code itself takes some memory once
        before = highest_bytes()
        decode_image(data, preprocessing, reserve=reserve)
        os.write(writer, json.dumps([highest_bytes() - before, asked]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        taken, asked = json.loads(pipe.read())
    os.wait()
    return taken, asked


def main() -> None:
    """Measure every kind."""
    give_freed_memory_back()
    rgb = smooth()
    whole = {name: measure(make(), WHOLE) for name, make in (jpegs(rgb) | others(rgb)).items()}
    shrunk = {f"{name}, at a quarter": measure(make(), SHRUNK) for name, make in jpegs(rgb).items()}
    json.dump(whole | shrunk, sys.stdout)


if __name__ == "__main__":
    main()
