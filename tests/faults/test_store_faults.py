"""Shards against a real store that misbehaves: every image one outcome, and none condemned for the store's trouble."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from PIL import Image

from inference.errors import StoreCredentialsError, StoreUnavailableError, TransientError
from inference.listing import TimedListing
from inference.runner import ShardRunner
from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.stores.s3 import S3Store
from inference.types import ImageRef, ListedObject, Plan, RunRequest, ShardStats
from inference.wiring import SystemClock
from local_stack.object_store import REGION, EmbeddedObjectStore
from local_stack.postgres import EmbeddedPostgres
from tests.fakes import FakeHandle
from tests.faults import store_proxy as fault
from tests.faults.store_proxy import Exchange, StoreProxy
from tests.ledger import BUCKET, Ledger

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_credentials_around")]

IMAGES = 40
LABELS = {255: "cat", 0: "dog"}


@pytest.fixture(scope="module")
def ledger(postgres_server: EmbeddedPostgres) -> Iterator[Ledger]:
    """One ledger for all tests here: each has its own keys."""
    name = f"test_{uuid.uuid4().hex}"
    postgres_server.create_database(name)
    settings = read_settings(database_url=postgres_server.url(name))
    migrate(settings)
    with PostgresSink(settings) as sink:
        made = Ledger(postgres_server.url(name), settings, sink)
        made.register("tiny", "1", "production")
        yield made
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def bucket_name(s3_client: S3Client) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    yield name
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def proxy(object_store_server: EmbeddedObjectStore, seed: int) -> Iterator[StoreProxy]:
    keys = (object_store_server.access_key, object_store_server.secret_key)
    with fault.store_proxy(object_store_server.endpoint_url, seed=seed, credentials=keys) as server:
        yield server


@cache
def session() -> boto3.Session:
    """One for all stores here: each session parses the description of S3 anew."""
    return boto3.Session()


def picture(red: int, *, padding: int = 3_000) -> bytes:
    """A small picture of one colour; red is a cat and black a dog to the fake model."""
    out = io.BytesIO()
    Image.new("RGB", (6, 6), (red, 0, 0)).save(out, "PNG")
    return out.getvalue() + os.urandom(padding)  # decoders do not look behind the end


@dataclass
class Stand:
    """Images under a prefix of their own, a store behind the proxy, and the ledger."""

    ledger: Ledger
    client: S3Client
    proxy: StoreProxy
    server: EmbeddedObjectStore
    bucket: str
    prefix: str
    labels: dict[str, str] = field(default_factory=dict)
    """What an undisturbed run gives each key."""

    def key(self, name: str | int) -> str:
        return f"{self.prefix}{name:02}.png" if isinstance(name, int) else f"{self.prefix}{name}"

    def put(self, name: str | int, red: int) -> str:
        """Store a picture and return its key."""
        key = self.key(name)
        self.client.put_object(Bucket=self.bucket, Key=key, Body=picture(red))
        self.labels[key] = LABELS[red]
        return key

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)
        del self.labels[key]

    def store(self, **settings: Any) -> S3Store:
        """A store at the proxy."""
        keys = {"access_key_id": self.server.access_key, "secret_access_key": self.server.secret_key}
        own = {"session": session(), "endpoint_url": self.proxy.url, "region_name": REGION, "read_timeout_s": 10.0}
        return S3Store(**{**own, **keys, **settings})

    def plan(self, store: S3Store) -> Plan:
        listing = TimedListing(store, self.bucket, self.prefix, SystemClock())
        return self.ledger.sink.plan_run(RunRequest(bucket=self.bucket, prefix=self.prefix), listing)

    def run(self, planned: Plan, store: S3Store, **changes: Any) -> ShardStats:
        """One attempt at the run's only shard."""
        parts: dict[str, Any] = {
            "store": store,
            "handle": FakeHandle(),
            "sink": self.ledger.sink,
            "clock": SystemClock(),
            "batch_size": 4,
            "calls_a_batch": 1,
            "fetch_threads": 8,
            "decode_threads": 2,
            "window": 16,
            "max_object_bytes": 100_000,
            "max_pixels": 10_000,
        }
        [number] = planned.shards
        return ShardRunner(**{**parts, **changes}).run(self.ledger.sink.claim_shard(planned.run_id, number))

    def run_until_done(self, planned: Plan, *, attempts: int = 50, **settings: Any) -> int:
        """Run the shard as Airflow would, each attempt with a store of its own; return how often it failed."""
        for failed in range(attempts):
            try:
                self.run(planned, self.store(**settings))
            except TransientError:
                time.sleep(0.05)
            else:
                return failed
        raise AssertionError(f"not done after {attempts} attempts")

    def outcomes(self) -> dict[str, str]:
        """Label or error code of each key as last listed; there may be but one for each version."""
        rows = self.ledger.rows(
            "SELECT i.object_key, i.etag, coalesce(c.label, c.error_code) AS came, o.image_id IS NOT NULL AS is_current"
            " FROM nightlabel.outcome AS c JOIN nightlabel.image AS i USING (image_id) "
            "LEFT JOIN nightlabel.object AS o USING (bucket, object_key, image_id) "
            "WHERE i.bucket = %s AND i.object_key ^@ %s",
            self.bucket,
            self.prefix,
        )
        versions = [(row["object_key"], row["etag"]) for row in rows]
        assert len(versions) == len(set(versions))
        return {row["object_key"]: row["came"] for row in rows if row["is_current"]}

    def reasons(self) -> dict[str, str]:
        """Why a key is a dead letter, of those that are."""
        rows = self.ledger.rows(
            "SELECT object_key, message FROM nightlabel.dead_letter_open WHERE bucket = %s AND object_key ^@ %s",
            self.bucket,
            self.prefix,
        )
        return {row["object_key"]: row["message"] for row in rows}

    def close(self, planned: Plan, **expected: int) -> None:
        """Close the books of the run and compare them: they balance, and all that is not named is labelled."""
        self.ledger.sink.finish_run(planned.run_id)
        books = self.ledger.summary(planned.run_id)  # and the books balance
        parts = {name: books[name] for name in ("labelled", "dead", "gone", "done_elsewhere", "unfinished")}
        others = sum(expected.values())
        assert parts == {
            "labelled": planned.discovered - others,
            "dead": 0,
            "gone": 0,
            "done_elsewhere": 0,
            "unfinished": 0,
            **expected,
        }


