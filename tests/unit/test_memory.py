"""A bound on memory is kept by whoever asks, in whatever order, and nobody waits for what never comes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inference.errors import DecoderOutOfMemoryError, MemoryLimitError
from inference.memory import (
    DECODING_SHARE,
    LEAST_FREE_BYTES,
    PROCESS_BYTES,
    Budget,
    Memory,
    available_bytes,
    no_limit,
    resident_bytes,
)
from local_stack.processes import wait_until

MB = 1_000_000


class Taker(threading.Thread):
    """Takes a number of bytes and holds them until it is let go."""

    def __init__(self, budget: Budget, wanted: int) -> None:
        super().__init__(daemon=True)
        self.budget, self.wanted = budget, wanted
        self.has_it, self.may_go = threading.Event(), threading.Event()
        self.refused: DecoderOutOfMemoryError | None = None

    def run(self) -> None:
        try:
            with self.budget.reserve(self.wanted):
                self.has_it.set()
                self.may_go.wait()
        except DecoderOutOfMemoryError as error:
            self.refused = error

    def go(self) -> None:
        self.may_go.set()
        self.join()


def takers(budget: Budget, *wishes: int) -> list[Taker]:
    """Start threads that ask one after the other."""
    made = []
    for wanted in wishes:
        taker = Taker(budget, wanted)
        before = waiting(budget)
        taker.start()
        assert wait_until(lambda taker=taker, before=before: taker.has_it.is_set() or waiting(budget) > before, 10)
        made.append(taker)
    return made


def waiting(budget: Budget) -> int:
    return len(budget._queue)


def test_who_asks_first_is_served_first_and_a_large_wish_is_not_overtaken_by_small_ones():
    budget = Budget(100, "it")
    first, large, small, smaller = takers(budget, 60, 90, 10, 5)
    assert not large.has_it.is_set(), "60 + 90 are too many"
    assert not small.has_it.is_set(), "there would be room for it, but the large one came first"
    first.go()
    assert large.has_it.wait(10)
    assert small.has_it.wait(10), "90 + 10"
    assert not smaller.has_it.is_set()
    large.go()
    assert smaller.has_it.wait(10)
    small.go()
    smaller.go()
    with budget.reserve(100):
        pass


def test_a_wish_larger_than_all_is_refused_in_a_sentence_even_while_others_wait():
    budget = Budget(100 * MB, "decoding the image")
    holder, waiter = takers(budget, 80 * MB, 60 * MB)
    with (
        pytest.raises(
            DecoderOutOfMemoryError,
            match=r"^decoding the image takes about 101 MB, and the worker has 100 MB for it; "
            r"raise NIGHTLABEL_MEMORY_LIMIT$",
        ),
        budget.reserve(101 * MB),
    ):
        pass
    holder.go()
    assert waiter.has_it.wait(10)
    waiter.go()


def test_what_was_taken_comes_back_also_when_the_work_fails():
    budget = Budget(10, "it")
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.reserve(10):
            raise ValueError("broken")
    with budget.reserve(10):
        pass


def test_eight_threads_never_have_more_than_there_is(seed: int):
    budget, lock = Budget(1_000, "it"), threading.Lock()
    taken, most, served = 0, 0, 0

    def work(number: int) -> None:
        nonlocal taken, most, served
        chance = random.Random(seed + number)  # noqa: S311 - which wishes, and no secret
        for _ in range(300):
            wanted = chance.choice((0, 1, 10, chance.randrange(1_001), 1_000, 1_001))
            try:
                with budget.reserve(wanted):
                    with lock:
                        taken, served = taken + wanted, served + 1
                        most = max(most, taken)
                    try:
                        if chance.random() < 0.1:
                            raise KeyError
                    finally:
                        with lock:
                            taken -= wanted
            except KeyError:
                continue  # work fails now and then
            except DecoderOutOfMemoryError:
                assert wanted == 1_001

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert (taken, budget._free, waiting(budget)) == (0, 1_000, 0)
    assert most <= 1_000
    assert served > 1_000


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the shell has pytest ignore Ctrl-C, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_waiting_leaves_the_queue_to_those_behind(ctrl_c_interrupts: None):
    budget = Budget(100, "it")
    [holder] = takers(budget, 60)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert wait_until(lambda: waiting(budget) == 1, 10)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), budget.reserve(90):
        pass
    [behind] = takers(budget, 30)
    assert behind.has_it.wait(10)
    behind.go()
    holder.go()


def test_lowering_refuses_who_waits_for_more_than_remains_and_lets_the_others_wait_on():
    budget = Budget(100, "it")
    holder, large, small = takers(budget, 90, 80, 50)
    budget.lower(40)
    large.join(10)
    assert large.refused is not None
    assert not small.has_it.is_set(), "what is in use is more than there is now"
    holder.go()
    assert small.has_it.wait(10)
    small.go()
    with budget.reserve(60):
        pass


def test_no_limit_lets_everybody_have_what_they_want():
    with no_limit(10**18):
        pass


def test_memory_is_shared_out_of_what_is_free_when_the_model_is_loaded():
    memory = Memory.of_process(1_000 * MB, resident=lambda: 200 * MB)
    assert memory.limit_bytes == 1_000 * MB
    assert (memory.objects.total_bytes, memory.decoding.total_bytes) == (160 * MB, 520 * MB)


def test_without_a_setting_most_of_the_machine_is_the_limit():
    memory = Memory.of_process(None, resident=lambda: 0)
    assert memory.limit_bytes == int(0.8 * available_bytes())
    assert 0 < memory.decoding.total_bytes < memory.limit_bytes


def test_next_to_nothing_free_is_an_error_that_says_how_much_is_needed():
    used = 200 * MB
    Memory.of_process(used + LEAST_FREE_BYTES, resident=lambda: used)
    with pytest.raises(
        MemoryLimitError,
        match=r"^the worker has 200 MB with its model loaded, and may have 150 MB; "
        r"raise NIGHTLABEL_MEMORY_LIMIT to 468 MB or more$",
    ):
        Memory.of_process(150 * MB, resident=lambda: used)


def test_batches_shrink_near_the_limit_and_over_it_the_attempt_ends_with_a_named_error():
    used = 0
    memory = Memory.of_process(1_000 * MB, resident=lambda: used)
    asked = {}
    for used in (0, 900 * MB, 901 * MB, 1_000 * MB):
        asked[used // MB] = [memory.images_a_call(wanted) for wanted in (64, 8, 3, 1)]
    assert asked == {0: [64, 8, 3, 1], 900: [64, 8, 3, 1], 901: [16, 2, 1, 1], 1_000: [16, 2, 1, 1]}
    used = 1_001 * MB
    with pytest.raises(MemoryLimitError, match=r"has 1,001 MB, more than the 1,000 MB .* NIGHTLABEL_MEMORY_LIMIT"):
        memory.images_a_call(8)


def test_processes_that_decode_apart_take_their_own_need_out_of_the_memory_for_decoding():
    memory = Memory.of_process(1_000 * MB, resident=lambda: 0)
    assert memory.processes(2) == 2
    assert memory.decoding.total_bytes == 650 * MB - 2 * PROCESS_BYTES


def test_where_memory_is_short_fewer_processes_decode_apart_and_images_keep_half_of_it():
    memory = Memory.of_process(round(5 * PROCESS_BYTES / DECODING_SHARE) + 1, resident=lambda: 0)
    assert memory.processes(64) == 2
    assert memory.decoding.total_bytes == pytest.approx(3 * PROCESS_BYTES, abs=2)


def test_no_room_for_a_process_apart_is_a_named_error():
    memory = Memory.of_process(90 * MB, resident=lambda: 0)
    with pytest.raises(MemoryLimitError, match=r"within 90 MB there is no room .* NIGHTLABEL_MEMORY_LIMIT by 13 MB"):
        memory.processes(2)
    assert replace(memory, decoding=Budget(2 * PROCESS_BYTES, "it")).processes(2) == 1


def test_the_memory_of_a_process_holds_that_of_its_children():
    block = 150 * MB
    before = resident_bytes()
    hold = f"kept = b'x' * {block}; print('here', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        with_child = resident_bytes()
        child.communicate(b"\n")
    assert with_child - before > 0.9 * block
    kept = b"x" * block
    assert resident_bytes() - before > 0.9 * block
    del kept


@pytest.fixture(scope="module")
def decoding_memory(pytestconfig: pytest.Config) -> dict[str, tuple[int, int]]:
    """Bytes that decoding took and asked for, by kind of image."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.decoding_memory"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return {name: (taken, asked) for name, (taken, asked) in json.loads(ended.stdout).items()}


def test_decoding_takes_no_more_memory_than_it_asks_for_whatever_the_format(decoding_memory):
    assert len(decoding_memory) == 20
    assert {name: both for name, both in decoding_memory.items() if both[0] > both[1]} == {}


def test_a_jpeg_that_is_decoded_at_a_quarter_asks_for_a_fraction_of_the_memory(decoding_memory):
    for name in ("JPEG", "JPEG, CMYK"):
        assert decoding_memory[f"{name}, at a quarter"][1] < decoding_memory[name][1] / 10
    for name in ("JPEG, progressive", "JPEG, CMYK, progressive"):
        assert decoding_memory[f"{name}, at a quarter"][1] < decoding_memory[name][1] * 0.7, "coefficients are kept"
