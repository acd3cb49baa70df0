"""One discovery in a process of its own, as a task has one; prints the plan, the seconds and the most memory it had."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from inference import wiring
from inference.settings import read_settings
from inference.types import RunRequest


def peak_bytes() -> int:
    """The most memory that this program had; ``getrusage`` would count what its parent had when it was forked."""
    [peak] = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmHWM" in line]
    return int(peak.split()[1]) * 1024


def main() -> None:
    bucket, prefix, mode = sys.argv[1:]
    settings = read_settings()
    with wiring.open_sink(settings) as sink:
        store = wiring.open_store(settings)
        began, busy = time.monotonic(), time.process_time()
        plan = wiring.discover(RunRequest(bucket, prefix, dry_run=mode == "dry"), store=store, sink=sink)
        seconds, busy_s = time.monotonic() - began, time.process_time() - busy
    print(  # noqa: T201 - the test that started it reads it
        json.dumps(
            {
                "run_id": str(plan.run_id),
                "discovered": plan.discovered,
                "already_done": plan.already_done,
                "deferred": plan.deferred,
                "to_classify": plan.to_classify,
                "shards": len(plan.shards),
                "list_s": plan.list_s,
                "seconds": seconds,
                "busy_s": busy_s,
                "peak_bytes": peak_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main()
