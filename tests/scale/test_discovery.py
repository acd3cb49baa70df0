"""Discovery of a large bucket against a large ledger: right counts, flat memory; prints the seconds.

`make test` runs it small, `make test-scale` with a million keys and ten million outcomes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from local_stack.postgres import EmbeddedPostgres
from tests.generated_bucket import KEYS_A_DAY, PREFIX
from tests.ledger import Ledger
from tests.scale.filling import without_indexes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
LEDGER = (ROOT / "tests" / "scale" / "ledger.sql").read_text(encoding="utf-8")
MIB = 1024 * 1024
MOST_MEMORY = 300 * MIB
VANISHED = 5_000
PARTS = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")


@dataclass(frozen=True)
class Size:
    keys: int
    """In the bucket, under the prefix that is listed."""
    outcomes: int
    """In the ledger, about."""


@pytest.fixture(scope="module")
def size(is_scale: bool) -> Size:
    return Size(1_000_000, 10_000_000) if is_scale else Size(20_000, 40_000)


def fill(url: str, size: Size) -> None:
    """Make the ledger, and its indexes at the end."""
    step = 500_000
    with without_indexes(url), psycopg.connect(url, autocommit=True) as connection:
        for first in range(0, size.outcomes, step):
            last = min(first + step, size.outcomes) - 1
            connection.execute(LEDGER, {"first": first, "last": last, "listed": size.keys, "model_id": 1})


@pytest.fixture(scope="module")
def ledger(postgres_server: EmbeddedPostgres, size: Size) -> Iterator[Ledger]:
    name = f"test_{uuid.uuid4().hex}"
    postgres_server.create_database(name)
    url = postgres_server.url(name)
    settings = read_settings(database_url=url)
    migrate(settings)
    with PostgresSink(settings) as sink:
        made = Ledger(url, settings, sink)
        made.register("tiny", "1", "production")
        fill(url, size)
        yield made
    postgres_server.drop_database(name)


@dataclass
class Responder:
    """The bucket, in a process of its own."""

    keys: int

    def __enter__(self) -> Responder:
        command = [sys.executable, "-m", "tests.generated_bucket", str(self.keys)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self.process.communicate()
        self.said = json.loads(out)


def discover(ledger: Ledger, size: Size, prefix: str, mode: str) -> dict[str, Any]:
    """Discover in a process of its own, and print how long it took."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    with Responder(size.keys) as bucket:
        environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            "AWS_ENDPOINT_URL_S3": bucket.url,
            "AWS_ACCESS_KEY_ID": "some",
            "AWS_SECRET_ACCESS_KEY": "one",
            "AWS_REGION": "us-east-1",
            "NIGHTLABEL_DATABASE_URL": ledger.url,
        }
        command = [sys.executable, "-m", "tests.scale.discovering", "photos", prefix, mode]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    said, without = bucket.said, found["seconds"] - found["list_s"]
    print(  # noqa: T201 - what the suite is run for
        f"\n{mode}: {found['discovered']:,} keys under {prefix} against {size.outcomes:,} outcomes: "
        f"{found['seconds']:.1f} s, {without:.1f} s without waiting for pages; the process itself was busy for "
        f"{found['busy_s']:.1f} s and had at most {found['peak_bytes'] / MIB:.0f} MiB; the responder was busy for "
        f"{said['busy_s']:.1f} s with {said['requests']:,} requests, {said['probes']:,} of them for one key"
    )
    assert found["peak_bytes"] < MOST_MEMORY
    return found


def counts(found: dict[str, Any]) -> tuple[int, ...]:
    return tuple(found[name] for name in ("discovered", "already_done", "deferred", "to_classify"))


def label_everything(ledger: Ledger, run_id: str) -> None:
    """Record labels for all that a run has planned, as its workers would."""
    ledger.execute(
        "INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, engine, "
        "run_id) SELECT ref.image_id, r.model_id, 'cat', 'n1', 0.5, '{cat}', '{0.5}', 'litert', r.run_id "
        "FROM nightlabel.run AS r JOIN nightlabel.manifest_chunk AS c USING (run_id, plan_number) "
        "CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id) WHERE r.run_id = %s "
        "ON CONFLICT (image_id, model_id) DO UPDATE SET label = 'cat', label_id = 'n1', score = 0.5, "
        "top_labels = '{cat}', top_scores = '{0.5}', engine = 'litert', stage = NULL, error_code = NULL, "
        "message = NULL, retry_after = NULL",
        run_id,
    )


def test_a_large_bucket_is_planned_against_a_large_ledger(ledger: Ledger, size: Size, capsys: pytest.CaptureFixture):
    new, overwritten, due = size.keys // 10, size.keys // 100, size.keys // 2_000
    left = new + overwritten + due
    expected = (size.keys, size.keys - left, 0, left)
    with capsys.disabled():
        assert counts(discover(ledger, size, PREFIX, "dry")) == expected
        assert ledger.rows("SELECT FROM nightlabel.run") == []

        night = discover(ledger, size, PREFIX, "real")
        assert counts(night) == expected
        summary = ledger.summary(uuid.UUID(night["run_id"]))
        assert (summary["discovered"], summary["already_done"], summary["unfinished"]) == (*expected[:2], left)
        [row] = ledger.rows("SELECT count(*) FROM nightlabel.object WHERE gone_at IS NOT NULL")
        assert row["count"] == VANISHED
        [row] = ledger.rows(
            "SELECT count(*), count(DISTINCT image_id) AS images FROM nightlabel.object "
            "WHERE bucket = 'photos' AND object_key ^@ %s AND gone_at IS NULL",
            PREFIX,
        )
        assert (row["count"], row["images"]) == (size.keys, size.keys)
        [row] = ledger.rows(
            "SELECT (SELECT sum(cardinality(image_id)) FROM nightlabel.manifest_chunk) AS refs, "
            "(SELECT sum(images) FROM nightlabel.shard) AS images"
        )
        assert (row["refs"], row["images"]) == (left, left)

        label_everything(ledger, night["run_id"])
        began = time.monotonic()
        assert counts(discover(ledger, size, PREFIX, "real")) == (size.keys, size.keys, 0, 0)
        print(f"a night with nothing new: {time.monotonic() - began:.1f} s in all")  # noqa: T201

        few = min(10_000, KEYS_A_DAY)
        assert counts(discover(ledger, size, f"{PREFIX}2026/001/0", "real")) == (few, few, 0, 0)
