"""Finds in a migration what is unsafe beside a running night: what keeps others out for long, or breaks older code.

Looks at words, not at plans: what it cannot see is for the tests under load.
"""

from __future__ import annotations

import re

from inference.sinks.migration_files import is_in_one_transaction, statements_of, without_comments

TABLE = r"(?:ONLY\s+)?(?:nightlabel\.)?(?P<table>\w+)"
BODY = re.compile(r"AS\s+\$(\w*)\$.*?\$\1\$", re.IGNORECASE | re.DOTALL)

# A default that is one value for all rows costs nothing; any other is written into every row.
CONSTANT = re.compile(r"^(?:'[^']*'|[\w.+-]+|now\(\)|'\{\}'|ARRAY\[\])(?:::[\w\[\]]+)?$", re.IGNORECASE)

NEVER = {
    r"\bDROP\s+(?:TABLE|VIEW|FUNCTION|MATERIALIZED|TYPE|SCHEMA)\b": "drops what older code may use",
    r"\bDROP\s+COLUMN\b": "drops a column that older code may use",
    r"\bRENAME\b": "renames what older code knows by its name",
    r"\bTRUNCATE\b": "empties a table",
    r"\bLOCK\s+TABLE\b": "locks a table until the end of the transaction",
    r"\bVACUUM\s*\(?\s*FULL\b|\bCLUSTER\b": "rewrites a table while everybody waits",
    r"\bREINDEX\b(?!.*\bCONCURRENTLY\b)": "builds an index while writers wait",
    r"\bALTER\s+(?:COLUMN\s+)?\w+\s+(?:SET\s+DATA\s+)?TYPE\b": "rewrites a table, or changes what older code writes",
    r"\bSET\s+(?:UNLOGGED|LOGGED|TABLESPACE)\b": "rewrites a table",
    r"\bDETACH\s+PARTITION\b(?!.*\b(?:CONCURRENTLY|FINALIZE)\b)": "waits for every reader while others wait",
}


