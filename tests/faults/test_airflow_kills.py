"""Parts of Airflow killed, frozen and overlapping while shards run: the run ends, nothing is lost, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import ProcessIdentity, wait_until
from tests.e2e.kills import MODEL_BATCH, SlowImages, die, outcomes, parent_of, process_of
from tests.e2e.loaded import children, command_line
from tests.e2e.nights import DAG, AirflowRun, photo
from tests.e2e.stacks import Commands, RunningStack, stack_of_its_own
from tests.faults.poisoned.sitecustomize import ABORT, HANG, SLOW

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(900)]

POISONED = Path(__file__).parent / "poisoned"
AGAIN_WITHIN_S = 60
GAVE_UP = "Too many failed heartbeats"
"""What the supervisor of a task says when it ends the task after three signs of life that it could not give."""


@pytest.fixture(scope="module")
def killed_stack(server_folders: Path) -> Iterator[Commands]:
    """A stack for these tests alone, whose decoder poison works on."""
    settings = {"PYTHONPATH": str(POISONED), "NIGHTLABEL_DECODE_TIMEOUT_S": "5"}
    with stack_of_its_own(server_folders / "killed-stack", **settings) as commands:
        yield commands


@pytest.fixture
def running(killed_stack: Commands) -> RunningStack:
    """The stack from inside; started again if a test has stopped it."""
    assert killed_stack("up").returncode == 0
    return RunningStack(killed_stack)


@contextmanager
def a_night_on_slow_images(running: RunningStack, seed: int, images: int = 240) -> Iterator[tuple[Any, AirflowRun]]:
    """A run in the middle of its first shard; afterwards it succeeds, and each image has one outcome, never another."""
    slow = SlowImages(running, images, seed)
    night = AirflowRun.trigger(running, bucket=slow.bucket, shard_size=images * 3 // 4)
    slow.wait_for_outcomes(24)
    committed = outcomes(running, slow.bucket)
    yield slow, night
    assert wait_until(lambda: night.summary()["state"] == "succeeded", 300, interval_s=1), night.summary()
    assert night.wait(60) == "success"
    assert night.counts() == {"discovered": images, "labelled": images}
    assert set(running.labels(slow.bucket)) == slow.keys
    now = outcomes(running, slow.bucket)
    assert set(now) == slow.keys
    assert {key: now[key] for key in committed} == committed


def wait_for_restart(running: RunningStack, part: str, pid: int) -> None:
    """Wait until a part that was killed runs again."""
    airflow = running.stack.airflow
    assert wait_until(lambda: airflow.pids.get(part, pid) != pid, 60)


def test_a_shard_whose_process_is_killed_runs_again_within_a_minute_and_repeats_nothing(
    running: RunningStack, seed: int
):
    images = SlowImages(running, 240, seed)
    night = AirflowRun.trigger(running, bucket=images.bucket, shard_size=200)
    images.wait_for_outcomes(40)
    killed_at = die(process_of(night.shard_tasks()[0]))
    committed = outcomes(running, images.bucket)
    assert 40 <= len(committed) < 200

    seconds = images.wait_for_attempt(night, shard=0, attempt=2, since=killed_at)

    assert seconds < AGAIN_WITHIN_S
    assert night.wait(120) == "success"
    assert night.tries() == [2, 1]
    assert night.counts() == {"discovered": 240, "labelled": 240}
    assert set(running.labels(images.bucket)) == images.keys
    now = outcomes(running, images.bucket)
    assert len(now) == 240
    assert {image: now[image] for image in committed} == committed, "what was committed stays as it was"
    batches = night.shards()[0]["batches"]
    assert batches <= (200 - len(committed)) / MODEL_BATCH + 2, "the second attempt computed only what was left"


def test_a_task_lost_with_its_supervisor_is_missed_and_runs_again_within_a_minute(running: RunningStack, seed: int):
    with a_night_on_slow_images(running, seed) as (slow, night):
        pid = process_of(night.shard_tasks()[0])
        killed_at = die(parent_of(pid), pid)
        seconds = slow.wait_for_attempt(night, shard=0, attempt=2, since=killed_at)
        assert seconds < AGAIN_WITHIN_S
    assert night.tries() == [2, 1]


def test_a_task_that_outlives_its_supervisor_and_its_retry_share_the_shard_without_doubles(
    running: RunningStack, seed: int
):
    with a_night_on_slow_images(running, seed) as (slow, night):
        orphan = ProcessIdentity.of(process_of(night.shard_tasks()[0]))
        assert orphan is not None
        killed_at = die(parent_of(orphan.pid))
        os.kill(orphan.pid, signal.SIGSTOP)  # else it may have done its shard before the next attempt begins
        slow.wait_for_attempt(night, shard=0, attempt=2, since=killed_at)
        os.kill(orphan.pid, signal.SIGCONT)
        assert orphan.is_alive, "both are at it"
    assert wait_until(lambda: not orphan.is_alive, 60), "it finds that it is stale"


def test_a_killed_scheduler_is_started_again_and_the_run_finishes(running: RunningStack, seed: int):
    with a_night_on_slow_images(running, seed) as (slow, night):
        scheduler = running.stack.airflow.pids["scheduler"]
        below = {identity for pid in children(scheduler) if (identity := ProcessIdentity.of(pid))}
        killed_at = die(scheduler)
        wait_for_restart(running, "scheduler", scheduler)
        assert not [identity for identity in below if identity.is_alive]
        seconds = slow.wait_for_attempt(night, shard=0, attempt=2, since=killed_at)
        assert seconds < AGAIN_WITHIN_S


def test_every_worker_of_the_scheduler_killed_at_once_the_idle_ones_included(running: RunningStack, seed: int):
    with a_night_on_slow_images(running, seed) as (slow, night):
        scheduler = running.stack.airflow.pids["scheduler"]
        workers = [pid for pid in children(scheduler) if "LocalExecutor" in command_line(pid)]
        assert len(workers) > 1
        killed_at = die(*workers)
        wait_for_restart(running, "scheduler", scheduler)
        assert slow.wait_for_attempt(night, shard=0, attempt=2, since=killed_at) < AGAIN_WITHIN_S


@pytest.mark.parametrize("part", ["triggerer", "dag-processor", "api-server"])
def test_any_other_part_that_is_killed_is_started_again_and_the_run_finishes(
    running: RunningStack, part: str, seed: int
):
    with a_night_on_slow_images(running, seed):
        pid = running.stack.airflow.pids[part]
        die(pid)
        wait_for_restart(running, part, pid)
        assert wait_until(lambda: bool(running.api.health()), 60)


def test_a_run_goes_on_by_itself_when_the_whole_stack_was_killed_and_is_up_again(
    killed_stack: Commands, running: RunningStack, seed: int
):
    slow = SlowImages(running, 240, seed)
    night = AirflowRun.trigger(running, bucket=slow.bucket, shard_size=180)
    slow.wait_for_outcomes(24)
    committed = outcomes(running, slow.bucket)
    launcher = killed_stack.record.launcher()
    assert launcher
    die(launcher.pid, *(identity.pid for identity in killed_stack.processes()))
    assert killed_stack("down").returncode == 0

    assert killed_stack("up").returncode == 0

    night = AirflowRun(RunningStack(killed_stack), night.run_id)
    assert night.wait(300) == "success"
    assert night.counts() == {"discovered": 240, "labelled": 240}
    now = outcomes(running, slow.bucket)
    assert set(now) == slow.keys
    assert {key: now[key] for key in committed} == committed


def test_an_api_server_that_answers_nobody_for_longer_than_tasks_wait_costs_only_time(running: RunningStack):
    bucket = running.new_bucket()
    objects = {f"{number:03}.png": photo("cat") + b" %d " % number + SLOW for number in range(200)}
    running.put_all(bucket, objects)
    night = AirflowRun.trigger(running, bucket=bucket)
    assert wait_until(lambda: bool(outcomes(running, bucket)), 120)
    frozen = running.airflow_processes()["api-server"]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: GAVE_UP in scheduler_log(running), 240, interval_s=1), "no task was given up"
        committed = outcomes(running, bucket)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

    assert night.wait(400) == "success"
    assert night.tries()[0] > 1
    assert night.counts() == {"discovered": 200, "labelled": 200}
    assert set(running.labels(bucket)) == set(objects)
    now = outcomes(running, bucket)
    assert {key: now[key] for key in committed} == committed


def scheduler_log(running: RunningStack) -> str:
    return (running.stack.airflow.home / "scheduler.log").read_text(encoding="utf-8")


def test_images_that_kill_or_hang_the_decoder_become_dead_letters_within_few_retries(running: RunningStack):
    bucket = running.new_bucket()
    poison = {30: ABORT, 100: HANG}
    objects = {f"{number:03}.png": photo("cat") + b" %d " % number + poison.get(number, b"") for number in range(160)}
    running.put_all(bucket, objects)

    night = AirflowRun.trigger(running, bucket=bucket)

    assert night.wait(240) == "success"
    assert night.counts() == {"discovered": 160, "labelled": 158, "dead": 2}
    dead = running.rows("SELECT object_key, error_code, permanent FROM dead_letter_open WHERE bucket = %s", bucket)
    assert {row["object_key"]: (row["error_code"], row["permanent"]) for row in dead} == {
        "030.png": ("decoder_crashed", False),
        "100.png": ("decoder_timeout", False),
    }
    assert set(running.labels(bucket)) == set(objects) - {"030.png", "100.png"}
    assert night.tries()[0] <= 3


@pytest.mark.parametrize("with_its_shards", [True, False])
def test_discovery_that_is_cleared_while_its_shards_run_plans_what_is_left(
    running: RunningStack, seed: int, with_its_shards: bool
):
    with a_night_on_slow_images(running, seed) as (_, night):
        night.clear("discover", downstream=with_its_shards)
        assert wait_until(lambda: night.summary()["state"] == "planned" or night.shards()[0]["plan_number"] == 2, 120)
    assert {shard["plan_number"] for shard in night.shards()} == {2}


def test_a_shard_that_is_cleared_while_it_runs_ends_by_itself_and_leaves_no_suspicion(running: RunningStack, seed: int):
    with a_night_on_slow_images(running, seed) as (slow, night):
        task = ProcessIdentity.of(process_of(night.shard_tasks()[0]))
        assert task is not None
        night.clear(["classify_on_cpu", 0])
        assert wait_until(lambda: not task.is_alive, 60)
        slow.wait_for_attempt(night, shard=0, attempt=2, since=time.monotonic())
    assert [(shard["unclean_ends"], shard["is_isolated"]) for shard in night.shards()] == [(0, False)] * 2


def test_a_backfill_that_overlaps_a_run_labels_no_image_twice(running: RunningStack, seed: int):
    running.api.set_pools({"classify_cpu": 2})
    try:
        overlap(running, seed)
    finally:
        running.restore_pools()


def overlap(running: RunningStack, seed: int) -> None:
    slow = SlowImages(running, 300, seed)
    night = AirflowRun.trigger(running, bucket=slow.bucket)
    slow.wait_for_outcomes(24)
    pid = process_of(night.shard_tasks()[0])
    os.kill(pid, signal.SIGSTOP)  # else it may have done everything before the other one is planned
    try:
        backfill = backfill_of_today(running, slow.bucket)
        slow.wait_for_outcomes(slow.outcomes() + 4 * MODEL_BATCH)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (night.wait(300), backfill.wait(300)) == ("success", "success")

    assert night.row()["logical_date"] is None
    first, second = night.summary(), backfill.summary()
    assert (first["discovered"], second["discovered"]) == (300, 300)
    assert first["labelled"] + second["labelled"] == 300
    assert first["done_elsewhere"] == second["labelled"] > 0
    assert second["already_done"] + second["done_elsewhere"] == first["labelled"]
    assert set(outcomes(running, slow.bucket)) == set(running.labels(slow.bucket)) == slow.keys


def backfill_of_today(running: RunningStack, bucket: str) -> AirflowRun:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    period = {"from_date": (today - timedelta(days=1)).isoformat(), "to_date": today.isoformat()}
    running.api.post("/api/v2/backfills", {"dag_id": "classify_images", **period, "dag_run_conf": {"bucket": bucket}})
    assert wait_until(lambda: bool(backfilled(running)), 60)
    [run] = backfilled(running)
    assert run["logical_date"] is not None
    return AirflowRun(running, run["dag_run_id"])


def backfilled(running: RunningStack) -> list[dict[str, Any]]:
    runs = running.api.get(f"{DAG}/dagRuns?run_type=backfill")["dag_runs"]
    return [run for run in runs if run["run_type"] == "backfill"]


def test_a_shard_for_each_of_thousands_of_images_is_two_hundred_shards(running: RunningStack):
    bucket = running.new_bucket()
    running.put_all(bucket, {f"{number:04}": b"no image %d" % number for number in range(2_500)})
    night = AirflowRun.trigger(running, bucket=bucket, shard_size=1)
    try:
        assert wait_until(lambda: len(night.shards()) > 0 and night.states()["discover"] == {"success"}, 120)
        assert len(night.shards()) == 193, "of 13 images each"
        assert wait_until(lambda: night.mapped() == len(night.shards()), 60), night.mapped()
    finally:
        running.api.patch(f"{night.path}?update_mask=state", {"state": "failed"})
        night.wait()
