"""A worker process under its parent: it may be killed, hang or fail, and the parent says how and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from inference import wiring
from inference.errors import InferenceError, RunUnknownError, TooManyDeadError, WorkerDiedError
from inference.models.store import ModelStore
from inference.settings import Settings, read_settings
from inference.supervising import ShardWorker
from inference.types import Plan, RunRequest
from local_stack.processes import wait_until
from local_stack.samples import PHOTOS, photo_bytes
from tests.conftest import Bucket
from tests.e2e.loaded import children, command_line
from tests.faults.poisoned.sitecustomize import HANG
from tests.ledger import Ledger

pytestmark = pytest.mark.integration

CAT = photo_bytes(next(photo for photo in PHOTOS if photo.key.startswith("cat")))


@dataclass
class House:
    """A bucket, a ledger with the bundled model, and settings that this process's environment does not hold."""

    bucket: Bucket
    ledger: Ledger
    settings: Settings
    seen: list[int] = field(default_factory=list)
    """Images of each batch that was reported."""

    def plan(self, images: int, *, note: bytes = b"", **request: Any) -> Plan:
        for number in range(images):
            self.bucket.put(f"{number:03}", CAT + b" %d " % number + note)
        store = wiring.open_store(self.settings)
        return wiring.discover(RunRequest(self.bucket.name, **request), store=store, sink=self.ledger.sink)


@pytest.fixture
def house(
    database: str, bucket: Bucket, default_model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "NIGHTLABEL_")):
            monkeypatch.delenv(name)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(database_url=database, model_store=default_model_store.root, batch_size=2, window=4)
    wiring.migrate(settings)
    with wiring.open_sink(settings) as sink:
        yield House(bucket, Ledger(database, settings, sink), settings)


def workers(parent: int | None = None) -> set[int]:
    """The worker processes below a process, by default below this one."""
    return {pid for pid in children(parent or os.getpid()) if "inference.worker" in command_line(pid)}


def only_worker(parent: int | None = None) -> int:
    """The one worker, once its command line can be read, which is a moment after it was started."""
    assert wait_until(lambda: len(workers(parent)) == 1, 30)
    [worker] = workers(parent)
    return worker


def act(what: Callable[[], object]) -> Callable[[int], None]:
    """Return a progress that does something once, after the first batch."""
    waiting = [what]

    def progress(_images: int) -> None:
        if waiting:
            waiting.pop()()

    return progress


def test_one_process_does_shard_after_shard_and_reports_its_progress(house: House):
    planned = house.plan(7, shard_size=3)
    with ShardWorker(house.settings) as worker:
        worker.start()
        worker.start()
        first = only_worker()
        stats = [worker.run(planned.run_id, number, house.seen.append) for number in planned.shards]
        assert workers() == {first}
    assert workers() == set()
    assert [one.labelled for one in stats] == [3, 3, 1]
    assert house.seen == [3, 3, 1]
    assert min(stats[0].seconds.fetch_s, stats[0].seconds.decode_s, stats[0].seconds.write_s) > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_worker_that_is_killed_is_named_with_the_signal_and_the_next_attempt_has_a_new_one(
    house: House, how: signal.Signals
):
    planned = house.plan(60)
    with ShardWorker(house.settings) as worker:
        worker.start()
        victim = only_worker()
        with pytest.raises(
            WorkerDiedError,
            match=rf"^the process that worked on shard 0 was killed by {how.name}; what",
        ):
            worker.run(planned.run_id, 0, act(lambda: os.kill(victim, how)))
        assert workers() == set()
        stats = worker.run(planned.run_id, 0, house.seen.append)
        assert workers() != {victim}
    assert (stats.labelled, stats.unfinished) == (60, 0)


def test_a_worker_that_died_between_two_shards_is_noticed_by_the_next(house: House):
    planned = house.plan(3)
    with ShardWorker(house.settings) as worker:
        worker.start()
        victim = only_worker()
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            worker.run(planned.run_id, 0, house.seen.append)
        assert worker.run(planned.run_id, 0, house.seen.append).labelled == 3


def test_a_worker_whose_decoder_hangs_is_ended_by_its_watchdog(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "faults" / "poisoned"))
    planned = house.plan(1, note=HANG)
    settings = house.settings.model_copy(update={"decode_timeout_s": 1.0})
    with ShardWorker(settings) as worker, pytest.raises(WorkerDiedError, match="was ended by its watchdog"):
        worker.run(planned.run_id, 0, house.seen.append)


