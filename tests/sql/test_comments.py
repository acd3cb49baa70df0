"""The schema explains itself: `\\d+` and BI tools show what everything means."""

from __future__ import annotations

import logging
import re

import psycopg
import pytest

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.statements import sql_folder
from tests.ledger import Ledger

pytestmark = pytest.mark.integration

# A partition is made when a model is registered, and is part of a table that has its comments.
WITHOUT_COMMENT = """
    SELECT c.relname || coalesce('.' || a.attname, '') AS name
    FROM pg_class AS c
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND col_description(c.oid, a.attnum) IS NULL
    UNION ALL
    SELECT c.relname
    FROM pg_class AS c
    WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND obj_description(c.oid, 'pg_class') IS NULL
    UNION ALL
    SELECT n.nspname FROM pg_namespace AS n
    WHERE n.nspname = 'nightlabel' AND obj_description(n.oid, 'pg_namespace') IS NULL
"""


def without_comment(ledger: Ledger) -> list[str]:
    return sorted(row["name"] for row in ledger.rows(WITHOUT_COMMENT))


def test_every_table_view_and_column_says_what_it_is(ledger: Ledger):
    assert without_comment(ledger) == []


def test_what_has_no_comment_is_found(ledger: Ledger):
    ledger.execute("COMMENT ON COLUMN nightlabel.run_summary.dead IS NULL")
    ledger.execute("COMMENT ON TABLE nightlabel.outcome IS NULL")
    ledger.execute("CREATE VIEW nightlabel.more AS SELECT 1 AS number")
    assert without_comment(ledger) == ["more", "more.number", "outcome", "run_summary.dead"]


def test_no_comment_repeats_the_name_alone(ledger: Ledger):
    rows = ledger.rows(
        "SELECT a.attname AS name, col_description(a.attrelid, a.attnum) AS said FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'nightlabel'::regnamespace AND a.attnum > 0 "
        "AND col_description(a.attrelid, a.attnum) IS NOT NULL"
    )
    assert len(rows) > 100
    assert [row for row in rows if re.sub(r"\W", "", row["said"].lower()) == row["name"].replace("_", "")] == []
    assert [row for row in rows if not row["said"].endswith(".")] == []


def test_a_comment_is_said_in_one_place(ledger: Ledger):
    said = [
        name
        for path in [*(sql_folder() / "views").glob("*.sql"), sql_folder() / "comments.sql"]
        for name in re.findall(r"^COMMENT ON (?:COLUMN|TABLE|VIEW)\s+(\S+) IS", path.read_text(encoding="utf-8"), re.M)
    ]
    assert sorted(said) == sorted(set(said))


def test_a_vacuum_that_takes_long_keeps_comments_waiting_and_nothing_else(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
):
    ledger.execute("COMMENT ON COLUMN nightlabel.outcome.label IS NULL")
    with psycopg.connect(ledger.url) as vacuum:
        vacuum.execute("LOCK TABLE nightlabel.outcome IN SHARE UPDATE EXCLUSIVE MODE")  # what a vacuum holds
        with caplog.at_level(logging.WARNING):
            migrate(read_settings(database_url=ledger.url))
    assert "the comments on its tables and columns could not be renewed" in caplog.text
    assert without_comment(ledger) == ["outcome.label"]
    migrate(read_settings(database_url=ledger.url))
    assert without_comment(ledger) == []
