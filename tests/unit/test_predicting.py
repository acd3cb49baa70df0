"""Every image gets the label of its own row, or the whole batch is an error."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from inference.errors import ModelExecutionError
from inference.predicting import predict_batch
from inference.types import (
    ContentDigest,
    DecodedImage,
    ImageRef,
    Label,
    LabelMap,
    ModelId,
    PixelBatch,
    Preprocessing,
    Scores,
)

LABELS = (Label("crane", "n1"), Label("dog", "n2"), Label("crane", "n3"), Label("cow", "n4"))


MODEL = ModelId("by-red", "1")


@dataclass
class ByRedHandle:
    """Scores by the first pixel's red, so that a mix-up between images shows: column red, score 0.7."""

    model_id: ModelId = MODEL
    labels: LabelMap = LABELS
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(2, 2, 1.0, "nearest"))
    engine: str = "fake"
    best_batch_size: int = 4
    parallel_calls: int = 1

    def predict(self, pixels: PixelBatch) -> Scores:
        scores = np.full((len(pixels), len(self.labels)), 0.1, np.float32)
        scores[np.arange(len(pixels)), pixels[:, 0, 0, 0]] = 0.7
        return scores


@dataclass
class AnsweringHandle(ByRedHandle):
    """Always gives the same answer."""

    answer: "Scores | None" = None

    def predict(self, pixels: PixelBatch) -> Scores:
        assert self.answer is not None
        return self.answer


def image(key: str, red: int = 0, side: int = 2) -> DecodedImage:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[0, 0, 0] = red
    return DecodedImage(ImageRef("photos", key, "e", 1), pixels, ContentDigest(key.encode().ljust(32)))


def test_every_image_gets_the_label_of_its_own_row() -> None:
    images = [image("a", 1), image("b", 3), image("c", 0), image("d", 1), image("e", 2)]

    predictions = predict_batch(images, ByRedHandle(), top_k=1)

    assert [(p.ref.key, p.label, round(p.score, 6), p.content.sha256) for p in predictions] == [
        ("a", LABELS[1], 0.7, b"a".ljust(32)),
        ("b", LABELS[3], 0.7, b"b".ljust(32)),
        ("c", LABELS[0], 0.7, b"c".ljust(32)),
        ("d", LABELS[1], 0.7, b"d".ljust(32)),
        ("e", LABELS[2], 0.7, b"e".ljust(32)),
    ]


def test_equal_scores_stand_in_column_order() -> None:
    [prediction] = predict_batch([image("a", 2)], ByRedHandle(), top_k=3)

    assert [(scored.label.label_id, round(scored.score, 6)) for scored in prediction.top] == [
        ("n3", 0.7),
        ("n1", 0.1),
        ("n2", 0.1),
    ]


def test_no_more_labels_are_kept_than_the_model_has() -> None:
    [prediction] = predict_batch([image("a", 2)], ByRedHandle(), top_k=50)

    assert [scored.label.label_id for scored in prediction.top] == ["n3", "n1", "n2", "n4"]
    assert all(type(scored.score) is float for scored in prediction.top)


def test_an_empty_batch_calls_no_model() -> None:
    assert predict_batch([], AnsweringHandle()) == []


def test_a_short_answer_is_an_error_not_a_lost_image() -> None:
    short = AnsweringHandle(answer=np.full((2, 4), 0.25, np.float32))

    with pytest.raises(ModelExecutionError, match=r"by-red@1 returned scores of shape \(2, 4\), expected \(3, 4\)"):
        predict_batch([image("a"), image("b"), image("c")], short)


@pytest.mark.parametrize(
    "row",
    [
        [np.nan, 0.5, 0.25, 0.25],
        [np.inf, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.5, 0.5],
        [0.0, 0.0, 0.0, 0.0],
        [1.5, -0.5, 0.0, 0.0],
        [8.1, -3.0, 0.4, 2.2],
    ],
)
def test_scores_that_cannot_be_right_are_an_error(row: list[float]) -> None:
    answer = np.array([[0.25] * 4, row], np.float32)

    with pytest.raises(ModelExecutionError, match=r"by-red@1 returned scores"):
        predict_batch([image("a"), image("b")], AnsweringHandle(answer=answer))


def test_an_image_that_was_decoded_for_another_model_is_named() -> None:
    with pytest.raises(
        ModelExecutionError, match=r"'b' was decoded to shape \(3, 3, 3\), by-red@1 expects \(2, 2, 3\)"
    ):
        predict_batch([image("a"), image("b", side=3)], ByRedHandle())
