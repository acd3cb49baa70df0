"""Counts labels by day as they are recorded."""

from inference.sinks.migrating import run_file
from inference.sinks.statements import revision_before

revision = "0006"
down_revision = revision_before(revision)


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
