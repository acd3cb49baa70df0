"""Every Dag parses where neither TensorFlow nor an engine is installed, and brings nothing heavy along."""

import subprocess
from pathlib import Path

import pytest

from scripts import parse_dags

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found():
    return parse_dags.parse(ROOT / "dags", ROOT / "plugins", ROOT)


def test_the_environment_has_no_engine_and_no_array_library():
    python = parse_dags.make_environment()
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    names = ["tensorflow", "keras", "ai_edge_litert", "numpy", "pandas", "PIL"]

    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_dag_and_every_plugin_is_read(found):
    assert found["import_errors"] == {}
    assert found["plugin_errors"] == {}
    assert found["dags"] == sorted(path.stem for path in (ROOT / "dags").glob("*.py"))


def test_nothing_heavy_comes_on_top_of_what_airflow_loads_by_itself(found):
    assert found["heavy"] == []


def test_of_the_library_a_dag_loads_its_errors_only(found):
    assert found["library"] == []


def test_packages_below_the_plugins_folder_are_imported_and_not_run_as_plugins(found):
    top_level = {path.stem for path in (ROOT / "plugins").rglob("*.py")} - {"nightlabel_plugin", "__init__"}

    assert top_level
    assert not top_level & set(found["added"])
