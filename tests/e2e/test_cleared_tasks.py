"""Shards that are run once more through the real scheduler: nothing lost, nothing twice."""

from __future__ import annotations

import pytest

from tests.e2e.kills import outcomes
from tests.e2e.nights import Night, photo
from tests.e2e.stacks import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


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
