"""What a run recorded, counted, beside what was recorded before it: reads it for ``judging``, and keeps the verdict."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, cast
from uuid import UUID

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from inference.errors import RunUnknownError
from inference.judging import MeasureName, Night, Verdict, failed, judge
from inference.sinks.connecting import Connection
from inference.sinks.statements import statement
from inference.types import QualityRules

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, before its labels are counted."""

    model_id: int
    is_history: bool
    """Whether it labels what is new, so that it is compared with others, and others with it."""
    first_day: date | None
    """UTC day on which it first recorded anything; None if none of its shards was begun."""
    last_day: date | None
    dead: int


def judge_run(connection: Connection, run_id: UUID, rules: QualityRules, *, low_score: float, days: int) -> Verdict:
    """Count a run's labels, compare them with those of its model and source before, and record both; again if it was.

    Args:
        connection: In autocommit, of a member of ``nightlabel_writer``.
        run_id: A run whose shards have ended.
        rules: Thresholds.
        low_score: Below this a score is low, 0 to 1.
        days: How far back it is compared.

    Raises:
        RunUnknownError: no such run.
    """
    run = _read_run(connection, run_id)
    night, images = _count(connection, run_id, run, low_score)
    if run.is_history:
        before = _before(connection, run_id, low_score=low_score, days=days)
        try:
            verdict = judge(night, before, rules)
        except Exception as error:  # the run is counted all the same: later nights have it to compare with
            logger.exception("The labels of run %s were not judged", run_id)
            verdict = failed(error)
    else:
        verdict = Verdict("not_judged", "the run labels again what was labelled or dead before, which is no night")
    _record(connection, run_id, run, night, images, verdict, rules, low_score)
    return verdict


def _read_run(connection: Connection, run_id: UUID) -> _Run:
    row = connection.execute(statement("quality_run"), {"run_id": run_id}).fetchone()
    if row is None:
        raise RunUnknownError(f"there is no run {run_id} in the results database")
    return _Run(*row)


def _count(connection: Connection, run_id: UUID, run: _Run, low_score: float) -> tuple[Night, int]:
    """Return what the run recorded, and how many labels that are."""
    rows: list[tuple[Any, ...]] = []
    if run.first_day is not None:
        what = {"run_id": run_id, "model_id": run.model_id, "first_day": run.first_day, "last_day": run.last_day}
        # Not prepared: with a plan for any days the index of days would not be used.
        found = connection.execute(statement("quality_labels"), {**what, "low_score": low_score}, prepare=False)
        rows = found.fetchall()
    night = Night(
        labels={label: images for label, images, *_ in rows},
        score_sum=sum((row[2] for row in rows), 0.0),
        score_square_sum=sum((row[3] for row in rows), 0.0),
        low_scores=sum(row[4] for row in rows),
        dead=run.dead,
    )
    return night, sum(row[1] for row in rows)


def _before(connection: Connection, run_id: UUID, *, low_score: float, days: int) -> list[Night]:
    """Return the nights to compare with: the runs of the same source, and no others, however few these are."""
    what = {"run_id": run_id, "low_score": low_score, "days": days}
    with connection.cursor(row_factory=dict_row) as cursor:
        return [
            Night(
                labels=dict(zip(row["labels"], row["images"], strict=True)),
                score_sum=row["score_sum"],
                score_square_sum=row["score_square_sum"],
                low_scores=row["low_scores"],
                dead=row["dead"],
                is_ordinary=row["is_ordinary"],
            )
            for row in cursor.execute(statement("quality_runs_before"), what)
        ]


def _record(
    connection: Connection,
    run_id: UUID,
    run: _Run,
    night: Night,
    images: int,
    verdict: Verdict,
    rules: QualityRules,
    low_score: float,
) -> None:
    def of(name: MeasureName, part: str) -> float | None:
        measure = verdict.measure(name)
        return None if measure is None else cast("float | None", getattr(measure, part))

    labels = night.labels if run.is_history else {}
    connection.execute(
        statement("record_quality"),
        {
            "run_id": run_id,
            "model_id": run.model_id,
            "is_history": run.is_history,
            "verdict": verdict.name,
            "reason": verdict.reason,
            "images": images,
            "dead": night.dead,
            "score_sum": night.score_sum,
            "score_square_sum": night.score_square_sum,
            "low_score": low_score,
            "low_scores": night.low_scores,
            "nights": verdict.nights,
            "images_before": verdict.images_before,
            "js_distance": of("js_distance", "value"),
            "js_ordinary": of("js_distance", "ordinary_to"),
            "psi": of("psi", "value"),
            "psi_ordinary": of("psi", "ordinary_to"),
            "moved_share": of("moved_share", "value"),
            **{
                f"{name}_{column}": of(name, part)
                for name in ("low_score_share", "mean_score", "dead_ratio")
                for column, part in (("before", "before"), ("ordinary", "ordinary_to"))
            },
            "moved": [measure.name for measure in verdict.measures if measure.is_moved],
            "moved_labels": [moved.label for moved in verdict.moved_labels],
            "shares_before": [moved.before for moved in verdict.moved_labels],
            "shares_now": [moved.now for moved in verdict.moved_labels],
            "labels": list(labels),
            "counts": list(labels.values()),
            "thresholds": Jsonb(asdict(rules)),
        },
    )
