"""Connections to the results database, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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

Connection = psycopg.Connection[tuple[Any, ...]]


def plain_url(url: str) -> str:
    """Return a database URL as libpq reads it: without the driver that SQLAlchemy's URLs may name."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url)


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
            "nightlabel_writer, or of nightlabel_owner to migrate"
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
            # A dead peer is noticed within a minute, also while waiting for an answer.
            keepalives=1,
            keepalives_idle=20,
            keepalives_interval=10,
            keepalives_count=4,
        )


def describe(connection: Connection) -> str:
    """Name host, port and database of a connection."""
    info = connection.info
    return f"{info.host}:{info.port}/{info.dbname}"
