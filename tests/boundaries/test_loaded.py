"""The tool that looks into running processes sees what they have loaded: the stack's test relies on it."""

import os
import subprocess
import sys

import pytest

from tests.e2e import loaded


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import json", set()),
        ("import numpy", {"numpy"}),
        ("import PIL._imaging", {"PIL"}),
        ("from ai_edge_litert import interpreter", {"ai_edge_litert", "numpy"}),
    ],
)
def test_native_libraries_are_seen_from_outside(statement, expected):
    with subprocess.Popen(
        [sys.executable, "-c", f"{statement}\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()

        assert loaded.heavy_packages_loaded(process.pid) == expected
        assert process.pid in loaded.children(os.getpid())
        assert sys.executable in loaded.command_line(process.pid)

        process.communicate("\n")


def test_a_process_that_is_gone_is_not_taken_for_a_clean_one():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()

    with pytest.raises(ProcessLookupError):
        loaded.heavy_packages_loaded(process.pid)
    assert loaded.command_line(process.pid) == ""
