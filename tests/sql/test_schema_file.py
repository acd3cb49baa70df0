"""The file that people read is the schema that the migrations make."""

from __future__ import annotations

import pytest

from inference.sinks.statements import sql_folder
from local_stack.schema import dump_schema

pytestmark = pytest.mark.integration


def test_schema_sql_equals_the_migrations(database: str, migrated: None):
    expected = (sql_folder() / "schema.sql").read_text(encoding="utf-8")
    assert dump_schema(database) == expected, "run `make schema` and look at what changed"


def test_every_sql_file_begins_by_saying_what_it_is():
    for folder in ("migrations", "views", "statements", "queries"):
        for path in (sql_folder() / folder).glob("*.sql"):
            assert path.read_text(encoding="utf-8").startswith("-- "), path.name
