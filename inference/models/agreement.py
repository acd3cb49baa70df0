"""models: does a converted model still answer like the original, on real photos? Reads photos of installed wheels."""

from __future__ import annotations

import importlib.util
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


def photo_crops(preprocessing: Preprocessing, count: int = 32) -> PixelBatch:
    """Cut real photos into inputs for a model.

    Args:
        preprocessing: Size of the input; the crops are this function's own.
        count: How many inputs, at most five a photo.

    Returns:
        uint8, shape (count, height, width, 3).

    Raises:
        ModelError: too few photos are installed.
    """
    import numpy as np
    from PIL import Image

    photos = installed_photos()
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


def measure_agreement(original: ModelHandle, converted: ModelHandle, pixels: PixelBatch) -> Agreement:
    """Compare two handles of one model.

    Args:
        original: The reference.
        converted: What was made of it.
        pixels: Inputs, from ``photo_crops``.

    Raises:
        ModelConversionError: a best label differs, or a probability by more than ``MAX_DIFFERENCE``.
    """
    import numpy as np

    expected, found = original.predict(pixels), converted.predict(pixels)
    equal = int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    difference = float(np.abs(expected - found).max())
    if equal != len(pixels) or difference > MAX_DIFFERENCE:
        raise ModelConversionError(
            f"{original.model_id} in {converted.engine} gives the label of {original.engine} for {equal} of "
            f"{len(pixels)} inputs and differs by {difference:.2g} at most, expected every label and {MAX_DIFFERENCE}; "
            "keep the original engine for this model"
        )
    return Agreement(inputs=len(pixels), equal_top1=equal, max_difference=difference)
