"""What several modules of tests here share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.models.store import ModelStore


@pytest.fixture(scope="session")
def tensorflow_answers(default_model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TensorFlow says to everything, asked once in a process of its own, so that it stays out of this one."""
    folder, output = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("answers") / "answers.json"
    script = Path(__file__).with_name("tensorflow_answers.py")
    child = subprocess.run(
        [sys.executable, str(script), str(default_model_store.root), str(folder), str(output)],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    answers: dict[str, Any] = json.loads(output.read_text())
    return answers
