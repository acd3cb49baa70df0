"""A bound on memory: who needs much of it waits for its turn, who needs more than there is is refused. Pure Linux.

The bound of a process is ``NIGHTLABEL_MEMORY_LIMIT``, else most of what its cgroup or machine has. What is left of it
when the model is loaded is shared out: a part for objects that were fetched, a part for images that are being decoded.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from inference.errors import DecoderOutOfMemoryError, MemoryLimitError

Reserve: TypeAlias = Callable[[int], AbstractContextManager[None]]
"""Takes a number of bytes for as long as the block lasts; may wait, may raise DecoderOutOfMemoryError."""

SHARE_OF_MACHINE: Final = 0.8
"""Of the cgroup's or the machine's memory, what a process takes for itself when nobody says otherwise."""

OBJECTS_SHARE: Final = 0.2
DECODING_SHARE: Final = 0.65
"""Of what is free once the model is loaded. The rest is for what nobody counts: batches, buffers, gaps."""

LEAST_FREE_BYTES: Final = 32 * 1024 * 1024
"""With less there is no room for the smallest photo of a phone."""

PROCESS_BYTES: Final = 32 * 1024 * 1024
"""What a process that decodes apart takes for itself: 20 MB as measured, and what it keeps of the last image."""

HIGH_WATER: Final = 0.9
"""From this share of the limit on, batches shrink."""


_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of the C library's ``mallopt``."""

_LARGE_BYTES: Final = 4 * 1024 * 1024
"""From here on a block of memory goes back to the system when it is freed. Ordinary photos take less at a time."""


def give_freed_memory_back() -> None:
    """Have the C library return what was freed, in this process, from now on. Without effect where it cannot.

    By itself it learns from the first large image that is freed to keep up to 64 MB, for each thread: with eight
    threads a worker was measured to go 300 MB over its limit by what nobody used.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


def no_limit(_wanted: int) -> AbstractContextManager[None]:
    """Let everybody have what they want."""
    return nullcontext()


def resident_bytes() -> int:
    """Return how much memory this process has, with its children, as the out-of-memory killer counts it."""
    resident, _ = _resident_and_shared_pages("self")
    for thread in Path("/proc/self/task").iterdir():
        try:
            children = (thread / "children").read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        for child in children:
            try:
                of_child, shared = _resident_and_shared_pages(child)
            except OSError:
                continue
            resident += of_child - shared  # what they share is counted once
    return resident * os.sysconf("SC_PAGE_SIZE")


def _resident_and_shared_pages(process: str) -> tuple[int, int]:
    fields = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
    return int(fields[1]), int(fields[2])


def available_bytes() -> int:
    """Return what this process may have at most: its cgroup's limit, or the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine]
    for folder, file in _cgroups():
        for above in (folder, *folder.parents):
            try:
                limits.append(int((above / file).read_text(encoding="ascii")))
            except (OSError, ValueError):  # not seen from here, or "max"
                continue
    return min(limits)


