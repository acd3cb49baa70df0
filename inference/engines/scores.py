"""engines: what an engine answers -> probabilities that can be trusted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from inference.errors import ModelExecutionError
from inference.types import LabelMap, ModelId, Preprocessing, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

OutputKind: TypeAlias = Literal["logits", "probabilities"]

ROW_SUM_TOLERANCE = 1e-3
"""How far a row of a model's own probabilities may sum from 1 before normalisation."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a handle has to know of its model, whatever executes it."""

    model_id: ModelId
    labels: LabelMap
    preprocessing: Preprocessing
    output: OutputKind
    background_columns: int = 0
    """Leading output columns without a label; ImageNet modules of TensorFlow Hub have one."""
    litert_input: tuple[float, float] | None = None
    """(mean, scale) by which a pixel enters a LiteRT model that does not scale by itself; None for one that does."""

    def batch_shape(self, images: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of pixels of so many images."""
        return (images, self.preprocessing.height, self.preprocessing.width, 3)


def check_pixels(pixels: NDArray[Any], facts: ModelFacts) -> None:
    """Refuse pixels that are not what the model was made for.

    Raises:
        ModelExecutionError: another shape or type than uint8 (batch, height, width, 3), or an empty batch.
    """
    if pixels.dtype != "uint8" or pixels.shape != facts.batch_shape(len(pixels)) or not len(pixels):
        raise ModelExecutionError(
            f"{facts.model_id} was given {pixels.dtype} pixels of shape {pixels.shape}, expected uint8 "
            f"{facts.batch_shape(max(1, len(pixels)))}; decode with the preprocessing of this model's manifest"
        )


def check_answer_shape(answer: NDArray[Any], facts: ModelFacts, images: int) -> None:
    """Refuse an answer that cannot be paired with the images and labels.

    Raises:
        ModelExecutionError: another shape than (images, background columns + labels).
    """
    expected = (images, facts.background_columns + len(facts.labels))
    if answer.shape != expected:
        raise ModelExecutionError(
            f"{facts.model_id} answered with shape {answer.shape}, expected {expected}: (images, labels); "
            "compare the label map of its manifest with its output"
        )


def to_scores(answer: NDArray[Any], facts: ModelFacts, images: int, *, tolerance: float = ROW_SUM_TOLERANCE) -> Scores:
    """Turn an engine's raw answer into class probabilities.

    Background columns are dropped first, so that the scores of the labels alone sum to 1. The softmax is taken in
    float64 after subtracting each row's maximum, the same for every engine.

    Args:
        answer: Logits or probabilities, shape (images, background columns + labels).
        facts: The model's kind of output and labels.
        images: How many images were given.
        tolerance: How far a row of probabilities may sum from 1; more for a model that answers in 8 bits.

    Returns:
        float32, shape (images, n_labels); each row sums to 1.

    Raises:
        ModelExecutionError: another shape, a value that is not finite, or probabilities that are none.
    """
    import numpy as np

    check_answer_shape(answer, facts, images)
    values = answer.astype(np.float64)
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ModelExecutionError(
            f"{facts.model_id} answered with values that are not finite for {rows.size} of {images} images, first "
            f"number {rows[0]} of the batch; the model or its conversion is broken, register a corrected version"
        )
    if facts.output == "probabilities":
        sums = values.sum(axis=1)
        if values.min() < -tolerance or abs(sums - 1.0).max() > tolerance:
            raise ModelExecutionError(
                f"{facts.model_id} answered with values from {values.min():.4g}, rows summing to {sums.min():.4g} to "
                f"{sums.max():.4g}, expected probabilities that sum to 1; if it answers logits, register it as that"
            )
        values = np.clip(values[:, facts.background_columns :], 0.0, None)
    else:
        logits = values[:, facts.background_columns :]
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
    totals = values.sum(axis=1, keepdims=True)
    if not totals.all():
        raise ModelExecutionError(
            f"{facts.model_id} gave an image to the background alone, so that no label has a score; "
            "register a version whose scores cover the labels"
        )
    scores: Scores = (values / totals).astype(np.float32)
    return scores
