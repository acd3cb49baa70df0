"""Images in, batches out: none lost, none twice, in order."""

from __future__ import annotations

import numpy as np
import pytest

from inference.batching import MAX_COPIES, MAX_HELD_BACK, batches
from inference.errors import SettingsError
from inference.types import (
    ContentDigest,
    CopiedPrediction,
    DeadLetter,
    DecodedImage,
    DoneElsewhere,
    Gone,
    ImageRef,
    Label,
    Stage,
)


def decoded(number: int) -> DecodedImage:
    ref = ImageRef("photos", f"{number}.jpg", "e", 1)
    return DecodedImage(ref, np.full((2, 3, 3), number, np.uint8), ContentDigest(bytes(32)))


@pytest.mark.parametrize(("images", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])])
def test_every_image_is_in_exactly_one_batch_and_in_order(images, sizes):
    made = list(batches((decoded(number) for number in range(images)), 4))

    assert [len(batch.images) for batch in made] == sizes
    assert [image.ref.key for batch in made for image in batch.images] == [f"{number}.jpg" for number in range(images)]


def test_no_image_is_pulled_before_its_batch_is_asked_for():
    pulled = []
    source = batches((pulled.append(number) or decoded(number) for number in range(9)), 4)

    next(source)

    assert pulled == [0, 1, 2, 3]


def test_a_batch_size_below_one_is_refused_instead_of_losing_images():
    with pytest.raises(SettingsError, match="batch size is 0"):
        next(batches([decoded(1)], 0))


def test_what_is_no_image_travels_with_the_images_around_it_and_is_counted_once():
    dead = DeadLetter(ImageRef("photos", "x", "e", 1), Stage.DECODE, "undecodable", "broken", is_retryable=False)
    gone = Gone(ImageRef("photos", "y", "e", 1))
    made = list(batches([decoded(0), dead, gone, decoded(1), DoneElsewhere(7), gone, decoded(2), dead], 2))

    assert [(len(batch.images), len(batch.dead), batch.gone, batch.done_elsewhere) for batch in made] == [
        (2, 1, 1, 0),
        (1, 1, 1, 7),
    ]
    assert [batch.refs for batch in made] == [4, 10]


def test_many_dead_letters_do_not_wait_for_a_good_image():
    dead = DeadLetter(ImageRef("photos", "x", "e", 1), Stage.DECODE, "undecodable", "broken", is_retryable=False)
    assert [batch.refs for batch in batches([dead] * (MAX_HELD_BACK + 3), 8)] == [MAX_HELD_BACK, 3]


def test_images_that_were_settled_elsewhere_are_counted_without_any_other():
    assert [batch.done_elsewhere for batch in batches([DoneElsewhere(5)], 8)] == [5]


def test_copies_travel_with_the_images_around_them_and_fill_batches_of_their_own():
    copy = CopiedPrediction(ImageRef("photos", "x", "e", 1), Label("cat", "n1"), 0.9, ("cat",), (0.9,), "litert")

    made = list(batches([copy, decoded(0), copy, decoded(1), *[copy] * (MAX_COPIES + 3)], 2))

    assert [(len(batch.images), len(batch.copies)) for batch in made] == [(2, 2), (0, MAX_COPIES), (0, 3)]
    assert sum(batch.refs for batch in made) == MAX_COPIES + 7