def test_no_secret_of_the_settings_stands_in_the_command_line_or_the_environment_of_the_worker(house: House):
    password = "hunter2-of-the-database"
    url = house.ledger.url.replace("postgresql://", f"postgresql://ignored:{password}@", 1)
    settings = house.settings.model_copy(update={"database_url": type(house.settings.database_url)(url)})
    with ShardWorker(settings) as worker:
        worker.start()
        pid = only_worker()
        for file in ("cmdline", "environ"):
            there = Path(f"/proc/{pid}/{file}").read_bytes()
            assert there, file
            assert password.encode() not in there
            assert b"postgresql://" not in there


def test_the_errors_of_a_shard_arrive_with_their_class_and_sentence_and_the_worker_goes_on(house: House):
    planned = house.plan(3, max_dead_ratio=0.0, min_images_for_ratio=1)
    house.bucket.put("bad", b"no image")
    bad = house.plan(0, max_dead_ratio=0.0, min_images_for_ratio=1)
    with ShardWorker(house.settings) as worker:
        worker.start()
        first = only_worker()
        with pytest.raises(RunUnknownError, match=rf"^run {planned.run_id} has no shard 7 in its present plan$"):
            worker.run(planned.run_id, 7, house.seen.append)
        with pytest.raises(
            TooManyDeadError, match=r"^1 of 4 .* of shard 0 are dead letters .*; most often not_an_image \(1\)"
        ):
            worker.run(bad.run_id, 0, house.seen.append)
        assert workers() == {first}


def test_what_nobody_expected_is_told_in_a_sentence_and_the_worker_goes_on(house: House):
    planned = house.plan(2)
    with ShardWorker(house.settings) as worker:
        nonsense: UUID = "nonsense"  # type: ignore[assignment]
        with pytest.raises(InferenceError, match=r"^ValueError: badly formed hexadecimal UUID string$") as error:
            worker.run(nonsense, 0, house.seen.append)
        assert error.value.code == "inference_error"
        assert worker.run(planned.run_id, 0, house.seen.append).labelled == 2


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_asks_the_worker_to_end_and_its_shard_is_left_without_suspicion(house: House):
    planned = house.plan(200)
    with ShardWorker(house.settings) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker.run(planned.run_id, 0, act(interrupt))
        assert workers() == set()
        recorded = len(house.ledger.latest())
        assert 2 <= recorded < 200
        [shard] = house.ledger.rows("SELECT attempt, ended_attempt, unclean_ends FROM nightlabel.shard")
        assert shard == {"attempt": 1, "ended_attempt": 1, "unclean_ends": 0}
        assert worker.run(planned.run_id, 0, house.seen.append).labelled == 200


def test_the_worker_itself_does_not_hear_ctrl_c(house: House):
    planned = house.plan(20)
    with ShardWorker(house.settings) as worker:
        worker.start()
        pid = only_worker()
        assert os.getpgid(pid) != os.getpgid(0)
        stats = worker.run(planned.run_id, 0, act(lambda: os.kill(pid, signal.SIGINT)))
        assert stats.labelled == 20
        assert workers() == {pid}


PARENT = """
import time
from inference.settings import read_settings
from inference.supervising import ShardWorker
with ShardWorker(read_settings()) as worker:
    worker.start()
    print("started", flush=True)
    time.sleep(600)
"""


def test_a_worker_does_not_outlive_a_parent_that_is_killed(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        worker = only_worker(parent.pid)
        parent.kill()
    assert wait_until(lambda: "inference.worker" not in command_line(worker), 30)


def test_a_worker_that_somebody_else_asks_to_end_is_replaced_and_the_shard_goes_on(house: House):
    planned = house.plan(60)
    with ShardWorker(house.settings) as worker:
        worker.start()
        victim = only_worker()
        with pytest.raises(WorkerDiedError, match="was asked to end by somebody else"):
            worker.run(planned.run_id, 0, act(lambda: os.kill(victim, signal.SIGTERM)))
        assert workers() == set()
        stats = worker.run(planned.run_id, 0, house.seen.append)
    assert (stats.labelled, stats.unfinished) == (60, 0)
