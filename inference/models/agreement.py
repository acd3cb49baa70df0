"""models: does a converted model still answer like the original, on real photos? Reads photos of installed wheels."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import ModelConversionError, ModelError
from inference.models.manifest import Agreement
from inference.ports import ModelHandle
from inference.types import PixelBatch, Preprocessing

if TYPE_CHECKING:
    from PIL import Image

MAX_DIFFERENCE = 1e-3
"""Largest difference of any probability that passes for the same answer."""

LEAST_EQUAL = 0.99
"""Least share of inputs with the same best label. Within ``MAX_DIFFERENCE`` labels can differ only where two are as
good as equal, which is rare and no fault of a conversion."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What passes for the same model."""

    least_equal: float
    """Least share of inputs with the same best label."""
    max_difference: float
    """Largest difference of any probability."""


FLOAT32 = Limits(LEAST_EQUAL, MAX_DIFFERENCE)
INT8 = Limits(0.75, 0.6)
"""Eight bits give other answers, and their own version: these limits stop what is broken, not what is worse. Measured
on EfficientNet-Lite0, a sound one has the label of 97 % of 300 photos and 84 % of ``photo_crops``; one that lost a
quarter of its accuracy, of 62 % and 53 %. Whether it is good enough for production is for the golden set to say."""

_AT_A_TIME = 32
"""Inputs that are compared in one call, so that their scores take little memory."""

# Photographs that ship inside wheels: package and path.
_PHOTOS = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)

# Left, top and side of a square, as fractions of the shorter side; the first is the usual centre crop.
_CROPS = ((0.0625, 0.0625, 0.875), (0.0, 0.0, 0.7), (0.3, 0.25, 0.7), (0.2, 0.1, 0.5), (0.45, 0.45, 0.55))


def installed_photos() -> list[Path]:
    """Return the photos that the installed wheels carry, without importing the wheels."""
    found = []
    for package, name in _PHOTOS:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder) / name
            if path.is_file():
                found.append(path)
    return found


def halves(preprocessing: Preprocessing) -> tuple[PixelBatch, PixelBatch]:
    """Cut real photos into inputs to measure activations on, and into others, of other photos, to compare on.

    What was measured on a photo says how well it does on that photo, and little of how well on others.

    Raises:
        ModelError: too few photos are installed.
    """
    photos = installed_photos()
    parts = [photo_crops(preprocessing, max(1, len(part)) * len(_CROPS), part) for part in (photos[::2], photos[1::2])]
    return parts[0], parts[1]


def photo_crops(preprocessing: Preprocessing, count: int = 32, photos: Sequence[Path] | None = None) -> PixelBatch:
    """Cut real photos into inputs for a model.

    Args:
        preprocessing: Size of the input; the crops are this function's own.
        count: How many inputs, at most five a photo.
        photos: Files; None for those of the installed wheels.

    Returns:
        uint8, shape (count, height, width, 3).

    Raises:
        ModelError: too few photos are installed.
    """
    import numpy as np
    from PIL import Image

    photos = installed_photos() if photos is None else photos
    if len(photos) * len(_CROPS) < count:
        raise ModelError(
            f"found {len(photos)} photos in installed wheels, too few for {count} inputs to check a conversion with; "
            "pip install scikit-image"
        )
    opened = []
    for path in photos:
        with Image.open(path) as photo:
            opened.append(photo.convert("RGB"))
    crops = (_crop(opened[i % len(opened)], _CROPS[i // len(opened)], preprocessing) for i in range(count))
    return np.stack([np.asarray(crop) for crop in crops])


def _crop(photo: Image.Image, crop: tuple[float, float, float], preprocessing: Preprocessing) -> Image.Image:
    from PIL import Image

    left, top, side = (part * min(photo.size) for part in crop)
    size = (preprocessing.width, preprocessing.height)
    return photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def measure_agreement(
    original: ModelHandle, converted: ModelHandle, pixels: PixelBatch, limits: Limits = FLOAT32
) -> Agreement:
    """Compare two handles of one model.

    Args:
        original: The reference.
        converted: What was made of it.
        pixels: Inputs, from ``photo_crops`` or decoded.
        limits: What passes.

    Raises:
        ModelConversionError: too few best labels are the same, or a probability differs by too much.
        ModelExecutionError: one of them answers with something that cannot be right, such as NaN.
    """
    import numpy as np

    equal, difference = 0, 0.0
    for start in range(0, len(pixels), _AT_A_TIME):
        part = pixels[start : start + _AT_A_TIME]
        expected, found = original.predict(part), converted.predict(part)
        equal += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        difference = max(difference, float(np.abs(expected - found).max()))
    if equal < limits.least_equal * len(pixels) or difference > limits.max_difference:
        raise ModelConversionError(
            f"{original.model_id} in {converted.engine} gives the label of {original.engine} for {equal} of "
            f"{len(pixels)} inputs and differs by {difference:.2g} at most, expected {limits.least_equal:.0%} of the "
            f"labels and {limits.max_difference:g}; keep the original engine for this model"
        )
    return Agreement(inputs=len(pixels), equal_top1=equal, max_difference=difference)
