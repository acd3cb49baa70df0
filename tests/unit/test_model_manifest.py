"""A manifest survives a round trip, and a wrong one is refused by the name of the field."""

import json
from typing import Any

import pytest

from inference.errors import ModelFilesError
from inference.models.manifest import Agreement, InputScale, Manifest, Origin
from inference.models.resolve import engine_for
from inference.types import Label, ModelId, Preprocessing

DIGEST = "0" * 64


def manifest(**overrides: Any) -> Manifest:
    return Manifest(
        **{
            "name": "cats",
            "version": "2026.1",
            "source": "a test",
            "licence": "CC0-1.0",
            "preprocessing": Preprocessing(8, 12, 0.875, "bicubic"),
            "input_scale": InputScale(mean=127.0, scale=128.0),
            "output": "logits",
            "background_columns": 1,
            "engines": {"litert": "model.tflite", "tensorflow": "saved_model"},
            "made_with": {"hand": "1"},
            "agreement": Agreement(inputs=2, equal_top1=2, max_difference=1e-7),
            "files": {"model.tflite": DIGEST, "saved_model/saved_model.pb": "f" * 64},
            "labels": (Label("crane", "n1"), Label("crane", "n2")),
        }
        | overrides
    )


def test_a_manifest_survives_json() -> None:
    before = manifest()

    after = Manifest.from_json(before.to_json(), origin="here")

    assert after == before
    assert after.to_json() == before.to_json()
    assert after.model_id == ModelId("cats", "2026.1")
    assert after.labels == (Label("crane", "n1"), Label("crane", "n2"))
    assert isinstance(after.preprocessing, Preprocessing)


def test_a_manifest_knows_which_files_an_engine_needs() -> None:
    assert manifest().files_of("litert") == {"model.tflite": DIGEST}
    assert manifest().files_of("tensorflow") == {"saved_model/saved_model.pb": "f" * 64}


def test_an_engine_without_artefact_is_an_error_that_names_the_others() -> None:
    only_litert = manifest(engines={"litert": "model.tflite"})

    with pytest.raises(ModelFilesError, match=r"cats@2026\.1 has no artefact for tensorflow, only for litert"):
        only_litert.files_of("tensorflow")


def test_a_model_that_litert_cannot_express_is_executed_by_tensorflow_on_the_cpu_too() -> None:
    both, litert = manifest(), manifest(engines={"litert": "model.tflite"})
    tensorflow = manifest(engines={"tensorflow": "saved_model"})

    assert [engine_for(model, "cpu") for model in (both, litert, tensorflow)] == ["litert", "litert", "tensorflow"]
    assert [engine_for(model, "gpu") for model in (both, litert, tensorflow)] == ["tensorflow"] * 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "../cats", "name is '../cats'"),
        ("version", "", "version is ''"),
        ("files", {"model.tflite": "abc"}, "files.model.tflite is 'abc'"),
        ("files", {"../model.tflite": DIGEST}, "is not a plain relative one"),
        ("files", {"/model.tflite": DIGEST}, "is not a plain relative one"),
        ("files", {"saved_model/saved_model.pb": DIGEST}, "'model.tflite' of litert has no file"),
        ("engines", {}, "names no engine artefact"),
        ("engines", {"onnx": "model.onnx"}, "engines.onnx"),
        ("labels", [], "label map is empty"),
        ("labels", [{"name": "ä" * 501, "label_id": "1"}], "a name of 1,002 bytes, expected at most 1,000"),
        ("labels", [{"name": "a", "label_id": "1"}, {"name": "b", "label_id": "1"}], "id 1 stands twice"),
        ("labels", [{"name": "a", "label_id": ""}], "empty name or id"),
        ("preprocessing", {"height": 0, "width": 8, "crop_fraction": 1.0, "resize_filter": "bicubic"}, "0 x 8 pixels"),
        ("preprocessing", {"height": 8, "width": 8, "crop_fraction": 1.5, "resize_filter": "bicubic"}, "crop of 1.5"),
        ("preprocessing", {"height": 8, "width": 8, "crop_fraction": 1.0, "resize_filter": "box"}, "resize_filter"),
        ("output", "distances", "output is 'distances'"),
        ("format", 2, "format is '2'"),
        ("colour", "red", "colour is 'red'"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    content = json.loads(manifest().to_json()) | {field: value}

    with pytest.raises(ModelFilesError, match=r"there/manifest\.json is not a model manifest") as raised:
        Manifest.from_json(json.dumps(content), origin="there/manifest.json")
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "cats"}'])
def test_what_is_no_manifest_at_all_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ModelFilesError, match=r"is not a model manifest: .*; register the model again") as raised:
        Manifest.from_json(text, origin="here")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("others", "difference"),
    [
        ({}, None),
        ({"source": "elsewhere", "licence": "MIT", "made_with": {}, "agreement": None}, None),
        ({"files": {**manifest().files, "model.tflite": "1" * 64}}, f"model.tflite has SHA-256 {DIGEST}, the new one"),
        ({"files": {**manifest().files, "more": "1" * 64}}, "more has SHA-256 None, the new one's is 1111"),
        ({"labels": (Label("crane", "n1"), Label("hawk", "n2"))}, "it has other labels than the new one"),
        ({"input_scale": InputScale(mean=0, scale=255)}, "it has other input scale than the new one"),
        ({"background_columns": 0}, "it has other background columns than the new one"),
        ({"engines": {"litert": "model.tflite"}}, "it has other engines than the new one"),
    ],
)
def test_what_changes_files_or_answers_is_a_difference(others: dict[str, Any], difference: str | None) -> None:
    found = manifest().difference(manifest(**others))

    assert found is None if difference is None else str(found).startswith(difference)


def test_what_is_registered_beside_files_labels_and_engines_is_how_pixels_and_output_are_treated() -> None:
    treatment = manifest().treatment

    assert treatment["preprocessing"] == {
        "height": 8,
        "width": 12,
        "crop_fraction": 0.875,
        "resize_filter": "bicubic",
    }
    assert treatment["input_scale"] == {"mean": 127.0, "scale": 128.0}
    assert (treatment["output"], treatment["background_columns"]) == ("logits", 1)
    assert not treatment.keys() & {"files", "labels", "engines", "source", "licence", "made_with", "agreement"}


OLD_FIELDS = {
    *("format", "name", "version", "task", "source", "licence", "preprocessing", "input_scale", "output"),
    *("background_columns", "engines", "made_with", "agreement", "files", "labels"),
}


def test_a_manifest_without_what_came_later_is_the_text_that_older_code_wrote_and_reads() -> None:
    assert set(json.loads(manifest().to_json())) == OLD_FIELDS


def test_what_came_later_survives_json_too() -> None:
    before = manifest(
        golden_agreement=Agreement(inputs=300, equal_top1=299, max_difference=1e-4),
        precision="int8",
        origin=Origin(sha256=DIGEST, kind="keras", family="mobilenet-v2", calibration="photos"),
        litert_input=InputScale(mean=127.5, scale=127.5),
        litert_refusal="LiteRT has no operation for tf.Lgamma",
    )

    assert Manifest.from_json(before.to_json(), origin="here") == before
    assert set(json.loads(before.to_json())) - OLD_FIELDS == {
        *("golden_agreement", "precision", "origin", "litert_input", "litert_refusal"),
    }
    assert before.facts.litert_input == (127.5, 127.5)
    assert manifest().facts.litert_input is None
