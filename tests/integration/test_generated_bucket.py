"""Tens of thousands of keys, odd ones too, come from the S3 adapter by ranges, through trouble as well."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import cache

import boto3
import pytest

from inference.errors import StoreCredentialsError
from inference.listing import TimedListing
from inference.stores import ranges
from inference.stores.s3 import S3Store
from inference.wiring import SystemClock
from tests.generated_bucket import GeneratedBucket, PlannedKeys, generated_bucket, odd_keys

pytestmark = pytest.mark.integration


@cache
def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="some", aws_secret_access_key="one", region_name="us-east-1")


def listing(server: GeneratedBucket, prefix: str = "", *, threads: int = 8, attempts: int = 6) -> TimedListing:
    store = S3Store(session=session(), endpoint_url=server.url, list_threads=threads, attempts=attempts)
    return TimedListing(store, "photos", prefix, SystemClock())


def keys_of(found: TimedListing) -> Counter[str]:
    return Counter(entry.key for page in found for entry in page)


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - keys, no secrets


def test_thirty_thousand_keys_come_once_each_by_few_requests_more_than_pages():
    with generated_bucket(PlannedKeys(30_000)) as server:
        found = listing(server, "in/")

        assert keys_of(found) == Counter(server.keys)
    assert found.discovered == 30_000
    assert 0 < server.probes < 100
    assert server.requests - server.probes < 60


@pytest.mark.parametrize("prefix", ["", "in/", "a//", "k"])
def test_odd_keys_come_once_each(rng: random.Random, prefix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranges, "PLAIN_KEYS", 200)
    with generated_bucket(odd_keys(rng, 8_000), page_size=100) as server:
        expected = Counter(key for key in server.keys if key.startswith(prefix))

        assert keys_of(listing(server, prefix)) == expected
        assert server.probes > 0


def test_trouble_here_and_there_costs_no_key(rng: random.Random):
    lock = threading.Lock()

    def trouble(query: dict[str, str]) -> tuple[int, bytes] | None:
        with lock:
            kind = rng.choice(["fine"] * 27 + ["slow", "cut", "nothing"])
        if kind == "slow":
            return 503, b"<Error><Code>SlowDown</Code></Error>"
        if kind == "cut":
            return 200, server.page(query)[:-30]
        return (200, b"") if kind == "nothing" else None

    with generated_bucket(odd_keys(rng, 4_000), page_size=100) as server:
        server.befalls = trouble

        assert keys_of(listing(server)) == Counter(server.keys)


def test_a_right_that_is_lost_on_the_way_ends_the_listing():
    def refuse(query: dict[str, str]) -> tuple[int, bytes] | None:
        return (403, b"<Error><Code>AccessDenied</Code></Error>") if server.requests > 20 else None

    with generated_bucket(PlannedKeys(30_000)) as server:
        server.befalls = refuse
        with pytest.raises(StoreCredentialsError):
            keys_of(listing(server, attempts=1))


def test_a_store_that_takes_keys_to_start_after_for_something_else_is_read_page_by_page():
    def forget(query: dict[str, str]) -> tuple[int, bytes]:
        return 200, server.page({name: value for name, value in query.items() if name != "start-after"})

    with generated_bucket(PlannedKeys(30_000)) as server:
        server.befalls = forget

        assert keys_of(listing(server)) == Counter(server.keys)
    assert server.requests == 31
