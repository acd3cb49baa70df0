"""CPU seconds and memory of families of processes, read from ``/proc`` while something is measured.

A process belongs to a family from the moment that its parent does, and stays in it when its parent ends. What a process
used after the last look at it is missing: at most ``INTERVAL_S`` for each process that ends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

INTERVAL_S = 0.25
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Root:
    """The first process of a family."""

    name: str
    pid: int
    children: str | None = None
    """Name under which its descendants are counted; None for its own."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is needed of ``/proc/<pid>/stat``."""

    parent: int
    cpu_s: float
    """User and system seconds of the process itself, without its children's."""
    rss_mib: float


def read_stat(pid: int) -> Stat | None:
    """Return a process's figures, or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return Stat(int(fields[1]), ticks / TICKS_PER_S, int(fields[21]) * PAGE_BYTES / 2**20)


def command_line(pid: int) -> str:
    """Return a process's command line, or an empty text."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@dataclass(slots=True)
class _Member:
    name: str
    children: str
    first_s: float
    last_s: float


@dataclass(slots=True)
class Meter:
    """Watches families while its block runs. A context manager.

    Args:
        roots: The families; where they overlap, the nearest root counts.
        traced: Part of a command line; the memory of these processes is kept over time.
    """

    roots: Sequence[Root]
    traced: str | None = None
    trace: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since 1970, MiB) of the largest traced process."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Largest sum of a family's resident memory; pages that processes share count for each of them."""
    _members: dict[int, _Member] = field(default_factory=dict)
    _traced_pids: dict[int, bool] = field(default_factory=dict)
    _strangers: set[int] = field(default_factory=set)
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        for root in self.roots:
            stat = read_stat(root.pid)
            if stat is not None:
                self._members[root.pid] = _Member(root.name, root.children or root.name, stat.cpu_s, stat.cpu_s)
        self._look(is_first=True)
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def add(self, root: Root) -> None:
        """Watch one more family, from its beginning."""
        self._members[root.pid] = _Member(root.name, root.children or root.name, 0.0, 0.0)

    def pids(self, name: str) -> list[int]:
        """Return the processes of a family that lived at the last look."""
        return [pid for pid, member in list(self._members.items()) if member.name == name and read_stat(pid)]

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds that each family used, by name."""
        found: dict[str, float] = {}
        for member in list(self._members.values()):
            found[member.name] = found.get(member.name, 0.0) + member.last_s - member.first_s
        return found

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self, *, is_first: bool = False) -> None:
        now = time.time()
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._strangers &= pids
        stats = {pid: stat for pid in pids - self._strangers if (stat := read_stat(pid))}
        new = {pid for pid in stats if pid not in self._members}
        while joining := {pid for pid in new if stats[pid].parent in self._members}:
            for pid in joining:
                parent = self._members[stats[pid].parent]
                # What was there before the measurement began had used time before.
                first_s = stats[pid].cpu_s if is_first else 0.0
                self._members[pid] = _Member(parent.children, parent.children, first_s, first_s)
            new -= joining
        self._strangers |= new
        sums: dict[str, float] = {}
        traced_mib = 0.0
        for pid, member in self._members.items():
            if (stat := stats.get(pid)) is None:
                continue
            member.last_s = max(member.last_s, stat.cpu_s)
            sums[member.name] = sums.get(member.name, 0.0) + stat.rss_mib
            if self.traced is not None and self._is_traced(pid):
                traced_mib = max(traced_mib, stat.rss_mib)
        for name, mib in sums.items():
            self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), mib)
        if traced_mib:
            self.trace.append((now, traced_mib))

    def _is_traced(self, pid: int) -> bool:
        if not self._traced_pids.get(pid):  # it may become another program yet
            self._traced_pids[pid] = (self.traced or "") in command_line(pid)
        return self._traced_pids[pid]
