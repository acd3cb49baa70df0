"""Forgets objects: takes every trace of what a prefix holds out of the results database, a little at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from psycopg.rows import kwargs_row

from inference.errors import (
    BucketInUseError,
    OutcomesDetachedError,
    SchemaMissingError,
    SchemaOutdatedError,
    SinkCredentialsError,
)
from inference.settings import Settings
from inference.sinks.connecting import Connection, connect, describe, our_errors
from inference.types import ForgetRequest, Forgettable

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE: Final = 1_000
"""Image versions that are deleted in one transaction: a fraction of a second."""

ROUNDS: Final = 3
"""How often what a discovery has noted meanwhile is looked for again."""


class Forgetting:
    """What forgets, over one connection. Every step can be called again; what was cut short goes on.

    Args:
        settings: Names the database; its user owns the schema, or may execute the functions that forget.

    Raises:
        SchemaMissingError, SchemaOutdatedError: the schema cannot forget.
        SinkCredentialsError: the user may not.
        SinkUnavailableError: no connection.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = connect(settings, application="nightlabel forget")
        self._where = describe(self._connection)
        try:
            with our_errors(self._where):
                self._check_rights()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def count(self, request: ForgetRequest) -> Forgettable:
        """Return how many rows there are to forget, with some of the keys; changes nothing.

        Raises:
            OutcomesDetachedError: there are outcomes that are out of reach.
        """
        with our_errors(self._where), self._unhurried() as connection:
            self._refuse_detached()
            cursor = connection.cursor(row_factory=kwargs_row(_counted))
            cursor.execute("SELECT * FROM nightlabel.count_forgettable(%s, %s)", [request.bucket, request.prefix])
            found = cursor.fetchone()
        return found or Forgettable()

    def forget(self, request: ForgetRequest, progress: Callable[[int], None] | None = None) -> Forgettable:
        """Take everything out and return how many rows that took, those of a forgetting that was cut short included.

        Args:
            request: Which objects, and why.
            progress: Called with the number of image versions after each transaction.

        Raises:
            BucketInUseError: a run is at work on the objects, or keeps finding them. What was forgotten stays so.
            OutcomesDetachedError: there are outcomes that are out of reach. What was forgotten stays so.
        """
        with our_errors(self._where):
            self._refuse_detached()
            self._refuse_runs_at_work(request)
            [record] = self._one(
                "SELECT nightlabel.begin_forgetting(%s, %s, %s)", request.bucket, request.prefix, request.reason
            )
            for _ in range(ROUNDS):
                self._forget_in_manifests(record, request)
                for image_ids in self._images(request):
                    sql = "SELECT nightlabel.forget_images(%s, %s, %s, %s)"
                    [images] = self._one(sql, record, request.bucket, request.prefix, image_ids)
                    if progress is not None:
                        progress(images)
                self._one("SELECT nightlabel.forget_names(%s, %s, %s)", record, request.bucket, request.prefix)
                with self._unhurried():
                    sql = "SELECT nightlabel.finish_forgetting(%s, %s, %s)"
                    [is_finished] = self._one(sql, record, request.bucket, request.prefix)
                if is_finished:
                    return self._recorded(record)
                self._refuse_detached()
        raise BucketInUseError(
            f"objects of the bucket {request.bucket!r} under this prefix were noted again while they were forgotten; "
            "delete them from the bucket, wait until no run lists it, and forget again"
        )

    def _forget_in_manifests(self, record: UUID, request: ForgetRequest) -> None:
        chunks = "SELECT run_id, plan_number, shard_number, chunk_number FROM nightlabel.forgettable_chunks(%s, %s)"
        for page in self._held(chunks, request):
            for chunk in page:
                sql = "SELECT nightlabel.forget_in_chunk(%s, %s, %s, %s, %s, %s, %s)"
                [is_done] = self._one(sql, record, request.bucket, request.prefix, *chunk)
                if not is_done:
                    raise _at_work(request, [chunk[0]])

    def _images(self, request: ForgetRequest) -> Iterator[list[UUID]]:
        for page in self._held("SELECT nightlabel.forgettable_images(%s, %s)", request):
            yield [image_id for [image_id] in page]

    def _held(self, sql: str, request: ForgetRequest) -> Iterator[list[tuple[Any, ...]]]:
        """Yield what a query finds, some rows at a time; found once, and kept by the server while others change it."""
        with self._unhurried() as connection:
            cursor = connection.cursor(name="forgettable", withhold=True)
            cursor.execute(sql.encode(), [request.bucket, request.prefix])
        with cursor:
            while page := cursor.fetchmany(IMAGES_AT_ONCE):
                yield page

    def _refuse_runs_at_work(self, request: ForgetRequest) -> None:
        with self._unhurried() as connection:
            sql = "SELECT nightlabel.runs_at_work(%s, %s)"
            runs = [run for [run] in connection.execute(sql, [request.bucket, request.prefix]).fetchall()]
        if runs:
            raise _at_work(request, runs)

    def _refuse_detached(self) -> None:
        tables = [table for [table] in self._connection.execute("SELECT nightlabel.outcomes_detached()").fetchall()]
        if tables:
            raise OutcomesDetachedError(
                f"the table {tables[0]} is no whole part of the ledger, so that the outcomes in it would not be "
                "forgotten; end the maintenance that takes it out (`python -m inference maintain`), or drop it, or "
                "move it to another schema if it is somebody's archive, and forget again"
            )

    def _recorded(self, record: UUID) -> Forgettable:
        cursor = self._connection.cursor(row_factory=kwargs_row(_counted))
        return cursor.execute("SELECT * FROM nightlabel.forgotten(%s)", [record]).fetchone() or Forgettable()

    def _one(self, sql: str, *values: object) -> tuple[Any, ...]:
        return self._connection.execute(sql.encode(), values).fetchone() or (None,)

    @contextmanager
    def _unhurried(self) -> Iterator[Connection]:
        """Lend the connection for what reads whole tables, and so takes as long as they are large."""
        self._connection.execute("SET statement_timeout = 0")
        yield self._connection
        timeout_ms = round(self._settings.database_statement_timeout_s * 1000)
        self._connection.execute(f"SET statement_timeout = {timeout_ms}".encode())

    def _check_rights(self) -> None:
        found = self._connection.execute(
            "SELECT has_schema_privilege(n.oid, 'USAGE'), has_function_privilege(p.oid, 'EXECUTE'), current_user "
            "FROM pg_namespace AS n "
            "LEFT JOIN pg_proc AS p ON p.pronamespace = n.oid AND p.proname = 'begin_forgetting' "
            "WHERE n.nspname = 'nightlabel'"
        ).fetchone()
        if found is None:
            raise SchemaMissingError(
                f"the database at {self._where} has no Nightlabel tables; run `python -m inference migrate`"
            )
        may_enter, may_forget, user = found
        if may_forget is None:
            raise SchemaOutdatedError(
                f"the schema of the database at {self._where} is older than forgetting; run "
                "`python -m inference migrate`"
            )
        if not (may_enter and may_forget):
            raise SinkCredentialsError(
                f"the user {user!r} of the results database at {self._where} may not forget; set "
                "NIGHTLABEL_DATABASE_URL to a member of nightlabel_owner"
            )


def _counted(**columns: Any) -> Forgettable:  # noqa: ANN401 - the database's row
    return Forgettable(**{**columns, "examples": tuple(columns.get("examples", ()))})


def _at_work(request: ForgetRequest, runs: list[UUID]) -> BucketInUseError:
    named = ", ".join(str(run) for run in runs[:3]) + (" and others" if len(runs) > 3 else "")
    return BucketInUseError(
        f"the run {named} is at work on objects of the bucket {request.bucket!r} under this prefix, and would record "
        "them again; wait until it has ended, or end it and wait a quarter of an hour, and forget again"
    )
