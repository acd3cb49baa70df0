"""batch: decoded images -> what one call of the model takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from inference.errors import SettingsError
from inference.types import DecodedImage, PixelBatch


def batches(decoded: Iterable[DecodedImage], batch_size: int) -> Iterator[list[DecodedImage]]:
    """Yield the images in lists of ``batch_size``, in order; only the last list may be shorter, and none is empty.

    Reads no further ahead than the list that it yields.

    Raises:
        SettingsError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise SettingsError(f"the batch size is {batch_size}, but at least 1 is needed; correct NIGHTLABEL_BATCH_SIZE")
    images = iter(decoded)
    while batch := list(islice(images, batch_size)):
        yield batch


def stack_batch(images: Sequence[DecodedImage]) -> PixelBatch:
    """Return the pixels of at least one image as one array, in the order of the images."""
    return np.stack([image.pixels for image in images])
