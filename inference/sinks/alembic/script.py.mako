"""${message}"""

from inference.sinks.migrating import run_file

revision = "${up_revision}"
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    run_file(revision)
