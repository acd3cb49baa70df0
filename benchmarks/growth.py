"""How seconds grow: those of a discovery with the bucket, those of a whole run with the backlog. Starts processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.contenders import BenchmarkError, last_json, measure_cli
from benchmarks.results import Backlog, Discovery
from benchmarks.servers import Servers
from local_stack.settings import REPOSITORY

LABEL_ALL = """
INSERT INTO nightlabel.outcome (
    image_id, model_id, label, label_id, score, top_labels, top_scores, engine, run_id
)
SELECT o.image_id, p.model_id, 'cat', 'n1', 0.5, '{cat}', '{0.5}', 'litert', (SELECT run_id FROM nightlabel.run LIMIT 1)
FROM nightlabel.object AS o CROSS JOIN nightlabel.production_line AS p
"""
"""As if workers had done what was planned."""


def measure_buckets(servers: Servers, sizes: Sequence[int]) -> list[Discovery]:
    """Discover buckets of some sizes, each twice, against a ledger of its own.

    Raises:
        BenchmarkError: a discovery failed, or found another number of keys.
    """
    found = []
    for keys in sizes:
        database = servers.new_database()
        with _generated_bucket(keys) as url:
            first = _discover(servers, database, url, keys)
            with psycopg.connect(servers.postgres.url(database), autocommit=True) as connection:
                connection.execute(LABEL_ALL)
                connection.execute("VACUUM ANALYZE")
            again = _discover(servers, database, url, keys)
        peak_mib = max(first["peak_bytes"], again["peak_bytes"]) / 2**20
        found.append(Discovery(keys, first["seconds"], again["seconds"], again["list_s"], peak_mib))
    return found


def measure_backlogs(servers: Servers, prefix: str, sizes: Sequence[int]) -> list[Backlog]:
    """Label the first so many images under a prefix, each time from nothing."""
    found = []
    for images in sizes:
        options = ["--max-images", str(images)]
        ours = measure_cli(
            servers, prefix, lambda: 0.0, name=f"{images}", database=servers.new_database(), options=options
        )
        found.append(Backlog(ours.contender.images, ours.contender.seconds))
    return found


@contextmanager
def _generated_bucket(keys: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.generated_bucket", str(keys)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()  # type: ignore[union-attr]
        yield f"http://127.0.0.1:{port}"
        process.communicate()  # ends with its input


def _discover(servers: Servers, database: str, url: str, keys: int) -> dict[str, Any]:
    environment = {**servers.environment(database), "AWS_ENDPOINT_URL_S3": url, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-m", "tests.scale.discovering", "photos", "in/", "real"], cwd=REPOSITORY,
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"the discovery of {keys:,} keys ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found = last_json(done.stdout)
    if found["discovered"] != keys:
        raise BenchmarkError(f"{found['discovered']:,} of {keys:,} keys were discovered")
    return found
