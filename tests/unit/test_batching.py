"""Images in, batches out: none lost, none twice, in order."""

from __future__ import annotations

import numpy as np
import pytest

from inference.batching import batches, stack_batch
from inference.errors import SettingsError
from inference.types import DecodedImage, ImageRef


def decoded(number: int) -> DecodedImage:
    ref = ImageRef("photos", f"{number}.jpg", "e", 1)
    return DecodedImage(ref, np.full((2, 3, 3), number, np.uint8), bytes(32))


@pytest.mark.parametrize(("images", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])])
def test_every_image_is_in_exactly_one_batch_and_in_order(images, sizes):
    made = list(batches((decoded(number) for number in range(images)), 4))

    assert [len(batch) for batch in made] == sizes
    assert [image.ref.key for batch in made for image in batch] == [f"{number}.jpg" for number in range(images)]


def test_no_image_is_pulled_before_its_batch_is_asked_for():
    pulled = []
    source = batches((pulled.append(number) or decoded(number) for number in range(9)), 4)

    next(source)

    assert pulled == [0, 1, 2, 3]


def test_a_batch_size_below_one_is_refused_instead_of_losing_images():
    with pytest.raises(SettingsError, match="batch size is 0"):
        next(batches([decoded(1)], 0))


def test_stacked_pixels_are_in_the_order_of_the_images():
    pixels = stack_batch([decoded(number) for number in (3, 1, 2)])

    assert pixels.shape == (3, 2, 3, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0, 0].tolist() == [3, 1, 2]