@pytest.fixture
def stand(
    ledger: Ledger, s3_client: S3Client, proxy: StoreProxy, object_store_server: EmbeddedObjectStore, bucket_name: str
) -> Stand:
    made = Stand(ledger, s3_client, proxy, object_store_server, bucket_name, f"{uuid.uuid4().hex}/")
    rng = Random(1)  # noqa: S311 - the same pictures each time
    colours = [rng.choice(list(LABELS)) for _ in range(IMAGES)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(made.put, range(IMAGES), colours))
    return made


def test_a_proxy_without_a_plan_changes_nothing(stand: Stand):
    planned = stand.plan(stand.store())
    stats = stand.run(planned, stand.store())

    assert stats.labelled == IMAGES
    assert stand.outcomes() == stand.labels
    assert stand.proxy.count("get") == IMAGES
    stand.close(planned)


# One fault at a time


@pytest.mark.parametrize(
    "befalls",
    [
        pytest.param(fault.SLOW_DOWN, id="503 SlowDown"),
        pytest.param(fault.error(500, "InternalError"), id="500"),
        pytest.param(fault.late(0.2), id="late"),
        pytest.param(fault.drip(8_000), id="slow"),
        pytest.param(fault.reset_at_once, id="reset before the answer"),
        pytest.param(fault.reset_in_body, id="reset in mid-body"),
        pytest.param(fault.short_body, id="short read"),
        pytest.param(fault.corrupt_body, id="corrupted"),
    ],
)
def test_passing_trouble_costs_a_shard_neither_an_attempt_nor_an_image(stand: Stand, befalls: fault.Fault):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(befalls, "get", chance=0.5, times=10)

    stats = stand.run(planned, stand.store())

    assert rule.injected == 10
    assert stats.labelled == IMAGES
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_a_listing_rides_out_the_same_trouble(stand: Stand):
    for befalls in (fault.SLOW_DOWN, fault.reset_in_body, fault.short_body):
        stand.proxy.rule(befalls, "list", times=1)

    planned = stand.plan(stand.store())

    assert planned.discovered == IMAGES
    assert [rule.injected for rule in stand.proxy.rules] == [1, 1, 1]


