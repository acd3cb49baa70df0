"""Watching the labels: what each run counted and how it compares, and the labels that reviewers give."""

from inference.sinks.migrating import run_file
from inference.sinks.statements import revision_before

revision = "0013"
down_revision = revision_before(revision)


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
