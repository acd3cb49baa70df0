"""Golden images for tests: seeded transformations of the photos that wheels carry."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from inference.models.agreement import installed_photos

SIDE = 280
"""Pixels of a golden image's sides."""


WITHOUT_CLASS = {"astronaut", "coins", "hubble_deep_field"}
"""Photos of what ImageNet has no class for: any label of theirs is a guess."""

_LARGEST = 640
"""Pixels of a photo's longer side before it is transformed: what is finer is lost anyway."""


def golden_photos(count: int, seed: int) -> dict[str, tuple[Path, bytes]]:
    """Return key -> the photo that it was made of, and a JPEG of it: cropped, turned, mirrored, lit otherwise."""
    draw = random.Random(seed)  # noqa: S311 - chance, not secrets
    photos = [path for path in installed_photos() if path.stem not in WITHOUT_CLASS]
    opened = {}
    for path in photos:
        with Image.open(path) as photo:
            opened[path] = ImageOps.contain(photo.convert("RGB"), (_LARGEST, _LARGEST))
    made = {}
    for number in range(count):
        path = photos[number % len(photos)]
        buffer = io.BytesIO()
        _transformed(opened[path], draw).save(buffer, "JPEG", quality=draw.randrange(60, 95))
        made[f"golden/{number:04}-{path.stem}.jpg"] = (path, buffer.getvalue())
    return made


def _transformed(photo: Image.Image, draw: random.Random) -> Image.Image:
    turned = photo.rotate(draw.uniform(-5, 5), Image.Resampling.BICUBIC)
    side = draw.uniform(0.8, 1.0) * min(turned.size)
    left, top = (draw.uniform(0.3, 0.7) * (length - side) for length in turned.size)
    square = turned.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if draw.random() < 0.5:
        square = ImageOps.mirror(square)
    lit = ImageEnhance.Brightness(square).enhance(draw.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(lit).enhance(draw.uniform(0.8, 1.2))
