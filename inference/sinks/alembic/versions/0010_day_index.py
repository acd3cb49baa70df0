"""Finds the outcomes of a day."""

from inference.sinks.migrating import run_file

revision = "0010"
down_revision = "0005"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
