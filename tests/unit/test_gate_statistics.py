"""The bound on a loss holds what it promises: by exact enumeration of every outcome, not by simulation."""

from __future__ import annotations

import math
from itertools import product

import pytest

from benchmarks.gate import chance_to_pass
from inference.gate.statistics import images_to_tell, loss_bound


@pytest.mark.parametrize("differing", [0.02, 0.04, 0.10])
@pytest.mark.parametrize("images", [150, 300])
def test_a_model_at_the_limit_passes_in_about_one_case_of_twenty(images: int, differing: float):
    assert chance_to_pass(images, 0.02, differing) <= 0.061


@pytest.mark.parametrize(("images", "at_most"), [(300, 0.02)])
def test_a_model_that_is_three_points_worse_is_stopped(images: int, at_most: float):
    assert max(chance_to_pass(images, 0.03, differing) for differing in (0.03, 0.06, 0.10)) <= at_most


def test_the_same_answers_pass_as_soon_as_there_are_enough_images_to_tell():
    assert [images for images in (100, 132, 133, 150, 300) if loss_bound(images, 0, 0, 0.95) < 0.02] == [133, 150, 300]


def test_without_differences_the_bound_is_that_of_a_share_of_which_none_was_seen():
    z = 1.6448536
    assert [loss_bound(images, 0, 0, 0.95) for images in (100, 300)] == [
        pytest.approx(z**2 / (images + z**2), abs=1e-7) for images in (100, 300)
    ]


def score_by_search(images: int, lost: int, won: int, loss: float) -> float:
    """The score statistic, with the likeliest shares under a true loss found by trying them out."""

    def likelihood(share: float) -> float:
        parts = ((lost, share + loss), (won, share), (images - lost - won, 1 - 2 * share - loss))
        return sum(count * math.log(p) for count, p in parts if count)

    low, high = max(0.0, -loss) + 1e-12, (1 - loss) / 2 - 1e-12
    for _ in range(200):  # it has one top
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if likelihood(left) < likelihood(right) else (low, right)
    variance = images * (2 * low + loss - loss**2)
    return (lost - won - images * loss) / math.sqrt(variance)


@pytest.mark.parametrize(("images", "lost", "won"), [(44, 1, 0), (150, 4, 9), (300, 9, 1), (300, 12, 12), (1000, 0, 7)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.6448536), (0.975, 1.9599640)])
def test_at_the_bound_the_score_is_that_of_the_confidence(
    images: int, lost: int, won: int, confidence: float, z: float
):
    bound = loss_bound(images, lost, won, confidence)
    assert score_by_search(images, lost, won, bound) == pytest.approx(-z, abs=1e-4)


def test_the_bound_grows_with_what_was_lost_and_shrinks_with_what_was_won_and_with_more_images():
    for images, lost, won in product((50, 300), (0, 1, 5, 20), (0, 1, 5, 20)):
        bound = loss_bound(images, lost, won, 0.95)
        assert (lost - won) / images < bound <= 1
        assert loss_bound(images, lost + 1, won, 0.95) > bound
        assert loss_bound(images, lost, won + 1, 0.95) != bound
        assert loss_bound(images, lost, won, 0.99) > bound
        assert loss_bound(4 * images, 4 * lost, 4 * won, 0.95) < bound


def test_a_model_that_is_wrong_wherever_the_other_is_right_has_the_largest_bound():
    assert loss_bound(20, 20, 0, 0.95) == pytest.approx(1.0)
    assert -1 < loss_bound(20, 0, 20, 0.95) < -0.7


@pytest.mark.parametrize(("images", "lost", "won"), [(0, 0, 0), (10, 6, 5), (10, -1, 0)])
def test_counts_that_cannot_be_are_refused(images: int, lost: int, won: int):
    with pytest.raises(ValueError, match="images"):
        loss_bound(images, lost, won, 0.95)


def test_how_many_images_would_tell():
    enough = images_to_tell(300, 12, 12, 0.95, 0.02)
    assert enough is not None
    assert 400 < enough < 800
    assert loss_bound(enough, round(12 * enough / 300), round(12 * enough / 300), 0.95) < 0.02
    assert images_to_tell(300, 12, 2, 0.95, 0.02) is None, "it loses too much, and more images would show it better"
    assert 133 <= (images_to_tell(100, 0, 0, 0.95, 0.02) or 0) <= 140
