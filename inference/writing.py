"""write: outcomes -> rows of the ledger. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from inference.types import CopiedPrediction, DeadLetter, Outcome, Prediction, Stage

MAX_MESSAGE_CHARACTERS = 1_000
"""A message of the ledger is a sentence; what a decoder quotes from hostile bytes may be longer."""


def outcome_row(
    outcome: Outcome, *, engine: str, decoder: str, now: datetime, retry_delay: timedelta, max_attempts: int
) -> dict[str, Any]:
    """Return an outcome as ``sql/statements/record_batch.sql`` takes it.

    Args:
        outcome: A prediction, computed or copied, or a dead letter.
        engine: What executed the model, for what was computed.
        decoder: What decoded, for a dead letter of the decode stage.
        now: Aware; a retryable dead letter is tried again ``retry_delay`` later.
        retry_delay: How long a retryable dead letter rests.
        max_attempts: From this attempt on a dead letter is permanent.
    """
    content = None if isinstance(outcome, CopiedPrediction) else outcome.content
    row: dict[str, Any] = {
        "image_id": str(outcome.ref.image_id),
        "prior_attempts": outcome.ref.prior_attempts,
        "content_sha256": content.sha256.hex() if content else None,
        "is_etag_md5": content is not None and content.is_etag_md5,
        "is_copied": isinstance(outcome, CopiedPrediction),
    }
    match outcome:
        case Prediction() | CopiedPrediction():
            row |= {
                "label": outcome.label.name,
                "label_id": outcome.label.label_id,
                "score": outcome.score,
                "top_labels": outcome.top_labels,
                "top_scores": outcome.top_scores,
                "engine": outcome.engine if isinstance(outcome, CopiedPrediction) else engine,
            }
        case DeadLetter():
            is_last = outcome.ref.prior_attempts + 1 >= max_attempts
            row |= {
                "stage": outcome.stage.value,
                "error_code": outcome.error_code,
                "message": storable(outcome.message)[:MAX_MESSAGE_CHARACTERS],
                "decoder": decoder if outcome.stage is Stage.DECODE else None,
                "retry_after": (now + retry_delay).isoformat() if outcome.is_retryable and not is_last else None,
            }
    return row


def storable(text: str) -> str:
    """Return text without what Postgres refuses in ``text``: NUL and lone surrogates."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
