"""Huge images under a memory limit: measured from outside, a worker stays below it, and no image is lost."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference import wiring
from inference.errors import MemoryLimitError
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.supervising import ShardWorker
from inference.types import RunRequest
from tests.conftest import Bucket
from tests.e2e.loaded import children, command_line
from tests.faults.poisoned.sitecustomize import ABORT
from tests.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

POISONED = Path(__file__).parent / "poisoned"

MB = 1_000_000

ENOUGH_FOR_THE_LARGEST = 950 * MB
"""Enough for one of the huge images at a time, beside the 240 MB of a worker with its model."""

ENOUGH_FOR_THE_LARGEST_APART = 1_200 * MB
TOO_LITTLE_FOR_THE_LARGEST = 600 * MB
LESS_THAN_THE_MODEL = 100 * MB
NEEDED = r"raise NIGHTLABEL_MEMORY_LIMIT to (\d+) MB or more$"


def picture(megapixels: int, **options: Any) -> bytes:
    """A photo-like picture of 4 x 3, smooth so that it is quick to make and small to store."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    rows, columns = np.linspace(0, 255, height, dtype=np.uint8), np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = rows[:, None], columns, 128
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, **options)
    return out.getvalue()


def baseline(megapixels: int) -> bytes:
    return picture(megapixels, format="JPEG", quality=80)


def progressive(megapixels: int) -> bytes:
    return picture(megapixels, format="JPEG", quality=80, progressive=True)


def png(megapixels: int) -> bytes:
    return picture(megapixels, format="PNG", compress_level=1)


def webp(megapixels: int) -> bytes:
    return picture(megapixels, format="WEBP", method=0)


def bitmap(megapixels: int) -> bytes:
    """Not compressed: the object itself is large."""
    return picture(megapixels, format="BMP")


@dataclass(frozen=True)
class Ended:
    """How a run ended, and the most memory that its worker, with the processes that decode apart, had meanwhile."""

    status: int
    summary: dict[str, Any]
    log: str
    peak_bytes: int
    decoders: int
    """How many processes that decode apart were seen at a time."""


@dataclass(frozen=True)
class House:
    """A bucket, a ledger with the bundled model, and the command line."""

    bucket: Bucket
    ledger: Ledger
    environment: dict[str, str]
    settings: dict[str, Any]

    def attempts(self) -> list[int]:
        return [row["attempt"] for row in self.ledger.rows("SELECT attempt FROM nightlabel.shard")]

    def put(self, images: dict[str, bytes]) -> None:
        for key, body in images.items():
            self.bucket.put(key, body)

    def classify(self, limit_bytes: int, *arguments: str, **changes: str) -> Ended:
        command = [sys.executable, "-m", "inference", "classify", "--bucket", self.bucket.name, "--json", *arguments]
        environment = {
            **self.environment,
            "NIGHTLABEL_MEMORY_LIMIT": str(limit_bytes),
            "NIGHTLABEL_FETCH_THREADS": "8",
            "NIGHTLABEL_DECODE_THREADS": "4",
            **changes,
        }
        peak = decoders = 0
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while run.poll() is None:
            below = {pid: command_line(pid) for pid in children(run.pid)}
            worker = [pid for pid, line in below.items() if "inference.worker" in line]
            apart = [pid for pid, line in below.items() if "inference.isolated_decoder" in line]
            used = sum(memory(pid, "VmRSS") for pid in worker) + sum(memory(pid, "RssAnon") for pid in apart)
            peak = max(peak, used, *(memory(pid, "VmHWM") for pid in worker), 0)
            decoders = max(decoders, len(apart))
            time.sleep(0.005)
        out, err = run.communicate()
        print(f"peak {peak / MB:.0f} MB of {limit_bytes / MB:.0f} MB, {decoders} decoders apart; {err}")  # noqa: T201
        assert out, err
        return Ended(run.returncode, json.loads(out.splitlines()[-1]), err, peak, decoders)


def memory(pid: int, what: str) -> int:
    """Bytes of a line of /proc/PID/status; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:")), 0)


@pytest.fixture
def house(
    database: str, bucket: Bucket, default_model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    given = {"database_url": database, "model_store": default_model_store.root}
    settings = read_settings(**given)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    wiring.migrate(settings)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    environment = {
        **inherited,
        **bucket.environment,
        "NIGHTLABEL_DATABASE_URL": database,
        "NIGHTLABEL_MODEL_STORE": str(default_model_store.root),
    }
    with wiring.open_sink(settings) as sink:
        yield House(bucket, Ledger(database, settings, sink), environment, given)


@pytest.fixture(scope="module")
def huge() -> dict[str, bytes]:
    """Images of which one takes most of what the tests' larger limit leaves for decoding, and a few of middle size."""
    return {
        "huge/progressive-48.jpg": progressive(48),
        "huge/rgb-34.png": png(34),
        "huge/lossy-24.webp": webp(24),
        "middle/baseline-48.jpg": baseline(48),
        "middle/baseline-24.jpg": baseline(24),
        "middle/progressive-12.jpg": progressive(12),
        "middle/rgb-12.png": png(12),
        "middle/lossy-12.webp": webp(12),
        "middle/plain-12.bmp": bitmap(12),
    }


