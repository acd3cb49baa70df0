"""Models of every kind become versions with the answers that they gave before, or are refused in a sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from inference.models.agreement import installed_photos
from tests.integration.adopted_models import UNWANTED_OPERATIONS


@pytest.fixture(scope="module")
def adopted(tensorflow_answers: dict[str, Any]) -> dict[str, Any]:
    """What became of each case of ``adopted_models``."""
    return tensorflow_answers["adopted"]


@pytest.mark.parametrize(
    ("case", "engines"),
    [
        ("hub", {"litert", "tensorflow"}),
        ("old_hub", {"litert", "tensorflow"}),
        ("signed", {"litert", "tensorflow"}),
        ("without_signatures", {"litert", "tensorflow"}),
        ("probabilities", {"litert", "tensorflow"}),
        ("keras", {"litert", "tensorflow"}),
        ("litert", {"litert"}),
    ],
)
def test_every_engine_gives_the_answers_of_the_model_itself(
    adopted: dict[str, Any], case: str, engines: set[str]
) -> None:
    told = adopted[case]

    assert "manifest" in told, told
    assert set(told["manifest"]["engines"]) == engines
    assert set(told["differs"]) == engines
    assert max(told["differs"].values()) < 1e-5
    assert told["labels_right"] == 11
    assert told["files_match"]


@pytest.mark.parametrize("case", ["litert_bytes", "litert_signed_bytes"])
def test_a_litert_file_in_bytes_is_fed_and_read_in_its_steps(adopted: dict[str, Any], case: str) -> None:
    told = adopted[case]

    assert "manifest" in told, told
    assert told["differs"]["litert"] < 0.1
    assert told["labels_right"] >= 9


def test_a_hub_module_is_kept_as_it_is_and_converted_once(adopted: dict[str, Any]) -> None:
    manifest, words = adopted["hub"]["manifest"], adopted["hub"]["words"]

    assert {path for path in manifest["files"] if path.startswith("saved_model/")} >= {
        "saved_model/saved_model.pb",
        "saved_model/variables/variables.index",
    }
    assert (manifest["preprocessing"]["height"], manifest["preprocessing"]["width"]) == (16, 16)
    assert manifest["background_columns"] == 1
    assert [label["name"] for label in manifest["labels"]] == ["cat", "dog", "bird", "fish", "frog"]
    assert manifest["origin"]["kind"] == "saved_model"
    assert re.fullmatch(r"[0-9a-f]{64}", manifest["origin"]["sha256"])
    assert manifest["made_with"]["tensorflow"]
    assert manifest["agreement"]["inputs"] == manifest["agreement"]["equal_top1"] == 32
    assert manifest["agreement"]["max_difference"] < 1e-5
    assert manifest["golden_agreement"]["inputs"] >= 8
    assert [word for word in words if "LiteRT" in word] == ["converting for LiteRT"]
    assert adopted["asked"][0] == "/hub/1?tf-hub-format=compressed"


def test_a_handle_may_lead_elsewhere(adopted: dict[str, Any]) -> None:
    assert adopted["moved"]["manifest"]["origin"] == adopted["hub"]["manifest"]["origin"]


def test_a_keras_file_takes_pixels_and_hubs_signature_like_every_other(adopted: dict[str, Any]) -> None:
    manifest = adopted["keras"]["manifest"]

    assert (manifest["preprocessing"]["height"], manifest["preprocessing"]["width"]) == (16, 24)
    assert manifest["input_scale"] == {"mean": 0.0, "scale": 1.0}
    assert manifest["output"] == "probabilities"


def test_an_int8_version_has_litert_alone_and_its_agreement(adopted: dict[str, Any]) -> None:
    told = adopted["int8"]
    assert "manifest" in told, told
    manifest = told["manifest"]

    assert (manifest["precision"], set(manifest["engines"]), set(manifest["files"])) == (
        "int8",
        {"litert"},
        {"model.tflite"},
    )
    assert told["files_match"]
    assert 0 < manifest["agreement"]["max_difference"] < 0.2
    assert manifest["golden_agreement"]["inputs"] == len(installed_photos()) - 2, (
        "none that activations were measured on"
    )
    assert manifest["origin"]["calibration"]
    assert told["differs"]["litert"] < 0.2
    # Whether this toy passes there or not: it is judged by the photos that its activations were not measured on.
    assert "25 inputs" in str(adopted["int8_alone"])


@pytest.mark.parametrize(
    ("case", "why"),
    [("inexpressible", "LiteRT has no operation for tf.BesselI0e"), ("fails_in_litert", "are not broadcastable")],
)
def test_what_litert_cannot_express_stays_on_tensorflow_and_says_why(
    adopted: dict[str, Any], case: str, why: str
) -> None:
    told = adopted[case]
    assert "manifest" in told, told

    assert set(told["manifest"]["engines"]) == {"tensorflow"}
    assert why in told["manifest"]["litert_refusal"]
    assert any(word.startswith("stays on TensorFlow: ") for word in told["words"])
    assert told["files_match"]
    assert "model.tflite" not in told["manifest"]["files"]


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("forbidden", "model_source", r"/forbidden/1 answered with HTTP 403 Forbidden; it is refused"),
        ("missing", "model_source", r"/missing/1 answered with HTTP 404 Not Found; there is no such module"),
        ("broken", "model_source_unavailable", r"answered with HTTP 503 .*try again later"),
        ("slow", "model_source_unavailable", r"answered with HTTP 408 .*try again later"),
        ("busy", "model_source_unavailable", r"answered with HTTP 429 .*asked too often: try again later"),
        ("reset", "model_source_unavailable", r"cannot be reached for .*/reset/1 \("),
        ("page", "model_source", r"answered with a page \(text/html\) and no model"),
        ("cut", "model_source_unavailable", r"sent [\d,]+ of the [\d,]+ bytes that it announced"),
        ("text", "model_source", r"is no model that is known here: it begins with b'this is no archive'"),
        (
            "offline",
            "model_source_unavailable",
            r"127\.0\.0\.1 cannot be reached .*refused.*fetch the archive elsewhere.*HTTPS_PROXY",
        ),
        ("altered", "model_source", r"has SHA-256 [0-9a-f]{64}, expected 0{64}: it was altered"),
        ("no_background", "model_source", r"6 output columns, 0 of them background, .*5 labels, .*--background 1"),
        ("wrong_labels", "model_source", r"has 5 output columns, .* 3 labels, expected 5"),
        ("old_hub_of_any_size", "bad_setting", r"leaves its input size open; give --input-size"),
        ("probabilities_said_to_be_logits", "model_source", r"are probabilities that sum to 1; give --output prob"),
        ("logits_said_to_be_probabilities", "model_execution", r"expected probabilities that sum to 1"),
        ("not_a_number", "model_execution", r"values that are not finite for 32 of 32 images"),
        ("constant", "model_source", r"answers 32 different photos alike"),
        ("reads_files", "model_source", r"has the operations ReadFile, which are none of those"),
        *((f"has_{name}", "model_source", f"has the operations {name}, which are") for name in UNWANTED_OPERATIONS),
        ("batch_of_one", "model_source", r"takes float32 of shape \(1, 16, 16, 3\), expected float32 \(any, height"),
        ("planes_first", "model_source", r"takes float32 of shape \(any, 3, 16, 16\)"),
        ("two_inputs", "model_execution", r"has the inputs \[.*\] and outputs \['logits'\]; expected one input"),
        ("damaged", "model_source", r"holds a damaged saved_model\.pb"),
        ("without_weights", "model_source", r"TensorFlow cannot load the SavedModel"),
        ("disagreeing", "model_conversion", r"in litert gives the label of tensorflow for \d+ of 32 inputs"),
        ("litert_int8", "model_source", r"is a LiteRT file, which cannot be quantised here"),
        ("litert_size", "bad_setting", r"given as 16 x 16 and the model's signature takes 16 x 24"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_a_sentence(
    adopted: dict[str, Any], case: str, code: str, message: str
) -> None:
    told = adopted[case]

    assert told.get("code") == code, told
    assert re.search(message, told["message"])
    assert "\n" not in told["message"]
    assert len(told["message"]) < 700
