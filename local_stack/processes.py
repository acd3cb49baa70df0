"""Child processes, ports and secrets: what every part of the embedded stack needs. Touches the system, no server's own.

A part runs in a session of its own, so that a Ctrl-C in the terminal reaches the launcher only, and all that the part
starts can be found by the session; and it is tethered: when the launcher dies, however it dies, the kernel tells it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
TETHER = Path(__file__).with_name("tether.py")
LOG_TAIL_LINES = 12


class StackError(Exception):
    """Something about the embedded stack that its user can understand and change; the message says how."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """Whom a part runs as, where that is not the present user."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from a later one that got the same pid."""

    pid: int
    started_ticks: int
    """Clock ticks since the machine started."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a living process, or None; a zombie does not live."""
        stat = _read_stat(pid)
        return cls(pid, stat.started_ticks) if stat else None

    @property
    def is_alive(self) -> bool:
        """Whether exactly this process still runs."""
        return ProcessIdentity.of(self.pid) == self


@dataclass(frozen=True, slots=True)
class _Stat:
    parent_pid: int
    session: int
    started_ticks: int


def _read_stat(pid: int) -> _Stat | None:
    """Read what is needed of ``/proc/<pid>/stat``; None for a process that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything, brackets too
    if fields[0] in "ZX":
        return None
    return _Stat(parent_pid=int(fields[1]), session=int(fields[3]), started_ticks=int(fields[19]))


def families(leaders: Iterable[ProcessIdentity]) -> set[ProcessIdentity]:
    """Return the living processes of these leaders' sessions and their descendants, even where a leader is gone.

    A session's number is free again when its last process ends; a stranger that got it is told by its start.
    """
    stats = _read_stats()
    found: set[int] = set()
    for leader in leaders:
        stat = stats.get(leader.pid)
        if stat is None or stat.started_ticks == leader.started_ticks:
            found |= {
                pid
                for pid, stat in stats.items()
                if stat.session == leader.pid and stat.started_ticks >= leader.started_ticks
            }
    return _identities(_with_descendants(found, stats), stats)


def orphans(session: int, known: Iterable[int]) -> set[ProcessIdentity]:
    """Return the living processes of a session that are neither known, nor below a known one, nor its leader."""
    stats = _read_stats()
    members = {pid for pid, stat in stats.items() if stat.session == session}
    return _identities(members - {session} - _with_descendants(set(known), stats), stats)


def child_pids(pid: int) -> set[int]:
    """Return the processes that a process has started; while some of them end, others may be missing."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found |= {int(child) for child in task.read_text(encoding="ascii").split()}
    return found


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty text if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\x00", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _read_stats() -> dict[int, _Stat]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid: stat for pid in pids if (stat := _read_stat(pid))}


def _with_descendants(pids: set[int], stats: Mapping[int, _Stat]) -> set[int]:
    found = set(pids)
    while children := {pid for pid, stat in stats.items() if stat.parent_pid in found} - found:
        found |= children
    return found


def _identities(pids: Iterable[int], stats: Mapping[int, _Stat]) -> set[ProcessIdentity]:
    return {ProcessIdentity(pid, stats[pid].started_ticks) for pid in pids}


def end_processes(identities: Iterable[ProcessIdentity], *, patience_s: float, first: int = signal.SIGTERM) -> None:
    """Ask these processes to end, wait, and kill what is left; returns when all are gone."""
    left = {identity for identity in identities if identity.is_alive}
    for identity in left:
        _send(identity, first)
    wait_until(lambda: not any(identity.is_alive for identity in left), patience_s)
    left = {identity for identity in left if identity.is_alive}
    for identity in left:
        _send(identity, signal.SIGKILL)
    wait_until(lambda: not any(identity.is_alive for identity in left), 5.0)


def _send(identity: ProcessIdentity, number: int) -> None:
    if identity.is_alive:
        with suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def wait_until(is_done: Callable[[], bool], timeout_s: float, *, interval_s: float = 0.02) -> bool:
    """Poll until ``is_done`` says yes or the time is over; return its last answer."""
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            return is_done()
        time.sleep(interval_s)
    return True