def test_a_burst_of_slow_down_is_ridden_out_and_does_not_make_us_ask_all_the_more(stand: Stand):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(fault.SLOW_DOWN)
    end = threading.Timer(1.0, stand.proxy.lift, [rule])
    end.start()

    stats = stand.run(planned, stand.store())

    end.join()
    assert stats.labelled == IMAGES
    assert 8 <= rule.injected <= 8 * 5  # eight threads, each after ever longer pauses
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_a_store_that_is_down_fails_the_attempt_and_condemns_no_image(stand: Stand):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(fault.SLOW_DOWN, "get", skip=10)

    with pytest.raises(StoreUnavailableError, match="asks for patience"):
        stand.run(planned, stand.store(attempts=2))

    assert set(stand.outcomes().items()) <= set(stand.labels.items())
    stand.proxy.lift(rule)
    assert stand.run_until_done(planned) == 0
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_the_budget_of_retries_is_shared_and_has_an_end(stand: Stand):
    rule = stand.proxy.rule(fault.SLOW_DOWN, "get")
    store = stand.store(attempts=1_000, fetch_timeout_s=0.7)
    refs = [ImageRef(stand.bucket, stand.key(number), "", 1) for number in range(IMAGES)] * 4

    def fetch(ref: ImageRef) -> bool:
        with pytest.raises(StoreUnavailableError):
            store.fetch(ref, max_bytes=100_000)
        return True

    with ThreadPoolExecutor(80) as pool:
        assert all(pool.map(fetch, refs))

    repeated = rule.injected - len(refs)
    assert 0 < repeated <= 100 + 2 * 60


def test_an_object_that_never_comes_is_a_dead_letter_where_others_come(stand: Stand):
    planned = stand.plan(stand.store())
    broken = stand.key(7)
    rule = stand.proxy.rule(fault.error(500, "InternalError"), "get", key=broken)

    stand.run(planned, stand.store(attempts=2))

    # Twice, each by one request the short way and one the long way, and three more tries beside another object.
    assert rule.injected == 2 * (2 + 3)
    assert stand.outcomes() == {**stand.labels, broken: "fetch_failed"}
    assert stand.reasons()[broken].endswith("(asked 2 times); the store answers otherwise")
    stand.close(planned, dead=1)


def test_a_store_that_lists_but_gives_no_object_any_more_condemns_none(stand: Stand):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(fault.error(500, "InternalError"), "get", skip=IMAGES - 4)  # too few to be conspicuous

    with pytest.raises(StoreUnavailableError, match="500 InternalError"):
        stand.run(planned, stand.store(attempts=2))

    assert rule.injected > 4
    assert set(stand.outcomes().items()) <= set(stand.labels.items())
    stand.proxy.lift(rule)
    assert stand.run_until_done(planned) == 0
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_an_object_that_drips_is_given_up_in_time_and_holds_up_no_other(stand: Stand):
    planned = stand.plan(stand.store())
    drips = stand.key(7)
    rule = stand.proxy.rule(fault.drip(20, at_most_s=60), "get", key=drips)
    began = time.monotonic()

    stand.run(planned, stand.store(fetch_timeout_s=0.5))

    assert time.monotonic() - began < 30
    assert rule.injected >= 2
    assert stand.outcomes() == {**stand.labels, drips: "fetch_failed"}
    [row] = stand.ledger.rows(
        "SELECT message, retry_after FROM nightlabel.dead_letter_open WHERE bucket = %s AND object_key = %s",
        stand.bucket,
        drips,
    )
    assert "cut off after 0.5 seconds, see NIGHTLABEL_FETCH_TIMEOUT_S" in row["message"]
    assert row["retry_after"] is not None
    stand.close(planned, dead=1)


def test_an_object_that_drips_once_is_no_dead_letter(stand: Stand):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(fault.drip(20, at_most_s=60), "get", key=stand.key(7), times=1)

    stand.run(planned, stand.store(fetch_timeout_s=0.5))

    assert rule.injected == 1
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_a_listing_that_drips_is_given_up_in_time(stand: Stand):
    rule = stand.proxy.rule(fault.drip(20, at_most_s=60), "list")
    began = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=r"a page of the listing of the bucket .* whole in 0.5 seconds"):
        stand.plan(stand.store(fetch_timeout_s=0.5))

    assert time.monotonic() - began < 10
    assert rule.injected == 1


