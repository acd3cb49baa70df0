"""What tests need that kill parts of a running stack: images that take their time, and who does what."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from local_stack.processes import wait_until
from tests.e2e.nights import AirflowRun
from tests.e2e.stacks import RunningStack

SIDE = 2400
"""Pixels; decoding so many takes a core some 70 ms, out of 60 KB."""

MODEL_BATCH = 8
"""Images in one batch with the bundled model on a CPU."""


class SlowImages:
    """A bucket of images that take long to classify, each different."""

    def __init__(self, stack: RunningStack, count: int, seed: int, extra: dict[str, bytes] | None = None) -> None:
        self.stack = stack
        self.bucket = stack.new_bucket()
        pictures = [slow_picture(seed + number) for number in range(4)]
        objects = {f"{number:04}.png": pictures[number % 4] + b" %d" % number for number in range(count)}
        objects |= {key: objects[key] + poison for key, poison in (extra or {}).items()}
        self.keys = set(objects)
        stack.put_all(self.bucket, objects)

    def outcomes(self) -> int:
        return len(outcomes(self.stack, self.bucket))

    def wait_for_outcomes(self, count: int, limit_s: float = 120) -> None:
        assert wait_until(lambda: self.outcomes() >= count, limit_s, interval_s=0.1), self.outcomes()

    def wait_for_attempt(
        self, night: AirflowRun, *, shard: int, attempt: int, since: float, limit_s: float = 240
    ) -> float:
        """Return how many seconds after ``since`` an attempt claims its shard."""
        assert wait_until(lambda: night.shards()[shard]["attempt"] >= attempt, limit_s, interval_s=0.1), night.states()
        seconds = time.monotonic() - since
        print(f"the shard ran again after {seconds:.1f} s")  # noqa: T201 - a figure to quote
        return seconds


def slow_picture(seed: int) -> bytes:
    """Return a large PNG of coloured squares."""
    squares = Image.frombytes("RGB", (12, 12), random.Random(seed).randbytes(12 * 12 * 3))  # noqa: S311
    buffer = io.BytesIO()
    squares.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def outcomes(stack: RunningStack, bucket: str) -> dict[str, tuple[Any, ...]]:
    """Return key -> everything of its outcome, run and time included."""
    rows = stack.owner_rows(
        "SELECT i.object_key, o.* FROM nightlabel.outcome o JOIN nightlabel.image i USING (image_id) "
        "WHERE i.bucket = %s",
        bucket,
    )
    return {row["object_key"]: tuple(map(str, row.values())) for row in rows}


def process_of(task: dict[str, Any]) -> int:
    """Return the process that runs a task's code."""
    assert task["state"] == "running", task
    return task["pid"]


def parent_of(pid: int) -> int:
    """Return the process that watches over a task's."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def die(*pids: int) -> float:
    """Kill processes outright and return when that was."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)  # a statement that the database has got is still committed
    return time.monotonic() - 0.5
