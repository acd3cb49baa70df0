"""Says what importing a module loads, in a fresh interpreter, so that no other test hides a leak."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

REPORT = """
import importlib, json, sys
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_loaded_by(module: str, *, root: Path = ROOT) -> set[str]:
    """Return every module that importing ``module`` loads, with the library found in the folder ``root``."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", REPORT, module], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def packages_loaded_by(module: str, *, root: Path = ROOT) -> set[str]:
    """Return the top-level packages that importing ``module`` loads, the standard library and ours left out."""
    tops = {name.partition(".")[0] for name in modules_loaded_by(module, root=root)}
    return tops - set(sys.stdlib_module_names) - {"inference"}