def test_a_refused_key_condemns_itself_only_and_not_for_good(stand: Stand):
    planned = stand.plan(stand.store())
    refused = stand.key(7)
    rule = stand.proxy.rule(fault.ACCESS_DENIED, "get", key=refused)

    stand.run(planned, stand.store())

    assert rule.injected == 2  # by the short way and, to learn why, by the long way; asking again would not help
    assert stand.outcomes() == {**stand.labels, refused: "access_denied"}
    [row] = stand.ledger.rows(
        "SELECT permanent FROM nightlabel.dead_letter_open WHERE bucket = %s AND object_key = %s", stand.bucket, refused
    )
    assert row["permanent"] is False
    stand.close(planned, dead=1)


def test_a_right_that_is_taken_away_in_a_run_ends_the_shard_and_condemns_no_image(stand: Stand):
    planned = stand.plan(stand.store())
    rule = stand.proxy.rule(fault.ACCESS_DENIED, "get", skip=10)

    with pytest.raises(StoreCredentialsError, match=r"that it gave before .*allow s3:GetObject again"):
        stand.run(planned, stand.store())

    assert rule.injected > 1
    assert set(stand.outcomes().items()) <= set(stand.labels.items())
    stand.proxy.lift(rule)
    assert stand.run_until_done(planned) == 0
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_credentials_that_may_not_list_plan_nothing(stand: Stand):
    rule = stand.proxy.rule(fault.ACCESS_DENIED)

    with pytest.raises(StoreCredentialsError, match="s3:ListBucket and s3:GetObject"):
        stand.plan(stand.store())

    assert rule.injected == 1
    assert stand.outcomes() == {}


# Credentials that expire


