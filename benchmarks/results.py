"""What was measured -> rates, ratios, tables and the dated rows of README.md. Pure, but for that file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

NOTHING: Final = "-"
Event: TypeAlias = tuple[str, float]
"""What a peer noted, and when, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to label the same images, measured."""

    name: str
    images: int
    """Labels found in the database afterwards."""
    seconds: float
    """From its start to its end, start-up included."""
    first_images: int
    """Images that were done when the steady time began."""
    steady_s: float
    """Seconds to the last label, without start-up."""
    bound_per_second: float
    """Inference alone, measured just before and just after; the mean."""
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """Process -> CPU seconds, start-up included."""
    peak_mib: Mapping[str, float] = field(default_factory=dict)
    """Process -> most resident memory."""
    equal_labels: float | None = None
    """Share of labels equal to the product's."""
    note: str = ""

    @property
    def per_second(self) -> float:
        """Images a second, start-up included."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def steady_per_second(self) -> float:
        """Images a second without start-up."""
        return (self.images - self.first_images) / self.steady_s if self.steady_s > 0 else 0.0

    @property
    def startup_s(self) -> float:
        """Seconds that are no part of the steady time."""
        return max(0.0, self.seconds - self.steady_s)

    @property
    def ratio(self) -> float:
        """Steady rate as a share of the bound."""
        return self.steady_per_second / self.bound_per_second if self.bound_per_second else 0.0

    def cpu_ms(self) -> dict[str, float]:
        """Return CPU milliseconds an image by process."""
        return {name: 1000 * seconds / self.images for name, seconds in self.cpu_s.items()} if self.images else {}


@dataclass(frozen=True, slots=True)
class Discovery:
    """Two nights of discovery over a bucket that is only listed; its pages come from a generator on loopback."""

    keys: int
    first_s: float
    """All keys are new."""
    again_s: float
    """All are labelled."""
    list_s: float
    """Of that, seconds that it waited for the listing."""
    peak_mib: float
    """Most memory of the process that discovers."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """A run of the command line over so many new images."""

    images: int
    seconds: float
    """From the start of the process to its end."""


def steady_seconds(events: Sequence[Event], end: float) -> float:
    """Return the seconds from the first ``fetch`` to the end, without those in which the model was loading.

    Args:
        events: ``fetch``, ``loading`` and ``ready`` in order of time; of several processes, where there are several.
        end: When the last row was written.
    """
    begin = next((moment for name, moment in events if name == "fetch"), end)
    loading, since, passed = 0, begin, 0.0
    for name, moment in events:
        if name == "loading":
            since = since if loading else max(begin, moment)
            loading += 1
        elif name == "ready":
            loading -= 1
            if not loading:
                passed += max(0.0, min(moment, end) - since)
    return max(0.0, end - begin - passed)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal; all columns but the first are set to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def contenders_table(contenders: Sequence[Contender]) -> str:
    """Return the table of everyone who labelled the images, as printed."""
    head = ("", "images", "images/s", "of bound", "with start-up", "start-up s", "CPU ms/image", "peak MiB", "equal")
    rows = [
        (
            entry.name,
            f"{entry.images:,}",
            f"{entry.steady_per_second:.1f}",
            f"{entry.ratio:.2f}",
            f"{entry.per_second:.1f}",
            f"{entry.startup_s:.1f}",
            f"{sum(entry.cpu_ms().values()):.1f}",
            f"{sum(entry.peak_mib.values()):.0f}",
            NOTHING if entry.equal_labels is None else f"{entry.equal_labels:.3f}",
        )
        for entry in contenders
    ]
    return text_table(head, rows)


def cpu_table(contenders: Sequence[Contender]) -> str:
    """Return CPU milliseconds an image, by process."""
    names = sorted({name for entry in contenders for name in entry.cpu_s}, key=_process_order)
    rows = [
        (entry.name, *(f"{entry.cpu_ms()[name]:.2f}" if name in entry.cpu_s else NOTHING for name in names))
        for entry in contenders
    ]
    return text_table(("CPU ms/image", *names), rows)


def _process_order(name: str) -> tuple[int, str]:
    order = ["itself", "store", "postgres"]
    return (order.index(name) if name in order else len(order), name)


def stages_table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of each stage alone."""
    head = ("stage alone", "images", "images/s", "threads", "CPU ms/image", "store", "postgres", "p50 ms", "p99 ms")

    def cpu(entry: Mapping[str, Any], name: str) -> str:
        seconds = entry["cpu_s"].get(name)
        return NOTHING if seconds is None or not entry["images"] else f"{1000 * seconds / entry['images']:.2f}"

    rows = [
        (
            name,
            f"{entry['images']:,}",
            f"{entry['per_second']:.0f}",
            str(entry["threads"]),
            cpu(entry, "worker"),
            cpu(entry, "store"),
            cpu(entry, "postgres"),
            f"{entry['p50_ms']:.2f}",
            f"{entry['p99_ms']:.2f}",
        )
        for name, entry in stages.items()
    ]
    return text_table(head, rows)


