"""Images that kill or hang their decoder natively: each becomes a dead letter with a code, the others get labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inference import wiring
from inference.errors import WorkerDiedError
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.supervising import ShardWorker
from inference.types import RunRequest
from local_stack.processes import wait_until
from local_stack.samples import PHOTOS, photo_bytes
from tests.conftest import Bucket
from tests.e2e.loaded import children, command_line
from tests.faults.poisoned.sitecustomize import ABORT, HANG, HANG_WITH_LOCK
from tests.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

POISONED = Path(__file__).parent / "poisoned"
CAT = photo_bytes(next(photo for photo in PHOTOS if photo.key.startswith("cat")))


@dataclass(frozen=True)
class House:
    """A bucket, a ledger with the bundled model, and the command line with a decoder that poison works on."""

    bucket: Bucket
    ledger: Ledger
    environment: dict[str, str]

    def put(self, poison: dict[int, bytes], images: int) -> None:
        for number in range(images):
            self.bucket.put(f"{number:03}", CAT + b" %d " % number + poison.get(number, b""))

    def classify(self, *arguments: str, status: int = 0, **changes: str) -> tuple[dict[str, Any], str]:
        """Run ``classify`` and return its summary and what it wrote to standard error."""
        command = [sys.executable, "-m", "inference", "classify", "--bucket", self.bucket.name, "--json", *arguments]
        ended = subprocess.run(
            command, env={**self.environment, **changes}, capture_output=True, text=True, check=False, timeout=240
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return json.loads(ended.stdout.splitlines()[-1]), ended.stderr

    def attempts(self) -> list[int]:
        return [row["attempt"] for row in self.ledger.rows("SELECT attempt FROM nightlabel.shard")]


@pytest.fixture
def house(database: str, bucket: Bucket, default_model_store: ModelStore) -> Iterator[House]:
    settings = read_settings(database_url=database, model_store=default_model_store.root)
    wiring.migrate(settings)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    environment = {
        **inherited,
        **bucket.environment,
        "NIGHTLABEL_DATABASE_URL": database,
        "NIGHTLABEL_MODEL_STORE": str(default_model_store.root),
        "PYTHONPATH": str(POISONED),
    }
    with wiring.open_sink(settings) as sink:
        yield House(bucket, Ledger(database, settings, sink), environment)


def test_five_images_that_kill_the_decoder_cost_only_themselves(house: House):
    poison = dict.fromkeys((0, 31, 32, 118, 299), ABORT)
    house.put(poison, 300)

    summary, log = house.classify("--max-dead-ratio", "0.5")

    dead = {f"{number:03}": "decoder_crashed" for number in poison}
    assert house.ledger.open_dead_letters() == dead
    assert set(house.ledger.latest()) == {f"{number:03}" for number in range(300)} - set(dead)
    assert (summary["state"], summary["labelled"], summary["dead"], summary["unfinished"]) == ("succeeded", 295, 5, 0)
    assert house.ledger.summary(summary["run_id"])["labelled"] == 295
    assert house.attempts() == [2], "one death in the worker itself is all it takes"
    assert "was killed by SIGABRT" in log
    assert {row["permanent"] for row in house.ledger.rows("SELECT * FROM dead_letter_open")} == {False}


@pytest.mark.parametrize("hang", [HANG, pytest.param(HANG_WITH_LOCK, marks=pytest.mark.full)])
def test_images_that_hang_the_decoder_time_out_and_cost_only_themselves(house: House, hang: bytes):
    house.put({5: hang, 70: hang}, 100)

    summary, log = house.classify(NIGHTLABEL_DECODE_TIMEOUT_S="2")

    assert house.ledger.open_dead_letters() == {"005": "decoder_timeout", "070": "decoder_timeout"}
    assert (summary["state"], summary["labelled"], summary["dead"]) == ("succeeded", 98, 2)
    assert house.attempts() == [2]
    assert "005" in log or hang == HANG_WITH_LOCK, "the watchdog names the image that it ended the process for"


@pytest.mark.full
def test_poison_behind_images_that_vanished_is_found_all_the_same(house: House, monkeypatch: pytest.MonkeyPatch):
    house.put({410: ABORT}, 420)
    for name, value in house.environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(window=4, batch_size=2)
    store = wiring.open_store(settings)
    planned = wiring.discover(RunRequest(house.bucket.name), store=store, sink=house.ledger.sink)
    for number in range(400):  # more than may be in flight at a time
        house.bucket.client.delete_object(Bucket=house.bucket.name, Key=f"{number:03}")

    with ShardWorker(settings) as worker:
        with pytest.raises(WorkerDiedError, match="SIGABRT"):
            worker.run(planned.run_id, 0, lambda images: None)
        stats = worker.run(planned.run_id, 0, lambda images: None)

    assert (stats.labelled, stats.dead, stats.gone, stats.unfinished) == (19, 1, 400, 0)
    assert house.ledger.open_dead_letters() == {"410": "decoder_crashed"}


@pytest.mark.full
def test_the_next_nights_try_it_again_and_then_no_more(house: House):
    house.put({1: ABORT}, 3)
    house.classify()
    for attempts in (2, 3):
        house.ledger.execute("UPDATE nightlabel.outcome SET retry_after = now() WHERE error_code IS NOT NULL")
        summary, _ = house.classify()
        assert (summary["dead"], summary["already_done"]) == (1, 2)
        [dead] = house.ledger.rows("SELECT * FROM nightlabel.dead_letter_open")
        assert (dead["error_code"], dead["attempts"], dead["permanent"]) == ("decoder_crashed", attempts, attempts == 3)
    house.bucket.put("001", CAT)
    summary, _ = house.classify()
    assert (summary["labelled"], house.ledger.open_dead_letters()) == (1, {})


@pytest.mark.full
def test_a_worker_that_is_killed_from_outside_condemns_no_image(house: House):
    house.put({}, 400)
    command = [sys.executable, "-m", "inference", "classify", "--bucket", house.bucket.name, "--json"]
    run = subprocess.Popen(command, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def worker() -> int | None:
        return next((pid for pid in children(run.pid) if "inference.worker" in command_line(pid)), None)

    assert wait_until(lambda: house.ledger.rows("SELECT FROM nightlabel.outcome LIMIT 1") != [], 60)
    os.kill(worker(), 9)
    out, err = run.communicate(timeout=120)

    assert run.returncode == 0, err
    assert "was killed by SIGKILL" in err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["labelled"], summary["dead"], summary["unfinished"]) == (400, 0, 0)
    assert house.attempts() == [2]
