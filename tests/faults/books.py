"""Checks the books of finished runs, with SQL and Python of its own: nothing of the product is used here."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
Connection = psycopg.Connection[Any]

PARTS = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Object:
    """What a key holds."""

    etag: str
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class Truth:
    """The outcome of an undisturbed run: either a label or an error."""

    label: str | None
    label_id: str | None
    score: float | None
    top_labels: tuple[str, ...]
    top_scores: tuple[float, ...]
    stage: str | None
    error_code: str | None

    @classmethod
    def of(cls, row: Row) -> Truth:
        """Read a row of the ledger."""
        return cls(
            label=row["label"],
            label_id=row["label_id"],
            score=row["score"],
            top_labels=tuple(row["top_labels"] or ()),
            top_scores=tuple(row["top_scores"] or ()),
            stage=row["stage"],
            error_code=row["error_code"],
        )

    def differs(self, other: Truth) -> str | None:
        """Say how another outcome differs; scores may by a millionth."""
        for name in ("label", "label_id", "stage", "error_code", "top_labels"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name} {theirs!r}, expected {ours!r}"
        ours, theirs = (self.score, *self.top_scores), (other.score, *other.top_scores)
        if len(ours) != len(theirs) or any(
            (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > SCORE_TOLERANCE)
            for a, b in zip(ours, theirs, strict=True)
        ):
            return f"scores {theirs}, expected {ours}"
        return None


@dataclass(frozen=True, slots=True)
class Night:
    """What a bucket holds, and what has to be in the ledger for it."""

    bucket: str
    model: str
    """NAME@VERSION."""
    objects: Mapping[str, Object]
    truth: Mapping[str, Truth]


@dataclass(slots=True)
class Work:
    """What one attempt did, as its own process wrote down and as the database stood before it began."""

    name: str
    run_id: UUID
    shard: int
    settled_before: frozenset[str] = frozenset()
    """Keys that had an outcome before the attempt began."""
    fetched: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    reported: dict[str, int] | None = None
    """The shard's counts as the task returned them; None when it was killed first."""


def identity(bucket: str, key: str, etag: str) -> UUID:
    """Return the documented identity of an image version."""
    return UUID(bytes=hashlib.sha256(f"{bucket}\0{key}\0{etag}".encode()).digest()[:16])


def settled_keys(connection: Connection, night: Night) -> frozenset[str]:
    """Return the keys that have an outcome now."""
    key_of = {identity(night.bucket, key, held.etag): key for key, held in night.objects.items()}
    found = connection.execute("SELECT image_id FROM nightlabel.outcome").fetchall()
    return frozenset(key_of[row[0]] for row in found if row[0] in key_of)


def computed_again(works: Sequence[Work]) -> int:
    """Return how many predictions were made again, since they were not recorded before their process died."""
    times = Counter(key for work in works for key in work.predicted)
    return sum(count - 1 for count in times.values())


def check_books(
    connection: Connection,
    night: Night,
    *,
    finished: Sequence[UUID],
    abandoned: Sequence[UUID] = (),
    works: Sequence[Work] = (),
) -> list[str]:
    """Compare a ledger with what it must hold, and return a sentence for each thing that is wrong.

    Args:
        connection: To the results database.
        night: What has to be there.
        finished: The runs that were brought to their end; together they have to have seen every object.
        abandoned: Runs that were killed and never taken up again: what they recorded counts, and they are not closed.
        works: Every attempt at the shards of these runs, if they were watched.
    """
    books = _Books(connection, night, finished, abandoned, works)
    parts = (books.outcomes, books.objects, books.views, books.runs, books.shards, books.attempts)
    return [problem for part in parts for problem in part()]