@pytest.fixture
def images(huge: dict[str, bytes], is_full: bool) -> dict[str, bytes]:
    """The huge ones in between ordinary ones, each several times and never the same object twice."""
    times = 4 if is_full else 1
    made = {f"{number}/{name}": body + b"%d" % number for name, body in huge.items() for number in range(times)}
    return made | {f"small/{number:02}.jpg": baseline(1) + b"%d" % number for number in range(10)}


def test_huge_images_wait_for_their_turn_and_all_get_labels_below_the_limit(house: House, images: dict[str, bytes]):
    house.put(images)

    ended = house.classify(ENOUGH_FOR_THE_LARGEST)

    assert house.ledger.open_dead_letters() == {}
    assert set(house.ledger.latest()) == set(images)
    assert ended.status == 0
    assert house.attempts() == [1], "no attempt ended for want of memory"
    assert ended.peak_bytes < ENOUGH_FOR_THE_LARGEST


@pytest.mark.full
def test_an_image_for_which_there_is_too_little_memory_costs_only_itself(house: House, images: dict[str, bytes]):
    house.put(images)

    ended = house.classify(TOO_LITTLE_FOR_THE_LARGEST, "--max-dead-ratio", "1")

    too_large = {key for key in images if "/huge/" in key}
    assert house.ledger.open_dead_letters() == dict.fromkeys(too_large, "decoder_out_of_memory")
    assert set(house.ledger.latest()) == set(images) - too_large
    assert {row["permanent"] for row in house.ledger.rows("SELECT * FROM nightlabel.dead_letter_open")} == {False}
    assert ended.status == 0
    assert ended.peak_bytes < TOO_LITTLE_FOR_THE_LARGEST

    ended = house.classify(ENOUGH_FOR_THE_LARGEST)
    assert ended.summary["deferred"] + ended.summary["already_done"] == len(images), "not before the next night"
    house.ledger.execute("UPDATE nightlabel.outcome SET retry_after = now() WHERE error_code IS NOT NULL")
    house.classify(ENOUGH_FOR_THE_LARGEST)
    assert set(house.ledger.latest()) == set(images), "with more memory they get their labels"


@pytest.mark.full
def test_a_shard_that_is_decoded_apart_keeps_to_the_limit_with_all_its_processes(
    house: House, images: dict[str, bytes]
):
    poisoned = {"0/poison.jpg": baseline(1) + ABORT}
    house.put(images | poisoned)

    ended = house.classify(ENOUGH_FOR_THE_LARGEST_APART, "--max-dead-ratio", "1", PYTHONPATH=str(POISONED))

    assert house.ledger.open_dead_letters() == {"0/poison.jpg": "decoder_crashed"}
    assert set(house.ledger.latest()) == set(images)
    assert ended.status == 0
    assert ended.decoders > 1
    assert ended.peak_bytes < ENOUGH_FOR_THE_LARGEST_APART


@pytest.mark.full
def test_less_than_the_model_takes_is_one_sentence_that_says_how_much_is_needed(house: House, is_full: bool):
    house.put({"a.jpg": baseline(1)})
    settings = read_settings(**house.settings, memory_limit=LESS_THAN_THE_MODEL)
    store = wiring.open_store(settings)
    planned = wiring.discover(RunRequest(house.bucket.name), store=store, sink=house.ledger.sink)

    with ShardWorker(settings) as worker, pytest.raises(MemoryLimitError, match=NEEDED) as error:
        worker.run(planned.run_id, 0, lambda images: None)

    assert error.value.code == "memory_limit"
    [needed] = re.findall(NEEDED, str(error.value))
    with ShardWorker(settings.model_copy(update={"memory_limit": int(needed) * MB})) as worker:
        assert worker.run(planned.run_id, 0, lambda images: None).labelled == 1

    if is_full:  # the command tries it five times, with pauses
        house.put({"b.jpg": baseline(1)})
        ended = house.classify(LESS_THAN_THE_MODEL)
        assert ended.status == 1
        assert re.search(NEEDED, ended.log.splitlines()[-1])
        assert (ended.summary["state"], ended.summary["unfinished"]) == ("failed", 1)


def test_the_limits_of_an_image_hold_whatever_the_memory(house: House):
    bodies = {"pixels.png": png(12), "bytes.jpg": baseline(1).ljust(2_000_001), "fine.jpg": baseline(1)}
    house.put(bodies)

    house.classify(
        ENOUGH_FOR_THE_LARGEST,
        "--max-dead-ratio",
        "1",
        NIGHTLABEL_MAX_PIXELS="10000000",
        NIGHTLABEL_MAX_OBJECT_BYTES="2000000",
    )

    assert house.ledger.open_dead_letters() == {"pixels.png": "too_many_pixels", "bytes.jpg": "object_too_large"}
    messages = {
        row["object_key"]: row["message"] for row in house.ledger.rows("SELECT * FROM nightlabel.dead_letter_open")
    }
    assert "4,000 x 3,000 pixels, more than the 10,000,000 allowed" in messages["pixels.png"]
    assert "2,000,001 bytes, more than the 2,000,000 allowed" in messages["bytes.jpg"]
    assert set(house.ledger.latest()) == {"fine.jpg"}
