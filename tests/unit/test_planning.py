"""How a backlog becomes shards."""

from __future__ import annotations

import math

import pytest

from inference.planning import MAX_SHARDS, images_to_plan, shard_size


@pytest.mark.parametrize("backlog", [0, 1, 199, 200, 201, 1_025, 600_001, 35_999_999, 36_000_000, 10**9])
@pytest.mark.parametrize("wanted", [None, 1, 7, 1_000_000])
def test_a_run_never_has_more_than_two_hundred_shards(backlog: int, wanted: int | None):
    planned = images_to_plan(backlog, max_images=None)
    assert math.ceil(planned / shard_size(planned, wanted=wanted)) <= MAX_SHARDS == 200


def test_a_wanted_size_is_kept_where_it_gives_few_enough_shards():
    assert shard_size(1_000, wanted=5) == 5
    assert shard_size(1_001, wanted=5) == 6
    assert shard_size(10, wanted=1) == 1
