"""Brings the results database to this code's schema: roles, SQL files in order, views, grants. Forward only.

Readers and writers go on meanwhile. What needs a lock that keeps them out waits for it for ``LOCK_TIMEOUT_S`` only,
lets go, and tries again; what takes long is run in pieces (``migration_files``). Wherever it is interrupted, the next
``migrate`` goes on.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import alembic.command
import alembic.config
import alembic.op
import psycopg
import sqlalchemy

from inference.errors import SchemaOutdatedError, SinkUnavailableError
from inference.settings import Settings
from inference.sinks.connecting import Connection, act_as_owner, connect, describe, find_revision, our_errors
from inference.sinks.migration_files import Statement, is_in_one_transaction, statements_of
from inference.sinks.postgres import check_revision
from inference.sinks.statements import migrations, newest_revision, revision_of, sql_folder

logger = logging.getLogger(__name__)

LOCK_KEY = 0x6E696768746C6162
"""Advisory lock that lets one migration run at a time; the bytes of "nightlab"."""

LOCK_TIMEOUT_S = 2.0
"""How long a step waits for a lock: as long as it waits, everybody who comes later waits behind it."""

LOCK_TRIES = 200
"""How often a step is tried that does not get its lock: for about ten minutes."""

LONGEST_PAUSE_S = 2.0
"""Pause between two tries at most."""

ROLES = ("nightlabel_owner", "nightlabel_writer", "nightlabel_reader")


def run_file(revision: str) -> None:
    """Run the migration file of a revision, over Alembic's connection.

    Raises:
        SinkUnavailableError: there is not exactly one file of that revision.
    """
    files = [path for path in migrations() if revision_of(path) == revision]
    if len(files) != 1:
        raise SinkUnavailableError(
            f"{len(files)} files in sql/migrations are of revision {revision}; there must be one"
        )
    text = files[0].read_text(encoding="utf-8")
    # The driver's own connection: SQLAlchemy would read colons and percent signs as parameters.
    if is_in_one_transaction(text):
        alembic.op.get_bind().connection.driver_connection.execute(text)  # type: ignore[union-attr]
        return
    with alembic.op.get_context().autocommit_block():
        connection: Connection = alembic.op.get_bind().connection.driver_connection  # type: ignore[assignment]
        for statement in statements_of(text):
            run_alone(connection, statement)


def run_alone(connection: Connection, statement: Statement) -> None:
    """Run one statement, committed by itself; one that builds an index clears away what an interrupted build left.

    Args:
        connection: In autocommit.
        statement: Harmless to repeat.
    """
    if statement.gives_statements:
        for [sql] in connection.execute(statement.sql.encode()).fetchall():
            run_alone(connection, Statement(str(sql)))
        return
    connection.execute("SELECT set_config('statement_timeout', '0', false)")  # a large table takes as long as it takes
    try:
        with _waiting(connection, None if statement.takes_its_time else LOCK_TIMEOUT_S):
            if statement.index is not None:
                _drop_if_invalid(connection, statement.index)
            connection.execute(statement.sql.encode())
    finally:
        if not connection.closed:
            connection.execute("RESET statement_timeout")


def _drop_if_invalid(connection: Connection, index: str) -> None:
    """Drop an index whose concurrent build was interrupted: it costs every write and answers no query."""
    sql = (
        "SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %%s', i.indexrelid::regclass) FROM pg_index i "
        "WHERE i.indexrelid = to_regclass('nightlabel.' || %s) AND NOT i.indisvalid"
    )
    for [drop] in connection.execute(sql, [index.lower()]).fetchall():
        logger.info("Dropping %s, which an interrupted migration left unfinished", index)
        connection.execute(drop)


@contextmanager
def _waiting(connection: Connection, timeout_s: float | None) -> Iterator[None]:
    """Bound how long the statements inside wait for a lock; None for no bound."""
    _set_lock_timeout(connection, timeout_s)
    try:
        yield
    finally:
        if not connection.closed:
            _set_lock_timeout(connection, LOCK_TIMEOUT_S)


def _set_lock_timeout(connection: Connection, timeout_s: float | None) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [str(round((timeout_s or 0) * 1000))])


def migrate(settings: Settings, *, lock_tries: int = LOCK_TRIES) -> tuple[str | None, str]:
    """Bring the schema to the newest revision; harmless when it is there, and when several do it at once.

    Where the user may create roles, the group roles are made and own and share the schema as least privilege
    wants it; where not, everything belongs to the user.

    Args:
        settings: Names the database; its user owns the schema or is an administrator.
        lock_tries: How often a step is tried that does not get its lock, and how often another migration is asked
            for its turn.

    Returns:
        The revision before, None for an empty database, and the revision now.

    Raises:
        SchemaNewerError: the database was migrated by newer code.
        SinkCredentialsError, SinkUnavailableError: no connection, a right is missing, or a lock was not got; harmless
            to run again.
    """
    with connect(settings, application="nightlabel migrate") as connection:
        where = describe(connection)
        with our_errors(where):
            _take_turn(connection, lock_tries, where)
            _set_lock_timeout(connection, LOCK_TIMEOUT_S)
            before = find_revision(connection)
            if before is not None:
                with suppress(SchemaOutdatedError):
                    check_revision(before, [revision_of(path) for path in migrations()], where)
            _let_bare_names_be_found(connection)
            has_roles = _prepare_roles(connection)
            if connection.execute("SELECT to_regnamespace('nightlabel')::text").fetchone() == (None,):
                connection.execute("CREATE SCHEMA nightlabel")
            locks = _Locks(connection, lock_tries, where)
            locks.get("the tables", lambda: _run_alembic(connection))
            # One transaction each: whoever replaces a view keeps its readers out until the end of the transaction.
            for path in sorted((sql_folder() / "views").glob("*.sql")):
                if before != newest_revision() or not _is_in_place(connection, path):
                    locks.get(path.stem, partial(_replace_view, connection, path))
            if has_roles:
                locks.get("rights", partial(_in_transaction, connection, (sql_folder() / "grants.sql").read_bytes()))
            _renew_comments(connection)
    return before, newest_revision()


def _take_turn(connection: Connection, tries: int, where: str) -> None:
    """Wait until no other migration runs; the turn ends with the connection.

    By asking again and again: a session that waits inside a statement is one that an index build waits for.

    Raises:
        SinkUnavailableError: another one runs for longer than it was waited for.
    """
    for pause_s in _pauses(tries):
        if connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone() == (True,):
            return
        time.sleep(pause_s)
    raise SinkUnavailableError(
        f"another migration of the database at {where} is still running; run `python -m inference migrate` again when "
        "it has ended, which is harmless"
    )


def _pauses(tries: int) -> Iterator[float]:
    """Seconds after each try; longer each time, and not the same for two who began at once."""
    longest = 0.1
    for _ in range(tries):
        yield longest * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads the load
        longest = min(2 * longest, LONGEST_PAUSE_S)


@dataclass(frozen=True, slots=True)
class _Locks:
    """Tries steps again that did not get a lock in time, or that were chosen to end a deadlock."""

    connection: Connection
    tries: int
    where: str

    def get(self, what: str, step: Callable[[], None]) -> None:
        """Run a step that is harmless to repeat.

        Args:
            what: What it changes, for the message.
            step: Leaves no transaction open when it fails.

        Raises:
            SinkUnavailableError: it did not get its lock in any of the tries without getting further.
        """
        reached = find_revision(self.connection)
        pauses = _pauses(self.tries)
        is_told = False
        while True:
            try:
                step()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                if (now := find_revision(self.connection)) != reached:
                    reached, pauses = now, _pauses(self.tries)
                if (pause_s := next(pauses, None)) is None:
                    raise SinkUnavailableError(
                        f"the migration of {what} of the database at {self.where} did not get its lock, since somebody "
                        f"uses a table without a break; the schema is whole at revision {reached}, and `python -m "
                        "inference migrate` goes on from there when it is run again"
                    ) from error
                if not is_told:
                    logger.warning("Somebody uses what the migration changes (%s); trying again and again", what)
                    is_told = True
                time.sleep(pause_s)
            else:
                return


def _is_in_place(connection: Connection, path: Path) -> bool:
    """Return whether a view is the one of this file: then a long query of it keeps no later migration waiting."""
    sql = (
        "SELECT FROM nightlabel.view_file "
        "WHERE name = %s AND sha256 = %s AND to_regclass('nightlabel.' || name) IS NOT NULL"
    )
    return connection.execute(sql, [_view_of(path), _digest(path)]).fetchone() is not None


def _replace_view(connection: Connection, path: Path) -> None:
    with connection.transaction():
        connection.execute(path.read_bytes())
        connection.execute(
            "INSERT INTO nightlabel.view_file (name, sha256) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256",
            [_view_of(path), _digest(path)],
        )


def _view_of(path: Path) -> str:
    return path.stem.partition("_")[2]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _in_transaction(connection: Connection, sql: bytes) -> None:
    with connection.transaction():
        connection.execute(sql)


def _renew_comments(connection: Connection) -> None:
    """Say in the catalogue what tables and columns mean; once, since only a comment has to wait for a vacuum."""
    try:
        _in_transaction(connection, (sql_folder() / "comments.sql").read_bytes())
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        logger.warning(
            "The schema is migrated, but the comments on its tables and columns could not be renewed while another "
            "command holds one of them, a vacuum for instance; run `python -m inference migrate` again at leisure"
        )


def _prepare_roles(connection: Connection) -> bool:
    """Make the group roles if we may, and act as the owner if we may; returns whether the roles exist."""
    may_create, existing = connection.execute(
        "SELECT rolsuper OR rolcreaterole, (SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s)) "
        "FROM pg_roles WHERE rolname = current_user",
        [list(ROLES)],
    ).fetchone() or (False, 0)
    if existing != len(ROLES) and not may_create:
        logger.warning(
            "The roles %s are missing and this user may not create them: everything will belong to this user; "
            "have an administrator run sql/roles.sql for least privilege",
            ", ".join(ROLES),
        )
        return False
    connection.execute((sql_folder() / "roles.sql").read_bytes())
    act_as_owner(connection)
    return True


def _let_bare_names_be_found(connection: Connection) -> None:
    """Add the schema to the database's search path, where the database is ours to set up and has no path of its own."""
    path, is_ours = connection.execute(
        "SELECT s.setconfig, pg_has_role(session_user, d.datdba, 'MEMBER') FROM pg_database d "
        "LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0 WHERE datname = current_database()"
    ).fetchone() or (None, False)
    if is_ours and not any(str(setting).startswith("search_path=") for setting in path or ()):
        # Last in the path, so that no name of anybody else's is hidden by one of ours.
        _execute_for_database(connection, 'ALTER DATABASE %I SET search_path = "$user", public, nightlabel')


def _execute_for_database(connection: Connection, sql: str) -> None:
    """Run a statement whose ``%I`` is the name of this database."""
    [filled] = connection.execute("SELECT format(%s, current_database())", [sql]).fetchone() or [sql]
    connection.execute(filled)


def _run_alembic(connection: Connection) -> None:
    """Run Alembic over our own connection, so that it acts as the owner and under the advisory lock."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    connection.autocommit = False
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", poolclass=sqlalchemy.StaticPool, creator=lambda: connection
    )
    try:
        with engine.connect() as wrapped:
            config.attributes["connection"] = wrapped
            alembic.command.upgrade(config, "head")
            wrapped.commit()
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise
    finally:
        if not connection.closed:
            connection.rollback()
            connection.autocommit = True