def left_in_database(connection: Connection) -> list[str]:
    """Say which other sessions, locks and prepared transactions there are in this database."""
    sessions = connection.execute(
        "SELECT pid, application_name, state, left(query, 60) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ).fetchall()
    locks = connection.execute(
        "SELECT l.pid, l.locktype, l.mode, l.relation::regclass::text FROM pg_locks l "
        "JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND l.pid <> pg_backend_pid()"
        # Vacuum and analyse come and go by themselves.
        " AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.backend_type <> 'client backend')"
    ).fetchall()
    prepared = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
    return [
        *(f"session {row}" for row in sessions),
        *(f"lock {row}" for row in locks),
        *(f"prepared transaction {row}" for row in prepared),
    ]


class _Books:
    def __init__(
        self,
        connection: Connection,
        night: Night,
        finished: Sequence[UUID],
        abandoned: Sequence[UUID],
        works: Sequence[Work],
    ) -> None:
        self._connection = connection
        self._night = night
        self._finished = list(finished)
        self._all_runs = {*finished, *abandoned}
        self._works = list(works)
        self._key_of = {identity(night.bucket, key, held.etag): key for key, held in night.objects.items()}
        self._rows = self._ask(
            "SELECT o.*, m.name || '@' || m.version AS model "
            "FROM nightlabel.outcome o JOIN nightlabel.model m USING (model_id) ORDER BY o.image_id"
        )
        self._by_image = {row["image_id"]: row for row in self._rows if row["model"] == night.model}
        self._summaries = {row["run_id"]: row for row in self._ask("SELECT * FROM nightlabel.run_summary")}
        self._shards = self._ask(
            "SELECT s.*, s.plan_number = r.plan_number AS is_present FROM nightlabel.shard s "
            "JOIN nightlabel.run r USING (run_id) ORDER BY s.run_id, s.plan_number, s.shard_number"
        )
        self._manifests: dict[tuple[UUID, int, int], list[UUID]] = defaultdict(list)
        for row in self._ask("SELECT * FROM nightlabel.manifest_chunk ORDER BY chunk_number"):
            self._manifests[row["run_id"], row["plan_number"], row["shard_number"]] += row["image_id"]

    def _ask(self, sql: str) -> list[Row]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql).fetchall()

    def outcomes(self) -> Iterator[str]:
        """One row for each object and no other one, each as in the undisturbed run."""
        times = Counter(self._key_of.get(row["image_id"]) for row in self._rows)
        for key in self._night.objects:
            if times[key] != 1:
                yield f"{key} has {times[key]} outcomes, expected 1"
        for row in self._rows:
            key = self._key_of.get(row["image_id"])
            if key is None:
                yield f"an outcome belongs to the image {row['image_id']}, which no object is"
                continue
            if row["model"] != self._night.model:
                yield f"{key} has an outcome by {row['model']}, expected {self._night.model}"
            if difference := self._night.truth[key].differs(Truth.of(row)):
                yield f"{key} has {difference}"
            if row["run_id"] not in self._all_runs:
                yield f"{key} has an outcome by the run {row['run_id']}, which is unknown"
            if row["attempts"] != 1 or row["retry_after"] is not None:
                yield f"{key} has attempts {row['attempts']}, retry_after {row['retry_after']}, expected 1 and none"
            if row["label"] is not None and row["engine"] != "litert":
                yield f"{key} was labelled by the engine {row['engine']}, expected litert"

    def objects(self) -> Iterator[str]:
        """Each key holds what it holds in the bucket, and the bytes that were labelled are those."""
        noted = {
            row["object_key"]: row
            for row in self._ask(
                "SELECT o.object_key, o.image_id, o.gone_at, i.bucket, i.object_key AS image_key, i.etag, "
                "i.content_sha256 FROM nightlabel.object o JOIN nightlabel.image i USING (image_id)"
            )
        }
        if set(noted) != set(self._night.objects):
            yield f"objects noted and not listed, or listed and not noted: {set(noted) ^ set(self._night.objects)}"
        for key, held in self._night.objects.items():
            row = noted.get(key)
            if row is None:
                continue
            found = (row["bucket"], row["image_key"], row["etag"], row["image_id"])
            expected = (self._night.bucket, key, held.etag, identity(self._night.bucket, key, held.etag))
            if found != expected or row["gone_at"] is not None:
                yield f"{key} is noted as {found}, gone {row['gone_at']}; expected {expected}, there"
            # Of what was not fetched whole, the hash is not known.
            is_read = self._night.truth[key].stage != "fetch"
            if row["content_sha256"] != (held.content_sha256 if is_read else None):
                yield f"{key} has the content {row['content_sha256']!r}, expected {held.content_sha256!r}"

    def views(self) -> Iterator[str]:
        """What analysts see is the same, once for each object."""
        labels = [(row["object_key"], row["label"]) for row in self._ask("SELECT * FROM nightlabel.latest_prediction")]
        codes = [
            (row["object_key"], row["error_code"]) for row in self._ask("SELECT * FROM nightlabel.dead_letter_open")
        ]
        truth = self._night.truth.items()
        for view, found, expected in (
            ("latest_prediction", labels, [(key, true.label) for key, true in truth if true.label is not None]),
            ("dead_letter_open", codes, [(key, true.error_code) for key, true in truth if true.label is None]),
        ):
            if sorted(found) != sorted(expected):
                yield f"{view} differs by {set(found) ^ set(expected)}, or repeats {_repeated(found)}"
        [daily] = self._ask("SELECT coalesce(sum(images), 0) AS images FROM nightlabel.label_daily")
        if daily["images"] != sum(true.label is not None for true in self._night.truth.values()):
            yield f"label_daily counts {daily['images']} images"

    def runs(self) -> Iterator[str]:
        """The equation holds in every run, and its terms are what the ledger says."""
        if set(self._summaries) != self._all_runs:
            yield f"runs that nobody began, or that vanished: {set(self._summaries) ^ self._all_runs}"
        recorded = Counter((row["run_id"], row["label"] is not None) for row in self._rows)
        for run_id, row in self._summaries.items():
            if row["discovered"] != sum(row[part] for part in PARTS):
                yield f"run {run_id} does not add up: {_parts(row)}"
            if min(row[part] for part in PARTS) < 0:
                yield f"run {run_id} counts less than nothing: {_parts(row)}"
            if row["discovered"] != len(self._night.objects) or row["deferred"] or row["gone"] or row["copied"]:
                yield f"run {run_id} has {_parts(row)}, expected {len(self._night.objects)} discovered, no other fate"
            if (row["labelled"], row["dead"]) != (recorded[run_id, True], recorded[run_id, False]):
                yield (
                    f"run {run_id} counts {row['labelled']} labelled and {row['dead']} dead, the ledger has "
                    f"{recorded[run_id, True]} and {recorded[run_id, False]} of it"
                )
        for run_id in self._finished:
            row = self._summaries.get(run_id)
            if row is None:
                continue
            if row["state"] != "succeeded" or row["finished_at"] is None or row["unfinished"]:
                yield f"run {run_id} is {row['state']} with {row['unfinished']} unfinished, expected succeeded with 0"
            others = sum(other["run_id"] != run_id for other in self._rows)
            if row["already_done"] + row["done_elsewhere"] != others:
                yield f"run {run_id} leaves {_parts(row)} to other runs, and {others} outcomes are by others"

    def shards(self) -> Iterator[str]:
        """Each shard's counts are those of its manifest's outcomes, and the manifests cover what was planned."""
        seen: dict[UUID, Counter[UUID]] = defaultdict(Counter)
        for row in self._shards:
            where = f"shard {row['shard_number']} of plan {row['plan_number']} of run {row['run_id']}"
            if not row["is_present"]:
                if row["state"] != "superseded":
                    yield f"{where} is {row['state']} and its plan is a former one, expected superseded"
                continue
            images = self._manifests[row["run_id"], row["plan_number"], row["shard_number"]]
            seen[row["run_id"]].update(images)
            if row["images"] != len(images):
                yield f"{where} counts {row['images']} images, its manifest has {len(images)}"
            found = Counter(
                "none" if outcome is None
                else "done_elsewhere" if outcome["run_id"] != row["run_id"]
                else "dead" if outcome["label"] is None
                else "labelled"
                for outcome in map(self._by_image.get, images)
            )  # fmt: skip
            is_finished = row["run_id"] in self._finished
            for name in ("labelled", "dead", "done_elsewhere") if is_finished else ("labelled", "dead"):
                if row[name] != found[name]:
                    yield f"{where} counts {row[name]} {name}, the ledger has {found[name]}"
            if is_finished and (row["state"] != "done" or row["finished_at"] is None):
                yield f"{where} is {row['state']}, expected done"
        for run_id, counts in seen.items():
            if repeated := [image for image, times in counts.items() if times > 1]:
                yield f"run {run_id} has images in several shards: {repeated}"
            if strangers := set(counts) - set(self._key_of):
                yield f"run {run_id} planned images that no object is: {strangers}"
            summary = self._summaries.get(run_id)
            if summary and len(counts) != summary["discovered"] - summary["already_done"] - summary["deferred"]:
                yield f"the manifests of run {run_id} hold {len(counts)} images, and it has {_parts(summary)}"

    def attempts(self) -> Iterator[str]:
        """No attempt did what was recorded before, and each told the truth when it reported."""
        if not self._works:
            return
        members: dict[tuple[UUID, int], set[str | None]] = {}
        shards = {(row["run_id"], row["shard_number"]): row for row in self._shards if row["is_present"]}
        for (run_id, number), row in shards.items():
            images = self._manifests[run_id, row["plan_number"], number]
            members[run_id, number] = {self._key_of.get(image) for image in images}
        for work in self._works:
            for verb, keys in (("fetched", work.fetched), ("computed", work.predicted)):
                if again := sorted(set(keys) & work.settled_before):
                    yield f"{work.name} {verb} again what had an outcome before it began: {again}"
            if repeated := _repeated(work.predicted):
                yield f"{work.name} computed twice: {repeated}"
            if strangers := {*work.fetched, *work.predicted} - members.get((work.run_id, work.shard), set()):
                yield f"{work.name} worked on what is not in its shard: {sorted(strangers)}"
            if work.reported is not None:
                row = shards.get((work.run_id, work.shard), {})
                found = {name: row.get(name) for name in work.reported}
                if found != work.reported:
                    yield f"{work.name} reported {work.reported}, the ledger has {found}"
        computed = {key for work in self._works for key in work.predicted}
        labelled = {key for key, true in self._night.truth.items() if true.label is not None}
        if computed != labelled:
            yield f"labelled without being computed, or computed without a label: {sorted(labelled ^ computed)}"
        reported = {(work.run_id, work.shard) for work in self._works if work.reported is not None}
        if silent := set(shards) - reported:
            yield f"shards that no attempt reported: {sorted(number for _, number in silent)}"


def _parts(row: Row) -> str:
    return ", ".join(f"{name} {row[name]}" for name in ("discovered", *PARTS))


def _repeated(values: Sequence[Any]) -> list[Any]:
    return sorted(value for value, times in Counter(values).items() if times > 1)
