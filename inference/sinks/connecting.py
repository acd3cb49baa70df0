"""Connections to the results database, and its errors in our words."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from inference.errors import (
    InferenceError,
    SchemaMissingError,
    SettingsError,
    ShardError,
    SinkCredentialsError,
    SinkUnavailableError,
)
from inference.settings import Settings

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]

FIRST_PAUSE_S = 0.2
"""Until a statement is sent again the first time; each pause is about twice the last one."""

LONGEST_PAUSE_S = 10.0

SECONDS_BETWEEN_REMINDERS = 60.0
"""How often a wait for the database is logged again."""

SILENCE_MS = 60_000
"""How long a peer may leave what was sent to it unacknowledged."""


def plain_url(url: str) -> str:
    """Return a database URL as libpq reads it: without the driver that SQLAlchemy's URLs may name."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url)


def can_be_waited_out(error: psycopg.Error) -> bool:
    """Return whether sending the same again may help: an outage, a lost race or a full disk; no time-out, no refusal.

    Args:
        error: What the driver raised.
    """
    state = error.sqlstate
    if state is None:  # the driver's own words: the connection is lost, or was never made
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if state == "57014":  # as the statement took too long, it would again
        return False
    if state in {"25006", "25P03"}:  # a server that became a standby; a session ended as idle in a transaction
        return True
    # 53400 is a limit that somebody configured: the same statement runs into it again.
    return state[:2] in {"08", "40", "53", "57", "58"} and state != "53400"


def keeps_connection(error: psycopg.Error) -> bool:
    """Return whether the connection is good for another try: after a lost race, and while the server lacks room."""
    return (error.sqlstate or "")[:2] in {"40", "53"}


