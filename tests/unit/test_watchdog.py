"""A decoder that hangs ends its process, in time and by name; one that is only busy, or waits, is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference.watchdog import EXIT_HUNG, Watchdog
from local_stack.processes import wait_until

LOOK_S = 0.01


class Ends:
    """Counts how often a process would have been ended."""

    def __init__(self) -> None:
        self.happened = threading.Event()

    def __call__(self) -> None:
        self.happened.set()


def test_an_image_that_takes_too_long_ends_the_process_and_the_log_names_it(caplog: pytest.LogCaptureFixture):
    end = Ends()
    with Watchdog(0.05, end_process=end, look_every_s=LOOK_S) as watchdog, watchdog.over("in/late.jpg"):
        assert end.happened.wait(30)
    [record] = caplog.records
    assert "Decoding 'in/late.jpg' has taken more than 0 s and cannot be stopped" in record.getMessage()


def test_images_in_time_and_no_image_at_all_end_nothing():
    end = Ends()
    with Watchdog(60, end_process=end, look_every_s=LOOK_S) as watchdog:
        for number in range(20):
            with watchdog.over(f"{number}"), watchdog.over("another thread's"):
                time.sleep(LOOK_S / 2)
        time.sleep(5 * LOOK_S)
    assert not end.happened.is_set()


def test_an_image_that_failed_is_watched_no_longer():
    end = Ends()
    with Watchdog(0.3, end_process=end, look_every_s=LOOK_S) as watchdog:
        with pytest.raises(ValueError, match="broken"), watchdog.over("a"):
            raise ValueError("broken")
        assert not end.happened.wait(0.6)


def test_waiting_for_memory_does_not_count_and_what_follows_is_counted_anew():
    end = Ends()
    with Watchdog(0.5, end_process=end, look_every_s=LOOK_S) as watchdog, watchdog.over("a") as turn:
        turn.pause()
        assert not end.happened.wait(1.0), "it waits"
        turn.restart()
        restarted = time.monotonic()
        assert end.happened.wait(30), "it is late after all"
        assert time.monotonic() - restarted >= 0.5


def test_after_its_end_it_ends_nothing_more():
    end = Ends()
    with Watchdog(0.2, end_process=end, look_every_s=LOOK_S) as watchdog:
        pass
    with watchdog.over("a"):
        assert not end.happened.wait(0.5)
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that watches over something, and return how it ended."""
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    return subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, timeout=120)


def test_a_hang_that_lets_go_of_the_interpreter_ends_with_its_own_status(tmp_path: Path):
    ended = run(
        """
import threading, time
from inference.watchdog import Watchdog

def decode(watchdog):
    with watchdog.over("in/hang.jpg"):
        time.sleep(600)

with Watchdog(0.2, look_every_s=0.05) as watchdog:
    thread = threading.Thread(target=decode, args=[watchdog])
    thread.start()
    thread.join()
""",
        tmp_path,
    )
    assert ended.returncode == EXIT_HUNG, ended.stderr
    assert "in/hang.jpg" in ended.stderr


def test_a_hang_that_holds_the_interpreter_is_ended_by_the_alarm_which_shows_where_it_was(tmp_path: Path):
    ended = run(
        """
import ctypes
from inference.watchdog import Watchdog

def decode_something():
    ctypes.PyDLL(None).sleep(600)

with Watchdog(0.2, look_every_s=0.05, grace_s=1.0) as watchdog, watchdog.over("in/hang.jpg"):
    decode_something()
""",
        tmp_path,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Timeout" in ended.stderr
    assert "decode_something" in ended.stderr


def test_a_process_that_has_ended_its_watchdog_is_not_hit_by_the_alarm(tmp_path: Path):
    ended = run(
        """
import time
from inference.watchdog import Watchdog

with Watchdog(0.2, look_every_s=0.05, grace_s=0.2):
    pass
time.sleep(1.5)
print("alive")
""",
        tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


def test_it_comes_and_goes_with_each_shard():
    for _ in range(3):
        end = Ends()
        with Watchdog(0.05, end_process=end, look_every_s=LOOK_S) as watchdog, watchdog.over("a"):
            assert end.happened.wait(30)
    assert wait_until(lambda: not any(thread.name == "watchdog" for thread in threading.enumerate()), 10)
