"""Everybody who labels the same images: the command line, the scheduler, the peers. Starts them and reads their rows.

The clock of every one starts with its process (with the trigger, for Airflow) and ends with it. The steady time of ours
is from the first batch recorded to the last; that of a peer from its first fetch to its last row, without the time in
which its model loaded. A peer that fetches or decodes all images before it predicts the first is so judged rightly.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import servers as bench_servers
from benchmarks.meters import Meter, Root
from benchmarks.peers.choices import Peer
from benchmarks.peers.common import EVENTS, Job
from benchmarks.results import Contender, Event, memory_over_images, steady_seconds
from benchmarks.servers import Servers
from inference.models.bundled import BUNDLED_MODEL
from inference.models.store import ModelStore
from inference.settings import available_cores
from local_stack.databases import RESULTS
from local_stack.sample_run import DAG_ID, ready_dag
from local_stack.settings import REPOSITORY
from local_stack.stack import BUCKET, Stack

PEER_TIMEOUT_S = 3600.0
AIRFLOW_TIMEOUT_S = 3600.0
POLL_S = 1.0
WORKER = "inference.worker"
"""Part of the command line of the process that classifies."""

RECORDED = """
SELECT extract(epoch FROM recorded_at)::float8, count(*)
FROM nightlabel.outcome WHERE run_id = %s GROUP BY recorded_at ORDER BY recorded_at
"""
LABELS = """
SELECT object_key, label_id FROM nightlabel.latest_prediction WHERE bucket = %s AND starts_with(object_key, %s)
"""


class BenchmarkError(Exception):
    """Something that was to be measured did not do its work; the message says what."""


@dataclass(frozen=True, slots=True)
class Ours:
    """A run of the product, measured."""

    contender: Contender
    summary: dict[str, Any]
    """Its row of ``run_summary``."""
    memory: list[tuple[int, float]]
    """(images done, MiB) of the worker."""


@dataclass(frozen=True, slots=True)
class _Ended:
    seconds: float
    cpu_s: dict[str, float]
    peak_mib: dict[str, float]
    trace: list[tuple[float, float]]
    output: str


def _run(command: Sequence[str | Path], environment: dict[str, str], servers: Servers, timeout_s: float) -> _Ended:
    """Run a program to its end, and count what it and the servers used meanwhile.

    Raises:
        BenchmarkError: it failed; with the end of what it said.
    """
    roots = [Root(name, pid) for name, pid in servers.pids.items()]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as errors, Meter(roots, traced=WORKER) as meter:
        began = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], env=environment, cwd=REPOSITORY, text=True,
                                   stdout=subprocess.PIPE, stderr=errors, start_new_session=True)  # fmt: skip
        meter.add(Root("itself", process.pid))
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            for pid in meter.pids("itself"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.perf_counter() - began
        errors.seek(0)
        said = errors.read()[-3000:]
    if process.returncode:
        raise BenchmarkError(f"{' '.join(map(str, command))[:200]} ended with {process.returncode}:\n{output}{said}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    exact = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    cpu_s = meter.cpu_s()
    cpu_s["itself"] = max(cpu_s["itself"], exact)
    return _Ended(seconds, cpu_s, dict(meter.peak_mib), meter.trace, output)


def last_json(output: str) -> dict[str, Any]:
    """Return the JSON object on the last line that holds one."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    answer: dict[str, Any] = json.loads(line)
    return answer


