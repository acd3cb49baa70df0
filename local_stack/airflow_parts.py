"""Airflow's parts out of one warm process: import Airflow once, fork the parts, watch them. Run as a module.

Importing Airflow takes each part four seconds of a core, and the parts share most of it. Each part still is a process
of its own that runs Airflow's own command line, with its own log and exit code. Everything that Airflow's parts have in
common is loaded here and nothing else: no Dag, no provider's client, no library of ours.

A part that ends is started again, as any supervisor of services would; one that ends again and again is not.

Usage: ``python -m local_stack.airflow_parts FOLDER [--migrate]``. The folder gets ``parts.json`` and each part's log.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from local_stack.processes import (
    ProcessIdentity,
    child_pids,
    command_line,
    end_processes,
    exit_words,
    orphans,
    write_private,
)
from local_stack.tether import die_with_parent

PARTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    # A log server would listen on every address; the api-server reads the same folder.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
MIGRATION = "migration"
STOP_PATIENCE_S = {"triggerer": 1.5}
"""A triggerer takes ten seconds to end even when it has nothing to do; triggers start anew wherever they were."""
DEFAULT_STOP_PATIENCE_S = 4.0
"""A task that runs gets this long to end; the next run does what it left undone."""

LOOK_EVERY_S = 0.5
IDLE_WORKER = "airflow worker -- LocalExecutor: <idle>"
"""What a worker of the scheduler calls itself while it has no task."""

MAX_RESTARTS = 3
"""How often a part is started again within the next time; once more, and everything stops."""
RESTARTS_WITHIN_S = 600.0

SHARED_MODULES = (
    "airflow.__main__",
    "airflow.jobs.job",
    "airflow.jobs.scheduler_job_runner",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.manager",
    "airflow.dag_processing.processor",
    "airflow.api_fastapi.execution_api.app",
    "airflow.api_fastapi.execution_api.routes",
)
"""Loaded before the forks; the scheduler hands the modules of the task runner on to every task that it forks."""


class StopAsked(BaseException):
    """The launcher ends, or wants the parts to end."""


def main(arguments: Sequence[str]) -> int:
    """Run the parts until one of them ends too often or somebody asks to stop; 0 if somebody asked."""
    folder = Path(arguments[0])
    signal.signal(signal.SIGTERM, _ask)
    signal.signal(signal.SIGINT, _ask)
    children: dict[int, str] = {}
    try:
        for name in SHARED_MODULES:
            importlib.import_module(name)
        if threading.active_count() > 1:  # a fork would copy its locks as they are at that moment
            raise RuntimeError(f"Airflow started threads while it was imported: {threading.enumerate()}")
        gc.collect()
        gc.freeze()
        if "--migrate" in arguments:
            children[_fork(folder, MIGRATION, ("db", "migrate"))] = MIGRATION
            _, status = os.wait()
            children.clear()
            if code := os.waitstatus_to_exitcode(status):
                return _note_end(folder, MIGRATION, code, [])
        children |= {_fork(folder, name, words): name for name, words in PARTS.items()}
        restarts: list[dict[str, Any]] = []
        _note_parts(folder, children, restarts)
        while True:
            pid, status = _wait(children)
            name, code = children.pop(pid), os.waitstatus_to_exitcode(status)
            _end_orphans(children)
            if not may_restart([restart["at"] for restart in restarts if restart["part"] == name], time.time()):
                return _note_end(folder, name, code, restarts)
            children[_fork(folder, name, PARTS[name])] = name
            restarts.append({"part": name, "how": exit_words(code), "at": time.time()})
            _note_parts(folder, children, restarts)
    except StopAsked:
        return 0
    finally:
        _stop(children)


def _wait(children: dict[int, str]) -> tuple[int, int]:
    """Return the pid and status of the first part that ends; ends a scheduler that can start no task any more."""
    idle: set[ProcessIdentity] = set()
    [scheduler] = [pid for pid, name in children.items() if name == "scheduler"]
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, status
        if any(not worker.is_alive for worker in idle):
            # Its workers take turns in waiting for a task, with a lock held: the lock of one that is killed in its
            # turn is never given back. A scheduler that is asked to end would wait for its workers.
            print("A worker of the scheduler is gone that waited for a task; ending the scheduler", flush=True)
            os.kill(scheduler, signal.SIGKILL)
        workers = (ProcessIdentity.of(pid) for pid in child_pids(scheduler))
        idle = {worker for worker in workers if worker and command_line(worker.pid).startswith(IDLE_WORKER)}
        time.sleep(LOOK_EVERY_S)


def may_restart(times: Sequence[float], now: float) -> bool:
    """Whether a part may be started again.

    Args:
        times: When it was, in seconds.
        now: In seconds of the same clock.
    """
    return sum(now - time < RESTARTS_WITHIN_S for time in times) < MAX_RESTARTS


def _end_orphans(children: dict[int, str]) -> None:
    """End what a part that is gone has left behind.

    Of a scheduler these are tasks and those who watch over them, whom no other scheduler takes on. Asked to end, they
    say so to the api-server, and the tasks are tried again.
    """
    left = orphans(os.getsid(0), children)
    if left:
        print(f"Ending {len(left)} processes that a part has left behind", flush=True)
        end_processes(left, patience_s=DEFAULT_STOP_PATIENCE_S)


def _note_parts(folder: Path, children: dict[int, str], restarts: list[dict[str, Any]]) -> None:
    """Write down which parts run, and which were started again, for the launcher and other commands."""
    if restarts:
        last = restarts[-1]
        print(f"Started the {last['part']} again, which ended with {last['how']}", flush=True)
    pids = {name: pid for pid, name in children.items()}
    write_private(folder / "parts.json", json.dumps({"pids": pids, "restarts": restarts}))


def _note_end(folder: Path, name: str, code: int, restarts: list[dict[str, Any]]) -> int:
    """Write down which part ended, for the launcher's error message."""
    ended = {"ended": name, "how": exit_words(code), "restarts": restarts}
    write_private(folder / "parts.json", json.dumps(ended))
    return 1


def _fork(folder: Path, name: str, words: Sequence[str]) -> int:
    """Fork a part and return its pid."""
    parent_pid = os.getpid()
    pid = os.fork()
    if not pid:
        _become(folder, name, words, parent_pid)
    return pid


def _become(folder: Path, name: str, words: Sequence[str], parent_pid: int) -> NoReturn:
    """Be a part: a group of its own, its own log, and Airflow's command line."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.setpgid(0, 0)
        die_with_parent(signal.SIGTERM, parent_pid)
        log = folder / f"{name}.log"
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        file = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        sys.argv = ["airflow", *words]
        importlib.import_module("airflow.__main__").main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a process: the log is all that is left
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ask(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StopAsked


def _stop(children: dict[int, str]) -> None:
    """Ask the parts to end, and kill those that take too long."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    asked_s = time.monotonic()
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        children.pop(pid, None)
        for late, name in children.items():
            if time.monotonic() - asked_s > STOP_PATIENCE_S.get(name, DEFAULT_STOP_PATIENCE_S):
                os.kill(late, signal.SIGKILL)
        if not pid:
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
