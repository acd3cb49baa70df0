"""Finds images by the MD5 that their ETag is."""

from inference.sinks.migrating import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
