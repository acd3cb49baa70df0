"""Starting a Python module as a child process and talking to it. Standard library only.

``subprocess`` and not ``multiprocessing``: Airflow's and Celery's workers are daemonic processes, which may have no
children of the latter kind. Messages are JSON and bytes, never pickles: a child that decodes hostile bytes is not
believed to send sound objects.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

PR_SET_PDEATHSIG: Final = 1

_HARMLESS_VARIABLES: Final = (
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_", "TZ", "LD_LIBRARY_PATH", "PYTHON", "VIRTUAL_ENV"),
    *("OMP_", "OPENBLAS_", "MALLOC_"),
)
"""Beginnings of the names of what an interpreter and its libraries look for, and nobody keeps a secret in."""

LOST: Final = (EOFError, OSError)
"""What sending or receiving raises when the other side is gone."""


def send(channel: Connection, message: dict[str, Any]) -> None:
    """Send a message.

    Raises:
        OSError: the other side is gone.
    """
    channel.send_bytes(json.dumps(message).encode())


def receive(channel: Connection) -> dict[str, Any]:
    """Wait for a message.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    message: dict[str, Any] = json.loads(channel.recv_bytes())
    return message


class Child:
    """A process that runs a Python module with this interpreter, and a channel to it. A context manager.

    It gets the channel's file descriptor and this process's id as arguments, and hands them to ``join_parent``. It is
    in a process group of its own, so that Ctrl-C reaches its parent only, and it does not outlive its parent.

    Args:
        module: Run as ``python -m``, without the current folder among those that modules are looked for in.
        is_trusted: Whether it gets this process's whole environment, credentials and all, or what an interpreter needs.
        allowed: Beginnings of the names of what else it gets of the environment if it is not trusted.
        variables: What its environment has beside that, or instead.
        output: Where its standard output and error go; None for this process's own.
    """

    def __init__(
        self,
        module: str,
        *,
        is_trusted: bool = True,
        allowed: tuple[str, ...] = (),
        variables: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        passed = (*_HARMLESS_VARIABLES, *allowed)
        environment = {name: value for name, value in os.environ.items() if is_trusted or name.startswith(passed)}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                env={**environment, "PYTHONPATH": _python_path(), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
            self.channel = Connection(ours.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def close(self, patience_s: float = 0.0) -> None:
        """End it: by the end of the channel, and by force when it is not gone after some seconds."""
        self.channel.close()
        self.exit_status(patience_s)

    def exit_status(self, patience_s: float = 0.0) -> int:
        """Return how it ended, the signal's negative number if by one; kills it if it does not end by itself."""
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def join_parent(arguments: Sequence[str]) -> Connection:
    """Be a child: die with the parent, and return the channel to it.

    Args:
        arguments: As ``Child`` gave them, without the program's name.
    """
    descriptor, parent_pid = int(arguments[0]), int(arguments[1])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the process that started this one is gone")
    return Connection(descriptor)


def exit_words(status: int) -> str:
    """Return in words how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _python_path() -> str:
    """Return where the child finds this package, also if it is importable here by a changed ``sys.path`` only."""
    ours = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
