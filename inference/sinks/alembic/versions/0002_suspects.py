"""How attempts ended and what they had begun, which decoder condemned an image, which try made a plan."""

from inference.sinks.migrating import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
