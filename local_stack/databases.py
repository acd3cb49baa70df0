"""The databases and logins of the embedded Postgres: metadata and results, apart from each other. Runs SQL.

Three logins exist for the results, one in each of the group roles that ``sql/roles.sql`` describes; Airflow's own login
can enter its metadata only. Everything here can run again at each start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import LOOPBACK, kept_secret

METADATA = "airflow"
RESULTS = "nightlabel"
AIRFLOW_LOGIN = "airflow"
GROUPS = ("nightlabel_owner", "nightlabel_writer", "nightlabel_reader")


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the embedded Postgres, in the one database that it may enter."""

    user: str
    password: str
    port: int
    database: str

    def url(self, driver: str | None = None) -> str:
        """Return the database URL; names and passwords here need no quoting."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{self.user}:{self.password}@{LOOPBACK}:{self.port}/{self.database}"


def airflow_login(secrets: Path, port: int) -> Login:
    """Return Airflow's login for its metadata; the password is made at first sight and kept in ``secrets``."""
    return Login(AIRFLOW_LOGIN, kept_secret(secrets / f"{AIRFLOW_LOGIN}_login.password"), port, METADATA)


def results_login(secrets: Path, port: int, group: str) -> Login:
    """Return the login that is a member of ``group``; the password is made at first sight and kept in ``secrets``."""
    user = f"{group}_login"
    return Login(user, kept_secret(secrets / f"{user}.password"), port, RESULTS)


def prepare_databases(postgres: EmbeddedPostgres, secrets: Path) -> None:
    """Create the databases, group roles and logins that are missing, and set every login's password."""
    from psycopg import sql

    airflow = airflow_login(secrets, postgres.port)
    results = {group: results_login(secrets, postgres.port, group) for group in GROUPS}
    with postgres.connect() as connection:
        known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for group in GROUPS:
            if group not in known:
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(group)))
        for login in (airflow, *results.values()):
            verb = sql.SQL("ALTER" if login.user in known else "CREATE")
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(verb, sql.Identifier(login.user), sql.Literal(login.password)))
        for group, login in results.items():
            group_name, user = sql.Identifier(group), sql.Identifier(login.user)
            connection.execute(sql.SQL("GRANT {} TO {}").format(group_name, user))
            connection.execute(sql.SQL("ALTER ROLE {} SET search_path = nightlabel, public").format(user))
        # What the owner's login creates belongs to the group, so that another member can migrate the next time.
        owner = results["nightlabel_owner"].user
        connection.execute(sql.SQL("ALTER ROLE {} SET role = nightlabel_owner").format(sql.Identifier(owner)))
        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}
    if METADATA not in databases:
        postgres.create_database(METADATA, owner=AIRFLOW_LOGIN)
    if RESULTS not in databases:
        postgres.create_database(RESULTS, owner="nightlabel_owner")
    with postgres.connect() as connection:
        connection.execute("REVOKE ALL ON DATABASE postgres FROM PUBLIC")
        connection.execute("GRANT CONNECT, TEMPORARY ON DATABASE nightlabel TO nightlabel_writer")
        connection.execute("GRANT CONNECT ON DATABASE nightlabel TO nightlabel_reader")


def metadata_revision(postgres: EmbeddedPostgres) -> str | None:
    """Return the migration that Airflow's metadata is at; None when there are no tables yet."""
    with postgres.connect(METADATA) as connection:
        if connection.execute("SELECT to_regclass('public.alembic_version')").fetchone() == (None,):
            return None
        row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone()
        return str(row[0]) if row else None
