"""What was registered of a model is what a manifest has to be: its files, and everything that changes answers."""

from __future__ import annotations

from typing import Any

import pytest

from inference.errors import ModelFilesError, ModelUnknownError
from inference.models import registry
from inference.models.manifest import InputScale
from inference.types import Label, Preprocessing
from tests.ledger import Ledger
from tests.unit.test_model_manifest import DIGEST, manifest

pytestmark = pytest.mark.integration


def test_a_registered_manifest_matches_itself_and_registering_it_again_is_harmless(ledger: Ledger) -> None:
    with ledger.sink.asking() as connection:
        registry.register(connection, manifest())
        registry.register(connection, manifest(source="another mirror"))
        registered = registry.find_registered(connection, manifest().model_id)

    assert registered.matches(manifest())
    assert registered.difference(manifest(source="another mirror", made_with={}, agreement=None)) is None


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"files": {**manifest().files, "model.tflite": "1" * 64}}, r"other files .* \(model\.tflite differs\)"),
        ({"files": {**manifest().files, "more": DIGEST}}, r"other files .* \(more differs\)"),
        ({"labels": (Label("hawk", "n1"), Label("crane", "n2"))}, "another label map"),
        ({"labels": (Label("crane", "n2"), Label("crane", "n1"))}, "another label map"),
        ({"preprocessing": Preprocessing(8, 12, 1.0, "bicubic")}, "another preprocessing or output"),
        ({"input_scale": InputScale(mean=0, scale=255)}, "another preprocessing or output"),
        ({"output": "probabilities"}, "another preprocessing or output"),
        ({"background_columns": 0}, "another preprocessing or output"),
        ({"engines": {"litert": "model.tflite"}}, "another set of engines"),
    ],
)
def test_another_manifest_of_the_version_is_refused_by_what_differs(
    ledger: Ledger, others: dict[str, Any], sentence: str
) -> None:
    with ledger.sink.asking() as connection:
        registry.register(connection, manifest())
        for ask in (registry.check_registered, registry.register):
            with pytest.raises(ModelFilesError, match=rf"cats@2026\.1 is registered with {sentence}"):
                ask(connection, manifest(**others))


def test_what_a_manifest_says_beyond_the_registration_is_no_difference(ledger: Ledger) -> None:
    """An older version of the code may have registered less."""
    with ledger.sink.asking() as connection:
        registry.register(connection, manifest())
        connection.execute("UPDATE nightlabel.model SET preprocessing = preprocessing - 'background_columns'")
        registry.check_registered(connection, manifest())


def test_a_model_that_is_not_registered_is_unknown(ledger: Ledger) -> None:
    with ledger.sink.asking() as connection, pytest.raises(ModelUnknownError, match=r"cats@2026\.1 is not registered"):
        registry.find_registered(connection, manifest().model_id)