def run_module(module: str, options: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run one of our measuring modules in a process of its own and return its answer.

    Raises:
        BenchmarkError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", module, json.dumps(options)], env=environment, cwd=REPOSITORY,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"{module} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return last_json(done.stdout)


def measure_cli(
    servers: Servers,
    prefix: str,
    bound: Callable[[], float],
    *,
    name: str,
    database: str,
    options: Sequence[str] = (),
) -> Ours:
    """Label what is new under a prefix by ``python -m inference classify``, with further options."""
    command = [sys.executable, "-m", "inference", "classify", "--bucket", BUCKET, "--prefix", prefix, "--json"]
    command += options
    before = bound()
    ended = _run(command, servers.environment(database), servers, PEER_TIMEOUT_S)
    after = bound()
    summary = last_json(ended.output)
    recorded = [(float(moment), int(images)) for moment, images in servers.rows(database, RECORDED, summary["run_id"])]
    contender = Contender(
        name=name,
        images=sum(images for _, images in recorded),
        seconds=ended.seconds,
        first_images=recorded[0][1] if recorded else 0,
        steady_s=recorded[-1][0] - recorded[0][0] if recorded else 0.0,
        bound_per_second=(before + after) / 2,
        cpu_s=ended.cpu_s,
        peak_mib=ended.peak_mib,
        note=f"copied {summary['copied']}, dead {summary['dead']}",
    )
    return Ours(contender, summary, memory_over_images(ended.trace, recorded))


def labels(servers: Servers, database: str, prefix: str) -> dict[str, str]:
    """Return the product's labels by the key without the prefix."""
    return {key.removeprefix(prefix): label for key, label in servers.rows(database, LABELS, BUCKET, prefix)}


def measure_airflow(servers: Servers, prefix: str, bound: Callable[[], float], *, name: str) -> Ours:
    """Label what is new under a prefix by the Dag, started by a trigger, in the embedded stack.

    Raises:
        BenchmarkError: the run failed, or took too long.
    """
    before = bound()
    with bench_servers.whole_stack(servers) as stack:
        api = stack.airflow.api()
        ready_dag(api, stack)
        time.sleep(5.0)  # what Airflow does right after its start is no part of a night
        parts = [Root(part, pid, "tasks" if part == "scheduler" else None) for part, pid in stack.airflow.pids.items()]
        pids = bench_servers.stack_pids(stack)
        with Meter([*parts, *(Root(part, pid) for part, pid in pids.items())]) as meter:
            triggered = time.time()
            conf = {"bucket": BUCKET, "prefix": prefix}
            run = api.post(f"/api/v2/dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": conf})
            address = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(run['dag_run_id'], safe='')}"
            while run["state"] not in ("success", "failed"):
                if time.time() - triggered > AIRFLOW_TIMEOUT_S:
                    raise BenchmarkError(f"the Dag run is still {run['state']} after {AIRFLOW_TIMEOUT_S:.0f} s")
                time.sleep(POLL_S)
                stack.check()
                run = api.get(address)
        if run["state"] != "success":
            raise BenchmarkError(f"the Dag run ended as {run['state']}: {_failures(stack, address)}")
        seconds = datetime.fromisoformat(run["end_date"]).timestamp() - triggered
        summary = _summary(servers, run["dag_run_id"])
        recorded = [
            (float(moment), int(images)) for moment, images in servers.rows(RESULTS, RECORDED, summary["run_id"])
        ]
    after = bound()
    contender = Contender(
        name=name,
        images=sum(images for _, images in recorded),
        seconds=seconds,
        first_images=recorded[0][1] if recorded else 0,
        steady_s=recorded[-1][0] - recorded[0][0] if recorded else 0.0,
        bound_per_second=(before + after) / 2,
        cpu_s=meter.cpu_s(),
        peak_mib=dict(meter.peak_mib),
        note=f"copied {summary['copied']}, dead {summary['dead']}",
    )
    return Ours(contender, summary, [])


def _summary(servers: Servers, airflow_run_id: str) -> dict[str, Any]:
    [(row,)] = servers.rows(
        RESULTS, "SELECT to_jsonb(s) FROM nightlabel.run_summary AS s WHERE airflow_run_id = %s", airflow_run_id
    )
    found: dict[str, Any] = row
    return found


def _failures(stack: Stack, address: str) -> str:
    tasks = stack.airflow.api().get(f"{address}/taskInstances?limit=100")["task_instances"]
    return ", ".join(f"{task['task_id']} {task['state']}" for task in tasks)


