"""Ends a process in which decoding hangs: a thread that is stuck in native code cannot be stopped any other way.

The process that ends so has not said that its attempt ended, and the next attempt finds the image among its suspects.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

logger = logging.getLogger(__name__)

EXIT_HUNG: Final = 70
"""Exit status of a process that its watchdog ended."""

LOOK_EVERY_S: Final = 1.0

GRACE_S: Final = 15.0
"""How much later the process is ended by the C library's own thread, if native code holds the interpreter's lock."""

STANDARD_ERROR: Final = 2


def _end_process() -> None:
    os._exit(EXIT_HUNG)


class Turn:
    """One image that is being decoded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began_at: float | None = time.monotonic()

    def pause(self) -> None:
        """Count no longer: it waits for memory, which others have."""
        self.began_at = None

    def restart(self) -> None:
        """Count from now on."""
        self.began_at = time.monotonic()


class Watchdog:
    """Watches over the threads that decode. Safe to share between threads; a context manager.

    Args:
        limit_s: Seconds that one image may take.
        end_process: What to do when one takes longer.
        look_every_s: Seconds between two looks.
        grace_s: How much later the alarm ends the process, where this thread cannot look.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        end_process: Callable[[], None] = _end_process,
        look_every_s: float = LOOK_EVERY_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._limit_s = limit_s
        self._end_process = end_process
        self._look_every_s = look_every_s
        self._grace_s = grace_s
        self._turns: set[Turn] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    @contextmanager
    def over(self, name: str) -> Iterator[Turn]:
        """Watch over the block.

        Args:
            name: Of the image, for the log.
        """
        turn = Turn(name)
        self._turns.add(turn)
        try:
            yield turn
        finally:
            self._turns.discard(turn)

    def _watch(self) -> None:
        try:
            # Each look puts the alarm off. It goes off by itself when this thread cannot run any more.
            while True:
                faulthandler.dump_traceback_later(self._limit_s + self._grace_s, exit=True, file=STANDARD_ERROR)
                if self._is_over.wait(self._look_every_s):
                    return
                now = time.monotonic()
                for turn in tuple(self._turns):
                    began_at = turn.began_at
                    if began_at is not None and now - began_at > self._limit_s:
                        logger.critical(
                            "Decoding %r has taken more than %.0f s and cannot be stopped: this process ends, and the "
                            "next attempt decodes the image in a process apart",
                            turn.name,
                            self._limit_s,
                        )
                        self._end_process()
                        return
        finally:
            faulthandler.cancel_dump_traceback_later()
