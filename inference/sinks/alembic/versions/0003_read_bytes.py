"""Whether an image's ETag was seen to be the MD5 of its bytes."""

from inference.sinks.migrating import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
