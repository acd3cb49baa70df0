"""Runs real shards in processes that are killed, by chance and at named points, until the run is finished all the same.

Postgres, the S3 store, the model and every line between them are real; ``killed_worker.py`` says how a process dies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from PIL import Image, ImageOps
from psycopg import sql

from inference.decoding import decode_image
from inference.types import Preprocessing
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import ProcessIdentity, wait_until
from local_stack.samples import PHOTOS, decompression_bomb, photo_bytes
from tests.faults.books import Night, Work, check_books, left_in_database, settled_keys
from tests.faults.killed_worker import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STALE,
    PLANNING_POINTS,
    POINTS,
    REPORTING_POINTS,
    WHILE_IT_RUNS,
)

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("killed_worker.py")

ATTEMPT_LIMIT_S = 120.0
"""Longer than anything here takes, on a machine that does other things too: an attempt that reaches it is stuck."""

GRACE_S = 60.0
"""What Airflow gives a task between SIGTERM and SIGKILL."""

BURIAL_S = 15.0
"""Until nothing of a killed process may be left, neither a child nor a session in the database."""

RANDOM = "random"
KILL, TERM = signal.SIGKILL, signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Death:
    """Where, when and by what an attempt is to die."""

    point: str
    signal: int
    nth: int = 1
    """At which passing of the point."""
    delay_s: float = 0.0
    """After the point was passed, for points inside a statement; after the process began, for ``random``."""
    kill_after_s: float | None = None
    """SIGKILL follows so much later, as when the grace period is over."""
    is_asked: bool = False
    """Whether SIGTERM asks to end, as Airflow's does by ``on_kill``, instead of interrupting."""

    @property
    def name(self) -> str:
        """Which signals it sends."""
        if self.is_asked:
            return "on_kill"
        return signal.Signals(self.signal).name + ("+SIGKILL" if self.kill_after_s is not None else "")


def chance_of(seed: int) -> random.Random:
    """Return what a test draws from."""
    return random.Random(seed)  # noqa: S311 - to be repeated, not to be secret


def draw_death(chance: random.Random, point: str, how: str, *, most: int) -> Death:
    """Return a death at a point: at one of its first ``most`` passings, ``how`` being kill, term, both or ask."""
    once = point in {"after_claim", "before_finish", "after_finish", *PLANNING_POINTS, *REPORTING_POINTS}
    nth = 1 if once else chance.randint(1, most * 4 if point == "after_fetch" else most)
    delay_s = 0.0
    if point in WHILE_IT_RUNS:
        delay_s = chance.uniform(0, 0.06 if point == "in_plan" else 0.012)
    elif point == RANDOM:
        delay_s = chance.uniform(0, 1.2)
    return Death(
        point,
        KILL if how == "kill" else TERM,
        nth=nth,
        delay_s=delay_s,
        kill_after_s=chance.uniform(0, 0.2) if how == "both" else None,
        is_asked=how == "ask",
    )


# Objects


BROKEN_EVERY = 12
"""How many objects there are to one that is broken, by turns as text and as half a JPEG."""


def make_objects(chance: random.Random, count: int) -> dict[str, bytes]:
    """Return small real photos, no two alike, about one in twelve of them broken."""
    objects: dict[str, bytes] = {}
    for number in range(count):
        key = f"{chance.choice(('in', 'in/2026', 'über'))}/{number:04} {chance.choice('abc')}"
        body = _snippet(chance)
        if number % BROKEN_EVERY == 5:
            body = _broken(number, body)
        objects[key] = body
    objects["in/bomb.png"] = decompression_bomb(8_000)
    objects["in/empty.jpg"] = b""
    return objects


@cache
def _photos() -> tuple[Image.Image, ...]:
    return tuple(Image.open(io.BytesIO(photo_bytes(photo))).convert("RGB") for photo in PHOTOS)


def _snippet(chance: random.Random) -> bytes:
    photo = chance.choice(_photos())
    side = round(min(photo.size) * chance.uniform(0.35, 1.0))
    left, top = chance.randint(0, photo.width - side), chance.randint(0, photo.height - side)
    snippet = photo.crop((left, top, left + side, top + side)).resize((chance.randint(120, 260),) * 2)
    if chance.random() < 0.5:
        snippet = ImageOps.mirror(snippet)
    encoded = io.BytesIO()
    snippet.save(encoded, chance.choice(("JPEG", "JPEG", "JPEG", "WEBP")), quality=chance.randint(60, 95))
    return encoded.getvalue()


