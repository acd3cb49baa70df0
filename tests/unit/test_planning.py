"""How a backlog becomes shards, and how long it is likely to take."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from inference.errors import SettingsError
from inference.planning import (
    IMAGES_AT_UNKNOWN_SPEED,
    MAX_SHARD_IMAGES,
    MAX_SHARDS,
    check_request,
    duration_text,
    images_to_plan,
    images_within,
    largest_shard,
    shard_size,
)
from inference.types import DeadLetterFilter, LabelFilter, ModelId, Plan, RunRequest, ShadowSample, Speed

RUN_ID = UUID("cf2ebf3f-eb23-a16e-82e2-108fa59fc7e5")


def plan(to_classify: int, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "run_id": RUN_ID, "plan_number": 1, "model": ModelId("tiny", "2"), "device": "cpu", "discovered": to_classify,
        "already_done": 0, "deferred": 0, "to_classify": to_classify, "to_classify_bytes": 0, "shards": (),
        "list_s": 0.0,
    }  # fmt: skip
    return Plan(**values | changes)


@pytest.mark.parametrize("backlog", [0, 1, 199, 200, 201, 1_025, 600_001, 35_999_999, 36_000_000, 10**9])
@pytest.mark.parametrize("wanted", [None, 1, 7, 1_000_000])
@pytest.mark.parametrize("rate", [None, 0.01, 3.0, 50.0, 100_000.0])
def test_a_run_never_has_more_than_two_hundred_shards(backlog: int, wanted: int | None, rate: float | None):
    largest = largest_shard(RunRequest("b", images_per_second=rate, longest_shard_s=225.0))
    planned = images_to_plan(backlog, max_images=None, largest_shard=largest)
    size = shard_size(planned, wanted=wanted, largest=largest)
    assert math.ceil(planned / size) <= MAX_SHARDS == 200
    assert 1 <= size <= largest


def test_a_wanted_size_is_kept_where_it_gives_few_enough_shards():
    assert shard_size(1_000, wanted=5) == 5
    assert shard_size(1_001, wanted=5) == 6
    assert shard_size(10, wanted=1) == 1


def test_a_shard_at_a_slow_rate_is_as_small_as_its_time_and_the_rest_of_the_run_is_left_for_later():
    slow = RunRequest("b", images_per_second=2.0, longest_shard_s=225.0)
    largest = largest_shard(slow)
    assert largest == 450
    assert shard_size(10_000, largest=largest) == 450, "without a rate it would be thousands"
    assert images_to_plan(10**6, max_images=None, largest_shard=largest) == 200 * 450
    assert largest_shard(RunRequest("b", images_per_second=1e5, longest_shard_s=225.0)) == MAX_SHARD_IMAGES
    assert largest_shard(RunRequest("b", images_per_second=0.01, longest_shard_s=1.0)) == 1
    no_time_out = RunRequest("b", images_per_second=2.0)
    assert largest_shard(no_time_out) == largest_shard(RunRequest("b")) == MAX_SHARD_IMAGES


def test_a_time_budget_takes_what_it_is_likely_to_do_for():
    assert images_within(None, Speed(50.0, is_of_model=True)) is None
    assert images_within(60.0, Speed(50.0, is_of_model=True)) == 2_400
    assert images_within(60.0, None) == IMAGES_AT_UNKNOWN_SPEED
    assert images_within(1.0, Speed(0.01, is_of_model=False)) == 1
    assert images_within(60.0, Speed(5.0, is_of_model=False)) == 240
    assert images_within(60.0, Speed(500.0, is_of_model=False)) == IMAGES_AT_UNKNOWN_SPEED, "it may be a slow model"
    assert images_to_plan(5_000, max_images=None, budget=2_400) == 2_400
    assert images_to_plan(5_000, max_images=100, budget=2_400) == 100


@pytest.mark.parametrize(
    ("images", "rate", "speed", "expected_s", "text"),
    [
        (0, 5.0, None, 0.0, "no time, since there is nothing to classify"),
        (600, None, Speed(50.0, is_of_model=True), 12.0, "about 12 s at the 50 images/s that runs of this model did"),
        (
            600,
            20.0,
            Speed(50.0, is_of_model=True),
            30.0,
            "about 30 s at the 20 images/s that it keeps to; runs of this",
        ),
        (90_000, 80.0, Speed(50.0, is_of_model=False), 1800.0, "about 30 min at the 50 images/s that runs of other"),
        (600, None, None, None, "an unknown time: no run on cpu has ended here in the last 30 days"),
        (72_000, 10.0, None, None, "days, at least 2 h at the 10 images/s that it keeps to"),
        (10_000_000, None, Speed(23.148, is_of_model=True), 432002.76, "about 5 days at"),
        (20_000, 1.0, Speed(9.0, is_of_model=True), 20000.0, "about 5 h 33 min at the 1 images/s"),
    ],
)
def test_a_plan_says_how_long_it_takes_and_how_that_is_known(images, rate, speed, expected_s, text):
    planned = plan(images, images_per_second=rate, speed=speed)
    assert planned.expected_s == pytest.approx(expected_s)
    assert text in duration_text(planned)
    assert planned.least_s == (0.0 if rate is None else images / rate)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"images_per_second": 0.001}, "images_per_second is 0.001; it is from 0.01 to 100000"),
        ({"images_per_second": math.nan}, "images_per_second is nan; it is from 0.01"),
        ({"time_budget_s": 0.0}, "time_budget_s is 0.0; it is above 0"),
        ({"labelled": LabelFilter(label="")}, "label is ''; give text in UTF-8, without a NUL, or leave it out"),
        ({"labelled": LabelFilter(label="a\x00")}, "label is 'a\\x00'"),
        ({"labelled": LabelFilter(label="cat", label_id="n1")}, "both a label and a label id are given"),
        ({"labelled": LabelFilter(label="cat", dead_letters_too=True)}, "leave out dead_letters_too"),
        ({"labelled": LabelFilter(labelled_by="tiny@")}, "the model is 'tiny@'; give an alias"),
        (
            {"labelled": LabelFilter(since=datetime(2026, 2, 1, tzinfo=UTC), until=datetime(2026, 1, 1, tzinfo=UTC))},
            "nothing can match",
        ),
        ({"labelled": LabelFilter(), "manifest": "s3://b/k"}, "which takes no manifest; leave out 's3://b/k'"),
        ({"labelled": LabelFilter(), "dead_letters": DeadLetterFilter()}, "a run takes its images from one of them"),
        ({"shadow": ShadowSample(RUN_ID, 0.5), "labelled": LabelFilter()}, "a run takes its images from one of them"),
        ({"shadow": ShadowSample(RUN_ID, 1.5)}, "the share of a shadow is 1.5; it is from 0 to 1"),
    ],
)
def test_a_request_that_cannot_mean_anything_is_refused_with_what_it_may_be(asked: dict[str, Any], sentence: str):
    with pytest.raises(SettingsError) as refused:
        check_request(RunRequest("photos", **asked))
    assert sentence in str(refused.value)