@dataclass
class Keys:
    """A program that hands out credentials, as a profile names it."""

    folder: Path

    def hand_out(self, access_key: str, secret_key: str, *, expires_in: timedelta | None = timedelta(hours=6)) -> None:
        answer = {"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key}
        if expires_in is not None:
            answer["Expiration"] = (datetime.now(UTC) + expires_in).isoformat()
        (self.folder / "new.json").write_text(json.dumps(answer))
        (self.folder / "new.json").replace(self.folder / "keys.json")

    @property
    def calls(self) -> int:
        return len((self.folder / "calls").read_text().splitlines())


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    program = tmp_path / "keys.sh"
    program.write_text(f"echo call >> '{tmp_path}/calls'\ncat '{tmp_path}/keys.json'\n")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return Keys(tmp_path)


def expired(access_key: str) -> tuple[fault.Fault, list[str]]:
    """Refuse whoever signs with a key; also return the list of whom it refused."""
    refused: list[str] = []

    def befalls(exchange: Exchange) -> None:
        if f"Credential={access_key}/" in exchange.headers["Authorization"]:
            refused.append(exchange.path)
            fault.EXPIRED_TOKEN(exchange)
        else:
            exchange.pass_on()

    return befalls, refused


@pytest.mark.parametrize(
    ("is_given", "expires_in"),
    [
        pytest.param(False, timedelta(hours=6), id="own session"),
        pytest.param(False, None, id="own session, keys of unknown end"),
        pytest.param(True, timedelta(hours=6), id="session of an Airflow connection"),
    ],
)
def test_credentials_that_are_refused_are_fetched_anew_once_for_all_threads(
    stand: Stand, keys: Keys, is_given: bool, expires_in: timedelta | None
):
    planned = stand.plan(stand.store())
    keys.hand_out(stand.server.access_key, stand.server.secret_key, expires_in=expires_in)
    given = boto3.Session() if is_given else None
    store = stand.store(session=given, access_key_id=None, secret_access_key=None)
    befalls, refused = expired(stand.server.access_key)

    def expire() -> None:
        reader = stand.server.reader
        keys.hand_out(reader.access_key, reader.secret_key, expires_in=expires_in)
        stand.proxy.rules.clear()
        stand.proxy.rule(befalls)

    stand.proxy.rule(fault.after(expire), "get", skip=10, times=1)

    stats = stand.run(planned, store)

    assert stats.labelled == IMAGES
    assert 1 <= len(refused) <= 2 * 8  # eight threads, each once by the short way and once by the long way
    assert keys.calls == 2
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_credentials_that_nobody_renews_end_the_shard_and_condemn_no_image(stand: Stand):
    planned = stand.plan(stand.store())
    befalls, refused = expired(stand.server.access_key)
    rule = stand.proxy.rule(befalls, "get", skip=10)

    with pytest.raises(StoreCredentialsError, match="400 ExpiredToken"):
        stand.run(planned, stand.store())

    assert refused
    assert set(stand.outcomes().items()) <= set(stand.labels.items())
    stand.proxy.lift(rule)
    assert stand.run_until_done(planned) == 0
    assert stand.outcomes() == stand.labels
    stand.close(planned)


def test_credentials_that_are_out_of_date_when_they_come_are_named(stand: Stand, keys: Keys):
    keys.hand_out(stand.server.access_key, stand.server.secret_key, expires_in=timedelta(hours=-1))
    store = stand.store(session=None, access_key_id=None, secret_access_key=None)

    with pytest.raises(StoreCredentialsError, match=r"there are no credentials .* expired"):
        stand.plan(store)
    with pytest.raises(StoreCredentialsError, match=r"there are no credentials .* expired"):
        store.fetch(ImageRef(stand.bucket, stand.key(0), "", 1), max_bytes=1_000)


# Between listing and reading, and the listing itself


def test_keys_that_change_between_listing_and_reading_are_gone_until_the_next_listing(stand: Stand):
    planned = stand.plan(stand.store())
    deleted, overwritten = stand.key(7), stand.key(23)
    del_rule = stand.proxy.rule(fault.after(lambda: stand.delete(deleted)), "get", key=deleted, times=1)
    new = "dog" if stand.labels[overwritten] == "cat" else "cat"
    red = 0 if new == "dog" else 255
    put_rule = stand.proxy.rule(fault.after(lambda: stand.put(23, red)), "get", key=overwritten, times=1)

    stand.run(planned, stand.store())

    assert (del_rule.injected, put_rule.injected) == (1, 1)
    assert (del_rule.seen, put_rule.seen) == (2, 2)  # by the short way and, to learn why, by the long way; no retry
    assert stand.outcomes() == {key: label for key, label in stand.labels.items() if key != overwritten}
    stand.close(planned, gone=2)

    stand.proxy.rules.clear()
    again = stand.plan(stand.store())
    assert (again.discovered, again.to_classify) == (IMAGES - 1, 1)
    stand.run(again, stand.store())
    assert stand.outcomes() == stand.labels
    assert stand.labels[overwritten] == new


def test_a_repeated_page_counts_no_image_twice(stand: Stand):
    stand.proxy.page_size = 10
    rule = stand.proxy.rule(fault.repeat_page, "list", skip=2, times=2)

    planned = stand.plan(stand.store())

    assert rule.injected == 2
    assert stand.proxy.count("list") >= 6
    assert (planned.discovered, planned.to_classify) == (IMAGES, IMAGES)
    stand.run(planned, stand.store())
    assert stand.outcomes() == stand.labels
    stand.close(planned)


@pytest.mark.parametrize(
    ("befalls", "says", "most_requests"),
    [
        pytest.param(fault.lead_in_a_circle, "leads in a circle", 20, id="circle"),
        pytest.param(fault.empty_page, "1,000 empty pages", 1_010, id="endless"),
        pytest.param(fault.repeat_page, "the same page came 4 times", 10, id="same page for ever"),
    ],
)
def test_a_listing_that_never_ends_plans_nothing_and_takes_nothing_for_vanished(
    stand: Stand, befalls: fault.Fault, says: str, most_requests: int
):
    planned = stand.plan(stand.store())
    stand.run(planned, stand.store())
    stand.proxy.page_size = 10
    asked = stand.proxy.count("list")
    rule = stand.proxy.rule(befalls, "list", skip=1)

    with pytest.raises(StoreUnavailableError, match=says):
        stand.plan(stand.store())

    assert rule.injected > 1
    assert stand.proxy.count("list") - asked <= most_requests
    assert set(stand.ledger.latest()) >= set(stand.labels)  # no object is noted as gone
    stand.proxy.rules.clear()
    again = stand.plan(stand.store())
    assert (again.discovered, again.to_classify) == (IMAGES, 0)


# What buckets hold


def test_an_upload_in_parts_has_an_odd_etag_and_is_labelled_once(stand: Stand):
    key = stand.key("parts.png")
    where = {"Bucket": stand.bucket, "Key": key}
    upload = stand.client.create_multipart_upload(**where)["UploadId"]
    pieces = [bytes(picture(255, padding=5 * 1024 * 1024)), b"the last part"]
    parts = [
        {
            "PartNumber": number,
            "ETag": stand.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=piece)["ETag"],
        }
        for number, piece in enumerate(pieces, start=1)
    ]
    stand.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    stand.labels[key] = "cat"
    [etag] = [entry.etag for page in stand.store().list_pages(stand.bucket, key) for entry in page]
    assert etag.endswith("-2")

    planned = stand.plan(stand.store())
    stand.run(planned, stand.store(), max_object_bytes=6 * 1024 * 1024)

    assert stand.outcomes() == stand.labels
    stand.close(planned)
    assert stand.plan(stand.store()).to_classify == 0


