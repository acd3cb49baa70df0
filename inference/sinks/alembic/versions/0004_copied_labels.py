"""Labels that are copied for equal bytes."""

from inference.sinks.migrating import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
