"""Counts labels by day as they are recorded."""

from inference.sinks.migrating import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
