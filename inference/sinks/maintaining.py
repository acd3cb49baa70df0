"""Keeps the results database small: removes, in small transactions, what is not current and what no run needs.

The views of what there is now, of runs and of days (``label_daily``) show afterwards what they showed.
``label_by_prefix`` shrinks by what is removed; ``object_outcome`` and ``label_change`` by what a dropped model said.

Every step can be interrupted anywhere and repeated: a batch is one transaction, and where a step stopped is in the
database. No image is labelled again because of it: of an existing object's current version every outcome stays, unless
its whole model goes and a better label stands beside it. Runs beside a night: a step that does not get a lock within
two seconds lets go and comes again, and what could take an outcome from a discovery that has just counted it takes
turns with discoveries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import psycopg

from inference.errors import (
    ModelInUseError,
    ModelUnknownError,
    SettingsError,
    SinkUnavailableError,
)
from inference.planning import parse_model
from inference.settings import Settings
from inference.sinks.connecting import Connection, act_as_owner, connect, describe, our_errors, required_revision
from inference.sinks.postgres import check_revision
from inference.sinks.statements import migrations, revision_of, statement
from inference.types import MaintenanceReport, MaintenanceRequest, MaintenanceStep, ModelId

logger = logging.getLogger(__name__)

LOCK_KEY = 0x6D61696E7461696E
"""Advisory lock that lets one maintenance run at a time; the bytes of "maintain"."""

LOCK_TIMEOUT_S = 2.0
"""How long a batch waits for a lock: as long as it waits for a strong one, whoever comes later waits behind it."""

PAUSE_S = 1.0
"""Until a batch that did not get its locks is tried again."""

BLOCKS_A_BATCH = 500
"""Blocks of a table (4 MB) that one transaction looks through: some ten thousand outcomes, well under a second, for
which a discovery waits."""

T = TypeVar("T")
Values: TypeAlias = "dict[str, Any] | list[Any] | None"

STEPS = ("models", "outcomes", "objects", "manifests", "images", "shards", "label_counts", "run_labels", "vacuum")
"""In the order in which they are done: what refers to something goes before it."""

NOT_LOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

EVER = "-infinity"
"""Before every time there was."""


@dataclass(slots=True)
class Pace:
    """The time that maintenance has.

    Args:
        budget_s: Seconds after which no other batch begins.
        clock: Seconds from an arbitrary start, never going back.
        sleep: Waits.
    """

    budget_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _begun_at: float = 0.0

    def __post_init__(self) -> None:
        self._begun_at = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds left; none or less when the time is up."""
        return self._begun_at + self.budget_s - self.clock()


class _TimeIsUp(Exception):  # noqa: N818 - no error: the next maintenance goes on
    """The budget is spent in the middle of a step."""


