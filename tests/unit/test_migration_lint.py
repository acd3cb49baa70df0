"""Migrations hold nothing that is unsafe beside a running night; each rule is seen to bite."""

from __future__ import annotations

import re

import pytest

from inference.sinks.statements import migrations, revision_before, revision_of, sql_folder
from tests.migration_lint import unsafe

EXEMPT = {
    "0002_suspects.sql": "its columns' CHECKs are verified on the tables of runs and shards: some thousand rows",
    "0004_copied_labels.sql": "likewise, on the table of runs",
}
"""Migrations from before there was this check."""


@pytest.mark.parametrize("path", migrations(), ids=lambda path: path.name)
def test_a_migration_is_safe_under_load(path):
    found = unsafe(path.read_text(encoding="utf-8"))

    assert bool(found) == (path.name in EXEMPT), found


def test_a_view_is_replaced_and_never_dropped_so_that_its_columns_stay():
    for path in (sql_folder() / "views").glob("*.sql"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(DROP|RENAME)\b", re.sub(r"--.*", "", text)), path.name


def test_a_migration_begins_at_the_one_before_it_whatever_numbers_were_left_out():
    revisions = [revision_of(path) for path in migrations()]

    assert [revision_before(revision) for revision in revisions] == [None, *revisions[:-1]]


PIECES = "-- not in one transaction\n"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE INDEX a ON nightlabel.image (etag);", "builds an index"),
        ("CREATE UNIQUE INDEX a ON nightlabel.image (etag);", "builds an index"),
        ("CREATE INDEX CONCURRENTLY a ON nightlabel.image (etag);", "cannot run in a transaction"),
        ("ALTER TABLE nightlabel.image ADD COLUMN a uuid DEFAULT gen_random_uuid();", "a default of its own"),
        ("ALTER TABLE nightlabel.image ADD COLUMN a integer NOT NULL;", "older code does not fill"),
        ("ALTER TABLE nightlabel.image ADD COLUMN a integer CHECK (a > 0);", "NOT VALID"),
        ("ALTER TABLE nightlabel.image ADD COLUMN a integer, ADD COLUMN b bigserial;", "into every row"),
        ("ALTER TABLE nightlabel.image ADD COLUMN a text GENERATED ALWAYS AS (etag) STORED;", "into every row"),
        ("ALTER TABLE nightlabel.image ADD CONSTRAINT a CHECK (size_bytes > 0);", "NOT VALID"),
        ("ALTER TABLE nightlabel.image ALTER COLUMN size_bytes TYPE numeric;", "rewrites a table"),
        ("ALTER TABLE nightlabel.image ALTER COLUMN content_sha256 SET NOT NULL;", "reads a whole table"),
        ("ALTER TABLE nightlabel.image DROP COLUMN etag;", "drops a column"),
        ("ALTER TABLE nightlabel.image RENAME COLUMN etag TO tag;", "renames"),
        ("ALTER VIEW nightlabel.label_daily RENAME COLUMN day TO date;", "renames"),
        ("DROP VIEW nightlabel.label_daily;", "drops what older code"),
        ("UPDATE nightlabel.outcome SET attempts = 1;", "in one transaction"),
        ("WITH a AS (SELECT 1) DELETE FROM nightlabel.outcome;", "in one transaction"),
        ("CREATE TABLE nightlabel.b (a int);\nINSERT INTO nightlabel.b SELECT 1 FROM nightlabel.outcome;", "in one"),
        ("DO $$ BEGIN UPDATE nightlabel.outcome SET attempts = 1; END $$;", "in a block"),
        ("LOCK TABLE nightlabel.outcome;", "locks a table"),
        ("TRUNCATE nightlabel.manifest_chunk;", "empties"),
        (PIECES + "CREATE INDEX CONCURRENTLY a ON nightlabel.image (etag);", "cannot be repeated"),
        (PIECES + "CREATE INDEX IF NOT EXISTS a ON nightlabel.image (etag);", "builds an index"),
        (PIECES + "ALTER TABLE nightlabel.image ADD COLUMN a int;", "cannot be repeated"),
        (PIECES + "CREATE FUNCTION a() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;", "cannot be repeated"),
        (PIECES + "UPDATE nightlabel.image SET etag = '';", "in batches"),
        (PIECES + "SELECT 1;\n-- ;;\nDO $$ BEGIN UPDATE nightlabel.image SET etag = ''; END $$;", "in batches"),
        (PIECES + "INSERT INTO nightlabel.listing VALUES ('a', 'b', now());", "cannot be repeated"),
    ],
)
def test_what_is_unsafe_is_found(sql, why):
    assert any(why in found for found in unsafe(sql)), unsafe(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE nightlabel.b (a int);\nCREATE INDEX c ON nightlabel.b (a);",
        "CREATE TABLE nightlabel.b (a int);\nALTER TABLE nightlabel.b ADD CHECK (a > 0);",
        "ALTER TABLE nightlabel.image ADD COLUMN a integer NOT NULL DEFAULT 0, ADD COLUMN b text;",
        "ALTER TABLE nightlabel.image ADD COLUMN a timestamptz NOT NULL DEFAULT now();",
        "ALTER TABLE nightlabel.image ADD CONSTRAINT a CHECK (size_bytes > 0) NOT VALID;",
        "CREATE FUNCTION nightlabel.a() RETURNS void LANGUAGE sql AS $$ UPDATE nightlabel.image SET etag = ''; $$;",
        "CREATE INDEX a ON ONLY nightlabel.outcome (recorded_at);",
        "COMMENT ON TABLE nightlabel.image IS 'x';",
        PIECES + "CREATE INDEX CONCURRENTLY IF NOT EXISTS a ON nightlabel.image (etag);",
        PIECES + "CREATE INDEX IF NOT EXISTS a ON ONLY nightlabel.outcome (recorded_at);",
        PIECES + "DO $$ BEGIN LOOP UPDATE nightlabel.image SET etag = ''; COMMIT; EXIT; END LOOP; END $$;",
        PIECES + "INSERT INTO nightlabel.listing VALUES ('a', 'b', now()) ON CONFLICT DO NOTHING;",
    ],
)
def test_what_is_safe_is_let_through(sql):
    assert unsafe(sql) == []
