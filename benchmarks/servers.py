"""A real S3 store and a real Postgres on free ports, and after them the whole stack over the same data. Starts servers.

The folder is laid out as the embedded stack's: what was uploaded before is there when Airflow starts. It lies in the
system's folder for temporary files, because a Postgres that root starts runs as another user who has to get there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from inference.models.bundled import ensure_default_model
from inference.models.store import ModelStore
from local_stack.object_store import EmbeddedObjectStore
from local_stack.postgres import EmbeddedPostgres, open_for_postgres
from local_stack.processes import StackError, free_ports
from local_stack.settings import AIRFLOW_PORT, POSTGRES_PORT, REPOSITORY, STORE_PORT, StackSettings
from local_stack.stack import BUCKET, Stack, StackRecord

TEMPLATE = "bench_template"
PEER_TABLE = """
CREATE TABLE peer_prediction (
    peer text NOT NULL,
    object_key text NOT NULL,
    label_id text NOT NULL,
    score real NOT NULL,
    predicted_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (peer, object_key)
)
"""


class Servers:
    """A store with a bucket, and a Postgres that gives a fresh migrated database to everyone who asks."""

    def __init__(self, state: Path, models: Path) -> None:
        self.state = state
        self.models = models
        self.ports = dict(zip((AIRFLOW_PORT, POSTGRES_PORT, STORE_PORT), free_ports(3), strict=True))
        self.store = EmbeddedObjectStore(state / "store", self.ports[STORE_PORT])
        self.postgres = EmbeddedPostgres(state / "postgres", self.ports[POSTGRES_PORT])
        self._databases = 0

    def start(self) -> None:
        """Start both, build the model if it is not kept yet, and make the database that others are copied from."""
        self.store.launch()
        self.postgres.start()
        self.store.wait_ready()
        self.store.client().create_bucket(Bucket=BUCKET)
        ensure_default_model(ModelStore(self.models))
        (self.state / "models").symlink_to(self.models)
        self.postgres.create_database(TEMPLATE)
        subprocess.run([sys.executable, "-m", "inference", "migrate"], env=self.environment(TEMPLATE), cwd=REPOSITORY,
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        with self.postgres.connect(TEMPLATE) as connection:
            connection.execute(PEER_TABLE)

    def stop(self) -> None:
        """Stop both; what they hold stays."""
        self.store.stop()
        self.postgres.stop()

    def new_database(self) -> str:
        """Return the name of a fresh database, migrated and with nothing in its ledger."""
        self._databases += 1
        name = f"bench_{self._databases}"
        with self.postgres.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
            )
        return name

    def environment(self, database: str) -> dict[str, str]:
        """Return the variables with which the product and the peers find everything."""
        return {
            **without_strangers(os.environ),
            **self.store.environment(as_reader=True),
            "NIGHTLABEL_DATABASE_URL": self.postgres.url(database),
            "NIGHTLABEL_MODEL_STORE": str(self.models),
            "PYTHONPATH": str(REPOSITORY),
        }

    @property
    def pids(self) -> dict[str, int]:
        """The servers' first processes by name."""
        pids = {"store": self.store.server.pid, "postgres": self.postgres.server.pid}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def upload(self, prefix: str, paths: list[Path]) -> None:
        """Store files under a prefix, by their names."""
        client = self.store.client()

        def put(path: Path) -> None:
            client.put_object(Bucket=BUCKET, Key=prefix + path.name, Body=path.read_bytes())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, paths))

    def rows(self, database: str, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask a database as its superuser."""
        with psycopg.connect(self.postgres.url(database)) as connection:
            return connection.execute(query.encode(), values).fetchall()


@contextmanager
def started(models: Path) -> Iterator[Servers]:
    """Start store and Postgres in a folder of their own; nothing of them is left afterwards.

    Args:
        models: Model store to use; the bundled model is built into it if it is missing.
    """
    with tempfile.TemporaryDirectory(prefix="nightlabel-bench-", ignore_cleanup_errors=True) as folder:
        open_for_postgres(Path(folder))
        servers = Servers(Path(folder), models.absolute())
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@contextmanager
def whole_stack(servers: Servers) -> Iterator[Stack]:
    """Stop both, and start the stack with Airflow over the same folders; at the end the other way round."""
    servers.stop()
    environment = {
        **without_strangers(os.environ),
        "NIGHTLABEL_STATE": str(servers.state),
        **{name: str(port) for name, port in servers.ports.items()},
    }

    def command(word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "local_stack", word], env=environment, cwd=REPOSITORY,
                              capture_output=True, text=True, check=False)  # fmt: skip

    try:
        up = command("up")
        if up.returncode:
            raise StackError(f"the stack did not start:\n{up.stdout}{up.stderr}")
        yield Stack(StackSettings.read(environment), environment)
    finally:
        command("down")
        servers.store.start()
        servers.postgres.start()


def stack_pids(stack: Stack) -> dict[str, int]:
    """Return the first processes of store and Postgres of a running stack, by our names."""
    names = {stack.store.server.name: "store", stack.postgres.server.name: "postgres"}
    parts = StackRecord(stack.settings.state).parts()
    return {names[name]: identity.pid for name, identity in parts.items() if name in names}


def without_strangers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment without what leads to somebody else's servers or models."""
    strangers = ("AWS_", "PG", "AIRFLOW", "NIGHTLABEL_DATABASE_URL", "NIGHTLABEL_MODEL_STORE", "NIGHTLABEL_STATE")
    return {name: value for name, value in environment.items() if not name.startswith(strangers)}
