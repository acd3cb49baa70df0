"""Writes ``sql/schema.sql``: the schema as the migrations make it, dumped from a database made for it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from local_stack.postgres import EmbeddedPostgres, program
from local_stack.processes import free_ports

HEADER = """\
-- The schema as the migrations and views make it, for reading; `make schema` writes it and a test compares.
-- Change sql/migrations and sql/views, never this file.

"""


def dump_schema(url: str) -> str:
    """Return the schema ``nightlabel`` of a migrated database as SQL, the same for equal schemas.

    Args:
        url: The database, as libpq reads it.

    Raises:
        RuntimeError: pg_dump failed; says why.
    """
    dump = subprocess.run(
        [program("pg_dump"), "--schema-only", "--schema=nightlabel", "--no-owner", "--dbname", url],
        capture_output=True,
        text=True,
        check=False,
    )
    if dump.returncode:
        raise RuntimeError(f"pg_dump failed: {dump.stderr.strip()}")
    # Versions, session settings and a random token say nothing of the schema.
    noise = re.compile(r"^(\\(un)?restrict .*|SET .*|SELECT pg_catalog\.set_config.*|--( .*)?)$\n?", re.MULTILINE)
    return HEADER + re.sub(r"\n{3,}", "\n\n", noise.sub("", dump.stdout)).strip() + "\n"


def main(target: Path) -> None:
    """Write the schema of a database that was migrated from nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="nightlabel-schema-", ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder), free_ports(1)[0], is_durable=False) as server,
    ):
        server.create_database("schema")
        migrate(read_settings(database_url=server.url("schema")))
        target.write_text(dump_schema(server.url("schema")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
