"""A migrated database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from tests.ledger import Ledger


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
