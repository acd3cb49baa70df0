"""Golden sets, thresholds and checks: what a model has to pass before it is promoted."""

from inference.sinks.migrating import run_file
from inference.sinks.statements import revision_before

revision = "0011"
down_revision = revision_before(revision)


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
