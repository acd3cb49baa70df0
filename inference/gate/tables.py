"""The gate's tables in the results database: golden sets, thresholds, checks. Opens no connection itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from inference.errors import GoldenSetError, ModelUnknownError, SchemaMissingError
from inference.gate.figures import (
    EVERY_MODEL,
    Comparison,
    GoldenImage,
    GoldenSet,
    GoldenSetSummary,
    ModelCheck,
    Reason,
    Thresholds,
    Verdict,
)
from inference.sinks.statements import statement
from inference.types import ImageRef, ModelId, key_of, stored_key

if TYPE_CHECKING:
    from psycopg import Connection

Origin = Literal["csv", "review"]

# Golden sets


def read_golden_set(connection: Connection[Any], name: str) -> GoldenSet:
    """Return what a golden set holds now; empty where there is none of this name."""
    rows = connection.execute(
        "SELECT origin, bucket, object_key, etag, label_id FROM nightlabel.golden_image WHERE golden_set = %s "
        'ORDER BY bucket COLLATE "C", object_key COLLATE "C"',
        [name],
    ).fetchall()
    judging = [row[1:] for row in rows if row[0] != "review"]
    reviewed = [row[1:] for row in rows if row[0] == "review"]
    # Reviews judge nothing, so one that is made while somebody waits for a yes leaves the check what it was.
    digest = hashlib.sha256(json.dumps(judging).encode()).hexdigest()
    return GoldenSet(name, _golden_images(judging), digest, reviewed=_golden_images(reviewed))


def _golden_images(rows: Sequence[tuple[str, str, str, str]]) -> tuple[GoldenImage, ...]:
    return tuple(GoldenImage(bucket, key_of(key), etag, label_id) for bucket, key, etag, label_id in rows)


def list_golden_sets(connection: Connection[Any]) -> list[GoldenSetSummary]:
    """Return every golden set, by name."""
    rows = connection.execute(
        "SELECT golden_set, count(*), count(DISTINCT label_id), count(*) FILTER (WHERE origin = 'review'), "
        "max(added_at) FROM nightlabel.golden_image GROUP BY golden_set ORDER BY golden_set"
    ).fetchall()
    return [GoldenSetSummary(*row) for row in rows]


def write_golden_images(
    connection: Connection[Any], name: str, images: Sequence[GoldenImage], *, origin: Origin, replace: bool
) -> tuple[int, int]:
    """Put images into a golden set, in one transaction; what is there already as it is stays as it is.

    Args:
        connection: Of a member of ``nightlabel_writer``; to replace a set, of the owner.
        name: The golden set.
        images: Each object once.
        origin: Where the labels come from.
        replace: Whether the set is to hold these and no others.

    Returns:
        How many were added or changed, and how many taken out.
    """
    columns: dict[str, Any] = {
        "golden_set": name,
        "origin": origin,
        "bucket": [image.bucket for image in images],
        "object_key": [stored_key(image.key) for image in images],
        "etag": [image.etag for image in images],
        "label_id": [image.label_id for image in images],
    }
    with connection.transaction():
        removed = 0
        if replace:
            removed = connection.execute(
                "DELETE FROM nightlabel.golden_image AS g WHERE g.golden_set = %(golden_set)s AND NOT EXISTS ("
                "SELECT FROM unnest(%(bucket)s::text[], %(object_key)s::text[]) AS n (bucket, object_key) "
                "WHERE n.bucket = g.bucket AND n.object_key = g.object_key)",
                columns,
            ).rowcount
        written = connection.execute(
            "INSERT INTO nightlabel.golden_image AS g (golden_set, bucket, object_key, etag, label_id, origin) "
            "SELECT %(golden_set)s, n.bucket, n.object_key, n.etag, n.label_id, %(origin)s "
            "FROM unnest(%(bucket)s::text[], %(object_key)s::text[], %(etag)s::text[], %(label_id)s::text[]) "
            "AS n (bucket, object_key, etag, label_id) "
            "ON CONFLICT (golden_set, bucket, object_key) DO UPDATE "
            "SET etag = excluded.etag, label_id = excluded.label_id, origin = excluded.origin, "
            "added_by = session_user, added_at = clock_timestamp() "
            "WHERE (g.etag, g.label_id, g.origin) <> (excluded.etag, excluded.label_id, excluded.origin)",
            columns,
        ).rowcount
    return written, removed


def remove_golden_images(connection: Connection[Any], name: str, *, bucket: str | None, prefix: str | None) -> int:
    """Take images out of a golden set and return how many there were.

    Args:
        connection: Of the owner.
        name: The golden set.
        bucket: Only those of this bucket; None for every one.
        prefix: Only those whose key begins with this; None for every one.

    Raises:
        GoldenSetError: there are none.
    """
    removed = connection.execute(
        "DELETE FROM nightlabel.golden_image WHERE golden_set = %(name)s "
        "AND (%(bucket)s::text IS NULL OR bucket = %(bucket)s) "
        "AND (%(prefix)s::text IS NULL OR object_key ^@ %(prefix)s)",
        {"name": name, "bucket": bucket, "prefix": None if prefix is None else stored_key(prefix)},
    ).rowcount
    if not removed:
        known = ", ".join(golden_set.name for golden_set in list_golden_sets(connection)) or "none"
        raise GoldenSetError(f"the golden set {name!r} holds no such image; the golden sets there are: {known}")
    return removed


def find_sizes(connection: Connection[Any], image_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return image id -> size in bytes, of those image versions that the database knows."""
    rows = connection.execute(
        "SELECT image_id, size_bytes FROM nightlabel.image WHERE image_id = ANY(%s)", [list(image_ids)]
    ).fetchall()
    return dict(rows)


