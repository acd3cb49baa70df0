"""What each part of the library loads when it is imported."""

import pytest

from tests.loading import modules_loaded_by, packages_loaded_by

ENGINES = {"tensorflow", "tensorflow_hub", "keras", "tf_keras", "ai_edge_litert"}
ADAPTERS = {"boto3", "botocore", "psycopg", "psycopg2", "sqlalchemy", "alembic", "obstore", "pyarrow"}
PIXELS = {"numpy", "PIL", "pandas"}
AIRFLOW = {"airflow"}


@pytest.mark.parametrize("module", ["inference", "inference.types", "inference.errors", "inference.ports"])
def test_the_words_of_the_library_need_the_standard_library_only(module):
    assert packages_loaded_by(module) == set()


@pytest.mark.parametrize(
    "module",
    [
        "inference.settings",
        "inference.listing",
        "inference.planning",
        "inference.fetching",
        "inference.judging",
        "inference.writing",
        "inference.sources.manifest",
        "inference.sources.inventory",
        "inference.models.registering",
        "inference.models.tensorflow_child",
        "inference.wiring",
        "inference.__main__",
    ],
)
def test_these_parts_start_without_airflow_an_engine_an_adapter_or_pixels(module):
    assert not packages_loaded_by(module) & (AIRFLOW | ENGINES | ADAPTERS | PIXELS)


@pytest.mark.parametrize(
    "module", ["inference.decoding", "inference.batching", "inference.predicting", "inference.runner"]
)
def test_the_stages_on_pixels_know_no_airflow_no_engine_and_no_adapter(module):
    assert not packages_loaded_by(module) & (AIRFLOW | ENGINES | ADAPTERS)


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("inference.stores.s3", {"boto3", "botocore", "obstore"}),
        ("inference.sinks.postgres", {"psycopg"}),
        ("inference.engines.litert", {"ai_edge_litert", "numpy"}),
    ],
)
def test_an_adapter_loads_its_own_driver_and_nobody_elses(module, own):
    assert packages_loaded_by(module) & (AIRFLOW | ENGINES | ADAPTERS | PIXELS) <= own


def test_the_rest_api_starts_without_airflow_and_tensorflow():
    assert not packages_loaded_by("inference.api") & (AIRFLOW | ENGINES - {"ai_edge_litert"})


def test_the_command_line_loads_what_a_command_needs_and_no_more():
    loaded = modules_loaded_by("inference.__main__")

    assert not {module for module in loaded if module.startswith(("inference.stores.", "inference.engines."))}
