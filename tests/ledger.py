"""What tests of the ledger share: a small registered model, listings made by hand, the rows as they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from inference.models import registry
from inference.models.manifest import InputScale, Manifest
from inference.settings import Settings
from inference.sinks.postgres import PostgresSink
from inference.types import (
    ContentDigest,
    DeadLetter,
    ImageRef,
    Label,
    LabelMap,
    ListedObject,
    ModelId,
    Outcome,
    Plan,
    Prediction,
    Preprocessing,
    RunRequest,
    ScoredLabel,
    Stage,
    StageSeconds,
)

BUCKET = "photos"
LABELS: LabelMap = (Label("cat", "n1"), Label("dog", "n2"), Label("crane", "n3"), Label("crane", "n4"))
NIGHTS_LIKE_IT = """
    WITH given AS (SELECT %s::integer AS times, %s::uuid AS run_id),
    made AS MATERIALIZED (
        SELECT given.run_id AS like_it, n, gen_random_uuid() AS run_id FROM given, generate_series(1, given.times) AS n
    ),
    runs AS (
        INSERT INTO nightlabel.run
        SELECT night.*
        FROM made
        JOIN nightlabel.run AS r ON r.run_id = made.like_it
        CROSS JOIN LATERAL jsonb_populate_record(r, jsonb_build_object(
            'run_id', made.run_id, 'airflow_run_id', made.run_id,
            'started_at', r.started_at - made.n * interval '1 minute'
        )) AS night
    ),
    verdicts AS (
        INSERT INTO nightlabel.run_quality
        SELECT night.*
        FROM made
        JOIN nightlabel.run_quality AS q ON q.run_id = made.like_it
        CROSS JOIN LATERAL jsonb_populate_record(q, jsonb_build_object('run_id', made.run_id)) AS night
    )
    INSERT INTO nightlabel.run_label
    SELECT made.run_id, l.model_id, l.label, l.images
    FROM made JOIN nightlabel.run_label AS l ON l.run_id = made.like_it
    RETURNING run_id
"""
"""Makes as many nights like a judged run, whose id is the second value, as the first value says, all before it."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(model: ModelId) -> Manifest:
    """A model that nothing executes."""
    return Manifest(
        name=model.name,
        version=model.version,
        source="made by the tests",
        licence="Apache-2.0",
        preprocessing=Preprocessing(height=8, width=8, crop_fraction=1.0, resize_filter="bilinear"),
        input_scale=InputScale(mean=0.0, scale=255.0),
        output="probabilities",
        engines={"litert": "model.tflite"},
        made_with={},
        files={"model.tflite": "0" * 64},
        labels=LABELS,
    )


def listed(key: str, etag: str = "e1", *, size_bytes: int = 100, minute: int = 0) -> ListedObject:
    """One object of a listing."""
    return ListedObject(BUCKET, key, etag, size_bytes, EPOCH + timedelta(minutes=minute))


def prediction(ref: ImageRef, label: int = 0, score: float = 0.75) -> Prediction:
    """A prediction of one of ``LABELS``."""
    rest = [other for other in range(len(LABELS)) if other != label]
    top = (ScoredLabel(LABELS[label], score), ScoredLabel(LABELS[rest[0]], 1 - score))
    return Prediction(ref=ref, top=top, content=ContentDigest(b"\x01" * 32))


def dead_letter(ref: ImageRef, code: str = "undecodable", *, is_retryable: bool = False) -> DeadLetter:
    """A dead letter of the decode stage."""
    return DeadLetter(ref, Stage.DECODE, code, f"{ref.key} is broken", is_retryable)


@dataclass
class Pages:
    """A listing made by hand."""

    pages: Iterable[Sequence[ListedObject]]
    list_s: float = 0.5

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        return iter(self.pages)


@dataclass(frozen=True)
class Ledger:
    """A migrated database of its own with a registered production model."""

    url: str
    settings: Settings
    sink: PostgresSink

    def register(self, name: str, version: str = "1", *aliases: str) -> ModelId:
        """Register one more model."""
        model = ModelId(name, version)
        with self.sink.asking() as connection:
            registry.register(connection, manifest(model))
            for alias in aliases:
                registry.name_alias(connection, alias, model, reason="a test")
        return model

    def plan(self, *objects: ListedObject, **request: Any) -> Plan:
        """Plan a run of a listing of one page."""
        return self.sink.plan_run(RunRequest(**{"bucket": BUCKET, **request}), Pages([objects]))

    def pending(self, plan: Plan) -> list[str]:
        """Claim every shard of a plan and return the keys that are left to do."""
        shards = [self.sink.claim_shard(plan.run_id, number) for number in plan.shards]
        return [ref.key for shard in shards for chunk in self.sink.read_manifest(shard) for ref in chunk.refs]

    def work(self, plan: Plan, outcomes: dict[str, Any] | None = None) -> None:
        """Bring a plan to its end: a label for each image, or what ``outcomes`` makes of a key's ref."""
        made = outcomes or {}
        for number in plan.shards:
            shard = self.sink.claim_shard(plan.run_id, number)
            for batch, chunk in enumerate(self.sink.read_manifest(shard), start=1):
                found: list[Outcome] = [made.get(ref.key, prediction)(ref) for ref in chunk.refs]
                self.record(shard, batch, found, done_elsewhere=chunk.done_elsewhere)
            self.sink.finish_shard(shard, StageSeconds())
        self.sink.finish_run(plan.run_id)

    def record(self, shard: Any, batch: int, outcomes: list[Outcome], **counts: int) -> None:
        """Record a batch without any seconds."""
        self.sink.record_batch(shard, batch, outcomes, engine="litert", seconds=StageSeconds(), **counts)

    def refs(self, shard: Any) -> list[ImageRef]:
        """Every ref that a claimed shard has left."""
        return [ref for chunk in self.sink.read_manifest(shard) for ref in chunk.refs]

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Ask over a connection of its own."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            return connection.execute(sql, values).fetchall()

    def execute(self, sql: str, *values: object) -> None:
        """Change something over a connection of its own."""
        with psycopg.connect(self.url) as connection:
            connection.execute(sql, values)

    def latest(self) -> dict[str, str]:
        """Key -> label of latest_prediction."""
        return {row["object_key"]: row["label"] for row in self.rows("SELECT * FROM nightlabel.latest_prediction")}

    def open_dead_letters(self) -> dict[str, str]:
        """Key -> code of dead_letter_open."""
        return {row["object_key"]: row["error_code"] for row in self.rows("SELECT * FROM nightlabel.dead_letter_open")}

    def summary(self, run_id: UUID) -> dict[str, Any]:
        """The run's row of run_summary; its books have to balance, whatever the test is about."""
        [row] = self.rows("SELECT * FROM nightlabel.run_summary WHERE run_id = %s", run_id)
        parts = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
        assert row["discovered"] == sum(row[part] for part in parts), row
        return row