def sample_recent(
    connection: Connection[Any], model: ModelId, *, days: int, images: int, seed: int
) -> tuple[ImageRef, ...]:
    """Return images that production labelled in the last days and that are still what their key holds.

    Args:
        connection: Any that may read the tables.
        model: Whose labels count, besides those of every model that is or was in production, so that a model that was
            promoted just now has a sample too. What was copied from equal bytes is left out, since it would show twice.
        days: How many days back.
        images: Most images.
        seed: Which of them: drawn by a hash of seed and image id, so that the same seed draws the same ones.
    """
    rows = connection.execute(
        statement("sample_recent").encode(),
        {"name": model.name, "version": model.version, "days": days, "images": images, "seed": seed},
    ).fetchall()
    return tuple(ImageRef(bucket, key_of(key), etag, size) for bucket, key, etag, size in rows)


# Thresholds


def read_thresholds(connection: Connection[Any], model_name: str) -> Thresholds:
    """Return what a model has to reach: its own thresholds, or those of every model.

    Raises:
        SchemaMissingError: somebody has deleted those of every model.
    """
    found = [found for found in list_thresholds(connection) if found.model_name in {model_name, EVERY_MODEL}]
    if not found:
        raise SchemaMissingError(
            f"there are no thresholds for {model_name} in nightlabel.gate_threshold, nor for every model; insert a row "
            f"with the model_name {EVERY_MODEL}, whose other columns have defaults"
        )
    return min(found, key=lambda thresholds: thresholds.model_name == EVERY_MODEL)


def list_thresholds(connection: Connection[Any]) -> list[Thresholds]:
    """Return those of every model first, then those of single models by name."""
    rows = connection.execute(
        "SELECT model_name, golden_set, min_golden_images, max_unreadable, min_top1, max_loss, confidence, "
        "min_compared_images, min_agreement, max_slowdown FROM nightlabel.gate_threshold "
        "ORDER BY model_name <> '*', model_name"
    ).fetchall()
    return [Thresholds(*row) for row in rows]


def write_thresholds(connection: Connection[Any], thresholds: Thresholds, *, reason: str) -> None:
    """Let a model's thresholds be these from now on.

    Args:
        connection: Of the owner.
        thresholds: All of them.
        reason: Why, for the record.
    """
    connection.execute(
        "INSERT INTO nightlabel.gate_threshold (model_name, golden_set, min_golden_images, max_unreadable, min_top1, "
        "max_loss, confidence, min_compared_images, min_agreement, max_slowdown, reason) "
        "VALUES (%(model_name)s, %(golden_set)s, %(min_golden_images)s, %(max_unreadable)s, %(min_top1)s, "
        "%(max_loss)s, %(confidence)s, %(min_compared_images)s, %(min_agreement)s, %(max_slowdown)s, %(reason)s) "
        "ON CONFLICT (model_name) DO UPDATE SET golden_set = excluded.golden_set, "
        "min_golden_images = excluded.min_golden_images, max_unreadable = excluded.max_unreadable, "
        "min_top1 = excluded.min_top1, max_loss = excluded.max_loss, confidence = excluded.confidence, "
        "min_compared_images = excluded.min_compared_images, min_agreement = excluded.min_agreement, "
        "max_slowdown = excluded.max_slowdown, reason = excluded.reason, changed_by = session_user, "
        "changed_at = clock_timestamp()",
        {**asdict(thresholds), "reason": reason},
    )


# Checks


