"""How migration files are cut into what is run at a time."""

from __future__ import annotations

import pytest

from inference.sinks.migration_files import is_in_one_transaction, statements_of


def test_a_file_is_one_transaction_unless_its_first_line_says_otherwise():
    assert is_in_one_transaction(
        "-- 0009: adds a column\n-- not in one transaction would be wrong here\nALTER TABLE a;"
    )
    assert not is_in_one_transaction("-- not in one transaction\n-- 0009: builds an index\nCREATE INDEX;")


def test_statements_end_at_lines_of_their_own_and_nowhere_else():
    text = """-- not in one transaction
-- 0009: the first
DO $$ BEGIN PERFORM 1; PERFORM '-- ;; no end'; COMMIT; END $$;
-- ;;
-- of the second only a remark
-- ;;
SELECT format('DROP TABLE %I', 'a;b');
-- ;; run its rows

ANALYZE nightlabel.image;
"""
    found = statements_of(text)

    assert [(part.sql.splitlines()[-1], part.gives_statements) for part in found] == [
        ("DO $$ BEGIN PERFORM 1; PERFORM '-- ;; no end'; COMMIT; END $$;", False),
        ("SELECT format('DROP TABLE %I', 'a;b');", True),
        ("ANALYZE nightlabel.image;", False),
    ]


def test_a_line_that_is_nearly_a_separator_is_refused():
    with pytest.raises(ValueError, match="not '-- ;; run the rows'"):
        statements_of("SELECT 1\n-- ;; run the rows\n")


def test_an_index_that_is_built_beside_others_is_known_by_its_name_and_may_wait():
    [built, valid, brief] = statements_of(
        "-- a remark CREATE INDEX CONCURRENTLY other ON b\n"
        "create unique index concurrently if not exists outcome_day on nightlabel.outcome_model_1 (recorded_at);\n"
        "-- ;;\nALTER TABLE nightlabel.shard VALIDATE CONSTRAINT counts;\n"
        "-- ;;\nCREATE INDEX outcome_day_all ON ONLY nightlabel.outcome (recorded_at); -- not CONCURRENTLY\n"
    )

    assert [(part.index, part.takes_its_time) for part in (built, valid, brief)] == [
        ("outcome_day", True),
        (None, True),
        (None, False),
    ]
