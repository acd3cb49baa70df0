"""A migrated database for each test, and databases with known data for tests that only read."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from inference.settings import Settings, read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from local_stack.postgres import EmbeddedPostgres
from tests import known_data
from tests.ledger import Ledger
from tests.sql.logins import PASSWORD, as_user


@pytest.fixture
def migrated(database: str) -> None:
    """The test's database has the schema."""
    migrate(read_settings(database_url=database))


@pytest.fixture(scope="session")
def databases_ahead(postgres_server: EmbeddedPostgres) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Lends a migrated database for each test, made while the one before is run: making one takes as long as a test.

    Another process migrates it: Alembic keeps what it works on in its modules, so that one process does not migrate two
    databases at once, and tests migrate themselves.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as migrating, ThreadPoolExecutor(1) as pool:

        def make() -> str:
            name = f"test_{uuid.uuid4().hex}"
            postgres_server.create_database(name)
            migrating.submit(migrate, read_settings(database_url=postgres_server.url(name))).result()
            return name

        ready = deque([pool.submit(make)])

        @contextmanager
        def lend() -> Iterator[str]:
            name = ready.popleft().result()
            ready.append(pool.submit(make))
            yield postgres_server.url(name)
            pool.submit(postgres_server.drop_database, name)

        yield lend
        postgres_server.drop_database(ready.popleft().result())


@pytest.fixture
def ledger(databases_ahead: Callable[[], AbstractContextManager[str]]) -> Iterator[Ledger]:
    """A database of its own with ``tiny@1`` as the production model."""
    with databases_ahead() as url:
        settings = read_settings(database_url=url)
        with PostgresSink(settings) as sink:
            made = Ledger(url, settings, sink)
            made.register("tiny", "1", "production")
            yield made


@pytest.fixture
def login(ledger: Ledger) -> Iterator[Callable[[str | None], Settings]]:
    """Make a login that is a member of a group role, and drop it afterwards."""
    made = []

    def make(group: str | None) -> Settings:
        user = f"u{len(made)}_{psycopg.conninfo.conninfo_to_dict(ledger.url)['dbname']}"
        ledger.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}' {f'IN ROLE {group}' if group else ''}")
        made.append(user)
        return read_settings(database_url=as_user(ledger.url, user))

    yield make
    for user in made:
        ledger.execute(f"DROP OWNED BY {user}")
        ledger.execute(f"DROP ROLE {user}")


@dataclass(frozen=True)
class Known:
    """A database whose every row is known. Read it only: other tests do so as well."""

    world: known_data.World
    url: str

    def ask(self, sql: str, values: Any = None) -> list[dict[str, Any]]:
        """Ask as an analyst."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            connection.execute("SET ROLE nightlabel_reader")
            return connection.execute(sql, values).fetchall()


@pytest.fixture(scope="session")
def known(postgres_server: EmbeddedPostgres) -> Iterator[Callable[[int], Known]]:
    """Seed -> the database that holds its world."""
    made: dict[int, Known] = {}

    def of(seed: int) -> Known:
        if seed not in made:
            name = f"known_{seed}"
            postgres_server.create_database(name)
            migrate(read_settings(database_url=postgres_server.url(name)))
            made[seed] = Known(known_data.world(seed), postgres_server.url(name))
            known_data.load(made[seed].world, made[seed].url)
        return made[seed]

    yield of
    for seed in made:
        postgres_server.drop_database(f"known_{seed}")