def record_check(
    connection: Connection[Any],
    comparison: Comparison,
    reasons: Sequence[Reason],
    *,
    thresholds: Thresholds,
    golden_set: GoldenSet,
    model_sha256: str,
) -> ModelCheck:
    """Keep a check with its verdict and return it.

    Args:
        connection: Of a member of ``nightlabel_writer``.
        comparison: What was found.
        reasons: The thresholds that were missed; one that is no warning fails the check.
        thresholds: Those of that moment.
        golden_set: The set as it was judged by.
        model_sha256: Of the candidate as it was checked.
    """
    from psycopg.types.json import Jsonb

    verdict: Verdict = "passed" if all(reason.is_warning for reason in reasons) else "failed"
    golden, recent = comparison.golden, comparison.recent
    row: dict[str, Any] = {
        "verdict": verdict,
        "reasons": Jsonb([asdict(reason) for reason in reasons]),
        "thresholds": Jsonb(asdict(thresholds)),
        "model_sha256": model_sha256,
        "golden_set": golden_set.name,
        "golden_sha256": golden_set.sha256,
        "golden_images": golden.images,
        "golden_unreadable": golden.unreadable,
        "only_production_right": golden.only_production_right,
        "only_candidate_right": golden.only_candidate_right,
        "loss": golden.loss,
        "loss_bound": golden.loss_bound,
        "golden_agreement": golden.agreement,
        "recent_days": recent.days,
        "recent_images": recent.images,
        "recent_unreadable": recent.unreadable,
        "recent_agreement": recent.agreement,
        "score_shift": comparison.score_shift,
        "engine": comparison.engine,
        "images_per_second": comparison.images_per_second,
        "production_images_per_second": comparison.production_images_per_second,
        "label_shifts": Jsonb(_shift_rows(comparison)),
        "flips": Jsonb(_flip_rows(comparison)),
    }
    for prefix, rightness in (("", golden.candidate), ("production_", golden.production)):
        for name in ("top1", "top5", "right_score"):
            row[prefix + name] = None if rightness is None else getattr(rightness, name)
    for prefix, model in (("model_", comparison.candidate), ("production_", comparison.production)):
        row[f"{prefix}name"] = None if model is None else model.name
        row[f"{prefix}version"] = None if model is None else model.version
    recorded = connection.execute(statement("record_check").encode(), row).fetchone()
    if recorded is None:
        raise _unknown(comparison.candidate)
    check_id, checked_at = recorded
    return ModelCheck(check_id, checked_at, verdict, tuple(reasons), thresholds, comparison)


def model_digest(connection: Connection[Any], model: ModelId) -> str:
    """Return a digest of a registered model: its files, label map, preprocessing and artefacts.

    Raises:
        ModelUnknownError: it is not registered.
    """
    row = connection.execute(
        statement("digest_model").encode(), {"name": model.name, "version": model.version}
    ).fetchone()
    if row is None:
        raise _unknown(model)
    return str(row[0])


def _unknown(model: ModelId) -> ModelUnknownError:
    return ModelUnknownError(f"{model} is not registered; `python -m inference models list` shows what is")


@dataclass(frozen=True, slots=True)
class LastCheck:
    """The newest check of a model, as a promotion looks at it."""

    check_id: int
    verdict: Verdict
    checked_at: datetime
    reasons: tuple[Reason, ...]
    thresholds: Mapping[str, Any]
    model_sha256: str
    golden_set: str
    golden_sha256: str
    production: ModelId | None


def find_last_check(connection: Connection[Any], model: ModelId) -> LastCheck | None:
    """Return the newest check of a model; None if it was never checked."""
    row = connection.execute(
        "SELECT c.check_id, c.verdict, c.checked_at, c.reasons, c.thresholds, c.model_sha256, c.golden_set, "
        "c.golden_sha256, p.name, p.version FROM nightlabel.gate_check c JOIN nightlabel.model m USING (model_id) "
        "LEFT JOIN nightlabel.model p ON p.model_id = c.production_model_id "
        "WHERE (m.name, m.version) = (%s, %s) ORDER BY c.check_id DESC LIMIT 1",
        [model.name, model.version],
    ).fetchone()
    if row is None:
        return None
    check_id, verdict, checked_at, reasons, thresholds, model_sha256, golden_set, golden_sha256, name, version = row
    return LastCheck(
        check_id,
        verdict,
        checked_at,
        tuple(Reason(**reason) for reason in reasons),
        thresholds,
        model_sha256,
        golden_set,
        golden_sha256,
        production=None if name is None else ModelId(name, version),
    )


def _shift_rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "from_label_id": shift.before.label_id,
            "from_label": shift.before.name,
            "to_label_id": shift.after.label_id,
            "to_label": shift.after.name,
            "images": shift.images,
        }
        for shift in comparison.label_shifts
    ]


def _flip_rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "bucket": flip.ref.bucket,
            "object_key": stored_key(flip.ref.key),
            "etag": flip.ref.etag,
            "is_golden": flip.is_golden,
            "right_label_id": flip.right_label_id,
            "from_label_id": flip.before.label.label_id,
            "from_label": flip.before.label.name,
            "from_score": round(flip.before.score, 6),
            "to_label_id": flip.after.label.label_id,
            "to_label": flip.after.label.name,
            "to_score": round(flip.after.score, 6),
        }
        for flip in comparison.flips
    ]
