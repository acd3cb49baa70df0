"""The real Airflow on the embedded Postgres: four processes of their own, LocalExecutor. Starts servers.

Not ``airflow standalone``: here each part has a log and an exit code of its own, all start at once out of one warm
process (``airflow_parts``), and none can live on after the one that started it.
"""

from __future__ import annotations

import base64
import json
import os
import secrets as random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from local_stack.airflow_parts import MAX_RESTARTS, MIGRATION, RESTARTS_WITHIN_S
from local_stack.databases import Login
from local_stack.processes import (
    LOOPBACK,
    ServerProcess,
    StackError,
    kept_secret,
    log_tail,
    private_folder,
    require_free_port,
    write_private,
)

USER = "admin"
REQUEST_TIMEOUT_S = 30.0
STOP_PATIENCE_S = 12.0
"""The warm process has patience of its own with each part, less than this."""


def pool_slots(cores: int, engine_threads: int) -> dict[str, int]:
    """Return the slots of each pool.

    Args:
        cores: Cores that this machine gives us.
        engine_threads: Threads that the engine of one task uses; tasks on one host then do not fight over cores.
    """
    return {"classify_cpu": max(1, cores // engine_threads), "classify_gpu": 1}


@dataclass(frozen=True, slots=True)
class Restart:
    """A part that ended and was started again."""

    part: str
    how: str
    """How it ended, such as ``signal SIGKILL``."""
    at: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.at).astimezone()
        return f"Airflow's {self.part} ended with {self.how} and was started again at {when:%H:%M:%S}"


class EmbeddedAirflow:
    """Airflow's api-server, scheduler, dag processor and triggerer.

    Attributes:
        home: Airflow's home folder: logs, and the note of what was migrated.
        port: Loopback port of the api-server.
        server: The warm process, parent of the four parts.
    """

    def __init__(
        self,
        home: Path,
        *,
        secrets: Path,
        port: int,
        metadata: Login,
        dags_folder: Path,
        plugins_folder: Path,
        environment: Mapping[str, str],
        setting: str = "NIGHTLABEL_AIRFLOW_PORT",
    ) -> None:
        """Describe an Airflow; nothing is started.

        Args:
            home: Made when missing.
            secrets: Folder of the generated secrets.
            port: Loopback port of the api-server.
            metadata: Login for the metadata database.
            dags_folder: Where the Dags are.
            plugins_folder: Where the plugins are.
            environment: What every process gets besides Airflow's own settings: connections, settings of tasks.
            setting: Name of the setting of the port, for error messages.
        """
        self.home = home.absolute()
        self.port = port
        self.setting = setting
        self._secrets = secrets
        self._metadata = metadata
        self._dags_folder = dags_folder
        self._plugins_folder = plugins_folder
        self._environment = dict(environment)
        self.server = ServerProcess("Airflow", self.home / "airflow.log")

    @property
    def url(self) -> str:
        """Address of the UI and the API."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def password(self) -> str:
        """The password of the user ``admin``."""
        passwords: dict[str, str] = json.loads(kept_secret(self._passwords_file, make=_make_passwords))
        return passwords[USER]

    @property
    def _passwords_file(self) -> Path:
        return self._secrets / "airflow_passwords.json"

    def environment(self) -> dict[str, str]:
        """Return the whole environment of Airflow's processes; there is no configuration file to edit."""
        cores = len(os.sched_getaffinity(0))
        folders = {
            "AIRFLOW_HOME": self.home,
            "AIRFLOW__CORE__DAGS_FOLDER": self._dags_folder,
            "AIRFLOW__CORE__PLUGINS_FOLDER": self._plugins_folder,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self._passwords_file,
        }
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__FERNET_KEY": kept_secret(self._secrets / "airflow_fernet.key", make=_make_fernet_key),
            # The timetable starts nothing by surprise, and a run that is triggered should not wait for a switch.
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": str(max(4, 2 * cores)),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            # The default asks the name server for a full name, which can take seconds where there is none.
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._metadata.url("psycopg2"),
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": kept_secret(self._secrets / "airflow_api.key"),
            "AIRFLOW__API_AUTH__JWT_SECRET": kept_secret(
                self._secrets / "airflow_jwt.key", make=lambda: random.token_urlsafe(64)
            ),
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL": "300",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # A worker that is gone without a word is seen within half a minute instead of five. Each sends a sign of
            # life a second, so that one which is only slow is not taken for gone.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            # Tasks of a scheduler that is gone start anew when it has been silent for half a minute; default five.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            # A task's supervisor sleeps this long between looks at its task, even when the task has just ended.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # These would ask the internet.
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "DO_NOT_TRACK": "1",
            "SCARF_ANALYTICS": "false",
        }
        return {**self._environment, **{name: str(path) for name, path in folders.items()}, **settings}

    def needs_migration(self, revision: str | None) -> bool:
        """Whether the metadata is not what the installed Airflow last left.

        Args:
            revision: What the metadata is at.
        """
        try:
            migrated = json.loads(self._migrated_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return True
        return bool(migrated != {"airflow": version("apache-airflow-core"), "revision": revision})

    def note_migration(self, revision: str | None) -> None:
        """Remember that the metadata is what the installed Airflow wants."""
        write_private(
            self._migrated_file, json.dumps({"airflow": version("apache-airflow-core"), "revision": revision})
        )

    @property
    def _migrated_file(self) -> Path:
        return self.home / "migrated.json"

    def launch(self, *, migrate: bool) -> None:
        """Start the parts without waiting for them.

        Args:
            migrate: Bring the metadata up to date first.

        Raises:
            StackError: the port is taken.
        """
        private_folder(self.home)
        require_free_port(self.port, "Airflow's api-server", self.setting)
        _ = self.password  # the api-server would make up one of its own
        self._parts_file.unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, "-m", "local_stack.airflow_parts", self.home]
        self.server.start(
            [*command, *(["--migrate"] if migrate else [])], environment=self.environment(), folder=self.home
        )

    @property
    def _parts_file(self) -> Path:
        return self.home / "parts.json"

    def _parts(self) -> dict[str, Any]:
        """Return what the warm process wrote down; nothing before it has forked."""
        try:
            parts: dict[str, Any] = json.loads(self._parts_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return parts

    @property
    def restarts(self) -> list[Restart]:
        """The parts that were started again since the start, in order."""
        return [Restart(**restart) for restart in self._parts().get("restarts", [])]

    @property
    def pids(self) -> dict[str, int]:
        """The pid of each running part; empty until the metadata is up to date and they were forked."""
        return dict(self._parts().get("pids", {}))

    def check(self) -> None:
        """Check that no part has died for good.

        Raises:
            StackError: one has; with the end of its log.
        """
        if self.server.is_running or self.server.pid is None:
            return
        parts = self._parts()
        if "ended" not in parts:
            raise self.server.dead_error()
        part, how = parts["ended"], parts["how"]
        log = self.home / f"{part}.log"
        again = (
            f" after {MAX_RESTARTS} restarts within {RESTARTS_WITHIN_S / 60:.0f} minutes" if part != MIGRATION else ""
        )
        raise StackError(
            f"Airflow's {part} ended with {how}{again}; the last lines of its log {log} are:\n{log_tail(log)}"
        )

    def stop(self) -> None:
        """Stop all parts; returns when nothing of them is left."""
        self.server.stop(STOP_PATIENCE_S)

    def api(self) -> AirflowApi:
        """Return a client that logs in as the user ``admin``."""
        return AirflowApi(self.port, USER, self.password)


class AirflowApi:
    """Airflow's REST API, as much of it as the stack needs, on the standard library."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._port = port
        self._login = {"username": user, "password": password}
        self._token: str | None = None

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return the answer of ``GET``, or None if there is no such thing."""
        status, answer = self._authorised("GET", path, None)
        return None if status == 404 else self._checked("GET", path, status, answer)

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the answer of ``POST``."""
        return self._checked("POST", path, *self._authorised("POST", path, body))

    def patch(self, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the answer of ``PATCH``."""
        return self._checked("PATCH", path, *self._authorised("PATCH", path, body))

    def health(self) -> dict[str, dict[str, Any]]:
        """Return what Airflow says of its parts; empty while the api-server does not answer."""
        try:
            status, answer = self._request("GET", "/api/v2/monitor/health", None, {})
        except (OSError, HTTPException):
            return {}
        return answer if status == 200 and isinstance(answer, dict) else {}

    def warm_up(self) -> None:
        """Make the first request to the part of the API that tasks use.

        It is built at that moment and answers nobody for some seconds, longer than a task waits for an answer.
        """
        self._request("GET", "/execution/health", None, {})

    def set_pools(self, slots: Mapping[str, int]) -> None:
        """Create the pools that are missing and correct the slots of the others."""
        for name, number in slots.items():
            pool = self.get(f"/api/v2/pools/{quote(name)}")
            if pool is None:
                text = "Tasks that classify at the same time; sized to this machine"
                body = {"name": name, "slots": number, "description": text, "include_deferred": False}
                self.post("/api/v2/pools", body)
            elif pool["slots"] != number:
                # Airflow wants the whole pool, whatever the mask says.
                body = {"pool": name, "slots": number, "include_deferred": pool["include_deferred"]}
                self.patch(f"/api/v2/pools/{quote(name)}?update_mask=slots", body)

    def _authorised(self, method: str, path: str, body: object) -> tuple[int, Any]:
        had_token = self._token is not None
        if self._token is None:
            status, answer = self._request("POST", "/auth/token", self._login, {})
            self._token = str(self._checked("POST", "/auth/token", status, answer)["access_token"])
        status, answer = self._request(method, path, body, {"Authorization": f"Bearer {self._token}"})
        if status == 401 and had_token:  # it has expired
            self._token = None
            return self._authorised(method, path, body)
        return status, answer

    def _request(self, method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, Any]:
        # No proxy of the user's environment comes between, as it would with urllib.
        connection = HTTPConnection(LOOPBACK, self._port, timeout=REQUEST_TIMEOUT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text) if text else None
        except ValueError:
            return response.status, text.decode("utf-8", "replace")

    def _checked(self, method: str, path: str, status: int, answer: Any) -> Any:  # noqa: ANN401 - JSON
        if status >= 400:
            raise StackError(f"Airflow's API answered {method} {path} with {status}: {json.dumps(answer)[:500]}")
        return answer


def _make_fernet_key() -> str:
    return base64.urlsafe_b64encode(random.token_bytes(32)).decode()


def _make_passwords() -> str:
    return json.dumps({USER: random.token_urlsafe(15)})
