"""Run one peer in this process: ``python -m benchmarks.peers MODULE FILE``; the file holds the job as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.peers.common import Job


def main() -> None:
    name, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    module = importlib.import_module(f"benchmarks.peers.{name}")
    answer = module.run(Job(**{**job, "label_ids": tuple(job["label_ids"])}))
    print(json.dumps(answer or {}))


if __name__ == "__main__":
    main()
