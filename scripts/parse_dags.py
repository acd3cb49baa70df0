"""Parse every Dag where neither TensorFlow nor the engines are installed; say what it costs and what it loads.

Makes an environment that holds Airflow and its providers only (`.venv-dags`, versions of requirements.txt), parses the
Dags and the plugins in it with Airflow's own DagBag, and fails if a Dag does not parse or a heavy module is loaded.

    python scripts/parse_dags.py [--dags FOLDER] [--plugins FOLDER] [--library FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-dags"
REPEATS = 3

HEAVY = frozenset(
    {
        "PIL", "ai_edge_litert", "alembic", "boto3", "botocore", "keras", "numpy", "obstore", "pandas",
        "psycopg", "psycopg2", "pyarrow", "pydantic_settings", "tensorflow", "tensorflow_hub", "tf_keras",
    }
)  # fmt: skip
"""What the Dags and plugins must not add to what Airflow loads by itself."""

LIGHT_PARTS_OF_THE_LIBRARY = frozenset({"inference", "inference.errors"})

# Runs inside the environment. What Airflow loads for a Dag of nothing is the measure; ours is what comes on top.
INSIDE = """
import json, os, sys, time
folder, empty = sys.argv[1:3]
started = time.perf_counter()
import airflow.sdk
from airflow.sdk import DAG, BaseOperator, Param, TriggerRule
sdk_s = time.perf_counter() - started
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
with DAG("empty", schedule=None) as dag:
    BaseOperator(task_id="nothing")
DagSerialization.to_dict(dag)
DagBag(empty)
before = set(sys.modules)
started = time.perf_counter()
bag = DagBag(folder)
parse_s = time.perf_counter() - started
for dag in bag.dags.values():
    DagSerialization.from_dict(DagSerialization.to_dict(dag))
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
with open(sys.argv[3], "w") as answer:
    json.dump({
        "sdk_s": sdk_s,
        "parse_s": parse_s,
        "dags": sorted(bag.dags),
        "import_errors": {os.path.basename(path): text for path, text in bag.import_errors.items()},
        "plugin_errors": plugins_manager.get_import_errors(),
        "added": sorted(set(sys.modules) - before),
    }, answer)
"""

# What a Dag file adds to importing airflow.sdk, in a process that does nothing else.
TIMED = """
import runpy, sys, time
import airflow.sdk
started = time.perf_counter()
runpy.run_path(sys.argv[1])
open(sys.argv[2], "w").write(str(time.perf_counter() - started))
"""


def wanted_packages() -> list[str]:
    """Return the requirements of the extra `airflow`: not the library's own, which would bring the engine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["optional-dependencies"]["airflow"])


def make_environment() -> Path:
    """Make the environment, unless it is there and up to date; return its Python. Takes seconds with uv's cache."""
    python = ENVIRONMENT / "bin" / "python"
    locked = ROOT / "requirements.txt"
    facts = "\n".join([sys.version, *wanted_packages()]).encode() + locked.read_bytes()
    stamp, state = ENVIRONMENT / ".made-of", hashlib.sha256(facts).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == state:
        return python
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise SystemExit("error: uv was not found beside this Python; run `make setup` first")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    for command in (
        ["venv", "--python", sys.executable, str(ENVIRONMENT)],
        ["pip", "install", "--python", str(python), "--constraint", str(locked), *wanted_packages()],
    ):
        done = subprocess.run([uv, "--quiet", *command], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"error: uv {command[0]} failed: {done.stderr.strip()}")
    stamp.write_text(state, encoding="ascii")
    return python


def run_inside(python: Path, code: str, *arguments: str, plugins: Path, library: Path) -> str:
    """Run code in the environment, with a home of its own, and return what it wrote to the file of its last argument.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="nightlabel-dags-") as home:
        answer, empty = Path(home) / "answer", Path(home) / "empty"
        empty.mkdir()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(empty),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
            "PYTHONPATH": os.pathsep.join([str(plugins), str(library)]),
        }
        filled = [str(empty) if argument == "EMPTY" else argument for argument in arguments]
        done = subprocess.run(  # noqa: S603
            [str(python), "-c", code, *filled, str(answer)],
            env=environment, cwd=home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"error: parsing failed: {done.stderr.strip()[-2000:]}")
        return answer.read_text(encoding="utf-8")


def parse(dags: Path, plugins: Path, library: Path, python: Path | None = None) -> dict[str, object]:
    """Parse every Dag and load every plugin in the environment.

    Args:
        dags: Folder of Dag files.
        plugins: Airflow's plugins folder.
        library: Folder that holds the package ``inference``.
        python: Another Python to do it with; by default that of the environment without engines.

    Returns:
        ``dags`` (ids), ``import_errors`` and ``plugin_errors`` by file, ``heavy`` and ``library`` (modules loaded that
        should not be), ``added`` (all modules on top of Airflow's own), ``sdk_s`` and ``parse_s`` (seconds).
    """
    text = run_inside(python or make_environment(), INSIDE, str(dags), "EMPTY", plugins=plugins, library=library)
    found: dict[str, object] = json.loads(text)
    added = list(json.loads(text)["added"])
    found["heavy"] = sorted({module.partition(".")[0] for module in added} & HEAVY)
    ours = [module for module in added if module.partition(".")[0] == "inference"]
    found["library"] = sorted(set(ours) - LIGHT_PARTS_OF_THE_LIBRARY)
    return found


def is_clean(found: dict[str, object]) -> bool:
    """Return whether every Dag parsed, every plugin loaded and nothing heavy came with them."""
    return bool(found["dags"]) and not any(
        found[name] for name in ("import_errors", "plugin_errors", "heavy", "library")
    )


def report(found: dict[str, object], seconds: dict[str, list[float]]) -> str:
    """Return the findings as lines for a terminal."""
    lines = [f"Dags: {', '.join(found['dags'])}"]  # type: ignore[arg-type]
    lines.append(f"importing airflow.sdk takes {found['sdk_s']:.2f} s here; a Dag file adds (median of {REPEATS}):")
    lines += [f"  {name:<30}{sorted(times)[len(times) // 2]:>8.3f} s" for name, times in seconds.items()]
    added = {str(module).partition(".")[0] for module in found["added"]}  # type: ignore[attr-defined]
    lines.append(f"modules on top of Airflow's own: {', '.join(sorted(added))}")
    for name, text in (
        ("import_errors", "does not parse"),
        ("plugin_errors", "does not load"),
    ):
        lines += [f"error: {path} {text}: {why}" for path, why in found[name].items()]  # type: ignore[attr-defined]
    if found["heavy"]:
        lines.append(f"error: heavy modules were loaded: {', '.join(found['heavy'])}")  # type: ignore[arg-type]
    if found["library"]:
        lines.append(
            "error: parts of the library were loaded that only a task may load: " + ", ".join(found["library"])  # type: ignore[arg-type]
        )
    return "\n".join(lines)


def main() -> int:
    """Parse, print and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dags", type=Path, default=ROOT / "dags")
    parser.add_argument("--plugins", type=Path, default=ROOT / "plugins")
    parser.add_argument("--library", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, without timings")
    options = parser.parse_args()
    found = parse(options.dags, options.plugins, options.library)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0 if is_clean(found) else 1
    python = make_environment()
    seconds = {
        path.name: [
            float(run_inside(python, TIMED, str(path), plugins=options.plugins, library=options.library))
            for _ in range(REPEATS)
        ]
        for path in (sorted(options.dags.glob("*.py")) if is_clean(found) else ())
    }
    sys.stdout.write(report(found, seconds) + "\n")
    return 0 if is_clean(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