class Patience:
    """Waits for a database that is away, from its first failure to its next answer. For one thread at a time.

    Args:
        patience_s: Seconds after which an outage is not waited out any longer.
        is_given_up: Set, from any thread, to end a wait at once and to wait no more.
    """

    def __init__(self, patience_s: float, is_given_up: threading.Event) -> None:
        self._patience_s = patience_s
        self._is_given_up = is_given_up
        self._away_since: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._reminded_at = 0.0

    def wait(self, error: Exception) -> bool:
        """Pause before another try, longer each time; return False at once if there is to be none.

        Args:
            error: What failed, for the log: a line when the outage begins and one a minute, however often it is tried.
        """
        if self._is_given_up.is_set():
            return False
        now = time.monotonic()
        is_new = self._away_since is None
        if self._away_since is None:
            self._away_since, self._pause_s = now, FIRST_PAUSE_S
        left_s = self._away_since + self._patience_s - now
        if left_s <= 0:
            logger.warning("The results database was waited for during %.0f s; giving up", now - self._away_since)
            return False
        if is_new or now - self._reminded_at >= SECONDS_BETWEEN_REMINDERS:
            self._reminded_at = now
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            logger.warning("The results database failed (%s); trying again for up to %.0f s", reason, left_s)
        # Workers that lost the database at the same moment are not to come back at the same moment.
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads the load
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return not self._is_given_up.wait(min(pause_s, left_s))

    def answered(self) -> None:
        """Note that the database answered: an outage, if there was one, is over."""
        if self._away_since is not None:
            logger.info("The results database answers again, after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None


def translated(error: psycopg.Error, where: str) -> InferenceError:
    """Return a driver's error as one of ours.

    Args:
        error: What the driver raised.
        where: Host, port and database, for the message.
    """
    state = error.sqlstate or ""
    # A driver's message may run over several lines and quote the statement; its first line is the sentence.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = reason.removeprefix("connection failed: ")
    if state.startswith("28") or "password authentication failed" in reason or "no password supplied" in reason:
        return SinkCredentialsError(
            f"the results database at {where} refuses the user ({reason}); correct NIGHTLABEL_DATABASE_URL "
            "or the connection results_db"
        )
    if state == "42501" or "permission denied" in reason:
        return SinkCredentialsError(
            f"the user of the results database at {where} lacks a right ({reason}); make it a member of "
            "nightlabel_writer, of nightlabel_owner to migrate, maintain, forget or promote, or of nightlabel_reader "
            "to export"
        )
    if state == "3D000" or re.search(r'database ".*" does not exist', reason):
        return SchemaMissingError(
            f"the database at {where} does not exist; create it and run `python -m inference migrate`"
        )
    if state[:2] in {"22", "23"}:
        return ShardError(f"the results database at {where} refuses a row ({reason}); report this as a defect")
    if state in {"42P01", "42703", "3F000", "42883"}:
        return SchemaMissingError(
            f"the database at {where} lacks what this code needs ({reason}); run `python -m inference migrate`"
        )
    return SinkUnavailableError(
        f"the results database at {where} does not answer as it should ({reason}); see whether it is up and reachable"
    )


@contextmanager
def our_errors(where: str) -> Iterator[None]:
    """Turn the driver's errors inside the block into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error, where) from error


def connect(settings: Settings, *, application: str = "nightlabel", autocommit: bool = True) -> Connection:
    """Connect to the results database.

    Args:
        settings: Names the database and the time-outs.
        application: What the database shows as the connection's name.
        autocommit: Whether each statement is a transaction of its own.

    Raises:
        SettingsError: no database is set.
        SinkCredentialsError, SinkUnavailableError, SchemaMissingError: no connection.
    """
    url = plain_url(settings.required_database_url())
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The driver's own message quotes the address, password and all.
        raise SettingsError(
            "NIGHTLABEL_DATABASE_URL is not the address of a Postgres database; give it as "
            "postgresql://user:password@host:port/database"
        ) from error
    where = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
    timeout_ms = round(settings.database_statement_timeout_s * 1000)
    with our_errors(where):
        return psycopg.connect(
            url,
            autocommit=autocommit,
            connect_timeout=max(2, round(settings.database_connect_timeout_s)),  # libpq rounds 1 up to 2
            application_name=application,
            options=f"{parts.get('options', '')} -c statement_timeout={timeout_ms} -c timezone=UTC",
            # A dead peer is noticed within a minute, also while waiting for an answer; keepalives do not run while
            # something that was sent is unacknowledged.
            keepalives=1,
            keepalives_idle=20,
            keepalives_interval=10,
            keepalives_count=4,
            tcp_user_timeout=SILENCE_MS,
        )


def hang_up(connection: Connection) -> None:
    """End a connection from another thread, whatever its own is waiting for there; harmless when it is closed."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


def describe(connection: Connection) -> str:
    """Name host, port and database of a connection."""
    info = connection.info
    return f"{info.host}:{info.port}/{info.dbname}"


def find_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema; None where there is none."""
    if connection.execute("SELECT to_regclass('nightlabel.alembic_version')::text").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM nightlabel.alembic_version").fetchone()
    return None if row is None else str(row[0])


def required_revision(connection: Connection, where: str) -> str:
    """Return the revision of the database's schema.

    Raises:
        SchemaMissingError: it has none.
    """
    revision = find_revision(connection)
    if revision is None:
        raise SchemaMissingError(f"the database at {where} has no Nightlabel tables; run `python -m inference migrate`")
    return revision


def act_as_owner(connection: Connection) -> None:
    """Act as ``nightlabel_owner`` where that role owns the schema, or is to own one that is made, and the user may."""
    row = connection.execute(
        "SELECT pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 "
        "THEN 'SET' ELSE 'MEMBER' END) AND coalesce(n.nspowner = r.oid, true) "  # a member may not always act as it
        "FROM pg_roles r LEFT JOIN pg_namespace n ON n.nspname = 'nightlabel' WHERE r.rolname = 'nightlabel_owner'"
    ).fetchone()
    if row == (True,):
        connection.execute("SET ROLE nightlabel_owner")
