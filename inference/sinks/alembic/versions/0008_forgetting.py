"""Forgets objects, and keeps a record of having done so."""

from inference.sinks.migrating import run_file

revision = "0008"
down_revision = "0005"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
