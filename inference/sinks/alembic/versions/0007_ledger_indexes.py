"""Finds the newest rows of a label, and the newest dead letters."""

from inference.sinks.migrating import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
