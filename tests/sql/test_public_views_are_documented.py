"""The analysts' page and the views in the database have the same columns."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from tests.ledger import Ledger

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"


def documented() -> dict[str, list[tuple[str, str]]]:
    """View -> its columns with their types, in order, as the page says."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {
        title: re.findall(r"^\| `(\w+)` \| ([\w\[\] ]+?) \|", section, re.M)
        for section in sections
        if re.fullmatch(r"\w+", title := section.split("\n", 1)[0])
    }


@pytest.mark.integration
def test_the_page_has_every_column_of_every_public_view_with_its_type(ledger: Ledger):
    with psycopg.connect(ledger.url) as connection:
        columns = connection.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE n.nspname = 'nightlabel' AND c.relkind = 'v' "
            "AND has_table_privilege('nightlabel_reader', c.oid, 'SELECT') ORDER BY c.relname, a.attnum"
        ).fetchall()

    found: dict[str, list[tuple[str, str]]] = {}
    for view, column, kind in columns:
        found.setdefault(view, []).append((column, kind))
    assert documented() == found


@pytest.mark.integration
def test_every_example_of_the_page_runs(ledger: Ledger):
    examples = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    statements = [part for example in examples for part in example.split(";") if part.strip()]
    assert len(statements) > 5

    with psycopg.connect(ledger.url) as connection:
        connection.execute("SET ROLE nightlabel_reader")
        for statement in statements:
            connection.execute(statement.encode())
