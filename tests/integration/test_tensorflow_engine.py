"""The TensorFlow engine gives LiteRT's answers, for any SavedModel with the common signature."""

import re
from typing import Any

import pytest


@pytest.fixture(scope="module")
def answers(tensorflow_answers: dict[str, Any]) -> dict[str, Any]:
    """What the engine says."""
    return tensorflow_answers


def test_both_engines_give_the_same_answers_on_real_photos(answers: dict[str, Any]) -> None:
    agreement = answers["bundled"]["agreement"]

    assert (agreement["inputs"], agreement["equal_top1"]) == (32, 32)
    assert agreement["max_difference"] < 1e-4
    assert answers["bundled"]["engine"] == "tensorflow"


def test_the_labels_are_right(answers: dict[str, Any]) -> None:
    cat, coffee, *_ = answers["bundled"]["labels"]

    assert cat in {"tabby", "tiger cat", "Egyptian cat"}
    assert coffee == "espresso"


def test_the_last_smaller_batch_is_padded_without_a_trace(answers: dict[str, Any]) -> None:
    assert answers["bundled"]["best_batch_size"] == 8
    assert answers["bundled"]["shape"] == [11, 1000]
    assert answers["bundled"]["batch_changes_by"] < 1e-5


@pytest.mark.parametrize("form", ["called", "logits", "old_hub", "probabilities", "many_outputs", "background"])
def test_every_form_of_the_common_signature_works(answers: dict[str, Any], form: str) -> None:
    answer = answers["tiny"][form]

    assert answer["columns"] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 2]
    assert answer["best"] == (1.0 if form == "probabilities" else 0.57612)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("not_a_number", "values that are not finite"),
        ("short", r"answered with shape \(7, 3\) to 8 images"),
        ("two_inputs", r"has the inputs \['images', 'size'\]"),
        ("two_outputs", r"outputs \['a', 'b'\]"),
        ("fails", "answered with shape"),
        ("empty", "cannot load the SavedModel"),
    ],
)
def test_a_model_that_cannot_answer_is_one_clear_error(answers: dict[str, Any], form: str, message: str) -> None:
    answer = answers["tiny"][form]

    assert answer["code"] == "model_execution"
    assert f"tiny@{form}" in answer["message"]
    assert "\n" not in answer["message"]
    assert re.search(message, answer["message"])
