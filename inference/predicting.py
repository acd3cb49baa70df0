"""predict: decoded images -> predictions. Pure but for the model handle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.errors import ModelExecutionError
from inference.ports import ModelHandle
from inference.types import DecodedImage, Prediction, ScoredLabel, Scores

ROW_SUM_TOLERANCE = 1e-3


def predict_batch(images: Sequence[DecodedImage], handle: ModelHandle, *, top_k: int = 5) -> list[Prediction]:
    """Classify one batch: check the answer, then pair it strictly.

    Args:
        images: Decoded with the preprocessing of ``handle``; none is fine.
        handle: The model.
        top_k: Labels kept for each image, at least 1; no more than the model has.

    Returns:
        One prediction for each image, in the order of ``images``; labels of equal score stand in column order.

    Raises:
        ModelExecutionError: the engine failed, or answered with scores that cannot be right; no image is blamed for it.
    """
    if not images:
        return []
    wanted = (handle.preprocessing.height, handle.preprocessing.width, 3)
    for image in images:
        if image.pixels.shape != wanted:
            raise ModelExecutionError(
                f"{image.ref.key!r} was decoded to shape {image.pixels.shape}, {handle.model_id} expects {wanted}; "
                "decode with the preprocessing of its manifest"
            )
    scores = handle.predict(np.stack([image.pixels for image in images]))
    check_scores(scores, handle, len(images))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(
            ref=image.ref,
            top=tuple(ScoredLabel(handle.labels[column], min(1.0, float(row[column]))) for column in columns.tolist()),
            content=image.content,
        )
        for image, row, columns in zip(images, scores, best, strict=True)
    ]


def check_scores(scores: Scores, handle: ModelHandle, images: int) -> None:
    """Refuse scores that cannot be right.

    Args:
        scores: What the handle answered.
        handle: The model; it says how many labels there are.
        images: How many images it was given.

    Raises:
        ModelExecutionError: not (images, labels), not finite, or rows that are not probabilities.
    """
    expected = (images, len(handle.labels))
    if scores.shape != expected:
        raise ModelExecutionError(
            f"{handle.model_id} returned scores of shape {scores.shape}, expected {expected}: (images, labels); "
            "no image of the batch can be labelled"
        )
    if not np.isfinite(scores).all():
        raise ModelExecutionError(
            f"{handle.model_id} returned scores that are not finite, expected 0 to 1; register a corrected version"
        )
    sums = scores.sum(axis=1, dtype=np.float64)
    if scores.min() < 0.0 or scores.max() > 1.0 + ROW_SUM_TOLERANCE or np.abs(sums - 1.0).max() > ROW_SUM_TOLERANCE:
        raise ModelExecutionError(
            f"{handle.model_id} returned scores from {scores.min():.4g} to {scores.max():.4g} with rows that sum to "
            f"{sums.min():.4g} to {sums.max():.4g}, expected probabilities; say in its manifest whether it answers "
            "logits or probabilities"
        )
