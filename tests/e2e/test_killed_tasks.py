"""Shards through the real scheduler whose process is killed, or that are run once more: nothing lost, nothing twice."""

from __future__ import annotations

import pytest

from tests.e2e.kills import MODEL_BATCH, SlowImages, die, outcomes, process_of
from tests.e2e.nights import AirflowRun, Night, photo
from tests.e2e.stacks import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

AGAIN_WITHIN_S = 60


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


def test_one_shard_that_is_cleared_runs_again_and_changes_nothing(running: RunningStack):
    bucket = running.new_bucket()
    running.put_all(bucket, {f"{number:02}.png": photo("cat") + bytes([number]) for number in range(20)})
    night = Night(running, bucket=bucket, shard_size=7)
    assert (night.state, night.tries()) == ("success", [1, 1, 1])
    before, counts = outcomes(running, bucket), night.counts()

    night.clear(["classify_on_cpu", 1])

    assert night.wait() == "success"
    assert night.tries() == [1, 2, 1]
    assert night.counts() == counts == {"discovered": 20, "labelled": 20}
    assert night.summary()["state"] == "succeeded"
    assert outcomes(running, bucket) == before
