"""How long a task takes to read its model: ``python -m benchmarks.model_reading [--model production] [--tasks 5]``.

Each task is a process of its own, as under a scheduler, with the database and the model store of the environment. The
first one may have to fetch the model; a cache is warm after it. Importing the engine and the adapters is not counted:
a task has them loaded, or pays for them, whatever the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from inference import wiring
from inference.models import registry
from inference.models.resolve import load_handle
from inference.settings import read_settings

T = TypeVar("T")


def read(model: str) -> dict[str, Any]:
    """Read a model as ``wiring.load_model`` does; the seconds of each step and of all of it at once."""
    seconds: dict[str, Any] = {}

    def timed(step: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        done = work()
        seconds[step] = time.perf_counter() - began
        return done

    settings = read_settings()
    wiring.load_libraries()
    with wiring.open_sink(settings) as sink:
        chosen = sink.resolve_model(model)
        timed("all of it", lambda: wiring.load_model(chosen, sink, settings, device="cpu"))
        store = timed("open the store", lambda: wiring.open_model_store(settings))
        with sink.asking() as connection:
            registered = timed("ask the database", lambda: registry.find_registered(connection, chosen))
        manifest = timed("read the manifest", lambda: store.read_manifest(chosen, registered.matches))
        folder = timed("hash the engine's files", lambda: store.check_files(manifest, "litert"))
        timed("hash every file", lambda: store.check_files(manifest))
        timed("make the engine", lambda: load_handle(manifest, folder, "litert", settings.engine_threads))
    sizes = [(folder / path).stat().st_size for path in manifest.files]
    return {**seconds, "megabytes": sum(sizes) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="production")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(read(arguments.model)))
        return
    for number in range(1, arguments.tasks + 1):
        task = subprocess.run(
            [sys.executable, "-m", "benchmarks.model_reading", "--one", "--model", arguments.model],
            stdout=subprocess.PIPE,
            check=True,
        )
        figures = json.loads(task.stdout)
        steps = ", ".join(f"{step} {value:.3f}" for step, value in figures.items() if step != "megabytes")
        print(f"task {number} ({figures['megabytes']:.1f} MB of files), seconds: {steps}")


if __name__ == "__main__":
    main()
