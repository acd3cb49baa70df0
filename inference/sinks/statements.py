"""Where the SQL files are, and reading them. Standard library only."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def sql_folder() -> Path:
    """Return the folder of the SQL files: inside the package when installed, the repository's otherwise."""
    inference = Path(__file__).resolve().parent.parent
    packaged = inference / "_sql"
    return packaged if packaged.is_dir() else inference.parent / "sql"


@cache
def statement(name: str) -> str:
    """Return the text of ``sql/statements/<name>.sql``."""
    return (sql_folder() / "statements" / f"{name}.sql").read_text(encoding="utf-8")


def migrations() -> list[Path]:
    """Return the migration files, oldest first; the number before the first underscore is the revision."""
    return sorted((sql_folder() / "migrations").glob("*.sql"))


def revision_of(migration: Path) -> str:
    """Return the revision that a migration file leads to."""
    return migration.name.partition("_")[0]


def revision_before(revision: str) -> str | None:
    """Return the revision that a migration begins at: that of the file before it; None for the first."""
    known = [revision_of(path) for path in migrations()]
    place = known.index(revision)
    return known[place - 1] if place else None


def newest_revision() -> str:
    """Return the revision of the schema that this code knows."""
    return revision_of(migrations()[-1])
