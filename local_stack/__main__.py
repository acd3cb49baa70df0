"""The command line of the embedded stack: ``python -m local_stack run|up|down|status``. Starts and ends processes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from local_stack.processes import StackError, families
from local_stack.settings import StackSettings
from local_stack.stack import (
    LauncherLock,
    Stack,
    StackRecord,
    StopAsked,
    launch_in_background,
    started,
    stop_running,
    stop_when_asked,
    watch,
)

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed or not running, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    stop_when_asked()
    try:
        settings = StackSettings.read(os.environ)
        command: Callable[[StackSettings, argparse.Namespace], int] = options.command
        return command(settings, options)
    except StackError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    except StopAsked:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence instead of a traceback
        sys.stderr.write(
            f"error: {type(error).__name__}: {error}; if the state folder is damaged, move it away and start afresh.\n"
        )
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_stack",
        description="Postgres, an S3 store and Airflow on this machine, out of Python packages, on loopback only.",
        epilog="Everything is kept in NIGHTLABEL_STATE (default .state in the repository). The ports are "
        "NIGHTLABEL_AIRFLOW_PORT (8080), NIGHTLABEL_POSTGRES_PORT (5433) and NIGHTLABEL_STORE_PORT (8333).",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="start the stack, label the sample photos, print the labels, stay up")
    run.add_argument("--once", action="store_true", help="stop everything after the run; exit 1 if it failed")
    run.set_defaults(command=_run)
    up = commands.add_parser("up", help="start the stack in the background and return when it is healthy")
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="stop the stack, or what is left of one whose launcher was killed")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="say what runs and where; exit 1 if the stack is not up")
    status.set_defaults(command=_status)
    launch = commands.add_parser("launch", help="start the stack and stay, without the sample run")
    launch.set_defaults(command=_launch)
    return parser


def _tell(line: str) -> None:
    print(line, flush=True)


def _run(settings: StackSettings, options: argparse.Namespace) -> int:
    from local_stack.sample_run import make_console, print_links, run_samples

    console = make_console()
    with LauncherLock(settings.state) as lock:
        if not lock.acquire():
            stack = _running_stack(settings)
            _tell("The stack is up already; it is used, and left running")
            answer = run_samples(stack, console, _tell)
            print_links(stack, console)
            return EXIT_OK if answer.is_success else EXIT_FAILED
        stack = Stack(settings, os.environ)
        with started(stack, _tell):
            answer = run_samples(stack, console, _tell)
            if options.once:
                _tell("The stack stops now; `make up` brings it back:")
                print_links(stack, console)
            else:
                print_links(stack, console)
                _tell("Ctrl-C stops everything.")
                watch(stack, _tell)
        return EXIT_OK if answer.is_success else EXIT_FAILED


def _launch(settings: StackSettings, options: argparse.Namespace) -> int:  # noqa: ARG001 - one shape for all commands
    with LauncherLock(settings.state) as lock:
        if not lock.acquire():
            raise StackError(f"A launcher already has the state folder {settings.state}.")
        stack = Stack(settings, os.environ)
        with started(stack, _tell):
            watch(stack, _tell)
        return EXIT_OK


def _up(settings: StackSettings, options: argparse.Namespace) -> int:  # noqa: ARG001 - one shape for all commands
    from local_stack.sample_run import make_console, print_links

    if LauncherLock(settings.state).is_free():
        launch_in_background(settings, _tell)
    else:
        _running_stack(settings)
        _tell("The stack is up already.")
    print_links(Stack(settings, os.environ), make_console())
    return EXIT_OK


def _down(settings: StackSettings, options: argparse.Namespace) -> int:  # noqa: ARG001 - one shape for all commands
    if not settings.state.exists() or not stop_running(settings):
        _tell("Nothing was running.")
    else:
        _tell("Stopped; nothing of the stack is left running.")
    return EXIT_OK


def _status(settings: StackSettings, options: argparse.Namespace) -> int:  # noqa: ARG001 - one shape for all commands
    from local_stack.sample_run import make_console, print_links

    record = StackRecord(settings.state)
    if not settings.state.exists() or LauncherLock(settings.state).is_free():
        left = sum(identity.is_alive for identity in families(record.parts().values()))
        _tell("The stack is down." + (f" Left behind: {left} processes; `down` ends them." if left else ""))
        if error := record.read().get("error"):
            _tell(f"It ended with: {error}")
        return EXIT_FAILED
    phase = record.read().get("phase")
    _tell(f"The stack is {phase}.")
    stack = Stack(settings, os.environ)
    for name, identity in record.parts().items():
        if identity.is_alive:
            _tell(f"  {name}: process {identity.pid}")
    for name, pid in stack.airflow.pids.items():
        _tell(f"  Airflow's {name}: process {pid}")
    for restart in stack.airflow.restarts:
        _tell(f"  {restart}")
    if phase != "ready":
        return EXIT_FAILED
    print_links(stack, make_console())
    return EXIT_OK


def _running_stack(settings: StackSettings) -> Stack:
    """Return the stack that another launcher runs.

    Raises:
        StackError: it is not ready, or runs on other ports than the settings say.
    """
    record = StackRecord(settings.state).read()
    if record.get("phase") != "ready":
        raise StackError(f"Another launcher has {settings.state} and is {record.get('phase')}; try again in a moment.")
    if record.get("ports") != settings.ports:
        raise StackError(f"The stack is up on other ports, {record.get('ports')}; stop it first, or ask for those.")
    return Stack(settings, os.environ)


if __name__ == "__main__":
    sys.exit(main())
