"""One discovery in a process of its own, as a task has one; prints the plan, the seconds and the most memory it had."""

from __future__ import annotations

import json
import resource
import sys
import time

from inference import wiring
from inference.settings import read_settings
from inference.types import RunRequest


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
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
