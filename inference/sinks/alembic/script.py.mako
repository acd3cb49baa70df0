"""${message}"""

from inference.sinks.migrating import run_file
from inference.sinks.statements import revision_before

revision = "${up_revision}"
down_revision = revision_before(revision)


def upgrade() -> None:
    run_file(revision)
