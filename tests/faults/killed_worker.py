"""The process that is killed: everything is imported once, then each attempt is a fork of its own.

``python tests/faults/killed_worker.py`` reads commands as lines of JSON and answers with lines of JSON (see
``crashing.Nursery``). A fork opens its own connections and runs the product's own entry points; the ports that it
hands to them are wrapped, so that the process dies at the nth passing of a named point. What it fetched and computed
it has written to a file before it goes on, so that the file outlives it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn
from uuid import UUID

POINTS = (
    "after_claim",
    "after_fetch",
    "after_predict",
    "before_commit",
    "in_commit",
    "after_commit",
    "before_finish",
    "after_finish",
)
"""Where an attempt at a shard can die, in the order of its passing; the last is before the task reports."""

PLANNING_POINTS = ("after_list", "in_plan", "after_plan")
REPORTING_POINTS = ("in_report", "after_report")
WHILE_IT_RUNS = {"in_commit", "in_plan", "in_report"}
"""Points that are somewhere inside a statement: death comes a drawn time after it was begun."""

EXIT_DONE, EXIT_FAILED, EXIT_STALE, EXIT_INTERRUPTED = 0, 1, 75, 130
PR_SET_CHILD_SUBREAPER = 36

Say = Callable[..., None]


class Fate:
    """Where this process dies, and how often it has passed each point.

    Args:
        say: Tells what happens.
        death: ``point``, ``nth``, ``signal``, ``delay_s`` and ``kill_after_s`` (of a SIGKILL that follows); or None.
    """

    def __init__(self, say: Say, death: dict[str, Any] | None) -> None:
        self._say = say
        self._death = death
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def passing(self, point: str) -> None:
        """Go on, or die here."""
        with self._lock:
            self._passed[point] += 1
            death = self._death
            if death is None or death["point"] != point or self._passed[point] != death["nth"]:
                return
        if point in WHILE_IT_RUNS:
            later(death["delay_s"], lambda: self._die(death))
        else:
            self._die(death)

    def _die(self, death: dict[str, Any]) -> None:
        self._say("dying")
        if death["kill_after_s"] is not None:
            later(death["kill_after_s"], lambda: os.kill(os.getpid(), signal.SIGKILL))
        os.kill(os.getpid(), death["signal"])


def later(delay_s: float, act: Callable[[], None]) -> None:
    def wait() -> None:
        time.sleep(delay_s)
        act()

    threading.Thread(target=wait, daemon=True).start()


class Watched:
    """Passes on everything that is not watched."""

    def __init__(self, inner: Any, say: Say, fate: Fate) -> None:
        self._inner = inner
        self._say = say
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WatchedStore(Watched):
    def list_pages(self, bucket: str, prefix: str) -> Iterator[Any]:
        for page in self._inner.list_pages(bucket, prefix):
            self._fate.passing("after_list")
            yield page
        self._fate.passing("in_plan")

    def fetch(self, ref: Any, **options: Any) -> Any:
        self._say("fetched", key=ref.key)
        data = self._inner.fetch(ref, **options)
        self._fate.passing("after_fetch")
        return data


class WatchedHandle(Watched):
    def predict(self, pixels: Any) -> Any:
        self._say("predicted", pixels=[hashlib.sha256(image.tobytes()).hexdigest() for image in pixels])
        scores = self._inner.predict(pixels)
        self._fate.passing("after_predict")
        return scores


class WatchedSink(Watched):
    def claim_shard(self, *args: Any, **options: Any) -> Any:
        shard = self._inner.claim_shard(*args, **options)
        self._say("claimed", attempt=shard.attempt)
        self._fate.passing("after_claim")
        return shard

    def record_batch(self, *args: Any, **options: Any) -> None:
        self._fate.passing("before_commit")
        self._fate.passing("in_commit")
        self._inner.record_batch(*args, **options)
        self._say("recorded")
        self._fate.passing("after_commit")

    def finish_shard(self, *args: Any, **options: Any) -> Any:
        self._fate.passing("before_finish")
        stats = self._inner.finish_shard(*args, **options)
        self._fate.passing("after_finish")
        return stats

    def finish_run(self, *args: Any, **options: Any) -> Any:
        self._fate.passing("in_report")
        summary = self._inner.finish_run(*args, **options)
        self._fate.passing("after_report")
        return summary


def work(task: dict[str, Any], session: Any, asked: list[Callable[[], None]]) -> None:
    """Do what a task of a run does: ``discover``, ``run_shard`` or ``finish_run``, as ``task["do"]`` says.

    Args:
        task: What to do.
        session: A boto3 session.
        asked: Gets what to call when somebody asks the task to end.
    """
    from inference import wiring
    from inference.settings import read_settings
    from inference.types import Device, ModelId, RunRequest

    log = os.open(task["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(event: str, **values: object) -> None:
        os.write(log, json.dumps({"event": event, **values}).encode() + b"\n")

    say("began")
    fate = Fate(say, task["death"])
    settings = read_settings(database_url=task["database"])
    store = WatchedStore(wiring.open_store(settings, session=session), say, fate)
    with wiring.open_sink(settings) as opened:
        asked.append(opened.give_up)
        sink: Any = WatchedSink(opened, say, fate)
        if task["do"] == "discover":
            plan = wiring.discover(RunRequest(**task["request"]), store=store, sink=sink)
            fate.passing("after_plan")
            say("planned", run_id=str(plan.run_id), shards=plan.shards)
            return
        run_id = UUID(task["run_id"])
        if task["do"] == "finish_run":
            say("closed", state=wiring.finish_run(run_id, sink=sink).state)
            return

        def load(model: ModelId, device: Device) -> Any:
            return WatchedHandle(wiring.load_model(model, sink, settings, device=device), say, fate)

        stats = wiring.run_shard(run_id, task["shard"], store=store, sink=sink, settings=settings, load=load)
        counts = {name: getattr(stats, name) for name in ("images", "labelled", "dead", "gone", "done_elsewhere")}
    say("reported", **counts)


def live(task: dict[str, Any], session: Any) -> NoReturn:
    """Be an attempt: a process in a session of its own, which SIGTERM interrupts as it does the command line.

    Or asks, where ``task["is_asked"]``: Airflow then calls the operator's ``on_kill`` and lets the task go on.
    """
    from inference.errors import RunInterruptedError, StaleAttemptError

    asked: list[Callable[[], None]] = []

    def ask(*_: object) -> None:
        for end_soon in asked:
            end_soon()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, ask if task["is_asked"] else signal.default_int_handler)
    try:
        work(task, session, asked)
    except (KeyboardInterrupt, RunInterruptedError):
        sys.exit(EXIT_INTERRUPTED)
    except StaleAttemptError:
        sys.exit(EXIT_STALE)
    except BaseException:  # noqa: BLE001 - whatever it is, the test has to read it
        traceback.print_exc()
        sys.exit(EXIT_FAILED)
    sys.exit(EXIT_DONE)


def main() -> None:
    """Start, signal and bury what the commands name, until they end; whatever still lives then is killed."""
    import boto3

    import inference.engines.litert
    import inference.models.registry
    import inference.models.resolve
    import inference.models.store
    import inference.runner
    import inference.sinks.postgres
    import inference.stores.s3
    import inference.wiring  # noqa: F401 - imported once for all forks

    # Whoever loses its parent becomes a child of this process, where the tests find it.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    session = boto3.Session()
    session.client("s3")  # opens nothing; the session keeps the protocol's description, which takes long to read
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    os.set_blocking(wake_r, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    living: set[int] = set()
    unread = b""

    def answer(**values: object) -> None:
        os.write(1, json.dumps(values).encode() + b"\n")

    answer(ready=True)
    while True:
        readable, _, _ = select.select([0, wake_r], [], [])
        if wake_r in readable:
            with suppress(BlockingIOError):
                os.read(wake_r, 4096)
            for pid, status in changed_children():
                if os.WIFSTOPPED(status):
                    answer(stopped=pid)
                else:
                    living.discard(pid)
                    answer(ended=pid, status=os.waitstatus_to_exitcode(status))
        if 0 not in readable:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if command["command"] == "signal":
                if is_there := command["pid"] in living:
                    os.kill(command["pid"], command["signal"])
                answer(sent=command["pid"], is_there=is_there)
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(wake_r)
                os.close(wake_w)
                detach(command["out"], command["err"])
                if command["command"] == "program":
                    os.execve(command["arguments"][0], command["arguments"], command["environment"])  # noqa: S606
                faulthandler.enable(sys.stderr)
                live(command, session)
            living.add(pid)
            answer(started=pid, id=command["id"])
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def changed_children() -> Iterator[tuple[int, int]]:
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
            yield child


def detach(out: str, err: str) -> None:
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for target, opened in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(out, flags)), (2, os.open(err, flags))):
        os.dup2(opened, target)
        os.close(opened)


if __name__ == "__main__":
    main()
