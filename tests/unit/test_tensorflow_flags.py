"""Which flags TensorFlow starts with; TensorFlow itself is not loaded."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from inference.engines import tensorflow as engine

FLAG = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Pretend to be on a processor with these flags, with a TensorFlow that does nothing."""
    monkeypatch.delenv(FLAG, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))

    def pretend(flags: str) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse2\n", encoding="utf-8")
        monkeypatch.setattr(engine, "CPUINFO", cpuinfo)

    yield pretend
    os.environ.pop(FLAG, None)


@pytest.mark.parametrize(("flags", "wanted"), [("avx2", "0"), ("avx2 avx512f avx512bw", "1")])
def test_onednn_is_on_where_the_processor_has_avx512(cpu, flags, wanted):
    cpu(flags)

    engine.import_tensorflow()

    assert os.environ[FLAG] == wanted


def test_onednn_is_off_where_the_system_does_not_say(cpu, tmp_path, monkeypatch):
    cpu("avx512f")
    monkeypatch.setattr(engine, "CPUINFO", tmp_path / "missing")

    engine.import_tensorflow()

    assert os.environ[FLAG] == "0"


def test_what_the_environment_says_about_onednn_stands(cpu, monkeypatch):
    cpu("avx512f")
    monkeypatch.setenv(FLAG, "0")

    engine.import_tensorflow()

    assert os.environ[FLAG] == "0"
