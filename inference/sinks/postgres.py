"""The ledger in Postgres: plans, claims, records and closes. Translates the driver's errors; every write is atomic."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from inference.errors import (
    InferenceError,
    ModelInUseError,
    ModelUnknownError,
    RunInterruptedError,
    RunUnknownError,
    SchemaMissingError,
    SchemaNewerError,
    SchemaOutdatedError,
    SettingsError,
    SinkCredentialsError,
    SinkUnavailableError,
    StaleAttemptError,
)
from inference.pacing import CATCH_UP_S
from inference.planning import (
    check_request,
    choose_device,
    decoder_version,
    images_to_plan,
    images_within,
    largest_shard,
    parse_model,
    shard_size,
)
from inference.ports import Listing
from inference.settings import Settings
from inference.sinks.connecting import (
    Connection,
    Patience,
    can_be_waited_out,
    connect,
    describe,
    hang_up,
    keeps_connection,
    our_errors,
    required_revision,
    translated,
)
from inference.sinks.copying import BEGINNING, END, binary_rows
from inference.sinks.statements import migrations, revision_of, statement
from inference.types import (
    CopiedPrediction,
    DeadLetterFilter,
    Device,
    ImageRef,
    Label,
    LabelFilter,
    ManifestChunk,
    ModelId,
    Outcome,
    Plan,
    RunRequest,
    RunRules,
    RunSummary,
    ShadowSample,
    Shard,
    ShardStats,
    Speed,
    StageSeconds,
    Turns,
    key_of,
    may_be_md5,
    stored_key,
)
from inference.writing import outcome_row

logger = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_IN_TRANSACTION_S = 60.0
"""How long a plan or a claim may leave the database waiting for its next statement, with its locks held: a process that
was stopped, or whose machine is gone, is hung up on. A listing takes as long as it takes."""

GIVE_UP_S = 2.0
"""How long to wait for the database to hear that nobody waits for its answer any more."""

STATEMENTS_AT_ONCE = 2
"""Most statements that do real work in what is sent again as a whole."""

BATCHES_BEFORE_FOLDING = 100
"""Of a shard, before what they counted is folded: so readers have little to add up."""

MOST_FOLDED_AT_ONCE = 50_000
"""As ``nightlabel.fold_label_counts`` has it: when it folded fewer, what is left was recorded meanwhile."""

SILENCE_S = 5.0
"""How much longer than the bound on statements their answer may take to arrive."""


class PostgresSink:
    """The ledger of one results database. One connection, safe to share between threads.

    Args:
        settings: Database, time-outs, and how dead letters are tried again.

    Raises:
        SettingsError, SinkCredentialsError, SinkUnavailableError: no connection.
        SchemaMissingError, SchemaOutdatedError, SchemaNewerError: the schema is not the one that this code knows.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._is_given_up = threading.Event()
        self._asker: int | None = None
        self._patience = Patience(settings.database_patience_s, self._is_given_up)
        self._connection = connect(settings)  # not waited for: whoever starts wants to hear at once what is wrong
        try:
            self._check_schema()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        with self._lock:
            self._connection.close()

    def give_up(self) -> None:
        """Stop waiting for the database, in whatever thread: the question is cancelled, nothing is sent again.

        No batch is recorded any more, so that whoever works on a shard ends soon; its books can still be closed.

        A database that does not even hear that is hung up on; only a new connection is waited for on, at most
        ``database_connect_timeout_s``.
        """
        self._is_given_up.set()
        is_heard = True
        try:
            self._connection.cancel_safe(timeout=GIVE_UP_S)
        except psycopg.Error:
            is_heard = False
        if self.is_asking_here:  # in a signal's handler: the question goes on when that returns
            if not is_heard:
                hang_up(self._connection)
        elif self._lock.acquire(timeout=GIVE_UP_S):
            self._lock.release()
        else:
            hang_up(self._connection)

    @property
    def is_asking_here(self) -> bool:
        """Whether this very thread is waiting for the database, as can be seen by the handler of a signal only."""
        return self._asker == threading.get_ident()

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """Lend the connection, for the registry of models; autocommit is on, and errors come out as ours."""
        self._retried(lambda: self._connection.execute("SELECT"))  # what was lost since the last answer is made again
        with self._lock, our_errors(describe_or(self._connection)):
            yield self._connection

    # Planning

    def plan_run(self, request: RunRequest, listing: Listing | None) -> Plan:
        """Compare what there is with the ledger and store the shards of what is left, in one transaction.

        What there is: a complete listing, what a manifest or an inventory shows, or what the request chooses out of the
        results database: open dead letters, objects to label again, a sample of another run. Only a complete listing
        shows that something is gone. Memory is bounded by a page of the listing. With ``dry_run`` the transaction is
        rolled back, and what nobody would see is not written.

        Args:
            request: What to do.
            listing: Every object under the prefix, or of the request's manifest or inventory, page by page; read to
                its end before anything is decided. None for a request that is ``is_by_ledger``.

        Raises:
            SettingsError: the request cannot mean anything.
            ModelUnknownError: its model is not registered.
            ModelInUseError: its model's outcomes are being dropped.
            StaleAttemptError: a newer try of discovery has planned this run; nothing was written.
            SinkUnavailableError: the database does not answer; nothing was planned.
        """
        check_request(request)
        model_key, model = self._retried(lambda: self._find_model(request.model))
        if not request.dry_run:
            self._make_room(model_key, model)
        plan: Plan | None = None
        try:
            with (
                self._lock,
                our_errors(describe(self._connection)),
                self._connection.transaction(force_rollback=request.dry_run),
            ):
                plan = self._plan(request, listing, model_key, model)
        except SinkUnavailableError:
            # Lost while it was committed: only looking tells whether the plan stands.
            if plan is None or request.dry_run or not self._is_planned(plan, request.bucket):
                raise
        return plan

    def _make_room(self, model_key: int, model: ModelId) -> None:
        """See that the ledger has a place for the model's outcomes, also when former ones were dropped.

        Raises:
            ModelInUseError: they are being dropped right now, or somebody has taken them out of the ledger.
        """
        what = {"model_id": model_key}
        found = self._retried(lambda: _one(self._connection.execute(statement("find_partition"), what)))
        is_dropped, has_place, outside = found
        if is_dropped:
            raise ModelInUseError.being_dropped(model)
        if outside is not None:
            raise ModelInUseError(
                f"{model} has no place in the ledger: somebody else took its table {outside} out; attach it again, "
                "rename it or drop it, then plan this again"
            )
        if not has_place:
            sql = "SELECT nightlabel.add_outcome_partition(%s)"
            self._retried(lambda: self._connection.execute(sql, [model_key]))

    def _keep_model(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], model_key: int, model: ModelId, *, dry_run: bool = False
    ) -> None:
        """Keep maintenance from dropping the run's model until the transaction has ended, which says that it is used.

        Raises:
            ModelInUseError: it has done so meanwhile, or has begun to.
        """
        lock = "SELECT pg_advisory_xact_lock_shared(hashtextextended('nightlabel.model ' || %s, 0))"
        cursor.execute(lock, [model_key])
        is_dropped, has_place, _ = _one(cursor.execute(statement("find_partition"), {"model_id": model_key}))
        if is_dropped:
            raise ModelInUseError.being_dropped(model)
        if not has_place and not dry_run:
            raise ModelInUseError(f"the outcomes of {model} were dropped meanwhile; plan this anew")

    def _is_planned(self, plan: Plan, bucket: str) -> bool:
        """Return whether a plan was committed, once the transaction that made it has ended."""

        def look() -> bool:
            with self._connection.transaction():
                self._lock_bucket(self._connection.cursor(), bucket)  # held by that transaction for as long as it lasts
                sql = "SELECT FROM nightlabel.run WHERE run_id = %s AND plan_number = %s"
                return self._connection.execute(sql, [plan.run_id, plan.plan_number]).fetchone() is not None

        return self._retried(look)

    def _lock_bucket(self, cursor: psycopg.Cursor[tuple[Any, ...]], bucket: str) -> None:
        """Let one discovery of a bucket at a time go on until its transaction ends."""
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || %s, 0))", [bucket])

    def _plan(self, request: RunRequest, listing: Listing | None, model_key: int, model: ModelId) -> Plan:
        cursor = self._connection.cursor()
        # The copy of the listing lasts as long as the store takes to list.
        cursor.execute("SET LOCAL statement_timeout = 0")
        _hang_up_when_idle(cursor)
        listed_at = _one(cursor.execute("SELECT clock_timestamp()"))[0]
        cursor.execute(statement("create_listing"))
        if listing is not None:
            self._copy_listing(cursor, listing)
        # From here on one discovery of a bucket at a time: they note the same objects, and plan the same images.
        self._lock_bucket(cursor, request.bucket)
        self._keep_model(cursor, model_key, model, dry_run=request.dry_run)
        settled_by = self._settled_by(request, model_key)
        prefix = stored_key(request.prefix)
        what = {"bucket": request.bucket, "prefix": prefix, "listed_at": listed_at, "model_id": model_key}
        if listing is None:
            self._choose(cursor, request, what, model, settled_by)
        cursor.execute(statement("drop_repeated_keys"))
        cursor.execute("ANALYZE listed")
        if listing is not None and not request.dry_run:
            self._note_listing(cursor, what, is_complete=request.is_by_listing)

        run_id, plan_number = self._begin_run(cursor, request, model_key, listed_at)
        cursor.execute(statement("close_abandoned"), {"run_id": run_id})
        about = {"run_id": run_id, "is_retry": request.dead_letters is not None, "decoder": decoder_version()}
        cursor.execute(statement("find_pending"), {**what, **about, "settled_by": settled_by})
        cursor.execute("ANALYZE pending")
        carried_labelled = carried_copied = carried_dead = 0
        if plan_number > 1:
            carried = {"run_id": run_id, "model_id": model_key}
            carried_labelled, carried_copied, carried_dead = _one(cursor.execute(statement("count_carried"), carried))
        [discovered] = _one(cursor.execute("SELECT count(*) FROM listed"))
        [pending] = _one(cursor.execute("SELECT count(*) FROM pending"))
        device = choose_device(request)
        speed = self._recent_speed(cursor, model_key, device) if request.is_estimated else None
        planned = images_to_plan(
            pending,
            max_images=request.max_images,
            largest_shard=largest_shard(request),
            budget=images_within(request.time_budget_s, speed),
        )
        [planned_bytes] = _one(
            cursor.execute("SELECT coalesce(sum(size_bytes), 0)::bigint FROM pending WHERE position < %s", [planned])
        )
        slices = {
            "run_id": run_id,
            "plan_number": plan_number,
            "shard_size": shard_size(planned, wanted=request.shard_size, largest=largest_shard(request)),
            "planned": planned,
            "device": device,
            "bucket": request.bucket,
        }
        shards = tuple(cast("int", number) for [number] in cursor.execute(statement("store_shards"), slices).fetchall())
        if not request.dry_run:
            cursor.execute(statement("store_manifest"), slices)
        list_s = 0.0 if listing is None else listing.list_s
        already_done = discovered - pending - carried_labelled - carried_dead
        plan = Plan(
            run_id=run_id,
            plan_number=plan_number,
            model=model,
            device=device,
            discovered=discovered,
            already_done=already_done,
            deferred=pending - planned,
            to_classify=planned,
            to_classify_bytes=planned_bytes,
            shards=() if request.dry_run else shards,
            list_s=list_s,
            images_per_second=request.images_per_second,
            speed=speed,
        )
        counts = {
            "run_id": run_id,
            "discovered": discovered,
            "already_done": already_done,
            "deferred": pending - planned,
            "carried_labelled": carried_labelled,
            "carried_copied": carried_copied,
            "carried_dead": carried_dead,
            "list_s": list_s,
            "expected_s": plan.expected_s if request.is_estimated else None,
            "shadow_of": None if request.shadow is None else request.shadow.run_id,
        }
        cursor.execute(statement("count_run"), counts)
        if request.images_per_second is not None:
            pace = {"run_id": run_id, "images_per_second": request.images_per_second}
            cursor.execute(statement("store_pace"), pace)
        return plan

    def _note_listing(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], what: dict[str, Any], *, is_complete: bool
    ) -> None:
        """Note which versions the listing, a manifest or an inventory shows, and what each key holds now."""
        cursor.execute(statement("find_changed"), what)
        cursor.execute("ANALYZE changed")
        cursor.execute(statement("note_images"), what)
        if not is_complete:
            cursor.execute(statement("note_shown"), what)
            return
        cursor.execute(statement("note_listing"), what)
        cursor.execute(statement("note_objects"), what)
        cursor.execute(statement("note_vanished"), what)

    def _choose(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        request: RunRequest,
        what: dict[str, Any],
        model: ModelId,
        settled_by: list[int],
    ) -> None:
        """Fill the listing with what the request chooses out of the results database."""
        if request.labelled is not None:
            self._find_labelled(cursor, request.labelled, what, model)
        elif request.shadow is not None:
            self._find_sample(cursor, request.shadow, what, model)
        else:
            self._find_dead_letters(cursor, request, what, settled_by)

    def _find_labelled(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], chosen: LabelFilter, what: dict[str, Any], model: ModelId
    ) -> None:
        """Fill the listing with the existing objects whose label by another model matches."""
        models = [key for key in self._production_line() if key != what["model_id"]]
        if chosen.labelled_by is not None:
            former_key, former = self._find_model(chosen.labelled_by)
            if former == model:
                raise SettingsError(
                    f"labelled_by is {chosen.labelled_by!r}, which is {model}, the very model to label with; name the "
                    "one whose labels are to be replaced, or leave it out"
                )
            is_dropped, has_place, _ = _one(cursor.execute(statement("find_partition"), {"model_id": former_key}))
            if is_dropped or not has_place:
                raise ModelInUseError(
                    f"the outcomes of {former} were dropped from the ledger, so that nothing tells any more what it "
                    "has labelled; choose by prefix, time or label instead"
                )
            models = [former_key]
        filters = {name: getattr(chosen, name) for name in ("label", "label_id", "since", "until", "dead_letters_too")}
        cursor.execute(statement("find_labelled"), {**what, **filters, "models": models})

    def _find_sample(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], sample: ShadowSample, what: dict[str, Any], model: ModelId
    ) -> None:
        """Fill the listing with a share of the images that another run has labelled."""
        sql = (
            "SELECT bucket, model_id, shadow_of, "
            "EXISTS (SELECT FROM nightlabel.manifest_chunk c WHERE c.run_id = r.run_id) "
            "FROM nightlabel.run r WHERE run_id = %s"
        )
        row = _found(cursor.execute(sql, [sample.run_id]).fetchone(), sample.run_id)
        bucket, model_key, shadow_of, has_manifest = row
        if bucket != what["bucket"]:
            raise SettingsError(
                f"run {sample.run_id} is of the bucket {bucket!r}, not of {what['bucket']!r}; give the run's own"
            )
        if shadow_of is not None:
            raise SettingsError(f"run {sample.run_id} is a shadow itself; name the run whose images it looks at")
        if model_key == what["model_id"]:
            raise SettingsError(
                f"{model} is the model of run {sample.run_id} itself, so there is nothing to compare; let another "
                "model be its shadow"
            )
        if not has_manifest:
            raise RunUnknownError(
                f"run {sample.run_id} has no manifest to draw from: it had nothing to classify, or its manifest was "
                "dropped some days after its end; name a newer run"
            )
        cursor.execute(statement("find_sample"), {"shadow_of": sample.run_id, "share": sample.share})

    def _recent_speed(self, cursor: psycopg.Cursor[tuple[Any, ...]], model_key: int, device: Device) -> Speed | None:
        """Return how fast runs on a device were of late: of the model, else of others; None if there were none."""
        row = cursor.execute(statement("recent_speed"), {"model_id": model_key, "device": device}).fetchone()
        return None if row is None else Speed(*row)

    def _find_dead_letters(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        request: RunRequest,
        what: dict[str, Any],
        models: list[int],
    ) -> None:
        """Fill the listing with the open dead letters that the request chooses."""
        chosen = request.dead_letters or DeadLetterFilter()
        filters = {
            "codes": list(chosen.codes),
            "failed_after": chosen.failed_after,
            "failed_before": chosen.failed_before,
            "permanent": chosen.permanent,
        }
        known = self._known_run(cursor, request)
        cursor.execute(statement("find_dead_letters"), {**what, **filters, "models": models, "run_id": known})

    def _known_run(self, cursor: psycopg.Cursor[tuple[Any, ...]], request: RunRequest) -> UUID | None:
        """Return the run that a former try of discovery has planned."""
        if request.airflow_run_id is None:
            return None
        sql = "SELECT run_id FROM nightlabel.run WHERE dag_id = %s AND airflow_run_id = %s"
        row = cursor.execute(sql, [request.dag_id, request.airflow_run_id]).fetchone()
        return None if row is None else cast("UUID", row[0])

    def _copy_listing(self, cursor: psycopg.Cursor[tuple[Any, ...]], listing: Listing) -> None:
        sql = "COPY listed (image_id, object_key, etag, size_bytes, last_modified, seen_at) FROM STDIN (FORMAT BINARY)"
        encoding = self._connection.info.encoding
        with cursor.copy(sql) as copy:
            copy.write(BEGINNING)
            for page in listing:
                copy.write(binary_rows(page, encoding=encoding))
            copy.write(END)

    def _begin_run(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], request: RunRequest, model_key: int, started_at: object
    ) -> tuple[UUID, int]:
        known = self._known_run(cursor, request)
        if known is not None:
            cursor.execute(statement("supersede_plan"), {"run_id": known})
        parameters = {
            "model": request.model,
            "scope": request.scope,
            "device": request.device,
            "allow_cpu_fallback": request.allow_cpu_fallback,
            "max_images": request.max_images,
            "shard_size": request.shard_size,
        }
        if request.dead_letters is not None:
            chosen = asdict(request.dead_letters)
            parameters["dead_letters"] = {name: _as_json(value) for name, value in chosen.items()}
        if request.labelled is not None:
            wanted = asdict(request.labelled)
            parameters["labelled"] = {name: _as_json(value) for name, value in wanted.items() if value is not None}
        if request.shadow is not None:
            parameters["shadow"] = {"run_id": str(request.shadow.run_id), "share": request.shadow.share}
        for name in ("images_per_second", "time_budget_s"):
            if (value := getattr(request, name)) is not None:
                parameters[name] = value
        if request.manifest is not None:
            parameters["manifest"] = request.manifest
        if request.inventory is not None:
            parameters["inventory"] = request.inventory
        row = cursor.execute(
            statement("begin_run"),
            {
                "run_id": uuid.uuid4(),
                "dag_id": request.dag_id,
                "airflow_run_id": request.airflow_run_id,
                "bucket": request.bucket,
                "prefix": request.prefix,
                "parameters": Jsonb(parameters),
                "model_id": model_key,
                "started_at": started_at,
                "max_dead_ratio": request.max_dead_ratio,
                "min_images_for_ratio": request.min_images_for_ratio,
                "plan_attempt": request.plan_attempt,
            },
        ).fetchone()
        if row is None:
            raise StaleAttemptError(
                f"try {request.plan_attempt} of discovery found that a newer try has planned the run "
                f"{request.airflow_run_id} of {request.dag_id}; nothing was written, and nothing needs to be done, "
                "unless the Dag run was deleted and made again: then trigger one under another id"
            )
        return cast("tuple[UUID, int]", row)

    def _settled_by(self, request: RunRequest, model_key: int) -> list[int]:
        """Return the models whose outcomes settle an image, best first: the production line, and the run's own.

        The run's own counts in any case: its outcome for an image is recorded once. It alone counts by the scope
        ``not_by_this_model``, where images are labelled again or by a shadow model, and for the dead letters of a model
        that was never in production.
        """
        if request.labelled is not None or request.shadow is not None:
            return [model_key]
        models = self._production_line()
        if model_key in models and request.scope == "unlabelled":
            return models
        is_alone = request.scope == "not_by_this_model" or request.dead_letters is not None
        return [model_key] if is_alone else [*models, model_key]

    def _production_line(self) -> list[int]:
        """Return every model that holds or ever held ``production``, best first."""
        line = self._connection.execute("SELECT model_id FROM nightlabel.production_line ORDER BY rank").fetchall()
        return [cast("int", key) for [key] in line]

    # Shards

    def find_run(self, dag_id: str, airflow_run_id: str) -> UUID:
        """Return the run of an Airflow Dag run.

        Raises:
            RunUnknownError: it was never planned.
        """
        row = self._retried(
            lambda: self._connection.execute(
                "SELECT run_id FROM nightlabel.run WHERE dag_id = %s AND airflow_run_id = %s", [dag_id, airflow_run_id]
            ).fetchone()
        )
        if row is None:
            raise RunUnknownError(
                f"run {airflow_run_id} of {dag_id} was never planned; see the log of its task discover"
            )
        return cast("UUID", row[0])

    def claim_shard(self, run_id: UUID, shard_number: int) -> Shard:
        """Start a new attempt of a shard; every older attempt of it can write no more.

        Raises:
            RunUnknownError: no such shard in the run's present plan.
            ModelInUseError: the model of a run that had ended is being dropped, or was.
        """
        tries = itertools.count()

        def claim() -> Shard:
            what = {"run_id": run_id, "shard_number": shard_number, "is_again": next(tries) > 0}
            with self._connection.transaction():
                _hang_up_when_idle(self._connection)
                row = self._connection.execute(statement("claim_shard"), what).fetchone()
                if row is None:
                    raise RunUnknownError(f"run {run_id} has no shard {shard_number} in its present plan")
                plan_number, attempt, device, images, model_key, name, version, suspects, is_isolated = row
                self._keep_model(self._connection.cursor(), model_key, ModelId(name, version))
                settled = self._connection.execute(
                    statement("recount_shard"),
                    {"run_id": run_id, "plan_number": plan_number, "shard_number": shard_number, "model_id": model_key},
                ).fetchall()
                if not settled:
                    raise RunUnknownError(
                        f"the manifest of run {run_id} was dropped some days after it ended; "
                        "start a new run, or clear discover to plan this one anew"
                    )
            return Shard(
                run_id=run_id,
                plan_number=plan_number,
                shard_number=shard_number,
                attempt=attempt,
                model=ModelId(name, version),
                model_key=model_key,
                device=device,
                images=images,
                settled=tuple(cast("int", count) for [count] in settled),
                suspects=suspects,
                is_isolated=is_isolated,
            )

        # Claiming twice because an answer was lost makes the token larger, and suspects that were none.
        return self._retried(claim)

    def note_in_flight(self, shard: Shard, refs: int) -> None:
        """Note how many refs an attempt may have begun at a time: the suspects of the next one if this is killed."""
        self._retried(
            lambda: self._connection.execute(statement("note_in_flight"), {**_attempt(shard), "in_flight": refs})
        )

    def isolate_shard(self, shard: Shard) -> None:
        """Note that an image killed its decoder: this attempt and later ones decode each image apart."""
        self._retried(lambda: self._connection.execute(statement("isolate_shard"), _attempt(shard)))

    def release_shard(self, shard: Shard) -> None:
        """Note that an attempt has failed and ended by itself; not waited for when the database is away."""
        with suppress(psycopg.Error, InferenceError), self._lock:
            if self._connection.closed:  # as an outage leaves it; it may be over by now
                self._connection = connect(self._settings)
            self._connection.execute(statement("release_shard"), _attempt(shard))

    def read_manifest(self, shard: Shard) -> Iterator[ManifestChunk]:
        """Yield what is left to do of a shard, in manifest order, a chunk of at most 1,000 refs at a time."""
        for chunk_number, settled in enumerate(shard.settled):
            where = {**_key(shard), "chunk_number": chunk_number, "model_id": shard.model_key}

            def read(where: dict[str, object] = where) -> dict[str, Any]:
                with self._connection.cursor(row_factory=dict_row) as cursor:
                    return _found(cursor.execute(statement("read_manifest_chunk"), where).fetchone(), shard.run_id)

            row = self._retried(read)
            columns = [row[name] or () for name in ("object_key", "etag", "size_bytes", "prior_attempts")]
            refs = tuple(ImageRef(row["bucket"], key_of(key), *more) for key, *more in zip(*columns, strict=True))
            done_elsewhere = row["images"] - len(refs) - settled
            copies = self._find_copies(shard, refs) if self._settings.copy_labels else {}
            yield ManifestChunk(
                refs=tuple(ref for place, ref in enumerate(refs) if place not in copies),
                done_elsewhere=done_elsewhere,
                copies=tuple(copies.values()),
            )

    def _find_copies(self, shard: Shard, refs: Sequence[ImageRef]) -> dict[int, CopiedPrediction]:
        """Return what the shard's model has made of the same bytes before, by the place of the ref."""
        places: dict[tuple[str, int], list[int]] = {}
        for place, ref in enumerate(refs):
            if ref.size_bytes and may_be_md5(ref.etag):
                places.setdefault((ref.etag, ref.size_bytes), []).append(place)
        if not places:
            return {}
        same = list(places.values())
        etags, sizes = zip(*places, strict=True)
        what = {"etag": list(etags), "size_bytes": list(sizes), "model_id": shard.model_key}
        rows = self._retried(lambda: self._connection.execute(statement("find_copies"), what).fetchall())
        found = {
            place: CopiedPrediction(refs[place], Label(label, label_id), score, tuple(names), tuple(scores), engine)
            for number, label, label_id, score, names, scores, engine in rows
            for place in same[number - 1]
        }
        return dict(sorted(found.items()))

    def reserve_turns(self, shard: Shard, images: int) -> Turns:
        """Return when so many images of an attempt may begin, by the rate that all workers of its run share.

        Asking again because an answer was lost takes the turns twice, and so slows the run down by a second at most.

        Raises:
            StaleAttemptError: a newer attempt has taken over.
        """
        what = {**_attempt(shard), "images": images, "catch_up": timedelta(seconds=CATCH_UP_S)}
        row = self._retried(lambda: self._connection.execute(statement("reserve_turns"), what).fetchone())
        if row is None:
            raise StaleAttemptError(
                f"attempt {shard.attempt} of shard {shard.shard_number} of run {shard.run_id} was taken over while it "
                "waited for its turn; nothing needs to be done"
            )
        return Turns(*row)

    def record_batch(
        self,
        shard: Shard,
        batch_number: int,
        outcomes: Sequence[Outcome],
        *,
        engine: str,
        seconds: StageSeconds,
        gone: int = 0,
        done_elsewhere: int = 0,
    ) -> None:
        """Record a batch and add up the shard's counts, in one transaction; see ``ports.OutcomeSink``."""
        if self._is_given_up.is_set():
            raise _interrupted()
        now = datetime.now(UTC)
        rows = [
            outcome_row(
                outcome,
                engine=engine,
                now=now,
                retry_delay=timedelta(seconds=self._settings.dead_letter_retry_s),
                max_attempts=self._settings.dead_letter_attempts,
                decoder=decoder_version(),
            )
            for outcome in outcomes
        ]
        values = {
            **_attempt(shard),
            **_seconds(seconds),
            "batch": batch_number,
            "model_id": shard.model_key,
            "outcomes": Jsonb(rows),
            "gone": gone,
            "done_elsewhere": done_elsewhere,
        }
        if self._retried(lambda: self._connection.execute(statement("record_batch"), values).fetchone()) is None:
            self._check_recorded(shard, batch_number)
        if batch_number % BATCHES_BEFORE_FOLDING == 0:
            self._tidy_up(self._fold_label_counts, "the batch is recorded")

    def _fold_label_counts(self) -> int:
        """Fold what batches counted for ``label_daily``; returns how many rows, 0 when another one is at it."""
        return cast("int", _one(self._connection.execute("SELECT nightlabel.fold_label_counts()"))[0])

    def _tidy_up(self, work: Callable[[], T], what_stands: str) -> T | None:
        """Do what nothing depends on: it may run into its time-out, or lack a right, and be done another time.

        Returns what it returns, or None when it failed.
        """
        try:
            return self._retried(work)
        except (SinkUnavailableError, SinkCredentialsError, SchemaMissingError) as error:
            logger.warning("%s, but not everything could be tidied up (%s)", what_stands.capitalize(), error)
            return None

    def _check_recorded(self, shard: Shard, batch_number: int) -> None:
        """Tell a batch that was recorded before (its answer was lost) from one of a stale attempt."""
        row = self._retried(lambda: self._connection.execute(statement("shard_progress"), _key(shard)).fetchone())
        attempt, batches = cast("tuple[int, int]", _found(row, shard.run_id))
        if attempt != shard.attempt or batches < batch_number:
            raise StaleAttemptError(
                f"attempt {shard.attempt} of shard {shard.shard_number} of run {shard.run_id} was taken over by "
                f"attempt {attempt}; nothing of its batch {batch_number} was written, and nothing needs to be done"
            )

    def finish_shard(self, shard: Shard, seconds: StageSeconds) -> ShardStats:
        """Mark the shard as done and return its counts over all attempts.

        Raises:
            StaleAttemptError: a newer attempt has taken over.
        """
        return self._close_shard(shard, "finish_shard", _seconds(seconds))

    def cut_shard(self, shard: Shard) -> ShardStats:
        """Mark the shard as done though the run's time is up before it is: what is left of it is the run's deferred.

        Returns:
            Its counts over all attempts; ``images`` is without those that were deferred.

        Raises:
            StaleAttemptError: a newer attempt has taken over.
        """
        return self._close_shard(shard, "cut_shard", {})

    def _close_shard(self, shard: Shard, how: str, values: dict[str, float]) -> ShardStats:
        def close() -> dict[str, Any] | None:
            with self._connection.cursor(row_factory=dict_row) as cursor:
                return cursor.execute(statement(how), {**_attempt(shard), **values}).fetchone()

        row = self._retried(close)
        if row is None:
            raise StaleAttemptError(
                f"attempt {shard.attempt} of shard {shard.shard_number} of run {shard.run_id} was taken over before "
                "it ended; nothing needs to be done"
            )
        return ShardStats(
            **{name: row[name] for name in ("images", "labelled", "copied", "dead", "gone", "done_elsewhere")},
            seconds=StageSeconds(**{name: row[name] for name in ("fetch_s", "decode_s", "predict_s", "write_s")}),
        )

    # Runs

    def finish_run(self, run_id: UUID) -> RunSummary:
        """Judge the run by its shards, set its state and return its summary; drops manifests of long ago.

        Raises:
            RunUnknownError: no such run.
        """

        def finish() -> bool:
            ended = self._connection.execute(statement("finish_run"), {"run_id": run_id}).fetchone()
            return bool(_found(ended, run_id)[-1])

        def name_reasons() -> None:
            with self._connection.transaction():
                self._connection.execute(
                    "UPDATE nightlabel.run SET message = message || %s "
                    "WHERE run_id = %s AND position('; most often' IN message) = 0",
                    [reasons_text(self._top_reasons(run_id, None)), run_id],
                )

        def drop_old_manifests() -> int:
            age = timedelta(days=self._settings.manifest_retention_days)
            sql = "SELECT nightlabel.drop_old_manifests(%s)"
            return cast("int", _one(self._connection.execute(sql, [age]))[0])

        def analyze_ledger() -> None:
            self._connection.execute("SELECT nightlabel.analyze_ledger()")

        closed = "the run is closed"
        is_too_dead = self._retried(finish)
        # The books are closed. What takes long over millions of images may run into its time-out without opening them.
        if is_too_dead:
            self._tidy_up(name_reasons, closed)
        # A call each time, since a call may take as long as a statement, and all of them together much longer.
        while self._tidy_up(drop_old_manifests, closed):
            pass
        while (self._tidy_up(self._fold_label_counts, closed) or 0) >= MOST_FOLDED_AT_ONCE:
            pass
        self._tidy_up(analyze_ledger, closed)
        return self.read_summary(run_id)

    def read_summary(self, run_id: UUID) -> RunSummary:
        """Return a run's row of ``run_summary``.

        Raises:
            RunUnknownError: no such run.
        """

        def read() -> dict[str, Any]:
            with self._connection.cursor(row_factory=dict_row) as cursor:
                sql = "SELECT * FROM nightlabel.run_summary WHERE run_id = %s"
                # Not prepared: a statement that is kept breaks when a migration adds a column to the view.
                return _found(cursor.execute(sql, [run_id], prepare=False).fetchone(), run_id)

        row = self._retried(read)
        return RunSummary(**{name: row[name] for name in RunSummary.__dataclass_fields__})

    def top_reasons(self, run_id: UUID, shard_number: int | None = None) -> tuple[tuple[str, int], ...]:
        """Return the most frequent codes of the dead letters of a run, or of one of its shards, with their counts.

        At most three, most frequent first; of the run's present plan, and without what another run recorded.
        """
        return self._retried(lambda: self._top_reasons(run_id, shard_number))

    def _top_reasons(self, run_id: UUID, shard_number: int | None) -> tuple[tuple[str, int], ...]:
        where = {"run_id": run_id, "shard_number": shard_number}
        rows = self._connection.execute(statement("top_reasons"), where).fetchall()
        return tuple(cast("list[tuple[str, int]]", rows))

    def read_rules(self, run_id: UUID) -> RunRules:
        """Return what a run's parameters say about its shards.

        Raises:
            RunUnknownError: no such run.
        """
        row = self._retried(
            lambda: self._connection.execute(
                "SELECT r.max_dead_ratio, r.min_images_for_ratio, (r.parameters ->> 'allow_cpu_fallback')::boolean, "
                "p.images_per_second, (r.parameters ->> 'time_budget_s')::double precision "
                "- extract(epoch FROM clock_timestamp() - r.started_at)::double precision "
                "FROM nightlabel.run r LEFT JOIN nightlabel.run_pace p USING (run_id) WHERE run_id = %s",
                [run_id],
            ).fetchone()
        )
        return RunRules(*_found(row, run_id))

    def read_message(self, run_id: UUID) -> str | None:
        """Return why a run failed, or None."""
        row = self._retried(
            lambda: self._connection.execute(
                "SELECT message FROM nightlabel.run WHERE run_id = %s", [run_id]
            ).fetchone()
        )
        return cast("str | None", _found(row, run_id)[0])

    # What the above share

    def _check_schema(self) -> None:
        where = describe(self._connection)
        with our_errors(where):
            found, known = required_revision(self._connection, where), [revision_of(path) for path in migrations()]
            oldest_code = None if found in known else self._oldest_code_for(found)
        if not is_allowed_beside(found, known, oldest_code):
            check_revision(found, known, where)

    def _oldest_code_for(self, revision: str) -> str | None:
        """Return what a newer schema says of the code that may work on it, if it says anything."""
        [table] = _one(self._connection.execute("SELECT to_regclass('nightlabel.schema_compatibility')::text"))
        if table is None:
            return None
        sql = "SELECT oldest_code FROM nightlabel.schema_compatibility WHERE revision = %s"
        row = self._connection.execute(sql, [revision]).fetchone()
        return None if row is None else str(row[0])

    def _find_model(self, model: str) -> tuple[int, ModelId]:
        wanted = parse_model(model)
        if isinstance(wanted, ModelId):
            sql = "SELECT model_id, name, version FROM nightlabel.model WHERE name = %s AND version = %s"
            row = self._connection.execute(sql, [wanted.name, wanted.version]).fetchone()
        else:
            sql = (
                "SELECT m.model_id, m.name, m.version FROM nightlabel.model_alias a "
                "JOIN nightlabel.model m USING (model_id) WHERE a.alias = %s AND a.valid_to IS NULL"
            )
            row = self._connection.execute(sql, [wanted]).fetchone()
        if row is None:
            names = self._connection.execute(
                "SELECT name || '@' || version FROM nightlabel.model "
                "UNION SELECT alias FROM nightlabel.model_alias WHERE valid_to IS NULL ORDER BY 1"
            ).fetchall()
            known = ", ".join(str(name) for [name] in names) or "none; run `python -m inference migrate`"
            raise ModelUnknownError(f"no model {model!r} is registered; registered are: {known}")
        key, name, version = cast("tuple[int, str, str]", row)
        return key, ModelId(name, version)

    def resolve_model(self, model: str) -> ModelId:
        """Return the model version that an alias or NAME@VERSION names now.

        Raises:
            ModelUnknownError: nothing of that name is registered.
        """
        return self._retried(lambda: self._find_model(model))[1]

    def _retried(self, work: Callable[[], T]) -> T:
        """Do work that may be done again, over a new connection if the present one is lost; wait an outage out.

        Raises:
            SinkUnavailableError: the database did not come back within ``database_patience_s``, or gave up on a
                statement.
        """
        with self._lock:
            while True:
                try:
                    if self._connection.closed:
                        self._connection = connect(self._settings)
                    with self._no_endless_silence():
                        self._asker = threading.get_ident()
                        try:
                            done = work()
                        finally:
                            self._asker = None
                except psycopg.Error as error:
                    if not can_be_waited_out(error):
                        self._patience.answered()
                        if self._is_given_up.is_set() and isinstance(error, psycopg.errors.QueryCanceled):
                            raise _interrupted() from error
                        raise translated(error, describe_or(self._connection)) from error
                    if not keeps_connection(error):
                        with suppress(psycopg.Error):
                            self._connection.close()
                    if not self._patience.wait(error):
                        raise translated(error, describe_or(self._connection)) from error
                except SinkUnavailableError as error:
                    if not self._patience.wait(error):
                        raise
                else:
                    self._patience.answered()
                    return done

    @contextmanager
    def _no_endless_silence(self) -> Iterator[None]:
        """Hang up on a database that is silent long after its own bound on statements: a stopped process or proxy.

        Such a peer's kernel acknowledges everything, so that the connection never seems lost.
        """
        bound_s = STATEMENTS_AT_ONCE * self._settings.database_statement_timeout_s + SILENCE_S
        timer = threading.Timer(bound_s, hang_up, [self._connection])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def is_allowed_beside(found: str, known: Sequence[str], oldest_code: str | None) -> bool:
    """Return whether this code may work on a schema that is newer than it, as during a rollout.

    Args:
        found: The database's revision.
        known: Those that this code knows, oldest first.
        oldest_code: The oldest revision whose code may work on ``found``, as that migration says; None if it says none.
    """
    if found in known or oldest_code is None or known[-1] < oldest_code:
        return False
    logger.info("The schema is at revision %s, newer than this code (%s), and made for both", found, known[-1])
    return True


