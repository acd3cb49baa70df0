"""The embedded stack as a whole: start, watch, stop, find again. Starts and ends processes.

One launcher process holds a lock on the state folder, is the parent of every part, and stops them all when it is asked
to end. Each part is tethered to it, so that a launcher that is killed takes its parts along; what is left even so is
found by the record that the launcher keeps in the state folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal

from local_stack.airflow import EmbeddedAirflow, pool_slots
from local_stack.databases import (
    GROUPS,
    Login,
    airflow_login,
    metadata_revision,
    prepare_databases,
    results_login,
)
from local_stack.object_store import REGION, EmbeddedObjectStore, StoreCredentials
from local_stack.postgres import UNPRIVILEGED_USER, EmbeddedPostgres, open_for_postgres
from local_stack.processes import (
    LOOPBACK,
    ProcessIdentity,
    ServerProcess,
    StackError,
    end_processes,
    families,
    private_folder,
    require_free_port,
    wait_until,
    write_private,
)
from local_stack.settings import AIRFLOW_PORT, POSTGRES_PORT, REPOSITORY, STORE_PORT, StackSettings

BUCKET = "photos"
AIRFLOW_TIMEOUT_S = 180.0
MIGRATION_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
WATCH_INTERVAL_S = 0.5

Phase = Literal["starting", "ready", "stopping", "stopped", "failed"]
Tell = Callable[[str], None]


class StopAsked(BaseException):
    """Somebody asked this process to end, by Ctrl-C or a signal."""


class Stack:
    """Postgres, object store and Airflow, configured for each other.

    Attributes:
        settings: Ports and folders.
        postgres: Holds the databases ``airflow`` and ``nightlabel``.
        store: Holds the bucket ``photos``.
        airflow: Runs the Dags.
    """

    def __init__(self, settings: StackSettings, environment: Mapping[str, str]) -> None:
        """Describe a stack; nothing is started, only the folders and secrets are made.

        Args:
            settings: Ports and folders.
            environment: The user's; settings of Nightlabel in it reach the tasks.
        """
        self.settings = settings
        state = private_folder(settings.state)
        open_for_postgres(state)
        self.secrets = private_folder(state / "secrets")
        self.postgres = EmbeddedPostgres(state / "postgres", settings.postgres_port, setting=POSTGRES_PORT)
        self.store = EmbeddedObjectStore(state / "store", settings.store_port, setting=STORE_PORT)
        self._environment = self._child_environment(environment)
        self.airflow = EmbeddedAirflow(
            state / "airflow",
            secrets=self.secrets,
            port=settings.airflow_port,
            metadata=airflow_login(self.secrets, settings.postgres_port),
            dags_folder=settings.dags_folder,
            plugins_folder=settings.plugins_folder,
            environment={**self._environment, **self._connections()},
            setting=AIRFLOW_PORT,
        )
        self.migration = ServerProcess("The migration of the results database", state / "migrate.log")
        self._record = StackRecord(state, settings.ports)
        self._started_s = time.monotonic()

    def login(self, group: str) -> Login:
        """Return the login of the results database that is a member of ``group``, such as ``nightlabel_reader``."""
        return results_login(self.secrets, self.settings.postgres_port, group)

    def start(self, tell: Tell) -> None:
        """Start everything and return when it is healthy.

        Args:
            tell: Gets a line for each part that is ready.

        Raises:
            StackError: a port is taken, or a part died; names it.
        """
        self._started_s = time.monotonic()
        left = self._record.clear_left_over()
        if left:
            tell(f"Ended {left} processes that a killed launcher had left behind")
        self._record.write("starting")
        if not self.settings.dags_folder.is_dir():
            raise StackError(
                f"{self.settings.dags_folder} is no folder; NIGHTLABEL_DAGS_FOLDER says where the Dags are."
            )
        # All ports first: better to know before a cluster has been made.
        require_free_port(self.settings.postgres_port, "Postgres", POSTGRES_PORT)
        require_free_port(self.settings.store_port, "The object store", STORE_PORT)
        require_free_port(self.settings.airflow_port, "Airflow's api-server", AIRFLOW_PORT)
        self.store.launch()
        self._record.add(self.store.server)
        self.postgres.launch()
        self._record.add(self.postgres.server)
        self.postgres.wait_ready()
        tell(f"Postgres ready {self._seconds()}")
        for folder in self.postgres.opened:
            tell(f"Opened {folder} for passing through (o+x): root's Postgres runs as {UNPRIVILEGED_USER}")
        prepare_databases(self.postgres, self.secrets)
        self._launch_results_migration()
        self._start_airflow(tell)
        self._ensure_bucket()
        self._record.write("ready")

    def _ensure_bucket(self) -> None:
        """Create the bucket that the connection ``images_s3`` names as its default, so that a first run finds it."""
        client = self.store.client()
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)

    def _launch_results_migration(self) -> None:
        owner = self.login("nightlabel_owner").url()
        self.migration.start(
            [sys.executable, "-m", "inference", "migrate"],
            environment={**self._environment, "NIGHTLABEL_DATABASE_URL": owner},
            folder=self.settings.state,
        )
        self._record.add(self.migration)

    def _start_airflow(self, tell: Tell) -> None:
        """Bring both databases up to date and Airflow up, side by side."""
        airflow = self.airflow
        migrates = airflow.needs_migration(metadata_revision(self.postgres))
        airflow.launch(migrate=migrates)
        self._record.add(airflow.server)
        waiting: dict[str, Callable[[], bool]] = {
            "Object store": self.store.is_ready,
            "Results database": lambda: self._is_done(self.migration),
            "Airflow": self._airflow_is_healthy,
        }
        api_is_up = False
        deadline = time.monotonic() + AIRFLOW_TIMEOUT_S + MIGRATION_TIMEOUT_S
        while waiting:
            self.check()
            if migrates and airflow.pids:
                migrates = False
                airflow.note_migration(metadata_revision(self.postgres))
                tell(f"Airflow's database ready {self._seconds()}")
            if not api_is_up and airflow.api().health():
                api_is_up = True
                airflow.api().warm_up()
                airflow.api().set_pools(self.pool_slots())
            for name in [name for name, is_ready in waiting.items() if is_ready()]:
                del waiting[name]
                tell(f"{name} ready {self._seconds()}")
            if time.monotonic() > deadline:
                raise StackError(f"{' and '.join(waiting)} did not get ready; the logs are under {self.settings.state}")
            time.sleep(0.1)

    def _airflow_is_healthy(self) -> bool:
        """Whether every part of Airflow has given a sign of life since this start."""
        health = self.airflow.api().health()
        beats = [health.get(part, {}).get(f"latest_{part}_heartbeat") for part in ("scheduler", "dag_processor")]
        since = self._record.started_at
        return bool(health) and all(beat and _timestamp(beat) >= since for beat in beats)

    @staticmethod
    def _is_done(server: ServerProcess) -> bool:
        return server.exit_code == 0

    def pool_slots(self) -> dict[str, int]:
        """Return the slots of each pool on this machine."""
        from inference.settings import available_cores, read_settings

        return pool_slots(available_cores(), read_settings().engine_threads)

    def check(self) -> None:
        """Check that no part has died.

        Raises:
            StackError: one has; with the end of its log.
        """
        for server in (self.postgres.server, self.store.server):
            if server.pid and not server.is_running:
                raise server.dead_error()
        if self.migration.exit_code:
            raise self.migration.dead_error()
        self.airflow.check()

    def stop(self, *, error: str | None = None) -> None:
        """Stop everything; returns when nothing is left.

        Args:
            error: Why, if it is not because somebody asked; kept for ``status`` and ``up``.
        """
        self._record.write("stopping", error=error)
        self.migration.stop(0.0)
        self.airflow.stop()
        self.postgres.server.ask_to_stop()
        self.store.stop()
        self.postgres.stop()
        self._record.clear_left_over()
        self._record.write("failed" if error else "stopped", error=error)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started_s:.1f} s"

    def _child_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the user's environment without what would send a part to somebody else's servers."""
        strangers = ("AIRFLOW", "AWS_", "PG", "NIGHTLABEL_DATABASE_URL", "NIGHTLABEL_MODEL_STORE")
        kept = {
            name: value
            for name, value in environment.items()
            # Airflow's HTTP client fails at the sight of a SOCKS proxy, wherever it is going; we only talk to loopback.
            if not name.startswith(strangers) and not (name.lower().endswith("_proxy") and value.startswith("socks"))
        }
        search_path = [str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
        no_proxy = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), LOOPBACK, "localhost"]))
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(search_path),
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "NIGHTLABEL_MODEL_STORE": str(self.settings.state / "models"),
        }

    def _connections(self) -> dict[str, str]:
        """Return Airflow's connections as environment variables, each with the least rights that it needs."""
        reader: StoreCredentials = self.store.reader
        images = {
            "conn_type": "aws",
            "description": "The embedded object store; may list and read",
            "login": reader.access_key,
            "password": reader.secret_key,
            "extra": {
                "endpoint_url": self.store.endpoint_url,
                "region_name": REGION,
                "bucket": BUCKET,
                "prefix": "",
            },
        }
        connections: dict[str, dict[str, Any]] = {"images_s3": images}
        names = {
            "results_db": "nightlabel_writer",
            "results_db_reader": "nightlabel_reader",
            "results_db_owner": "nightlabel_owner",
        }
        for name, group in names.items():
            login = self.login(group)
            connections[name] = {
                "conn_type": "postgres",
                "description": f"The results database as a member of {group}",
                "host": LOOPBACK,
                "port": login.port,
                "login": login.user,
                "password": login.password,
                "schema": login.database,
            }
        return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}


