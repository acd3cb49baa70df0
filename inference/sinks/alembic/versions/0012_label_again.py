"""Keeps to a rate, says how long a run is likely to take, and names the run that a shadow run looks at."""

from inference.sinks.migrating import run_file
from inference.sinks.statements import revision_before

revision = "0012"
down_revision = revision_before(revision)


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