def check_revision(found: str, known: Sequence[str], where: str) -> None:
    """Compare a database's revision with those that this code knows, oldest first.

    Raises:
        SchemaNewerError: it is not among them.
        SchemaOutdatedError: it is not the last of them.
    """
    if found not in known:
        raise SchemaNewerError(
            f"the schema of the database at {where} is at revision {found}, and this code knows revisions up to "
            f"{known[-1]}; install the newer Nightlabel here"
        )
    if found != known[-1]:
        raise SchemaOutdatedError(
            f"the schema of the database at {where} is at revision {found}, and this code needs {known[-1]}; "
            "run `python -m inference migrate`"
        )


def reasons_text(reasons: Sequence[tuple[str, int]]) -> str:
    """Return the end of a sentence that names the most frequent codes; empty when there are none.

    Args:
        reasons: Codes with their counts, as ``PostgresSink.top_reasons`` returns them.
    """
    named = ", ".join(f"{code} ({images:,})" for code, images in reasons)
    return f"; most often {named}" if named else ""


def describe_or(connection: Connection) -> str:
    """Name host, port and database of a connection, also of one that is lost."""
    try:
        return describe(connection)
    except psycopg.Error:
        return "its address"


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise SinkUnavailableError("the results database answered without a row where there is always one; try again")
    return cast("tuple[Any, ...]", row)


def _interrupted() -> RunInterruptedError:
    return RunInterruptedError("somebody ended this attempt; what was recorded stays, and the next one goes on")


def _hang_up_when_idle(session: Connection | psycopg.Cursor[tuple[Any, ...]]) -> None:
    """Let the server end this transaction, and with it its locks, when nobody goes on with it."""
    session.execute(f"SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_IN_TRANSACTION_S * 1000)}".encode())


def _found(row: T | None, run_id: UUID) -> T:
    if row is None:
        raise RunUnknownError(f"there is no run {run_id} in the results database, or its manifest was dropped")
    return row


def _as_json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _key(shard: Shard) -> dict[str, object]:
    return {"run_id": shard.run_id, "plan_number": shard.plan_number, "shard_number": shard.shard_number}


def _attempt(shard: Shard) -> dict[str, object]:
    return {**_key(shard), "attempt": shard.attempt}


def _seconds(seconds: StageSeconds) -> dict[str, float]:
    return {
        "fetch_s": seconds.fetch_s,
        "decode_s": seconds.decode_s,
        "predict_s": seconds.predict_s,
        "write_s": seconds.write_s,
    }
