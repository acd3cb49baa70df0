"""Workers keep to their run's rate together, however many they are; nothing here waits for real."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from inference.errors import StaleAttemptError
from inference.pacing import CATCH_UP_S, TOGETHER_S, Pacer, at_pace
from inference.types import Turns
from tests.fakes import FakeClock


class Ledger:
    """Gives turns as the ledger does, by its own clock."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now_s = 0.0
        self.free_at: float | None = None
        self.asked: list[int] = []

    def reserve(self, images: int) -> Turns:
        self.asked.append(images)
        free_at = self.now_s if self.free_at is None else self.free_at
        begins_at = max(free_at, self.now_s - CATCH_UP_S)
        self.free_at = begins_at + images / self.rate
        return Turns(begins_at - self.now_s, self.rate)


class Worker:
    """Takes turns until it has none left to take; a clock of its own, that ledger and worker never compare."""

    def __init__(self, ledger: Ledger, images: int, *, work_s: float = 0.0, clock_at: float = 0.0) -> None:
        self.ledger, self.left, self.work_s = ledger, images, work_s
        self.clock = FakeClock()
        self.clock.now_s = self.clock_at = clock_at
        self.began_at: list[float] = []
        self.pacer = Pacer(self.reserve, self.clock, self.clock.advance)

    @property
    def now_s(self) -> float:
        return self.clock.now_s - self.clock_at

    def reserve(self, images: int) -> Turns:
        self.ledger.now_s = max(self.ledger.now_s, self.now_s)
        return self.ledger.reserve(images)

    def step(self) -> None:
        self.pacer.wait(self.left)
        self.began_at.append(self.now_s)
        self.left -= 1
        self.clock.advance(self.work_s)


def run(ledger: Ledger, workers: list[Worker]) -> list[float]:
    """Let workers work side by side, whoever is earliest first; return when each image began."""
    queue = [(worker.now_s, place) for place, worker in enumerate(workers)]
    while queue:
        _, place = heappop(queue)
        worker = workers[place]
        if worker.left:
            worker.step()
            heappush(queue, (worker.now_s, place))
    return sorted(moment for worker in workers for moment in worker.began_at)


@pytest.mark.parametrize("rate", [0.05, 0.7, 3.0, 20.0, 333.0])
@pytest.mark.parametrize("workers", [1, 2, 7, 16])
def test_any_number_of_workers_keeps_to_the_rate(rate: float, workers: int):
    ledger = Ledger(rate)
    each = 40 if rate < 10 else 2000 // workers

    began = run(ledger, [Worker(ledger, each, clock_at=1000.0 * number) for number in range(workers)])

    assert len(began) == workers * each
    took_s = began[-1] - began[0] + 1 / rate
    assert len(began) / took_s == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_span_of_time_holds_more_than_the_rate_and_what_is_made_up_for(workers: int):
    rate = 10.0
    ledger = Ledger(rate)
    began = run(ledger, [Worker(ledger, 200, work_s=0.05) for _ in range(workers)])

    for first in range(0, len(began), 7):
        for last in range(first, len(began), 11):
            span_s = began[last] - began[first]
            assert last - first + 1 <= rate * (span_s + CATCH_UP_S) + workers


def test_a_worker_that_is_too_slow_for_the_rate_is_not_held_up():
    ledger = Ledger(100.0)
    worker = Worker(ledger, 50, work_s=0.5)

    run(ledger, [worker])

    assert worker.now_s == pytest.approx(50 * 0.5, rel=0.05)


def test_what_a_run_falls_behind_it_makes_up_for_but_no_more_than_seconds_of_it():
    ledger = Ledger(10.0)
    worker = Worker(ledger, 100)
    while worker.left > 80:
        worker.step()
    worker.clock.advance(1.5)  # a slow batch
    while worker.left:
        worker.step()
    assert worker.began_at[-1] == pytest.approx(9.9, abs=0.2), "as if nothing had been"

    other = Worker(ledger, 100, clock_at=5.0)
    other.clock.advance(3600.0)  # the rate was nobody's for an hour
    while other.left:
        other.step()
    assert sum(1 for moment in other.began_at if moment < other.began_at[0] + 1.0) <= 10 * (1.0 + CATCH_UP_S) + 1


def test_no_turn_is_asked_for_in_vain():
    ledger = Ledger(100.0)
    worker = Worker(ledger, 130)

    run(ledger, [worker])

    assert ledger.asked == [1, 100, 29], "the first answer tells the rate; then a second's worth; then what is left"
    assert ledger.free_at == pytest.approx(1.30)


def test_a_rate_that_somebody_changes_holds_from_the_next_turns_on():
    ledger = Ledger(10.0)
    worker = Worker(ledger, 60)
    while worker.left > 30:
        worker.step()
    before_s, ledger.rate = worker.now_s, 2.0
    while worker.left:
        worker.step()

    assert before_s == pytest.approx(3.0, abs=0.2)
    assert worker.now_s - before_s == pytest.approx(30 / 2, rel=0.1)


def test_what_ends_the_attempt_goes_through():
    def refuse(_images: int) -> Turns:
        raise StaleAttemptError("a newer attempt has taken over")

    with pytest.raises(StaleAttemptError):
        Pacer(refuse, FakeClock(), lambda _seconds: None).wait(1)


def test_being_asked_to_end_interrupts_a_pause():
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    reserve: Callable[[int], Turns] = lambda images: Turns(30.0, 0.1)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        Pacer(reserve, FakeClock(), interrupted).wait(1)


@pytest.mark.parametrize(
    ("most", "rate", "expected"),
    [(32, None, 32), (32, 1000.0, 32), (32, 2.0, 4), (32, 0.01, 1), (1, 5.0, 1), (8, 3.9, 8)],
)
def test_at_a_slow_rate_no_more_wait_for_one_another_than_come_in_seconds(most: int, rate: float | None, expected: int):
    assert at_pace(most, rate) == expected
    assert rate is None or expected == 1 or expected <= rate * TOGETHER_S + 1
