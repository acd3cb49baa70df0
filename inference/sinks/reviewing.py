"""Labels that people give: what waits for them, and recording one."""

from __future__ import annotations

import psycopg
from psycopg.rows import kwargs_row

from inference.errors import ReviewError
from inference.settings import Settings
from inference.sinks.connecting import connect, describe, our_errors
from inference.types import QueuedImage, ReviewRequest

QUEUE = """
    SELECT bucket, object_key, etag, label, label_id, score, top_labels, top_scores, model_name, model_version, run_id,
        predicted_at
    FROM nightlabel.review_queue
    WHERE score < %(below)s::real
        AND (%(bucket)s::text IS NULL OR bucket = %(bucket)s)
        AND object_key ^@ %(prefix)s
        AND (%(model)s::text IS NULL OR model_name || '@' || model_version = %(model)s)
    ORDER BY score, bucket, object_key
    LIMIT %(limit)s
"""

RECORD = """
    SELECT nightlabel.record_review(
        %(bucket)s, %(key)s, %(label)s, %(reviewer)s, %(note)s, %(etag)s, %(golden_set)s
    )
"""


def list_queue(
    settings: Settings, *, below: float, bucket: str | None, prefix: str, model: str | None, limit: int
) -> list[QueuedImage]:
    """Return what waits for a review, the lowest score first; a reader's rights are enough.

    Args:
        settings: Names the database.
        below: Only scores below this, 0 to 0.5.
        bucket: Only of this bucket; None for all.
        prefix: Only keys that begin with this.
        model: Only labels by this model, ``NAME@VERSION``; None for all.
        limit: How many at most.

    Raises:
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: it cannot be read.
    """
    what = {"below": below, "bucket": bucket, "prefix": prefix, "model": model, "limit": limit}
    with connect(settings, application="nightlabel review") as connection, our_errors(describe(connection)):
        cursor = connection.cursor(row_factory=kwargs_row(QueuedImage))
        return cursor.execute(QUEUE, what, prepare=False).fetchall()


def record_review(settings: Settings, request: ReviewRequest) -> int:
    """Record a reviewer's label, and put it into the golden set, in one transaction; returns the review's number.

    Raises:
        ReviewError: the object has no label, was overwritten since, or its model knows no such label; or the golden set
            has it from a CSV file.
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: nothing was recorded.
    """
    what = {
        "bucket": request.bucket,
        "key": request.key,
        "label": request.label,
        "reviewer": request.reviewer,
        "note": request.note,
        "etag": request.etag,
        "golden_set": request.golden_set,
    }
    with connect(settings, application="nightlabel review") as connection, our_errors(describe(connection)):
        try:
            row = connection.execute(RECORD, what).fetchone()
        except psycopg.errors.RaiseException as error:  # said by the function, in a sentence
            raise ReviewError(str(error.diag.message_primary)) from error
    return int(row[0]) if row else 0