def read_events(path: Path) -> list[Event]:
    """Return what a peer noted, in order of time."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return sorted(((name, float(moment)) for name, moment in lines), key=lambda event: event[1])


@dataclass(frozen=True, slots=True)
class Peers:
    """Runs peers in their own environment."""

    servers: Servers
    python: Path
    """Of the peers' environment."""
    onednn: str = "0"
    """``TF_ENABLE_ONEDNN_OPTS``: whichever is faster here."""

    def job(self, peer: Peer, prefix: str, database: str, choice: dict[str, Any]) -> Job:
        """Describe what a peer is to do."""
        store = ModelStore(self.servers.models)
        manifest = store.read_manifest(BUNDLED_MODEL)
        folder = store.folder_of(BUNDLED_MODEL)
        return Job(
            peer=peer.name,
            bucket=BUCKET,
            prefix=prefix,
            database=self.servers.postgres.url(database),
            engine=peer.engine,
            saved_model=str(folder / manifest.engines["tensorflow"]),
            litert_model=str(folder / manifest.engines["litert"]),
            label_ids=tuple(label.label_id for label in manifest.labels),
            side=manifest.preprocessing.height,
            crop_fraction=manifest.preprocessing.crop_fraction,
            batch_size=choice["batch_size"],
            threads=max(1, available_cores() - choice.get("spared_cores", 0)),
            choices=choice,
        )

    def run(self, peer: Peer, job: Job) -> tuple[_Ended, list[Event]]:
        """Run a peer to its end; return what it said, and when what happened.

        Raises:
            BenchmarkError: it failed.
        """
        with tempfile.TemporaryDirectory(prefix="nlp-", ignore_cleanup_errors=True) as scratch:
            environment = {
                **{
                    name: value
                    for name, value in self.servers.environment("unused").items()
                    if not name.startswith(("NIGHTLABEL_", "VIRTUAL_ENV"))
                },
                EVENTS: str(Path(scratch) / "events"),
                "TF_ENABLE_ONEDNN_OPTS": self.onednn,
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "TF_USE_LEGACY_KERAS": "1",  # what loads a SavedModel for Beam's handler
                "CUDA_VISIBLE_DEVICES": "-1",
                "RAY_TMPDIR": scratch,
                "RAY_USAGE_STATS_ENABLED": "0",
                "DAFT_ANALYTICS_ENABLED": "0",
                "DAFT_PROGRESS_BAR": "0",
                "DO_NOT_TRACK": "1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            path = Path(scratch) / "job.json"
            path.write_text(json.dumps(asdict(job)), encoding="utf-8")
            command = [self.python, "-m", "benchmarks.peers", peer.module, path]
            ended = _run(command, environment, self.servers, PEER_TIMEOUT_S)
            return ended, read_events(Path(scratch) / "events")

    def measure(
        self,
        peer: Peer,
        prefix: str,
        choice: dict[str, Any],
        bound: Callable[[], float],
        known: dict[str, str] | None = None,
    ) -> Contender:
        """Run a peer over a prefix and read what it wrote.

        Args:
            peer: Whom.
            prefix: Beginning of the keys.
            choice: What of its choices.
            bound: Measures inference alone.
            known: The product's labels by the key without the prefix, to compare with.
        """
        database = self.servers.new_database()
        before = bound()
        job = self.job(peer, prefix, database, choice)
        ended, events = self.run(peer, job)
        after = bound()
        rows = self.servers.rows(
            database,
            "SELECT object_key, label_id, extract(epoch FROM written_at)::float8 FROM peer_prediction",
        )
        if not rows:
            raise BenchmarkError(f"{peer.name} wrote no row")
        equal = None
        if known:
            equal = sum(known.get(key.removeprefix(prefix)) == label for key, label, _ in rows) / len(rows)
        return Contender(
            name=peer.name,
            images=len(rows),
            seconds=ended.seconds,
            first_images=0,
            steady_s=steady_seconds(events, max(written for _, _, written in rows)),
            bound_per_second=(before + after) / 2,
            cpu_s=ended.cpu_s,
            peak_mib=ended.peak_mib,
            equal_labels=equal,
            note=", ".join(f"{name} {value}" for name, value in choice.items()),
        )
