"""A worker of the first version: the statements of revision 0001 beside this file, sent as that version sent them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import alembic.command
import alembic.config
import psycopg
import sqlalchemy
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from inference.types import ImageRef
from tests.fakes import FakeStore

FOLDER = Path(__file__).parent
FIRST_REVISION = "0001"
BATCH_SIZE = 2
NO_SECONDS = dict.fromkeys(("fetch_s", "decode_s", "predict_s", "write_s"), 0.0)


def migrate_to_first_revision(url: str) -> None:
    """Make the tables of revision 0001 as their owner, and nothing of what came later."""
    migrate_to(url, FIRST_REVISION)


def migrate_to(url: str, revision: str) -> None:
    """Make the tables of a revision as their owner, and nothing of what came later; no views."""
    repository = FOLDER.parents[2]
    config = alembic.config.Config()
    config.set_main_option("script_location", str(repository / "inference" / "sinks" / "alembic"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((repository / "sql" / "roles.sql").read_bytes())
        connection.execute("SET ROLE nightlabel_owner")
        connection.autocommit = False
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", poolclass=sqlalchemy.StaticPool, creator=lambda: connection
        )
        with engine.connect() as wrapped:
            config.attributes["connection"] = wrapped
            alembic.command.upgrade(config, revision)
            wrapped.commit()


def plan_as_then(url: str, store: FakeStore, *, shard_size: int) -> UUID:
    """Store the rows of a planned run of everything in the bucket, as revision 0001 had them."""
    run_id = uuid.uuid4()
    found = [entry for page in store.list_pages(store.bucket, "") for entry in page]
    refs = [ImageRef(entry.bucket, entry.key, entry.etag, entry.size_bytes) for entry in found]
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO nightlabel.run (run_id, dag_id, bucket, prefix, parameters, model_id, state, max_dead_ratio, "
            "min_images_for_ratio, discovered, already_done, deferred) "
            "VALUES (%s, 'cli', %s, '', %s, 1, 'planned', 1, 0, %s, 0, 0)",
            [run_id, store.bucket, Jsonb({"allow_cpu_fallback": False}), len(refs)],
        )
        for entry, ref in zip(found, refs, strict=True):
            connection.execute(
                "INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified) "
                "VALUES (%s, %s, %s, %s, %s, %s)",
                [ref.image_id, ref.bucket, ref.key, ref.etag, ref.size_bytes, entry.last_modified],
            )
            connection.execute(
                "INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at) "
                "VALUES (%s, %s, %s, %s, now())",
                [ref.bucket, ref.key, ref.image_id, entry.last_modified],
            )
        for number, start in enumerate(range(0, len(refs), shard_size)):
            part = refs[start : start + shard_size]
            connection.execute(
                "INSERT INTO nightlabel.shard (run_id, plan_number, shard_number, device, state, images) "
                "VALUES (%s, 1, %s, 'cpu', 'planned', %s)",
                [run_id, number, len(part)],
            )
            connection.execute(
                "INSERT INTO nightlabel.manifest_chunk VALUES (%s, 1, %s, 0, %s, %s, %s, %s, %s, %s)",
                [
                    run_id,
                    number,
                    store.bucket,
                    [ref.image_id for ref in part],
                    [ref.key for ref in part],
                    [ref.etag for ref in part],
                    [ref.size_bytes for ref in part],
                    [0] * len(part),
                ],
            )
    return run_id


class OldWorker:
    """Runs shards by the old statements.

    Args:
        url: The database's.
        classify: Refs -> what ``record_batch`` took for each.
    """

    def __init__(self, url: str, classify: Callable[[Sequence[ImageRef]], list[dict[str, Any]]]) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._classify = classify
        self._statements = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sql")}

    def __enter__(self) -> OldWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @staticmethod
    def outcome(ref: ImageRef, what: str) -> dict[str, Any]:
        """A label, or a dead letter if that is what it is to be."""
        row: dict[str, Any] = {"image_id": str(ref.image_id), "prior_attempts": 0, "content_sha256": "00" * 32}
        if what == "not_an_image":
            return row | {"stage": "decode", "error_code": what, "message": "no image", "retry_after": None}
        top = {"top_labels": [what, "other"], "top_scores": [0.9, 0.1]}
        return row | top | {"label": what, "label_id": "n1", "score": 0.9, "engine": "litert"}

    def claim(self, run_id: UUID, shard_number: int) -> dict[str, Any]:
        """Begin an attempt; returns what its other statements take."""
        with self._connection.transaction():
            row = self._one("claim_shard", {"run_id": run_id, "shard_number": shard_number})
            assert row is not None
            shard = {
                "run_id": run_id,
                "shard_number": shard_number,
                "plan_number": row["plan_number"],
                "attempt": row["attempt"],
                "model_id": row["model_id"],
            }
            self._one("recount_shard", shard)
        return shard

    def run(
        self,
        run_id: UUID,
        shard_number: int,
        *,
        within: Callable[[int], None] = lambda batch: None,
        between: Callable[[int], None] = lambda batch: None,
    ) -> str:
        """Run one attempt to its end: ``done``, or ``stale`` when it finds that another one has taken over.

        Args:
            run_id: The run.
            shard_number: The shard.
            within: Called with the number of each batch before its transaction ends.
            between: The same after it has ended.
        """
        shard = self.claim(run_id, shard_number)
        chunk = self._one("read_manifest_chunk", {**shard, "chunk_number": 0})
        assert chunk is not None
        columns = [chunk[name] or () for name in ("object_key", "etag", "size_bytes")]
        refs = [ImageRef(chunk["bucket"], *values) for values in zip(*columns, strict=True)]
        for batch, start in enumerate(range(0, len(refs), BATCH_SIZE), start=1):
            values = {
                **shard,
                **NO_SECONDS,
                "batch": batch,
                "outcomes": Jsonb(self._classify(refs[start : start + BATCH_SIZE])),
                "gone": 0,
                "done_elsewhere": 0,
            }
            with self._connection.transaction():
                recorded = self._one("record_batch", values)
                within(batch)
            between(batch)
            if recorded is None:
                return "stale"
        return "stale" if self._one("finish_shard", {**shard, **NO_SECONDS}) is None else "done"

    def _one(self, name: str, values: dict[str, Any]) -> dict[str, Any] | None:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(self._statements[name], values).fetchone()