def test_the_placeholder_of_a_folder_costs_no_request_and_no_other_image(stand: Stand):
    placeholder = stand.key("folder/")
    stand.client.put_object(Bucket=stand.bucket, Key=placeholder, Body=b"")
    inside = stand.put("folder/a.png", 255)

    planned = stand.plan(stand.store())
    stand.run(planned, stand.store())

    assert stand.outcomes() == {**stand.labels, placeholder: "folder_placeholder"}
    assert stand.outcomes()[inside] == "cat"
    assert stand.proxy.count("get", placeholder) == 0
    stand.close(planned, dead=1)


def test_no_clock_of_the_store_decides_what_is_new(ledger: Ledger):
    now = datetime.now(UTC).replace(microsecond=0)
    ahead = ListedObject(BUCKET, "clock/ahead.png", "e", 100, now + timedelta(days=365 * 70))
    twins = [ListedObject(BUCKET, f"clock/{name}.png", name, 100, now) for name in "ab"]
    ledger.work(ledger.plan(ahead, twins[0], prefix="clock/"))

    late = [ListedObject(BUCKET, "clock/late.png", "e", 100, now - timedelta(days=3)), twins[1]]
    planned = ledger.plan(ahead, *twins, late[0], prefix="clock/")

    assert (planned.already_done, planned.to_classify) == (2, 2)
    assert sorted(ledger.pending(planned)) == ["clock/b.png", "clock/late.png"]


def test_a_bucket_with_versions_shows_the_current_ones_only(stand: Stand, s3_client: S3Client):
    name = f"test-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    s3_client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for key, reds in {"a": [255, 0], "b": [255], "c": [0]}.items():
        for red in reds:
            s3_client.put_object(Bucket=name, Key=key, Body=picture(red))
    s3_client.delete_object(Bucket=name, Key="b")  # leaves a delete marker
    planned = stand.ledger.sink.plan_run(RunRequest(bucket=name), TimedListing(stand.store(), name, "", SystemClock()))
    s3_client.delete_object(Bucket=name, Key="c")
    stand.run(planned, stand.store())

    assert planned.discovered == 2
    latest = stand.ledger.rows("SELECT object_key, label FROM nightlabel.latest_prediction WHERE bucket = %s", name)
    assert [(row["object_key"], row["label"]) for row in latest] == [("a", "dog")]
    stand.close(planned, gone=1)
    again = TimedListing(stand.store(), name, "", SystemClock())
    assert stand.ledger.sink.plan_run(RunRequest(bucket=name, dry_run=True), again).discovered == 1
    s3_client.delete_bucket(Bucket=name)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def endless_bucket(exchange: Exchange) -> None:
    """A page of 1,000 keys that are made up as they are asked for, under the number of the page."""
    number = int(exchange.query.get("continuation-token", "0"))
    entries = "".join(
        f"<Contents><Key>in/{number:06}/{entry:04}-{'x' * 100}.jpg</Key><LastModified>2026-11-01T00:00:00.000Z"
        f"</LastModified><ETag>&quot;{number:016x}{entry:016x}&quot;</ETag><Size>100000</Size></Contents>"
        for entry in range(1_000)
    )
    is_last = number + 1 == exchange.server.generated_pages
    following = "" if is_last else f"<NextContinuationToken>{number + 1}</NextContinuationToken>"
    exchange.say(
        200,
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
        f"<IsTruncated>{str(not is_last).lower()}</IsTruncated>{following}{entries}</ListBucketResult>".encode(),
    )