def pipelines_table(pipelines: Mapping[str, Mapping[str, Any]], bound_per_second: float) -> str:
    """Return the table of the product's loop with stages replaced."""
    head = ("the loop", "images", "images/s", "of bound", "CPU ms/image")
    rows = [
        (
            name,
            f"{entry['images']:,}",
            f"{entry['per_second']:.1f}",
            f"{entry['per_second'] / bound_per_second:.2f}" if bound_per_second else NOTHING,
            f"{1000 * sum(entry['cpu_s'].values()) / entry['images']:.1f}" if entry["images"] else NOTHING,
        )
        for name, entry in pipelines.items()
    ]
    return text_table(head, rows)


def buckets_table(buckets: Sequence[Discovery]) -> str:
    """Return the table of discoveries by the size of the bucket."""
    head = ("discovery", "all new s", "nothing new s", "waiting s", "peak MiB")
    rows = [
        (
            f"{entry.keys:,} keys",
            f"{entry.first_s:.1f}",
            f"{entry.again_s:.1f}",
            f"{entry.list_s:.1f}",
            f"{entry.peak_mib:.0f}",
        )
        for entry in buckets
    ]
    return text_table(head, rows)


def backlogs_table(backlogs: Sequence[Backlog]) -> str:
    """Return the table of whole runs of the command line by the size of the backlog."""
    rows = [(f"{entry.images:,} images", f"{entry.seconds:.1f}") for entry in backlogs]
    return text_table(("whole run", "seconds"), rows)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line through (x, y) points with the least squares; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def memory_over_images(
    trace: Sequence[tuple[float, float]], recorded: Sequence[tuple[float, int]]
) -> list[tuple[int, float]]:
    """Join memory over time with images over time.

    Args:
        trace: (time in seconds, MiB).
        recorded: (time in seconds, images recorded then), in order of time.

    Returns:
        (images done so far, MiB), between the first recorded image and the last.
    """
    points: list[tuple[int, float]] = []
    done = position = 0
    for moment, mib in trace:
        while position < len(recorded) and recorded[position][0] <= moment:
            done += recorded[position][1]
            position += 1
        if 0 < position < len(recorded):
            points.append((done, mib))
    return points


def growth_mib_per_1000(points: Sequence[tuple[int, float]]) -> float:
    """Return how many MiB the memory grows with 1,000 images, in the second half: the first one fills buffers."""
    half = [(images, mib) for images, mib in points if images >= points[-1][0] / 2] if points else []
    return 1000 * slope([(float(images), mib) for images, mib in half])


def rate_cell(entry: Contender | None) -> str:
    """Return a cell of README.md: steady images a second, and the share of the bound."""
    return NOTHING if entry is None else f"{entry.steady_per_second:.0f} ({entry.ratio:.2f})"


def append_row(path: Path, table: str, cells: Sequence[str]) -> None:
    """Append a row to the table of README.md that follows the comment ``<!-- table -->``.

    Raises:
        ValueError: no such table, or it has another number of columns.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    mark = f"<!-- {table} -->"
    if mark not in lines:
        raise ValueError(f"{path} has no line {mark}; put it above the table's head")
    position = lines.index(mark) + 1
    while position < len(lines) and not lines[position].startswith("|"):
        position += 1
    columns = len(split_row(lines[position]))
    if columns != len(cells):
        raise ValueError(f"the table {table} of {path} has {columns} columns and the row {len(cells)}")
    while position < len(lines) and lines[position].startswith("|"):
        position += 1
    lines.insert(position, "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def split_row(line: str) -> list[str]:
    """Return the cells of a row of a Markdown table."""
    return [cell.strip() for cell in re.sub(r"^\||\|$", "", line.strip()).split("|")]
