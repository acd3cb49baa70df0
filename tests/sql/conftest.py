"""A migrated database for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from inference.settings import Settings, read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from tests.ledger import Ledger
from tests.sql.logins import PASSWORD, as_user


@pytest.fixture
def migrated(database: str) -> None:
    """The test's database has the schema."""
    migrate(read_settings(database_url=database))


@pytest.fixture
def ledger(database: str, migrated: None) -> Iterator[Ledger]:
    """A database of its own with ``tiny@1`` as the production model."""
    settings = read_settings(database_url=database)
    with PostgresSink(settings) as sink:
        made = Ledger(database, settings, sink)
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
