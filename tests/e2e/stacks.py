"""Embedded stacks for tests: their command line, and how to meet a running one from inside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from local_stack.airflow import AirflowApi
from local_stack.processes import ProcessIdentity, families, free_ports
from local_stack.sample_run import PARSE_TIMEOUT_S, ready_dag
from local_stack.settings import REPOSITORY, StackSettings
from local_stack.stack import Stack, StackRecord
from tests.e2e.loaded import children

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Commands:
    """The command line of one stack."""

    environment: dict[str, str]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "local_stack", *words]
        return subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=400
        )

    @property
    def settings(self) -> StackSettings:
        return StackSettings.read(self.environment)

    @property
    def record(self) -> StackRecord:
        return StackRecord(self.settings.state)

    def processes(self) -> set[ProcessIdentity]:
        return families(self.record.parts().values())


@contextmanager
def stack_of_its_own(state: Path, **environment: str) -> Iterator[Commands]:
    """Start a stack on free ports, and stop it; nothing of it is left.

    Args:
        state: Folder of what it keeps.
        environment: Settings, besides those of this process.
    """
    airflow, postgres, store = map(str, free_ports(3))
    commands = Commands(
        {
            **os.environ,
            **environment,
            "NIGHTLABEL_STATE": str(state),
            "NIGHTLABEL_AIRFLOW_PORT": airflow,
            "NIGHTLABEL_POSTGRES_PORT": postgres,
            "NIGHTLABEL_STORE_PORT": store,
        }
    )
    up = commands("up")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield commands
    finally:
        commands("down")
    assert commands.processes() == set()


class RunningStack:
    """A stack that is up, as an operator, an uploader and an analyst meet it."""

    def __init__(self, commands: Commands) -> None:
        self.stack = Stack(commands.settings, commands.environment)
        self.api: AirflowApi = self.stack.airflow.api()
        ready_dag(self.api, self.stack)

    @cached_property
    def client(self) -> S3Client:
        """May write to the store, as the tasks may not."""
        return self.stack.store.client()

    @property
    def reader_url(self) -> str:
        return self.stack.login("nightlabel_reader").url()

    def new_bucket(self) -> str:
        name = f"night-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def put_all(self, bucket: str, objects: dict[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: self.put(bucket, *item), objects.items()))

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Ask the results database as a reader."""
        return self._ask(self.reader_url, sql, values)

    def owner_rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Ask it for what readers may not see."""
        return self._ask(self.stack.login("nightlabel_owner").url(), sql, values)

    @staticmethod
    def _ask(url: str, sql: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
        with psycopg.connect(url, row_factory=dict_row) as connection:
            return connection.execute(sql, values).fetchall()

    def labels(self, bucket: str) -> dict[str, str]:
        sql = "SELECT object_key, label FROM latest_prediction WHERE bucket = %s"
        return {row["object_key"]: row["label"] for row in self.rows(sql, bucket)}

    def unpause(self, dag_id: str) -> None:
        """Let the runs of a Dag start, once the Dag was parsed."""
        deadline = time.monotonic() + PARSE_TIMEOUT_S
        while self.api.get(f"/api/v2/dags/{dag_id}") is None:
            assert time.monotonic() < deadline, f"{dag_id} was never parsed"
            time.sleep(0.3)
        self.api.patch(f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def delete_pool(self, name: str) -> None:
        path = f"/api/v2/pools/{name}"
        self.api._checked("DELETE", path, *self.api._authorised("DELETE", path, None))

    def restore_pools(self) -> None:
        self.api.set_pools(self.stack.pool_slots())

    def airflow_processes(self) -> dict[str, list[int]]:
        """Part of Airflow -> its process and those below it."""
        return {name: [pid, *children(pid)] for name, pid in self.stack.airflow.pids.items()}
