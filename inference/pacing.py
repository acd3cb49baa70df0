"""pace: how a worker keeps to its run's rate. The ledger gives turns, so that all workers together keep to it. Pure.

Whoever works on a shard asks for the turns of some images at a time, at most for what a second allows. Each run's turns
follow one another, whoever gets them: the rate holds for any number of workers, on any hosts, and whatever becomes of
them. Turns that a killed worker was given and did not take are lost, at most a second's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from inference.ports import Clock
from inference.types import Turns

BLOCK_S: Final = 1.0
"""Seconds of the run's rate that a worker asks for at a time: one question a second, and little that a kill loses."""

CATCH_UP_S: Final = 2.0
"""How far a run that was held up may go beyond its rate afterwards, in seconds of it: so that a slow object or a batch
that takes its time costs no throughput. Over its whole length a run never does."""

TOGETHER_S: Final = 2.0
"""Seconds of the rate whose images are recorded together: at a slow rate an image is recorded soon after it was
fetched, and not when a batch of dozens is full."""

LEAST_PAUSE_S: Final = 0.002
"""Shorter ones are left out: the next pause makes up for it."""


class Pacer:
    """Lets one worker's images begin in their turn. For one thread.

    Args:
        reserve: Asks the ledger for the turns of so many images.
        clock: Tells how much of a pause is over already.
        sleep: Pauses for so many seconds; what interrupts it goes through.
    """

    def __init__(self, reserve: Callable[[int], Turns], clock: Clock, sleep: Callable[[float], None]) -> None:
        self._reserve = reserve
        self._clock = clock
        self._sleep = sleep
        self._left = 0
        self._next_at = 0.0
        self._gap_s = 0.0
        self._rate: float | None = None

    def wait(self, upcoming: int) -> None:
        """Wait until one more image may begin.

        Args:
            upcoming: How many are known to follow, this one included, at least 1: no turn is asked for in vain.

        Raises:
            StaleAttemptError: a newer attempt has taken over.
            InferenceError: as asking for a turn does.
        """
        if self._left == 0:
            self._ask(upcoming)
        pause_s = self._next_at - self._clock.monotonic()
        if pause_s > LEAST_PAUSE_S:
            self._sleep(pause_s)
        self._next_at += self._gap_s
        self._left -= 1

    def _ask(self, upcoming: int) -> None:
        # The rate is not known before the first answer, and somebody may change it while the run goes on.
        wanted = 1 if self._rate is None else math.ceil(self._rate * BLOCK_S)
        self._left = max(1, min(upcoming, wanted))
        turns = self._reserve(self._left)
        self._rate, self._gap_s = turns.images_per_second, 1 / turns.images_per_second
        self._next_at = self._clock.monotonic() + turns.wait_s


def at_pace(most: int, images_per_second: float | None) -> int:
    """Return how many images may wait for one another, at least 1: ``most``, or fewer where these took long to come.

    Args:
        most: Without a rate.
        images_per_second: The rate of the run; None for no bound.
    """
    if images_per_second is None:
        return most
    return max(1, min(most, math.ceil(images_per_second * TOGETHER_S)))