class StackRecord:
    """What the launcher writes down, so that other commands and a later launcher can find the parts."""

    def __init__(self, state: Path, ports: Mapping[str, int] | None = None) -> None:
        self._path = state / "stack.json"
        self._ports = dict(ports or {})
        self._parts: dict[str, ProcessIdentity] = {}
        self.started_at = time.time()

    def write(self, phase: Phase, *, error: str | None = None) -> None:
        """Write the record as of now."""
        write_private(
            self._path,
            json.dumps(
                {
                    "phase": phase,
                    "error": error,
                    "launcher": asdict(_myself()),
                    "boot_id": _boot_id(),
                    "started_at": self.started_at,
                    "ports": self._ports,
                    "parts": {name: asdict(identity) for name, identity in self._parts.items()},
                },
                indent=1,
            ),
        )

    def add(self, server: ServerProcess) -> None:
        """Note a part that was just started."""
        if server.identity:
            self._parts[server.name] = server.identity
            self.write("starting")

    def read(self) -> dict[str, Any]:
        """Return the last record; empty if there is none."""
        try:
            record: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record

    def parts(self) -> dict[str, ProcessIdentity]:
        """Return the recorded parts; empty if they were another boot's."""
        record = self.read()
        if record.get("boot_id") != _boot_id():
            return {}
        return {name: ProcessIdentity(**identity) for name, identity in record.get("parts", {}).items()}

    def launcher(self) -> ProcessIdentity | None:
        """Return the recorded launcher if it lives."""
        record = self.read()
        if not record or record.get("boot_id") != _boot_id():
            return None
        identity = ProcessIdentity(**record["launcher"])
        return identity if identity.is_alive else None

    def clear_left_over(self) -> int:
        """End what is left of the recorded parts; returns how many processes that were."""
        left = families(self.parts().values())
        # Interrupt, because Postgres takes a terminate as: wait until all clients have gone.
        end_processes(left, patience_s=8.0, first=signal.SIGINT)
        self._parts = {}
        if record := self.read():  # numbers of ended processes are given to strangers some day
            write_private(self._path, json.dumps({**record, "parts": {}}, indent=1))
        return len(left)


