"""Reads migration files: in one transaction as a whole, or statement by statement. Pure.

A file whose first line holds ``-- not in one transaction`` is run statement by statement, each one committed by
itself, as index builds beside a running night and backfills in batches want it. A line ``-- ;;`` ends a statement;
``-- ;; run its rows`` ends a query each of whose rows is a statement to run. Such a file may be interrupted anywhere
and is then run again from its beginning, so that each statement has to be harmless to repeat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NOT_IN_ONE_TRANSACTION = "-- not in one transaction"

END = re.compile(r"^-- ;;[ \t]*(?P<what>.*?)[ \t]*$", re.MULTILINE)
RUN_ITS_ROWS = "run its rows"

COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)

# Plain names only, so that an index can be looked up by what stands here.
CONCURRENT_BUILD = re.compile(
    r"^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>\w+)\s+ON\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a file that is run in pieces."""

    sql: str
    gives_statements: bool = False
    """Whether each row that it returns is a statement to run."""

    @property
    def takes_its_time(self) -> bool:
        """Whether it waits for others without anybody waiting for it: it may wait for as long as they take."""
        return re.search(r"\bCONCURRENTLY\b|\bVALIDATE\s+CONSTRAINT\b", without_comments(self.sql), re.I) is not None

    @property
    def index(self) -> str | None:
        """The index that it builds concurrently, or None."""
        found = CONCURRENT_BUILD.match(without_comments(self.sql))
        return None if found is None else found["index"]


def is_in_one_transaction(text: str) -> bool:
    """Return whether a migration is one transaction, by its first line."""
    return NOT_IN_ONE_TRANSACTION not in text.partition("\n")[0]


def statements_of(text: str) -> list[Statement]:
    """Split a migration that is run in pieces at its ``-- ;;`` lines.

    Raises:
        ValueError: a line begins as a separator and is none.
    """
    found, start = [], 0
    for end in END.finditer(text):
        if end["what"] not in {"", RUN_ITS_ROWS}:
            raise ValueError(f"a migration ends a statement with '-- ;;' or '-- ;; {RUN_ITS_ROWS}', not {end[0]!r}")
        found.append(Statement(text[start : end.start()].strip(), gives_statements=end["what"] == RUN_ITS_ROWS))
        start = end.end()
    found.append(Statement(text[start:].strip()))
    return [statement for statement in found if without_comments(statement.sql)]


def without_comments(sql: str) -> str:
    """Return SQL without its comments, for looking at its words only: what looks like one within quotes goes too."""
    return COMMENT.sub(" ", sql).strip()