def _cgroups() -> Iterator[tuple[Path, str]]:
    """Yield the folder of each cgroup that may limit this process's memory, and the file in it that says so."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in ("0::/", *lines):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield root / path.lstrip("/"), "memory.max"
        elif "memory" in controllers.split(","):
            yield root / "memory" / path.lstrip("/"), "memory.limit_in_bytes"


class Budget:
    """A number of bytes that threads share, first come first served. Safe to share between threads.

    Args:
        total_bytes: What there is in all.
        what_for: What a reservation is for, for the message of a refusal.
    """

    def __init__(self, total_bytes: int, what_for: str) -> None:
        self.total_bytes = total_bytes
        self._what_for = what_for
        self._free = total_bytes
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, wanted: int) -> Iterator[None]:
        """Have ``wanted`` bytes for as long as the block lasts; waits until they are free.

        Who asks for much is not overtaken by those who ask for little, and gets its turn alone if need be.

        Raises:
            DecoderOutOfMemoryError: more than there is in all.
        """
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: wanted > self.total_bytes or (self._queue[0] is ticket and self._free >= wanted)
                )
            finally:  # also when Ctrl-C ends the wait: those behind must not wait for one that is gone
                self._queue.remove(ticket)
                self._changed.notify_all()
            if wanted > self.total_bytes:
                raise DecoderOutOfMemoryError(
                    f"{self._what_for} takes about {wanted / 1e6:,.0f} MB, and the worker has "
                    f"{self.total_bytes / 1e6:,.0f} MB for it; raise NIGHTLABEL_MEMORY_LIMIT"
                )
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()

    def lower(self, by: int) -> None:
        """Take bytes out for good, for something else. Who waits for more than what remains is refused.

        Args:
            by: Less than what there is in all.
        """
        with self._changed:
            self.total_bytes -= by
            self._free -= by  # below zero for a while, when they are in use
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a worker, shared out among what needs much of it."""

    limit_bytes: int
    objects: Budget
    """For the bytes of objects that were fetched and are not decoded yet."""
    decoding: Budget
    """For images that are being decoded."""
    resident_bytes: Callable[[], int] = resident_bytes

    @classmethod
    def of_process(cls, limit_bytes: int | None = None, *, resident: Callable[[], int] = resident_bytes) -> Memory:
        """Share out what is free now; call it when the model is loaded.

        Args:
            limit_bytes: The setting, if there is one.
            resident: Tells how much memory the process has.

        Raises:
            MemoryLimitError: next to nothing is free.
        """
        limit = limit_bytes if limit_bytes is not None else int(available_bytes() * SHARE_OF_MACHINE)
        used = resident()
        free = limit - used
        if free < LEAST_FREE_BYTES:
            raise MemoryLimitError(
                f"the worker has {used / 1e6:,.0f} MB with its model loaded, and may have {limit / 1e6:,.0f} MB; "
                f"raise NIGHTLABEL_MEMORY_LIMIT to {(used + 8 * LEAST_FREE_BYTES) / 1e6:,.0f} MB or more"
            )
        return cls(
            limit_bytes=limit,
            objects=Budget(int(free * OBJECTS_SHARE), "the object"),
            decoding=Budget(int(free * DECODING_SHARE), "decoding the image"),
            resident_bytes=resident,
        )

    def processes(self, wanted: int) -> int:
        """Return how many processes may decode apart, and take what they need for themselves out of ``decoding``.

        They get at most half of it.

        Args:
            wanted: How many are wanted.

        Raises:
            MemoryLimitError: there is no room for one.
        """
        room = self.decoding.total_bytes // 2
        if room < PROCESS_BYTES:
            raise MemoryLimitError(
                f"images that may kill their decoder are decoded in a process apart, and within "
                f"{self.limit_bytes / 1e6:,.0f} MB there is no room for one; raise NIGHTLABEL_MEMORY_LIMIT by "
                f"{(PROCESS_BYTES - room) * 2 / DECODING_SHARE / 1e6:,.0f} MB or more"
            )
        processes = max(1, min(wanted, room // PROCESS_BYTES))
        self.decoding.lower(processes * PROCESS_BYTES)
        return processes

    def images_a_call(self, wanted: int) -> int:
        """Return how many images the model is given at once: fewer when memory is short, at least 1.

        Args:
            wanted: How many it is best with.

        Raises:
            MemoryLimitError: over the limit; ending here beats being killed without a word.
        """
        used = self.resident_bytes()
        if used <= HIGH_WATER * self.limit_bytes:
            return wanted
        if used <= self.limit_bytes:
            return max(1, wanted // 4)
        raise MemoryLimitError(
            f"the worker has {used / 1e6:,.0f} MB, more than the {self.limit_bytes / 1e6:,.0f} MB that it may have; "
            "what was recorded stays, and a fresh process goes on; lower NIGHTLABEL_WINDOW or NIGHTLABEL_MAX_PIXELS, "
            "or raise NIGHTLABEL_MEMORY_LIMIT, if it comes again"
        )