class LauncherLock:
    """The lock on a state folder that a launcher holds while it lives; the kernel lets go of it, however that ends."""

    def __init__(self, state: Path) -> None:
        self._path = private_folder(state) / "launcher.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock, if nobody has it."""
        file = open(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600), "r+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def is_free(self) -> bool:
        """Whether nobody has the lock."""
        if not self.acquire():
            return False
        self.release()
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> LauncherLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def stop_when_asked() -> None:
    """Turn the first Ctrl-C, SIGTERM or hang-up into ``StopAsked``; later ones do not disturb the stopping."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        raise StopAsked

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, ask)


@contextmanager
def started(stack: Stack, tell: Tell) -> Iterator[None]:
    """Start the stack, and stop it whatever happens.

    Raises:
        StackError: it could not start, or a part died meanwhile.
    """
    error: str | None = None
    try:
        stack.start(tell)
        yield
    except StackError as stack_error:
        error = str(stack_error)
        raise
    except Exception as unforeseen:
        error = f"{type(unforeseen).__name__}: {unforeseen}"
        raise
    finally:
        asked_s = time.monotonic()
        stack.stop(error=error)
        tell(f"Everything stopped in {time.monotonic() - asked_s:.1f} s")


def watch(stack: Stack, tell: Tell) -> None:
    """Stay until somebody asks to stop, or a part dies for good.

    Args:
        stack: Started.
        tell: Gets a line for each part of Airflow that ended and was started again.

    Raises:
        StackError: a part died, and not one that is started again.
    """
    told = 0
    with suppress(StopAsked):
        while True:
            try:
                stack.check()
            finally:
                restarts = stack.airflow.restarts
                for restart in restarts[told:]:
                    tell(str(restart))
                told = len(restarts)
            time.sleep(WATCH_INTERVAL_S)


def launch_in_background(settings: StackSettings, tell: Tell) -> None:
    """Start a launcher that lives on after this process, and wait until its stack is healthy.

    Raises:
        StackError: it could not start; with the reason that it left.
    """
    state = private_folder(settings.state)
    progress = state / "launcher.log"
    with open(os.open(progress, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "local_stack", "launch"],
            env={**os.environ, **settings.environment()},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = StackRecord(state)
    shown = 0
    try:
        while True:
            code = launcher.poll()
            lines = progress.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines[shown:]:
                if not line.startswith("error: "):  # it is raised below, once
                    tell(line)
            shown = len(lines)
            if code is not None:
                raise StackError(record.read().get("error") or f"The launcher ended early; its log is {progress}.")
            if record.read().get("launcher", {}).get("pid") == launcher.pid and record.read()["phase"] == "ready":
                return
            time.sleep(0.1)
    except StopAsked:
        launcher.terminate()
        launcher.wait(STOP_TIMEOUT_S)
        raise


def stop_running(settings: StackSettings) -> bool:
    """Stop the stack of this state folder, whether its launcher lives or was killed.

    Returns:
        Whether anything was running.

    Raises:
        StackError: the launcher does not let go.
    """
    record = StackRecord(settings.state)
    launcher = record.launcher()
    lock = LauncherLock(settings.state)
    was_running = False
    if launcher is not None and not lock.is_free():
        was_running = True
        os.kill(launcher.pid, signal.SIGTERM)
        if not wait_until(lambda: not launcher.is_alive, STOP_TIMEOUT_S, interval_s=0.1):
            raise StackError(
                f"The launcher (process {launcher.pid}) did not stop within {STOP_TIMEOUT_S:.0f} s; "
                f"kill it and run this again to clear what it leaves."
            )
    with lock:
        if not lock.acquire():
            raise StackError(f"Somebody is just starting the stack of {settings.state}; try again in a moment.")
        left = record.clear_left_over()
        EmbeddedObjectStore(settings.state / "store", settings.store_port).remove_sockets()
        return left > 0 or was_running


def _timestamp(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _myself() -> ProcessIdentity:
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:  # only without /proc
        raise StackError("The embedded stack needs Linux with /proc.")
    return identity


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


__all__ = [
    "BUCKET",
    "GROUPS",
    "LauncherLock",
    "Stack",
    "StackRecord",
    "StopAsked",
    "launch_in_background",
    "started",
    "stop_running",
    "stop_when_asked",
    "watch",
]
