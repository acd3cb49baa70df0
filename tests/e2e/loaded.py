"""Says what a running process has loaded, from outside and without its help: /proc/PID/maps and /proc/PID/cmdline."""

from __future__ import annotations

from pathlib import Path

# A piece of the path of a native library -> the package that it belongs to. Each of these packages cannot be used
# without mapping one of its own libraries.
NATIVE = {
    "/site-packages/tensorflow/": "tensorflow",
    "/site-packages/ai_edge_litert/": "ai_edge_litert",
    "/site-packages/numpy/": "numpy",
    "/site-packages/numpy.libs/": "numpy",
    "/site-packages/pandas/": "pandas",
    "/site-packages/PIL/": "PIL",
    "/site-packages/pillow.libs/": "PIL",
    "/site-packages/psycopg_binary/": "psycopg",
    "/site-packages/psycopg2/": "psycopg2",
    "/site-packages/pydantic_core/": "pydantic",
}

HEAVY = frozenset({"tensorflow", "ai_edge_litert", "numpy", "pandas", "PIL"})
"""What no part of Airflow may load because of us."""


def mapped_files(pid: int) -> set[str]:
    """Return the files that a process has mapped.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    parts = (line.split(maxsplit=5) for line in lines)
    return {part[5].removesuffix(" (deleted)") for part in parts if len(part) == 6 and part[5].startswith("/")}


def packages_loaded(pid: int) -> set[str]:
    """Return which of the packages in ``NATIVE`` a process has loaded."""
    files = mapped_files(pid)
    return {package for piece, package in NATIVE.items() if any(piece in file for file in files)}


def heavy_packages_loaded(pid: int) -> set[str]:
    """Return which heavy packages a process has loaded; empty for a part of Airflow that keeps its promise."""
    return packages_loaded(pid) & HEAVY


def children(pid: int) -> list[int]:
    """Return the processes below a process, all generations, in no order."""
    below: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found = [int(child) for child in task.read_text(encoding="ascii").split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            below += found
            waiting += found
    return below


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty text if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\x00", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
