"""Each import guard is seen red on a violation that is planted in a copy: a guard that never fails guards nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import parse_dags
from tests.loading import packages_loaded_by

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path) -> Path:
    """Return a copy of everything that the guards look at."""
    for folder in ("inference", "local_stack", "dags", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(path: Path, statement: str) -> None:
    """Put a statement after the imports from the future, which have to come first."""
    future = "from __future__ import annotations\n"
    text = path.read_text(encoding="utf-8")
    assert text.count(future) == 1, f"{path} has no line to plant after"
    path.write_text(text.replace(future, f"{future}\n{statement}\n"), encoding="utf-8")


def run(tool: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOLS / tool), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("inference/planning.py", "import numpy"),
        ("inference/wiring.py", "import boto3"),
        ("inference/settings.py", "from psycopg import connect"),
        ("inference/types.py", "import tensorflow as tf"),
        ("plugins/nightlabel_airflow/operators.py", "import tensorflow"),
        ("dags/classify_images.py", "from ai_edge_litert.interpreter import Interpreter"),
    ],
)
def test_the_linter_refuses_a_heavy_import_outside_its_home(copy, path, statement):
    arguments = ("check", "--no-cache", "--select", "TID253", "--output-format", "concise", path)
    assert run("ruff", *arguments, folder=copy).returncode == 0

    plant(copy / path, statement)

    planted = run("ruff", *arguments, folder=copy)
    assert planted.returncode == 1
    assert "TID253" in planted.stdout


def test_the_contracts_refuse_imports_that_point_the_wrong_way(copy):
    plant(copy / "inference" / "planning.py", "import airflow")
    plant(copy / "inference" / "runner.py", "import tensorflow")
    plant(copy / "inference" / "types.py", "import inference.wiring")

    planted = run("lint-imports", "--no-cache", folder=copy)

    assert planted.returncode == 1
    for line in (
        "inference knows nothing of Airflow, nor of the embedded stack BROKEN",
        "TensorFlow is known to its engine and to the conversion only BROKEN",
        "Imports point one way BROKEN",
    ):
        assert line in planted.stdout


@pytest.mark.parametrize(
    ("path", "module", "package"),
    [
        ("inference/errors.py", "inference.errors", "numpy"),
        ("inference/planning.py", "inference.planning", "psycopg"),
        ("inference/wiring.py", "inference.wiring", "botocore"),
    ],
)
def test_what_a_fresh_interpreter_loads_shows_a_leak(copy, path, module, package):
    assert package not in packages_loaded_by(module, root=copy)

    plant(copy / path, f"import {package}")

    assert package in packages_loaded_by(module, root=copy)


def test_parsing_without_tensorflow_shows_every_kind_of_leak(copy):
    plant(copy / "dags" / "classify_images.py", "import tensorflow")
    plant(copy / "plugins" / "nightlabel_airflow" / "retries.py", "import botocore")
    (copy / "dags" / "planted.py").write_text(
        "# an airflow dag\nimport nightlabel_airflow.retries\nimport inference.types\n"
    )
    (copy / "plugins" / "planted_plugin.py").write_text("import ai_edge_litert\n")

    found = parse_dags.parse(copy / "dags", copy / "plugins", copy)

    assert not parse_dags.is_clean(found)
    assert "No module named 'tensorflow'" in found["import_errors"]["classify_images.py"]
    assert found["heavy"] == ["botocore"]
    assert found["library"] == ["inference.types"]
    assert any("ai_edge_litert" in error for error in found["plugin_errors"].values())