def unsafe(text: str) -> list[str]:
    """Return what is unsafe in a migration file, a sentence each; empty when nothing is."""
    whole = is_in_one_transaction(text)
    sql = without_comments(text)
    statements = [sql] if whole else [without_comments(part.sql) for part in statements_of(text)]
    made = set(re.findall(r"\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:nightlabel\.)?(\w+)", sql, re.IGNORECASE))
    found: list[str] = []
    for statement in statements:
        parts = [part.strip() for part in BODY.sub("AS BODY", statement).split(";")] if whole else [statement]
        for part in filter(None, parts):
            is_function = re.match(r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b", part, re.IGNORECASE)
            if not is_function:
                found += _anywhere(part, made)
                found += _in_a_transaction(part, made) if whole else _in_pieces(part, made)
            elif not whole and not re.match(r"CREATE\s+OR\s+REPLACE\b", part, re.IGNORECASE):
                found.append("cannot be repeated: CREATE OR REPLACE")
    return found


def _has(pattern: str, sql: str) -> bool:
    return re.search(pattern, sql, re.IGNORECASE | re.DOTALL) is not None


def _anywhere(sql: str, made: set[str]) -> list[str]:
    found = [why for pattern, why in NEVER.items() if _has(pattern, sql)]
    table = re.match(r"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?" + TABLE, sql, re.IGNORECASE)
    if table is None or table["table"] in made:
        return found
    if _has(r"\bSET\s+NOT\s+NULL\b", sql):
        found.append("reads a whole table while everybody waits: add a CHECK that is NOT VALID, and validate it later")
    for clause in re.split(r",\s*(?=ADD\b|ALTER\b|DROP\b)", sql, flags=re.IGNORECASE):
        if _has(r"\bADD\s+(?:CONSTRAINT|CHECK|FOREIGN\s+KEY|UNIQUE|PRIMARY\s+KEY)\b", clause):
            if not _has(r"\bNOT\s+VALID\b|\bUSING\s+INDEX\b", clause):
                found.append("checks a whole table while everybody waits: NOT VALID, and validate it later")
        elif _has(r"\bADD\s+(?:COLUMN\s+)?(?:IF\s+NOT\s+EXISTS\s+)?\w+\s+\w+", clause):
            found += _column(clause)
    return found


def _column(clause: str) -> list[str]:
    found = []
    if _has(r"\b(?:CHECK|REFERENCES|UNIQUE|PRIMARY\s+KEY)\b", clause):
        found.append("checks a whole table while everybody waits: add the column, then a constraint that is NOT VALID")
    if _has(r"\bGENERATED\b|\b(?:big|small)?serial\b", clause):
        found.append("writes a column into every row while everybody waits")
    default = re.search(r"\bDEFAULT\s+(.+?)(?=\s+NOT\s+NULL|\s+NULL|\s+CHECK|\s*$)", clause, re.IGNORECASE | re.DOTALL)
    if default is not None and not CONSTANT.match(default[1].strip().rstrip(";").strip()):
        found.append("writes a default of its own into every row while everybody waits")
    if default is None and _has(r"\bNOT\s+NULL\b", clause):
        found.append("adds a column that older code does not fill: give it a default")
    return found


def _in_a_transaction(sql: str, made: set[str]) -> list[str]:
    found = []
    index = re.match(r"CREATE\s+(?:UNIQUE\s+)?INDEX\b.*?\bON\s+" + TABLE, sql, re.IGNORECASE | re.DOTALL)
    if index and index["table"] not in made and not _has(r"\bON\s+ONLY\b", sql):
        found.append("builds an index while writers wait: CONCURRENTLY, in a file that is not in one transaction")
    if _has(r"^\s*VACUUM\b|\bCONCURRENTLY\b", sql):
        found.append("cannot run in a transaction: say so in the first line")
    writes = re.match(r"(?:WITH\b.*?\)\s*)?(?:UPDATE|DELETE\s+FROM)\s+" + TABLE, sql, re.IGNORECASE | re.DOTALL)
    copies = re.match(r"INSERT\s+INTO\b.*\bFROM\s+nightlabel\.(?P<table>image|object|outcome)\b", sql, re.I | re.S)
    if any(found_one and found_one["table"] not in made for found_one in (writes, copies)):
        found.append("goes through a whole table in one transaction: in batches that commit")
    if _has(r"^\s*DO\b", sql):
        found.append("hides what it does in a block: say it in SQL, or in a file that is not in one transaction")
    return found


def _in_pieces(sql: str, made: set[str]) -> list[str]:
    found = []
    if _has(r"^CREATE\s+(?:UNIQUE\s+)?INDEX\b", sql):
        if not _has(r"\bIF\s+NOT\s+EXISTS\s+\w+\s+ON\b", sql):
            found.append("cannot be repeated: IF NOT EXISTS, and a plain name")
        if not _has(r"\bCONCURRENTLY\b|\bON\s+ONLY\b", sql):
            found.append("builds an index while writers wait: CONCURRENTLY")
    if _has(r"^CREATE\s+TABLE\b(?!\s+IF\s+NOT\s+EXISTS)|\bADD\s+COLUMN\b(?!\s+IF\s+NOT\s+EXISTS)", sql):
        found.append("cannot be repeated: IF NOT EXISTS")
    if _has(r"^INSERT\b(?!.*\bON\s+CONFLICT\b)", sql) and not _has(r"\bNOT\s+EXISTS\b", sql):
        found.append("cannot be repeated: ON CONFLICT")
    is_write = _has(r"^(?:UPDATE|DELETE)\b", sql) or (_has(r"^DO\b", sql) and _has(r"\b(?:UPDATE|DELETE)\b", sql))
    if is_write and not _has(r"\bCOMMIT\b", sql):
        found.append("goes through a whole table in one transaction: in batches that commit")
    return found