def _broken(number: int, body: bytes) -> bytes:
    if number // BROKEN_EVERY % 2:
        encoded = io.BytesIO()
        Image.open(io.BytesIO(body)).save(encoded, "JPEG", quality=80)
        return encoded.getvalue()[: len(encoded.getvalue()) // 2]
    return f"This is the text number {number}.".encode()


def pixel_hashes(objects: Mapping[str, bytes], preprocessing: Preprocessing, keys: Sequence[str]) -> dict[str, str]:
    """Return which key it is that the model sees, by the hash of its pixels."""
    found = {}
    for key in keys:
        pixels = decode_image(objects[key], preprocessing, max_pixels=10**7)
        found[hashlib.sha256(pixels.tobytes()).hexdigest()] = key
    assert len(found) == len(keys), "two objects look the same to the model"
    return found


# Processes


@dataclass(slots=True)
class Attempt:
    """One process and what is known of it."""

    id: str
    log: Path
    err: Path
    out: Path
    pid: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    """Its exit status; negative for the signal that ended it."""

    def events(self) -> list[dict[str, Any]]:
        """Return what it wrote down; a line that death cut short is left out."""
        try:
            lines = self.log.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def find(self, event: str) -> dict[str, Any] | None:
        """Return the first event of a kind."""
        return next((found for found in self.events() if found["event"] == event), None)

    @property
    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        return self.err.read_text(errors="replace")[-4000:] if self.err.exists() else ""


class Nursery:
    """The process that all attempts are forks of; see ``killed_worker.main``."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._attempts: dict[str, Attempt] = {}
        self._by_pid: dict[int, Attempt] = {}
        self._sent: queue.Queue[bool] = queue.Queue()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        with (folder / "nursery.err").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                cwd=ROOT,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(60), (folder / "nursery.err").read_text()

    def close(self) -> None:
        """End it, and with it all that still lives."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(30)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "started" in answer:
                attempt = self._attempts[answer["id"]]
                attempt.pid = answer["started"]
                self._by_pid[attempt.pid] = attempt
                attempt.started.set()
            elif "stopped" in answer:
                self._by_pid[answer["stopped"]].stopped.set()
            elif "ended" in answer:
                # Not a child that an attempt left behind.
                if attempt := self._by_pid.pop(answer["ended"], None):
                    attempt.status = answer["status"]
                    attempt.ended.set()
            elif "sent" in answer:
                self._sent.put(answer["is_there"])
            else:
                self._ready.set()

    def _command(self, **values: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values).encode() + b"\n")
        self._process.stdin.flush()

    def start(self, command: str, **task: object) -> Attempt:
        """Start an attempt, or with ``program`` any other program."""
        name = uuid.uuid4().hex
        paths = {kind: self._folder / f"{name}.{kind}" for kind in ("log", "err", "out")}
        attempt = Attempt(name, **paths)
        self._attempts[name] = attempt
        with self._lock:
            self._command(command=command, id=name, **{kind: str(path) for kind, path in paths.items()}, **task)
        assert attempt.started.wait(60)
        return attempt

    def send(self, attempt: Attempt, number: int) -> bool:
        """Send a signal, and return whether the process was still there."""
        with self._lock:
            self._command(command="signal", pid=attempt.pid, signal=number)
            return self._sent.get(timeout=60)

    def strays(self) -> set[ProcessIdentity]:
        """Return the processes that were left behind by attempts that are dead."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in self._by_pid:
                try:
                    text = (entry / "stat").read_text()
                except OSError:
                    continue
                if int(text[text.rindex(")") + 2 :].split()[1]) == self._process.pid:
                    found.add(ProcessIdentity.of(int(entry.name)))
        return found - {None}


# A run that is killed


@dataclass(slots=True)
class Toll:
    """What was done to the runs of a suite, and what it cost."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By point and signal."""
    attempts: int = 0
    images: int = 0
    again: int = 0
    """Predictions that had to be made again."""
    seconds: float = 0.0

    def table(self, seed: int) -> str:
        """Return it for people to read."""
        signals = sorted({name for _, name in self.kills})
        points = [point for point in (*PLANNING_POINTS, *POINTS, *REPORTING_POINTS) if self._of(point)]
        points += sorted({point for point, _ in self.kills} - set(points))
        rows = [["killed", *signals, "all"]]
        rows += [[point, *(str(self.kills[point, name]) for name in signals), str(self._of(point))] for point in points]
        sums = [str(sum(count for (_, of), count in self.kills.items() if of == name)) for name in signals]
        rows += [["all", *sums, str(self.kills.total())]]
        lines = [f"{row[0]:<15}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in rows]
        lines.append(
            f"{self.attempts} attempts at {self.images} images, {self.again} predictions made again, "
            f"{self.seconds:.0f} s, seed {seed}"
        )
        return "\n".join(lines)

    def _of(self, point: str) -> int:
        return sum(count for (of, _), count in self.kills.items() if of == point)


class Deaths:
    """Deaths yet to die, handed out in a drawn order; one that was not reached comes back."""

    def __init__(self, deaths: Sequence[Death]) -> None:
        self._left = list(deaths)
        self._lock = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether every death was died."""
        with self._lock:
            return not self._left

    def take(self) -> Death | None:
        """Return the next death, or None."""
        with self._lock:
            return self._left.pop() if self._left else None

    def give_back(self, death: Death) -> None:
        """Put a death that was not reached under the others, at the first passing this time."""
        with self._lock:
            self._left.insert(0, replace(death, nth=1, delay_s=death.delay_s / 2))


@dataclass
class House:
    """What the tests of killing share: the servers, a bucket, its truth, and the nursery."""

    postgres: EmbeddedPostgres
    template: str
    night: Night
    key_of_pixels: Mapping[str, str]
    nursery: Nursery
    command_environment: Mapping[str, str]
    """The environment of the command line, without a database."""
    command_s: float
    """Seconds that the whole bucket takes the command line."""

    @contextmanager
    def ledger(self, toll: Toll) -> Iterator[Killed]:
        """A ledger of its own that knows the model; nothing may be left in its database at the end."""
        name = f"killed_{uuid.uuid4().hex}"
        with self.postgres.connect() as connection:
            copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(self.template)))
        try:
            with psycopg.connect(self.postgres.url(name), autocommit=True) as connection:
                yield Killed(self, self.postgres.url(name), connection, toll)
        finally:
            self.postgres.drop_database(name)


@dataclass
class Killed:
    """One ledger, the attempts at the shards of its runs, and what each left behind."""

    house: House
    url: str
    connection: psycopg.Connection[Any]
    toll: Toll
    works: list[Work] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was wrong with an attempt itself."""

    # Starting and ending processes

    def start(self, do: str, death: Death | None, **task: object) -> Attempt:
        """Start an attempt at a task of a run, which dies as told."""
        self.toll.attempts += 1
        told = None if death is None or death.point == RANDOM else asdict(death)
        is_asked = death is not None and death.is_asked
        return self.house.nursery.start("attempt", do=do, death=told, is_asked=is_asked, database=self.url, **task)

    def start_shard(self, run_id: UUID, shard: int, death: Death | None) -> tuple[Attempt, Work]:
        """Start an attempt at a shard, after looking at what has an outcome already."""
        name = f"attempt {len(self.works) + 1} (shard {shard}, {death or 'undisturbed'})"
        work = Work(name, run_id, shard, settled_keys(self.connection, self.house.night))
        self.works.append(work)
        return self.start("run_shard", death, run_id=str(run_id), shard=shard), work

    def end(self, attempt: Attempt, death: Death | None, work: Work | None = None) -> bool:
        """Wait for the end of an attempt, kill it if that is for us to do, and return whether it died as told."""
        nursery = self.house.nursery
        was_hit = False
        if death is not None and death.point == RANDOM and not attempt.ended.wait(death.delay_s):
            was_hit = nursery.send(attempt, death.signal)
            if was_hit and death.kill_after_s is not None and not attempt.ended.wait(death.kill_after_s):
                nursery.send(attempt, KILL)
        name = work.name if work else f"attempt with {death}"
        limit_s = GRACE_S if was_hit else ATTEMPT_LIMIT_S
        if not attempt.ended.wait(limit_s):
            nursery.send(attempt, signal.SIGABRT)  # writes down where every thread is
            attempt.ended.wait(10)
            nursery.send(attempt, KILL)
            attempt.ended.wait(30)
            self.problems.append(f"{name} was stuck for {limit_s:.0f} s: {attempt.errors}")
        # A process that is through may be faster than what was to kill it, be that a thread of its own or this one.
        is_too_late = death is not None and death.signal == KILL and attempt.status == EXIT_DONE
        was_hit = (was_hit or attempt.find("dying") is not None) and not is_too_late
        self._judge_end(attempt, death, name, was_hit=was_hit)
        self.judge_remains(name)
        if work is not None:
            self.read(attempt, work)
        if was_hit and death is not None:
            self.toll.kills[death.point, death.name] += 1
        assert self.problems == [], "\n".join(self.problems)
        return was_hit

    def _judge_end(self, attempt: Attempt, death: Death | None, name: str, *, was_hit: bool) -> None:
        expected = {EXIT_DONE}
        if was_hit and death is not None:
            if death.signal == KILL:
                expected = {-KILL}
            else:
                # It may be too late to be interrupted; and before it began, and when Python takes itself down after
                # all was told, SIGTERM means to Python what it means to any program.
                events = {event["event"] for event in attempt.events()}
                expected = {EXIT_INTERRUPTED, EXIT_DONE}
                expected |= {-KILL} if death.kill_after_s is not None else set()
                expected |= {-TERM} if not events or events & {"planned", "reported", "closed"} else set()
        if attempt.status not in expected:
            self.problems.append(f"{name} ended with {attempt.status}, expected one of {expected}: {attempt.errors}")

    def judge_remains(self, name: str) -> None:
        """See that nothing is left of a process that ended."""
        left = self.house.nursery.strays()
        if not wait_until(lambda: not (left & self.house.nursery.strays()), BURIAL_S):
            commands = [
                Path(f"/proc/{stray.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                for stray in left & self.house.nursery.strays()
            ]
            self.problems.append(f"{name} left processes behind: {commands}")

    def read(self, attempt: Attempt, work: Work) -> None:
        """Read what an attempt wrote down about its work."""
        for event in attempt.events():
            if event["event"] == "fetched":
                work.fetched.append(event["key"])
            elif event["event"] == "predicted":
                for pixels in event["pixels"]:
                    if (key := self.house.key_of_pixels.get(pixels)) is None:
                        self.problems.append(f"{work.name} computed pixels that are no object's")
                    else:
                        work.predicted.append(key)
            elif event["event"] == "reported":
                work.reported = {name: count for name, count in event.items() if name != "event"}

    # Bringing a run to its end

    def plan(self, name: str, *, shard_size: int, deaths: Deaths | None = None) -> tuple[UUID, list[int]]:
        """Plan a run, as often as it takes, and return its id and its shards."""
        request = {
            "bucket": self.house.night.bucket,
            "shard_size": shard_size,
            "dag_id": "classify_images",
            "airflow_run_id": name,
        }
        while True:
            death = deaths.take() if deaths else None
            attempt = self.start("discover", death, request=request)
            was_hit = self.end(attempt, death)
            if death is not None and not was_hit:
                assert deaths is not None
                deaths.give_back(death)
            if (planned := attempt.find("planned")) and attempt.status == EXIT_DONE:
                return UUID(planned["run_id"]), planned["shards"]
            assert death is not None, f"nothing was planned: {self.problems}"

    def classify(self, run_id: UUID, shard: int, deaths: Deaths) -> None:
        """Attempt a shard until an attempt reports it, dying as often as there are deaths."""
        while True:
            death = deaths.take()
            attempt, work = self.start_shard(run_id, shard, death)
            was_hit = self.end(attempt, death, work)
            if death is not None and not was_hit:
                deaths.give_back(death)
            if attempt.status == EXIT_DONE and work.reported is not None:
                return
            assert death is not None, f"an undisturbed attempt failed: {self.problems}"

    def close(self, run_id: UUID, deaths: Deaths | None = None) -> None:
        """Close the books of a run, as often as it takes."""
        while True:
            death = deaths.take() if deaths else None
            attempt = self.start("finish_run", death, run_id=str(run_id))
            was_hit = self.end(attempt, death)
            if death is not None and not was_hit:
                assert deaths is not None
                deaths.give_back(death)
            if attempt.find("closed") and attempt.status == EXIT_DONE:
                return
            assert death is not None, f"the books were not closed: {self.problems}"

    def expect_stale(self, attempt: Attempt, work: Work) -> None:
        """Wait for an attempt that was overtaken, which has to end by saying so."""
        if not attempt.ended.wait(ATTEMPT_LIMIT_S) or attempt.status != EXIT_STALE:
            self.problems.append(f"{work.name} was overtaken and ended with {attempt.status}: {attempt.errors}")
        self.judge_remains(work.name)
        self.read(attempt, work)

    def check(self, *, finished: Sequence[UUID], abandoned: Sequence[UUID] = ()) -> list[str]:
        """Return all that is wrong with the ledger, the attempts, and what they left in the database."""
        wait_until(lambda: not left_in_database(self.connection), BURIAL_S)
        return [
            *self.problems,
            *left_in_database(self.connection),
            *check_books(self.connection, self.house.night, finished=finished, abandoned=abandoned, works=self.works),
        ]

    def wait_for_lock_waiters(self, count: int) -> bool:
        """Wait until so many sessions of this database wait for a lock."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return wait_until(lambda: self.connection.execute(waiting).fetchall() == [(count,)], ATTEMPT_LIMIT_S)


def clean_environment() -> dict[str, str]:
    """Return the environment without what would lead to other servers or settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_", "PG"))}