def maintain(
    settings: Settings, request: MaintenanceRequest, *, pace: Pace | None = None, blocks_a_batch: int = BLOCKS_A_BATCH
) -> MaintenanceReport:
    """Remove what is no longer needed, or with ``dry_run`` count it; harmless to repeat.

    Args:
        settings: Name the database, as a member of ``nightlabel_owner``, and how long things are kept by default.
        request: What is no longer needed.
        pace: The time that it has; by default as the request says.
        blocks_a_batch: Blocks of a table that one transaction looks through.

    Raises:
        SettingsError: the request cannot mean anything.
        ModelUnknownError, ModelInUseError: a model cannot be dropped; says what was done before that.
        SchemaMissingError, SchemaOutdatedError, SchemaNewerError: another schema.
        SinkCredentialsError, SinkUnavailableError: no connection, no right, or another maintenance is at work.
    """
    days = _days(settings, request)
    models = [_version(model) for model in request.drop_models]
    with connect(settings, application="nightlabel maintain") as connection:
        where = describe(connection)
        with our_errors(where):
            _check_schema(connection, where)
            act_as_owner(connection)
            connection.execute("SELECT set_config('lock_timeout', %s, false)", [str(round(LOCK_TIMEOUT_S * 1000))])
            if not request.dry_run and not _one(connection, "SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]):
                raise SinkUnavailableError(
                    f"another maintenance of the database at {where} is at work; run this one again when it has ended"
                )
            budget = pace or Pace(request.time_budget_minutes * 60)
            return _Maintenance(settings, connection, days, budget, request.dry_run, blocks_a_batch).run(models)


@dataclass(frozen=True, slots=True)
class _Days:
    """How long things are kept, in days."""

    manifests: int
    runs: int
    outcomes: int | None


def _days(settings: Settings, request: MaintenanceRequest) -> _Days:
    """Return how long things are kept.

    Raises:
        SettingsError: shards or outcomes would go before the manifests that need them.
    """
    kept = _Days(
        manifests=request.keep_manifest_days or settings.manifest_retention_days,
        runs=request.keep_run_days or settings.run_retention_days,
        outcomes=request.keep_outcome_days or settings.outcome_retention_days,
    )
    for name, value in (("keep_run_days", kept.runs), ("keep_outcome_days", kept.outcomes)):
        if value is not None and value < kept.manifests:
            raise SettingsError(
                f"{name} is {value} and keep_manifest_days {kept.manifests}: as long as there is a manifest, its run "
                f"may go on, and needs them; give {name} at least {kept.manifests}"
            )
    if request.time_budget_minutes < 1:
        raise SettingsError(f"time_budget_minutes is {request.time_budget_minutes}; give at least 1")
    return kept


def _version(model: str) -> ModelId:
    wanted = parse_model(model)
    if not isinstance(wanted, ModelId):
        raise SettingsError(f"drop_models names {model!r}; give a version that cannot move, as NAME@VERSION")
    return wanted


def _check_schema(connection: Connection, where: str) -> None:
    # A newer schema is refused even if it is made for this code: what may be removed from it is for newer code to say.
    check_revision(required_revision(connection, where), [revision_of(path) for path in migrations()], where)


def _one(connection: Connection, sql: str, values: Values = None) -> object:
    """Return the only value that a query gives, or None."""
    row = connection.execute(sql.encode(), values).fetchone()
    return None if row is None else row[0]


def _count(connection: Connection, sql: str, values: Values = None) -> int:
    """Return the only number that a query gives; 0 for none."""
    return int(cast("int | None", _one(connection, sql, values)) or 0)


class _Maintenance:
    """One maintenance: its steps in their order, each of which reports what it did."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        days: _Days,
        pace: Pace,
        dry_run: bool,
        blocks_a_batch: int,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._days = days
        self._pace = pace
        self._dry_run = dry_run
        self._blocks_a_batch = blocks_a_batch
        # One moment for all steps, and the database's: the machine's own clock may be wrong.
        self._now = cast("datetime", _one(connection, "SELECT now()")).astimezone(UTC)

    def run(self, models: list[ModelId]) -> MaintenanceReport:
        """Do every step; after the time is up none begins."""
        try:
            dropped = self._droppable(models)
        except _TimeIsUp:
            return MaintenanceReport(tuple(MaintenanceStep(name, 0, False, 0.0) for name in STEPS), self._dry_run)
        batches: list[Callable[[], Iterator[int]]] = [
            partial(self._drop_models, dropped),
            partial(self._remove_outcomes, list(dropped)),
            self._remove_objects,
            self._drop_manifests,
            partial(self._remove_images, list(dropped)),
            self._merge_shards,
            self._fold_label_counts,
            self._remove_run_labels,
            self._vacuum,
        ]
        steps = [self._step(name, step) for name, step in zip(STEPS, batches, strict=True)]
        return MaintenanceReport(tuple(steps), self._dry_run)

    def _step(self, name: str, batches: Callable[[], Iterator[int]]) -> MaintenanceStep:
        begun, rows, is_complete = self._pace.clock(), 0, True
        try:
            for removed in batches():
                rows += removed
        except _TimeIsUp:
            is_complete = False
        step = MaintenanceStep(name, rows, is_complete, self._pace.clock() - begun)
        logger.info("%s: %d%s in %.1f s", name, rows, "" if is_complete else ", not all", step.seconds)
        return step

    # Models

    def _droppable(self, models: list[ModelId]) -> dict[int, ModelId]:
        """Return the models that are to go, by their keys.

        Raises:
            ModelUnknownError: there is none of that name and version.
            ModelInUseError: it is not superseded; says how many labels and dead letters would be lost.
        """
        keys = {}
        for model in models:
            found = self._connection.execute(
                "SELECT model_id FROM nightlabel.model WHERE name = %s AND version = %s", [model.name, model.version]
            ).fetchone()
            if found is None:
                raise ModelUnknownError(f"{model} is not registered; `python -m inference models list` shows what is")
            keys[int(found[0])] = model
        for key in keys:
            self._refuse_if_needed(key, keys, "nothing was done")
        return keys

    def _refuse_if_needed(self, key: int, dropped: dict[int, ModelId], what_was_done: str) -> None:
        model, values = dropped[key], {"model_id": key, "dropped": list(dropped)}
        with self._bounded_by_what_is_left():
            why = _one(self._connection, statement("maintain_why_needed"), values)
            if why is not None:
                raise ModelInUseError(f"the outcomes of {model} are not dropped: {why}; {what_was_done}")
            labels, dead = self._connection.execute(statement("maintain_count_shown"), values).fetchone() or (0, 0)
        if labels or dead:
            raise ModelInUseError(
                f"the outcomes of {model} are not dropped: latest_prediction shows {labels:,} of its labels, and "
                f"beside {dead:,} of its dead letters there is no label; label these images with the production "
                f"model first (scope not_by_this_model), or keep it; {what_was_done}"
            )

    def _drop_models(self, dropped: dict[int, ModelId]) -> Iterator[int]:
        if not self._dry_run:
            self._end_drops()
        for key in dropped:
            with self._bounded_by_what_is_left():
                sql = "SELECT count(*) FROM nightlabel.outcome WHERE model_id = %s"
                outcomes = _count(self._connection, sql, [key])
            if not self._dry_run:
                self._tried(partial(self._begin_drop, key, dropped, outcomes))
                self._end_drops()
            yield outcomes

    def _begin_drop(self, key: int, dropped: dict[int, ModelId], outcomes: int) -> None:
        """Check again that nobody needs a model, note that it goes, and take its partition out of sight.

        Nobody takes it into use, and no discovery finds out what is done, before all of that is done or given up.

        Raises:
            ModelInUseError: it is needed by now, since the time when all models were checked.
            LockNotAvailable: somebody was at it; nothing was done.
        """
        with self._kept_from_others(key):
            self._refuse_if_needed(key, dropped, "it was kept, and nothing after it was done")
            note = (
                "INSERT INTO nightlabel.dropped_model (model_id, outcomes, partition) "
                "SELECT %s, %s, oid FROM pg_class WHERE oid = to_regclass('nightlabel.outcome_model_' || %s)"
            )
            self._connection.execute(note, [key, outcomes, key])
            for _, begun_at, _, sql in self._open_drops():  # none when it was dropped before
                try:
                    self._connection.execute(str(sql).encode())
                except psycopg.Error as error:
                    if self._connection.closed:
                        raise
                    [(*_, is_whole, _)] = self._open_drops()
                    if is_whole:
                        self._forget_drop(key, begun_at)
                    if is_whole or not isinstance(error, NOT_LOCKED):
                        raise

    @contextmanager
    def _kept_from_others(self, key: int) -> Iterator[None]:
        """Hold the locks of promotions and discoveries, in a session beside: DETACH runs in no transaction.

        Raises:
            LockNotAvailable: somebody else has one of them.
        """
        with connect(self._settings, application="nightlabel maintain") as beside:
            act_as_owner(beside)
            with beside.transaction():
                # It stands idle for as long as the model is looked at.
                beside.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                if not (
                    _one(beside, statement("maintain_lock_model"), {"model_id": key})
                    and _one(beside, statement("maintain_lock_buckets"))
                ):
                    raise psycopg.errors.LockNotAvailable("a discovery or a promotion is at work")
                yield

    def _open_drops(self) -> list[tuple[int, datetime, bool, str | None]]:
        rows = self._connection.execute(statement("maintain_detach").encode()).fetchall()
        return cast("list[tuple[int, datetime, bool, str | None]]", rows)

    def _end_drops(self) -> None:
        """Bring drops to their end, from wherever they were interrupted.

        Taking a partition out waits, with nobody waiting behind it, until whoever may be reading it has ended.
        """
        while left := self._open_drops():
            for key, begun_at, is_whole, sql in left:
                if is_whole:  # it was not even begun, and may be needed by now: whoever wants it has to ask again
                    self._forget_drop(key, begun_at)
                elif sql is None:
                    ended = (
                        "UPDATE nightlabel.dropped_model SET ended_at = now() WHERE model_id = %s AND dropped_at = %s"
                    )
                    self._connection.execute(ended, [key, begun_at])
                elif sql.startswith("DROP"):
                    self._tried(partial(self._connection.execute, sql.encode()))
                else:
                    with self._bounded_by_what_is_left():
                        self._connection.execute(sql.encode())

    def _forget_drop(self, key: int, begun_at: datetime) -> None:
        sql = "DELETE FROM nightlabel.dropped_model WHERE model_id = %s AND dropped_at = %s"
        self._connection.execute(sql, [key, begun_at])

    @contextmanager
    def _bounded_by_what_is_left(self) -> Iterator[None]:
        """Let the statements inside wait and work until the time is up, and no longer."""
        self._check_time()
        left_ms = str(max(1000, round(self._pace.left_s * 1000)))
        lock = "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)"
        self._connection.execute(lock, ["0", left_ms])
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            raise _TimeIsUp from error
        finally:
            if not self._connection.closed:
                self._connection.execute("RESET statement_timeout")
                self._connection.execute(
                    "SELECT set_config('lock_timeout', %s, false)", [str(round(LOCK_TIMEOUT_S * 1000))]
                )

    # Rows

    def _remove_outcomes(self, dropped: list[int]) -> Iterator[int]:
        if self._days.outcomes is None:
            return
        before = self._before(self._days.outcomes)
        for key, blocks in self._connection.execute(statement("maintain_partitions")).fetchall():
            if key not in dropped:  # else a dry run would count them twice
                values = {"model_id": key, "before": before}
                yield from self._by_blocks(f"outcomes of model {key}", blocks, "maintain_outcomes", values)

    def _remove_objects(self) -> Iterator[int]:
        if self._days.outcomes is None:
            return
        values = {"before": self._before(self._days.outcomes)}
        yield from self._by_blocks("objects", self._blocks("nightlabel.object"), "maintain_objects", values)

    def _drop_manifests(self) -> Iterator[int]:
        days = self._days.manifests
        if self._dry_run:
            with self._bounded_by_what_is_left():
                found = _count(self._connection, statement("maintain_count_manifests"), {"before": self._before(days)})
            yield found
            return
        sql, age = "SELECT nightlabel.drop_old_manifests(%s)", timedelta(days=days)
        while some := self._tried(lambda: _count(self._connection, sql, [age])):
            yield some

    def _remove_images(self, dropped: list[int]) -> Iterator[int]:
        outcomes = EVER if self._days.outcomes is None else self._before(self._days.outcomes)
        self._check_time()
        self._connection.execute("DROP TABLE IF EXISTS pg_temp.named_by_manifest, pg_temp.noted_plan")
        self._connection.execute("CREATE TEMPORARY TABLE named_by_manifest (image_id uuid NOT NULL)")
        self._connection.execute(
            "CREATE TEMPORARY TABLE noted_plan "
            "(run_id uuid NOT NULL, plan_number integer NOT NULL, PRIMARY KEY (run_id, plan_number))"
        )
        # What the steps before this one have not got to still counts; a dry run has done none of them.
        manifests = self._before(self._days.manifests) if self._dry_run else EVER
        note = partial(
            self._connection.execute, statement("maintain_note_manifests").encode(), {"dropped_before": manifests}
        )
        with self._bounded_by_what_is_left():
            note()
            self._connection.execute("CREATE INDEX ON pg_temp.named_by_manifest (image_id)")
            self._connection.execute("ANALYZE pg_temp.named_by_manifest, pg_temp.noted_plan")
        values = {
            "dropped": dropped if self._dry_run else [],
            "objects_before": outcomes if self._dry_run else EVER,
            "outcomes_before": outcomes if self._dry_run else EVER,
        }
        yield from self._by_blocks("images", self._blocks("nightlabel.image"), "maintain_images", values, note)

    def _merge_shards(self) -> Iterator[int]:
        values = {"before": self._before(self._days.runs), "dry_run": self._dry_run}
        if self._dry_run:
            with self._bounded_by_what_is_left():
                found = _count(self._connection, statement("maintain_shards"), values)
            yield found
            return
        while some := self._tried(lambda: _count(self._connection, statement("maintain_shards"), values)):
            yield some

    def _fold_label_counts(self) -> Iterator[int]:
        if self._dry_run:
            with self._bounded_by_what_is_left():
                found = _count(self._connection, "SELECT count(*) FROM nightlabel.label_count_delta")
            yield found
            return
        while some := self._tried(lambda: _count(self._connection, "SELECT nightlabel.fold_label_counts()")):
            yield some

    def _remove_run_labels(self) -> Iterator[int]:
        days = max(self._days.runs, self._settings.quality_history_days)
        values = {"before": self._before(days), "dry_run": self._dry_run}
        if self._dry_run:
            with self._bounded_by_what_is_left():
                found = _count(self._connection, statement("maintain_run_labels"), values)
            yield found
            return
        while some := self._tried(lambda: _count(self._connection, statement("maintain_run_labels"), values)):
            yield some

    def _vacuum(self) -> Iterator[int]:
        for [sql] in self._connection.execute(statement("maintain_vacuum")).fetchall():
            if not self._dry_run:
                with self._bounded_by_what_is_left():
                    self._connection.execute(sql.encode())
            yield 1

    def _before(self, days: int) -> datetime:
        return self._now - timedelta(days=days)

    def _blocks(self, table: str) -> int:
        return _count(self._connection, statement("maintain_blocks"), {"table": table})

    def _by_blocks(
        self,
        step: str,
        blocks: int,
        name: str,
        values: dict[str, Any],
        first_of_all: Callable[[], object] | None = None,
    ) -> Iterator[int]:
        """Run a statement over a table, some blocks at a time, once around from where the last maintenance stopped.

        Args:
            step: The name under which the position is noted.
            blocks: Of the table.
            name: Of the statement.
            values: Its parameters, but for the blocks.
            first_of_all: Called in each transaction before the statement, when no discovery is at work.
        """
        begin = 0 if self._dry_run else min(self._position(step), blocks)
        ranges = [*_ranges(begin, blocks, self._blocks_a_batch), *_ranges(0, begin, self._blocks_a_batch)]
        for first, end in ranges:
            what = {**values, "first": f"({first},0)", "end": f"({end},0)", "dry_run": self._dry_run}
            yield self._tried(partial(self._batch, statement(name), what, step, end, first_of_all))
        self._forget_position(step)

    def _position(self, step: str) -> int:
        return _count(self._connection, "SELECT block FROM nightlabel.maintenance_position WHERE step = %s", [step])

    def _note_position(self, step: str, block: int) -> None:
        self._connection.execute(
            "INSERT INTO nightlabel.maintenance_position (step, block) VALUES (%s, %s) "
            "ON CONFLICT (step) DO UPDATE SET block = excluded.block, stopped_at = now()",
            [step, block],
        )

    def _forget_position(self, step: str) -> None:
        if not self._dry_run:
            self._connection.execute("DELETE FROM nightlabel.maintenance_position WHERE step = %s", [step])

    # Locks and time

    def _batch(
        self, sql: str, values: dict[str, Any], step: str, end: int, first_of_all: Callable[[], object] | None
    ) -> int:
        """Look through some blocks while no discovery is at work, and note how far that is; all of it or nothing."""
        with self._connection.transaction():
            # Days that are over stay counted in label_daily, whatever is removed.
            self._connection.execute("SELECT set_config('nightlabel.keep_label_counts', 'on', true)")
            if not _one(self._connection, statement("maintain_lock_buckets")):
                raise psycopg.errors.LockNotAvailable("a discovery is at work")
            if first_of_all is not None:
                first_of_all()
            removed = _count(self._connection, sql, values)
            if not self._dry_run:
                self._note_position(step, end)
            return removed

    def _tried(self, work: Callable[[], T]) -> T:
        """Do work that is one transaction, again when it did not get its locks, until the time is up."""
        while True:
            self._check_time()
            try:
                return work()
            except NOT_LOCKED as error:
                logger.debug("Trying again (%s)", error)
                self._pace.sleep(PAUSE_S)

    def _check_time(self) -> None:
        if self._pace.left_s <= 0:
            raise _TimeIsUp


def _ranges(first: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut ``first`` to ``end`` into ranges of at most ``size``."""
    for start in range(first, end, size):
        yield start, min(start + size, end)