@pytest.mark.timeout(1200)
def test_memory_stays_flat_over_a_long_listing(ledger: Ledger, proxy: StoreProxy, is_full: bool):
    pages = 1_000 if is_full else 12
    proxy.generated_pages = pages
    rule = proxy.rule(endless_bucket, "list")
    keys = {"access_key_id": "some", "secret_access_key": "one", "region_name": REGION}
    store = S3Store(session=session(), endpoint_url=proxy.url, **keys)
    listing = TimedListing(store, "photos", "in/", SystemClock())
    held: list[float] = []

    @dataclass
    class Watched:
        list_s = 0.0

        def __iter__(self) -> Iterator[Any]:
            for page in listing:
                yield page
                held.append(resident_mb())

    planned = ledger.sink.plan_run(RunRequest(bucket="photos", prefix="in/", dry_run=True), Watched())

    assert pages <= rule.injected <= pages + 1  # once it is asked to start in the middle, which it does not know
    assert planned.discovered == planned.to_classify == 1_000 * pages
    assert max(held[5:]) - held[4] < 20, held


# All at once


def outages(
    proxy: StoreProxy, rng: Random, count: int, longest_s: float, stop: threading.Event, happened: list[str]
) -> None:
    """Trouble of 0.2 seconds and more at random moments, until there was enough of it."""
    for _ in range(count):
        if stop.wait(rng.uniform(0.05, 0.6)):
            return
        kind = rng.choice(["down", "storm", "broken bodies", "mixed"])
        met = len(proxy.requests) + proxy.refused
        if kind == "down":
            proxy.go_down()
        else:
            faults = {
                "storm": [fault.SLOW_DOWN],
                "broken bodies": [fault.reset_in_body],
                "mixed": [fault.reset_at_once, fault.short_body, fault.SLOW_DOWN, fault.error(500, "InternalError")],
            }[kind]
            for befalls in faults:
                proxy.rule(befalls, chance=1.0 if befalls is faults[-1] else 0.4)
        stop.wait(rng.uniform(0.2, longest_s))
        proxy.come_up()
        proxy.rules.clear()
        if len(proxy.requests) + proxy.refused > met:
            happened.append(kind)


@pytest.mark.timeout(900)
def test_outages_at_random_moments_of_a_shard_lose_nothing_and_condemn_nothing(
    stand: Stand, seed: int, capsys: pytest.CaptureFixture[str], *, is_full: bool
):
    wanted, longest_s = (25, 3.0) if is_full else (3, 1.0)
    rng, happened, nights = Random(seed), [], 0  # noqa: S311 - repeatable
    while len(happened) < wanted:
        nights += 1
        assert nights <= 4 * wanted
        planned = stand.plan(stand.store())
        stop = threading.Event()
        trouble = threading.Thread(
            target=outages, args=(stand.proxy, rng, wanted - len(happened), longest_s, stop, happened), daemon=True
        )
        trouble.start()
        stand.proxy.pace_s = 0.15  # or the shard would be done before anything happens
        stand.run_until_done(planned)
        stand.proxy.pace_s = 0.0
        stop.set()
        trouble.join()
        assert stand.reasons() == {}, f"night {nights}, after {happened}"
        assert stand.outcomes() == stand.labels, f"night {nights}, after {happened}"
        stand.close(planned)
        for number in range(IMAGES):  # the next night has as much to do
            stand.put(number, rng.choice(list(LABELS)))
    with capsys.disabled():
        print(f"\nstore: {len(happened)} outages in {nights} nights, seed {seed}")  # noqa: T201 - worth a look
    assert len(happened) == wanted
