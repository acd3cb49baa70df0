"""What an engine answers becomes probabilities, or an error: never a wrong score."""

import numpy as np
import pytest

from inference.engines.scores import ModelFacts, check_pixels, to_scores
from inference.errors import ModelExecutionError
from inference.types import Label, ModelId, Preprocessing


def facts(output: str = "logits", background: int = 0) -> ModelFacts:
    labels = (Label("cat", "n1"), Label("dog", "n2"), Label("cow", "n3"))
    return ModelFacts(ModelId("zoo", "1"), labels, Preprocessing(2, 4, 1.0, "bilinear"), output, background)


def test_logits_become_probabilities() -> None:
    scores = to_scores(np.log(np.array([[1.0, 2.0, 5.0], [8.0, 1.0, 1.0]], np.float32)), facts(), 2)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[0.125, 0.25, 0.625], [0.8, 0.1, 0.1]], atol=1e-6)


def test_huge_logits_overflow_nothing() -> None:
    scores = to_scores(np.array([[3e38, 0.0, -3e38], [1000.0, 1000.0, -1000.0]], np.float32), facts(), 2)

    assert scores.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]


def test_background_columns_are_dropped_before_the_scores_sum_to_one() -> None:
    answer = np.log(np.array([[90.0, 1.0, 1.0, 2.0]], np.float32))
    np.testing.assert_allclose(to_scores(answer, facts(background=1), 1), [[0.25, 0.25, 0.5]], atol=1e-6)

    shares = np.array([[0.9, 0.02, 0.03, 0.05]], np.float32)
    np.testing.assert_allclose(to_scores(shares, facts("probabilities", 1), 1), [[0.2, 0.3, 0.5]], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (2, 4), (2,), (2, 3, 1)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelExecutionError, match=r"zoo@1 answered with shape .*expected \(2, 3\)"):
        to_scores(np.zeros(shape, np.float32), facts(), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_counts_the_images(bad: float) -> None:
    answer = np.zeros((3, 3), np.float32)
    answer[1, 2] = bad

    with pytest.raises(ModelExecutionError, match="not finite for 1 of 3 images, first number 1"):
        to_scores(answer, facts(), 3)


@pytest.mark.parametrize("row", [[0.2, 0.2, 0.2], [2.0, -0.5, -0.5], [3.0, 4.0, 5.0]])
def test_logits_that_are_passed_off_as_probabilities_are_found_out(row: list[float]) -> None:
    with pytest.raises(ModelExecutionError, match="expected probabilities that sum to 1; if it answers logits"):
        to_scores(np.array([row], np.float32), facts("probabilities"), 1)


def test_an_image_that_is_all_background_is_an_error() -> None:
    with pytest.raises(ModelExecutionError, match="background alone"):
        to_scores(np.array([[1.0, 0.0, 0.0, 0.0]], np.float32), facts("probabilities", 1), 1)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 4, 2, 3), np.uint8),
        np.zeros((1, 2, 4, 3), np.float32),
        np.zeros((0, 2, 4, 3), np.uint8),
        np.zeros((2, 4, 3), np.uint8),
    ],
)
def test_pixels_for_another_model_are_an_error(pixels: np.ndarray) -> None:
    with pytest.raises(ModelExecutionError, match=r"expected uint8 \(\d, 2, 4, 3\); decode with the preprocessing"):
        check_pixels(pixels, facts())
