"""Image versions, objects, models, the ledger of outcomes, runs with their shards and manifests."""

from inference.sinks.migrating import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run the SQL file of this revision."""
    run_file(revision)