class ServerProcess:
    """One running part: a tethered child with a log file."""

    def __init__(
        self, name: str, log: Path, *, stop_signal: int = signal.SIGTERM, death_signal: int | None = None
    ) -> None:
        """Describe a part; nothing is started.

        Args:
            name: As error messages call it.
            log: File of its output.
            stop_signal: What asks it to end.
            death_signal: What the kernel sends it when its starter has died; ``stop_signal`` if left out.
        """
        self.name = name
        self.log = log
        self.stop_signal = stop_signal
        self.death_signal = stop_signal if death_signal is None else death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._leader: ProcessIdentity | None = None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        folder: Path,
        user: SystemUser | None = None,
    ) -> None:
        """Start the program in ``folder``, with exactly ``environment``, its output in the log.

        The log of the start before is kept beside it. The program ends when the *thread* that called this ends, so
        call it from one that stays.
        """
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with open(os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
            self._process = subprocess.Popen(
                tethered(command, self.death_signal, user),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        self._leader = ProcessIdentity.of(self._process.pid)

    @property
    def pid(self) -> int | None:
        """The pid, which is the id of the session too; None before the start."""
        return self._process.pid if self._process else None

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process that was started, for finding it and its family again from another one."""
        return self._leader

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def dead_error(self) -> StackError:
        """Say that this part died, with the end of its log."""
        return StackError(
            f"{self.name} ended with {exit_words(self.exit_code)}; the last lines of its log {self.log} are:\n"
            + log_tail(self.log)
        )

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the part answers.

        Raises:
            StackError: it died, or took longer than ``timeout_s``.
        """
        if wait_until(lambda: not self.is_running or is_ready(), timeout_s) and self.is_running:
            return
        if not self.is_running:
            raise self.dead_error()
        raise StackError(
            f"{self.name} did not get ready within {timeout_s:.0f} s; the last lines of its log {self.log} are:\n"
            + log_tail(self.log)
        )

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.stop_signal)

    def stop(self, patience_s: float = 10.0) -> None:
        """Stop the part and everything that it started."""
        if self._process is None or self._leader is None:
            return
        family = families([self._leader])
        self.ask_to_stop()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_processes(family | families([self._leader]), patience_s=1.0)


def tethered(command: Sequence[str | Path], death_signal: int, user: SystemUser | None = None) -> list[str]:
    """Return the command line that runs ``command`` so that it ends with the calling thread."""
    uid, gid = (user.uid, user.gid) if user else (-1, -1)
    numbers = [str(int(number)) for number in (death_signal, os.getpid(), uid, gid)]
    return [sys.executable, "-I", "-S", str(TETHER), *numbers, *(str(word) for word in command)]


def exit_words(code: int | None) -> str:
    """Say how a process ended: ``exit code 1``, or ``signal SIGKILL`` for a negative code."""
    return f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log, indented."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"  (no log: {error.strerror})"
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines()[-lines:]) or "  (empty)"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free_port(port: int, part: str, setting: str) -> None:
    """Check that ``part`` can have its port.

    Raises:
        StackError: somebody listens there already.
    """
    if not port_is_free(port):
        raise StackError(
            f"{part} cannot listen on {LOOPBACK}:{port} because another program has that port; "
            f"stop that program or choose another port by {setting}."
        )


def free_ports(count: int) -> list[int]:
    """Return different free loopback ports below the range from which outgoing connections are numbered."""
    found: list[int] = []
    while len(found) < count:
        port = 20_000 + secrets.randbelow(12_000)
        if port not in found and port_is_free(port):
            found.append(port)
    return found


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may read and write, mode 0700, and return it.

    That the group may pass through stays as it is: a server of ours that runs as another user may be at work below.

    Raises:
        StackError: it cannot be made, or is no folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o067:
            folder.chmod(mode & 0o710)
    except OSError as error:
        raise StackError(
            f"The stack cannot keep its state in {folder} ({error.strerror}); "
            "choose another folder by NIGHTLABEL_STATE."
        ) from error
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, mode 0600, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    with open(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def kept_secret(path: Path, *, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """Return the secret of this file; the first call makes it and keeps it, mode 0600."""
    if not path.exists():
        write_private(path, make())
    return path.read_text(encoding="utf-8")
