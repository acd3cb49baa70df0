"""Brings the results database to this code's schema: roles, SQL files in order, views, grants. Forward only."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import alembic.command
import alembic.config
import alembic.op
import psycopg
import sqlalchemy

from inference.errors import SchemaOutdatedError, SinkUnavailableError
from inference.settings import Settings
from inference.sinks.connecting import Connection, connect, describe, our_errors
from inference.sinks.postgres import check_revision
from inference.sinks.statements import migrations, newest_revision, revision_of, sql_folder

logger = logging.getLogger(__name__)

LOCK_KEY = 0x6E696768746C6162
"""Advisory lock that lets one migration run at a time; the bytes of "nightlab"."""

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
    # The driver's own connection: SQLAlchemy would read colons and percent signs as parameters.
    driver = alembic.op.get_bind().connection.driver_connection
    driver.execute(files[0].read_text(encoding="utf-8"))  # type: ignore[union-attr]


def migrate(settings: Settings) -> tuple[str | None, str]:
    """Bring the schema to the newest revision; harmless when it is there, and when several do it at once.

    Where the user may create roles, the group roles are made and own and share the schema as least privilege
    wants it; where not, everything belongs to the user.

    Args:
        settings: Names the database; its user owns the schema or is an administrator.

    Returns:
        The revision before, None for an empty database, and the revision now.

    Raises:
        SchemaNewerError: the database was migrated by newer code.
        SinkCredentialsError, SinkUnavailableError: no connection, or a right is missing.
    """
    with connect(settings, application="nightlabel migrate") as connection:
        where = describe(connection)
        with our_errors(where):
            # A migration waits for its turn, but never makes readers and writers queue behind it for long.
            connection.execute("SET lock_timeout = '30s'")
            connection.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
            before = _revision(connection)
            if before is not None:
                with suppress(SchemaOutdatedError):
                    check_revision(before, [revision_of(path) for path in migrations()], where)
            _let_bare_names_be_found(connection)
            has_roles = _prepare_roles(connection)
            if connection.execute("SELECT to_regnamespace('nightlabel')::text").fetchone() == (None,):
                connection.execute("CREATE SCHEMA nightlabel")
            _run_alembic(connection)
            with connection.transaction():
                for view in sorted((sql_folder() / "views").glob("*.sql")):
                    connection.execute(view.read_text(encoding="utf-8").encode())
                if has_roles:
                    connection.execute((sql_folder() / "grants.sql").read_bytes())
    return before, newest_revision()


def _prepare_roles(connection: Connection) -> bool:
    """Make the group roles if we may, and act as the owner if we may; returns whether the roles exist."""
    may_create, existing, version = connection.execute(
        "SELECT rolsuper OR rolcreaterole, (SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s)), "
        "current_setting('server_version_num')::integer FROM pg_roles WHERE rolname = current_user",
        [list(ROLES)],
    ).fetchone() or (False, 0, 0)
    if existing != len(ROLES) and not may_create:
        logger.warning(
            "The roles %s are missing and this user may not create them: everything will belong to this user; "
            "have an administrator run sql/roles.sql for least privilege",
            ", ".join(ROLES),
        )
        return False
    connection.execute((sql_folder() / "roles.sql").read_bytes())
    may_act, owner = connection.execute(
        "SELECT pg_has_role(current_user, 'nightlabel_owner', %s), "
        "(SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'nightlabel')",
        ["SET" if version >= 160000 else "MEMBER"],  # being a member does not yet mean that one may act as it
    ).fetchone() or (False, None)
    if may_act and owner in {None, "nightlabel_owner"}:
        connection.execute("SET ROLE nightlabel_owner")
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


def _revision(connection: Connection) -> str | None:
    [table] = connection.execute("SELECT to_regclass('nightlabel.alembic_version')::text").fetchone() or [None]
    if table is None:
        return None
    row = connection.execute("SELECT version_num FROM nightlabel.alembic_version").fetchone()
    return None if row is None else str(row[0])


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
