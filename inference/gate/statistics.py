"""How sure a comparison of two models on the same images can be. Pure; docs/adr/0016-what-the-gate-can-know.md.

Both models see the same images, so that only those count on which one is right and the other wrong: a bound by the
score test for the difference of paired proportions (Tango, Statistics in Medicine 17, 1998), which holds its error rate
with few images and few differences, where intervals by the normal distribution do not.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

_STEPS: Final = 60
"""Halvings of an interval of at most 2: exact to the last digit of a float."""


def loss_bound(images: int, only_production_right: int, only_candidate_right: int, confidence: float) -> float:
    """Return the largest loss that is compatible with what was seen: the upper end of a one-sided interval.

    Args:
        images: How many both models labelled, at least 1.
        only_production_right: Those of them that production labels rightly and the candidate wrongly.
        only_candidate_right: The other way round.
        confidence: Of the interval, 0.5 to below 1: a candidate that loses as much in truth shows a smaller bound in
            one case of 1 / (1 - confidence).

    Returns:
        Top-1 of production less that of the candidate, -1 to 1.

    Raises:
        ValueError: the counts cannot be.
    """
    if images < 1 or min(only_production_right, only_candidate_right) < 0:
        raise ValueError(f"{images} images with {only_production_right} and {only_candidate_right} differences")
    if only_production_right + only_candidate_right > images:
        raise ValueError(f"{images} images cannot have {only_production_right + only_candidate_right} differences")
    wanted = -NormalDist().inv_cdf(confidence)
    low, high = (only_production_right - only_candidate_right) / images, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _score(images, only_production_right, only_candidate_right, middle) > wanted:
            low = middle
        else:
            high = middle
    return high


def _score(images: int, lost: int, won: int, loss: float) -> float:
    """Return how far the counts are from a true loss, in standard deviations; falls as the loss grows."""
    # The most likely share of images that only the candidate has right, were the loss the true one.
    b = -lost - won + (2 * images - lost + won) * loss
    c = -won * loss * (1 - loss)
    share = (math.sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
    variance = images * (2 * share + loss * (1 - loss))
    difference = lost - won - images * loss
    if variance <= 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def images_to_tell(
    images: int, only_production_right: int, only_candidate_right: int, confidence: float, max_loss: float
) -> int | None:
    """Return about how many images like these would show a loss below a limit; None if no number of them would.

    Args:
        images: As of ``loss_bound``, and likewise the next three.
        only_production_right: See there.
        only_candidate_right: See there.
        confidence: See there.
        max_loss: The limit.
    """
    loss = (only_production_right - only_candidate_right) / images
    if loss >= max_loss:
        return None
    step = max(1, images // 20)
    wanted = images
    # The bound narrows with the root of the number, so that a hundred times as many is further than anybody goes.
    while wanted <= 100 * images:
        grown = wanted / images
        lost, won = round(only_production_right * grown), round(only_candidate_right * grown)
        if loss_bound(wanted, lost, won, confidence) < max_loss:
            return wanted
        wanted += step
        step = max(step, wanted // 20)
    return None
