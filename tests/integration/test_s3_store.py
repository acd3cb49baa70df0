"""The S3 adapter against real servers, and against one that misbehaves."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from inference.errors import (
    BucketMissingError,
    ImageGoneError,
    InferenceError,
    ObjectAccessDeniedError,
    ObjectTooLargeError,
    SettingsError,
    StoreCredentialsError,
    StoreUnavailableError,
)
from inference.stores import ranges
from inference.stores.s3 import S3Store
from inference.types import ImageRef
from local_stack.processes import free_ports
from tests.faulty_store import content, error, faulty_store, listing, stall
from tests.store_contract import PLAIN_KEYS, Case, ObjectStoreContract, keys, listed, ref_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_credentials_around")]

REF = ImageRef("photos", "a.jpg", "e", 100)
MIB = 1024 * 1024


@dataclass(frozen=True)
class RealBucket:
    client: S3Client
    name: str

    def put(self, key: str, body: bytes) -> str:
        return self.client.put_object(Bucket=self.name, Key=key, Body=body)["ETag"].strip('"')

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@cache
def session() -> boto3.Session:
    """One for all stores here: each session parses the description of S3 anew."""
    return boto3.Session()


def store_at(url: str, *, attempts: int = 1, read_timeout_s: float = 10.0, **more: object) -> S3Store:
    return S3Store(
        session=session(),
        endpoint_url=url,
        access_key_id="some",
        secret_access_key="one",
        region_name="us-east-1",
        attempts=attempts,
        read_timeout_s=read_timeout_s,
        **more,
    )


def in_ranges(case: Case, prefix: str = "", *, page_size: int = 7) -> Counter[str]:
    """How often each key comes when small pages are asked for by ranges."""
    store = case.store
    assert isinstance(store, S3Store)

    def ask(*, token: str | None = None, after: str | None = None, limit: int | None = None) -> ranges.Page:
        what = {"Bucket": case.bucket.name, "Prefix": prefix, "MaxKeys": limit or page_size}
        what |= {"ContinuationToken": token} if token else {}
        what |= {"StartAfter": after} if after else {}
        return store._patiently(lambda client, _: store._list_page(client, case.bucket.name, what))

    pages = ranges.list_in_ranges(ask, prefix, threads=4, does_not_advance=StoreUnavailableError)
    return Counter(entry.key for page in pages for entry in page)


def spread(rng: random.Random, odd: Iterable[str]) -> list[str]:
    """Keys of some folders whose names begin alike, which stores sort each in its own way."""
    folders = ("in/", "in/2026/11/25/", "in-between/", "in", "in/a b/", "in/\N{CAT FACE}/")
    return sorted(
        {f"{rng.choice(folders)}{rng.choice('-+0a~')}{rng.randrange(10_000)}.jpg" for _ in range(250)} | {*odd}
    )


class TestSeaweedFS(ObjectStoreContract):
    keys = (*PLAIN_KEYS, "new\nline.jpg", "s/" * 511 + "jp")

    @pytest.fixture
    def case(self, bucket, monkeypatch) -> Case:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        return Case(S3Store(attempts=1), RealBucket(bucket.client, bucket.name))

    def test_a_listing_of_many_pages_is_complete(self, case: Case):
        names = [f"in/{number:04} +%.jpg" for number in range(1_005)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: case.bucket.put(name, b"x"), names))

        pages = [[entry.key for entry in page] for page in case.store.list_pages(case.bucket.name, "in/")]

        assert [len(page) for page in pages] == [1_000, 5]
        assert [key for page in pages for key in page] == names

    @pytest.mark.parametrize("prefix", ["", "in/", "in-"])
    def test_reading_by_ranges_loses_no_key(self, case: Case, prefix: str, seed: int, monkeypatch):
        monkeypatch.setattr(ranges, "PLAIN_KEYS", 14)
        names = spread(random.Random(seed), self.keys)  # noqa: S311 - keys, no secrets
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: case.bucket.put(name, b"x"), names))

        assert set(in_ranges(case, prefix)) == {name for name in names if name.startswith(prefix)}

    @pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_credentials_are_named(self, case: Case, bucket, monkeypatch, wrong):
        case.bucket.put("a.jpg", b"x")
        [entry] = listed(case)
        monkeypatch.setenv(wrong, "WRONGWRONGWRONG")
        store = S3Store(attempts=1)

        with pytest.raises(StoreCredentialsError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            next(store.list_pages(bucket.name, ""))
        with pytest.raises(StoreCredentialsError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            store.fetch(ref_of(entry), max_bytes=MIB)

    def test_a_session_that_knows_its_credentials_is_enough(self, case: Case, bucket, monkeypatch):
        case.bucket.put("a.jpg", b"x")
        session = boto3.Session(
            aws_access_key_id=bucket.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=bucket.environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        for name in bucket.environment:
            monkeypatch.delenv(name)

        store = S3Store(session=session, endpoint_url=bucket.environment["AWS_ENDPOINT_URL_S3"])

        assert [entry.key for page in store.list_pages(bucket.name, "") for entry in page] == ["a.jpg"]


@pytest.fixture(scope="module")
def moto_client() -> Iterator[S3Client]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="some",
        aws_secret_access_key="one",
        region_name="us-east-1",
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )
    server.stop()


class TestMoto(ObjectStoreContract):
    keys = (
        *PLAIN_KEYS,
        "a//b.jpg",
        "/leading.jpg",
        "//two.jpg",
        "x/./y.jpg",
        "x/../y.jpg",
        "../up.jpg",
        "..",
        "k" * 1024,
    )

    @pytest.fixture
    def case(self, moto_client, request) -> Case:
        name = f"test-{abs(hash(request.node.nodeid))}"
        moto_client.create_bucket(Bucket=name)
        return Case(store_at(moto_client.meta.endpoint_url), RealBucket(moto_client, name))

    @pytest.mark.parametrize("prefix", ["", "in/", "in-"])
    def test_reading_by_ranges_gives_every_key_once(self, case: Case, prefix: str, seed: int, monkeypatch):
        monkeypatch.setattr(ranges, "PLAIN_KEYS", 14)
        names = spread(random.Random(seed), self.keys)  # noqa: S311 - keys, no secrets
        for name in names:
            case.bucket.put(name, b"x")

        assert in_ranges(case, prefix) == Counter(name for name in names if name.startswith(prefix))

    def test_a_prefix_with_slashes_is_taken_literally(self, case: Case):
        for key in ("a//b.jpg", "a/b.jpg", "/a.jpg"):
            case.bucket.put(key, b"x")

        assert keys(case, "a//") == ["a//b.jpg"]
        assert keys(case, "a/") == ["a//b.jpg", "a/b.jpg"]
        assert keys(case, "/") == ["/a.jpg"]


# A store that misbehaves


def first_page_error(store: S3Store) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        list(store.list_pages("photos", ""))
    return caught.value


def fetch_error(store: S3Store, *, max_bytes: int = MIB) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        store.fetch(REF, max_bytes=max_bytes)
    return caught.value


def test_a_closed_port_is_named_with_the_setting_that_holds_it():
    url = f"http://127.0.0.1:{free_ports(1)[0]}"

    for failure in (first_page_error(store_at(url)), fetch_error(store_at(url))):
        assert type(failure) is StoreUnavailableError
        assert url in str(failure)
        assert "AWS_ENDPOINT_URL_S3 or the connection images_s3" in str(failure)


def test_keys_and_buckets_go_into_the_path_of_a_store_that_is_not_amazons():
    with faulty_store(content(b"x")) as server:
        store_at(server.url).fetch(ImageRef("photos", "/a b//c+%.jpg", "e", 1), max_bytes=MIB)

    assert server.paths == ["/photos//a%20b//c%2B%25.jpg"]


@pytest.mark.parametrize(
    ("status", "code", "on_listing", "on_reading"),
    [
        (403, "AccessDenied", StoreCredentialsError, ObjectAccessDeniedError),
        (403, "InvalidObjectState", StoreCredentialsError, ObjectAccessDeniedError),
        (403, "InvalidAccessKeyId", StoreCredentialsError, StoreCredentialsError),
        (403, "SignatureDoesNotMatch", StoreCredentialsError, StoreCredentialsError),
        (403, "RequestTimeTooSkewed", StoreCredentialsError, StoreCredentialsError),
        (400, "ExpiredToken", StoreCredentialsError, StoreCredentialsError),
        (400, "InvalidToken", StoreCredentialsError, StoreCredentialsError),
        (403, "", StoreCredentialsError, ObjectAccessDeniedError),
        (401, "", StoreCredentialsError, ObjectAccessDeniedError),
        (400, "InvalidRequest", SettingsError, ObjectAccessDeniedError),
        (404, "NoSuchBucket", BucketMissingError, BucketMissingError),
        (404, "NoSuchKey", BucketMissingError, ImageGoneError),
        (404, "", BucketMissingError, ImageGoneError),
        (412, "PreconditionFailed", SettingsError, ImageGoneError),
        (503, "SlowDown", StoreUnavailableError, StoreUnavailableError),
        (500, "InternalError", StoreUnavailableError, StoreUnavailableError),
        (502, "", StoreUnavailableError, StoreUnavailableError),
        (429, "TooManyRequests", StoreUnavailableError, StoreUnavailableError),
        (400, "RequestTimeout", StoreUnavailableError, StoreUnavailableError),
        (301, "PermanentRedirect", SettingsError, SettingsError),
        (400, "AuthorizationHeaderMalformed", SettingsError, SettingsError),
    ],
)
def test_each_refusal_has_its_error(status, code, on_listing, on_reading):
    with faulty_store(error(status, code, "because\nof this")) as server:
        store = store_at(server.url)
        failures = (first_page_error(store), fetch_error(store))

    assert tuple(type(failure) for failure in failures) == (on_listing, on_reading)
    for failure in failures:
        assert "\n" not in str(failure)
        assert failure.__cause__ is not None


def test_a_burst_of_503_is_waited_out():
    with faulty_store(error(503, "SlowDown"), listing(["a.jpg"]), error(503, "SlowDown"), content(b"x")) as server:
        store = store_at(server.url, attempts=2)

        assert [entry.key for page in store.list_pages("photos", "") for entry in page] == ["a.jpg"]
        assert store.fetch(REF, max_bytes=MIB).data == b"x"


def test_patience_has_an_end():
    with faulty_store(error(503, "SlowDown", "Please reduce your request rate.")) as server:
        failure = first_page_error(store_at(server.url, attempts=2))

    assert type(failure) is StoreUnavailableError
    assert "503 SlowDown Please reduce your request rate." in str(failure)
    assert len(server.paths) == 2


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(content(b"x" * 50, announce=100), id="short body"),
        pytest.param(content(b"x" * 50, announce=None), id="short body of unknown length"),
        pytest.param(stall(b"x" * 50, announce=100), id="stalled body"),
        pytest.param(content(b"y" * 100, x_amz_checksum_crc32="AAAAAA=="), id="wrong checksum"),
    ],
)
def test_a_body_that_does_not_come_whole_is_asked_for_again_and_never_taken(bad):
    with faulty_store(bad, content(b"x" * 100)) as server:
        assert store_at(server.url, attempts=2, read_timeout_s=0.3).fetch(REF, max_bytes=MIB).data == b"x" * 100

    with faulty_store(bad) as server:
        failure = fetch_error(store_at(server.url, attempts=2, read_timeout_s=0.3))
    assert type(failure) is StoreUnavailableError
    assert "did not send the object 'a.jpg' of the bucket 'photos' whole" in str(failure)
    assert str(failure).endswith("(asked 2 times)")
    assert failure.is_for_all is True
    assert [path.split("?")[0] for path in server.paths] == ["/photos/a.jpg"] * 2 + ["/photos"]  # whether it answers


def test_a_store_that_says_nothing_is_unavailable():
    with faulty_store(lambda request: request.server.over.wait(30)) as server:
        store = store_at(server.url, read_timeout_s=0.2)

        assert [type(first_page_error(store)), type(fetch_error(store))] == [StoreUnavailableError] * 2


def test_an_object_over_the_limit_is_refused_before_its_body_comes():
    with faulty_store(stall(b"", announce=10**12)) as server:
        started = time.monotonic()
        failure = fetch_error(store_at(server.url), max_bytes=1000)

    assert type(failure) is ObjectTooLargeError
    assert "1,000,000,000,000 bytes, more than the 1,000 bytes allowed" in str(failure)
    assert time.monotonic() - started < 5


def test_an_endless_body_of_unknown_length_is_cut_at_the_limit():
    with faulty_store(content(bytes(5000), announce=None)) as server:
        failure = fetch_error(store_at(server.url), max_bytes=1000)

    assert type(failure) is ObjectTooLargeError
    assert "more than the 1,000 bytes allowed" in str(failure)


def test_another_version_is_noticed_when_the_store_ignores_the_condition():
    with faulty_store(content(b"x", ETag='W/"other"')) as server:
        assert type(fetch_error(store_at(server.url))) is ImageGoneError


@pytest.mark.parametrize(
    ("pages", "says", "most_requests"),
    [
        pytest.param([listing(["a"], truncated=True)], "leads to no next one", 1, id="token lost"),
        pytest.param([listing(["a"], truncated=True, token="t")], "the same page came 4 times", 4, id="page repeated"),
        pytest.param(
            [listing(["a"], truncated=True, token=f"t{n}") for n in range(100)],
            "the same page came 4 times",
            4,
            id="page repeated under new tokens",
        ),
        pytest.param(
            [listing(["a"], truncated=True, token="t"), listing([], truncated=True, token="t")],
            "the same page came 4 times",
            4,
            id="token repeated by an empty page",
        ),
        pytest.param(
            [listing([f"{n % 5}"], truncated=True, token=f"t{n % 5}") for n in range(100)],
            "leads in a circle, to a page already seen",
            15,
            id="circle",
        ),
        pytest.param(
            [listing([f"{n % 7}"], truncated=True, token=f"t{n}") for n in range(100)],
            "leads in a circle, to a page already seen",
            20,
            id="circle under new tokens",
        ),
        pytest.param(
            [listing([f"{n % 6}"] if n % 2 else [], truncated=True, token=f"t{n}") for n in range(100)],
            "leads in a circle, to a page already seen",
            30,
            id="circle with empty pages under new tokens",
        ),
        pytest.param(
            [listing(["a"] if n % 3 == 0 else [], truncated=True, token=f"t{n}") for n in range(100)],
            "the same page came 4 times",
            15,
            id="page repeated between empty ones",
        ),
        pytest.param(
            [listing([], truncated=True, token=f"t{n}") for n in range(1_100)],
            "1,000 empty pages came one after the other",
            1_001,
            id="empty pages without end",
        ),
    ],
)
def test_a_listing_that_does_not_advance_is_an_error_and_not_the_end(pages, says, most_requests):
    with faulty_store(*pages) as server:
        failure = first_page_error(store_at(server.url))

    assert type(failure) is StoreUnavailableError
    assert says in str(failure)
    assert len(server.paths) <= most_requests


def test_a_page_that_comes_twice_is_no_circle():
    first = listing(["a"], truncated=True, token="t")
    pages = [first, first, listing(["b"], truncated=True, token="u"), listing(["b"], truncated=True, token="v")]
    with faulty_store(*pages, listing(["c"])) as server:
        found = [entry.key for page in store_at(server.url).list_pages("photos", "") for entry in page]

    assert found == ["a", "a", "b", "b", "c"]  # whoever plans keeps one of each


def test_empty_pages_on_the_way_are_no_end():
    pages = [listing([], truncated=True, token="t"), listing(["b"], truncated=True, token="u"), listing([])]
    with faulty_store(*pages) as server:
        found = [[entry.key for entry in page] for page in store_at(server.url).list_pages("photos", "")]

    assert found == [[], ["b"], []]
    assert "continuation-token=u" in server.paths[2]


LISTED = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<IsTruncated>false</IsTruncated><Contents><Key>a</Key>%s</Contents></ListBucketResult>"
)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html><body>It works!</body></html>", id="web page"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'<?xml version="1.0"?><ListBucketResult><IsTruncated>fal', id="cut"),
        pytest.param(LISTED % b"<LastModified>yesterday</LastModified><Size>1</Size>", id="date of another kind"),
        pytest.param(LISTED % b"<LastModified>2026-11-01T00:00:00Z</LastModified><Size>?</Size>", id="no size"),
        pytest.param(LISTED % b"<LastModified>2026-11-01T00:00:00Z</LastModified>", id="size left out"),
    ],
)
def test_an_answer_that_is_no_listing_is_not_taken_for_an_empty_bucket(body):
    with faulty_store(lambda request: request.say(200, body)) as server:
        failure = first_page_error(store_at(server.url))

    assert type(failure) is StoreUnavailableError
    assert server.url in str(failure)


def test_a_connection_is_used_again_and_one_that_was_refused_does_not_stay_open():
    answers = [content(b"x" * 100)] * 10 + [error(404, "NoSuchKey")] + [content(b"x" * 100)] * 9
    with faulty_store(*answers) as server:
        store = store_at(server.url)
        for number in range(20):
            if number == 10:
                assert type(fetch_error(store)) is ImageGoneError
            else:
                store.fetch(REF, max_bytes=MIB)

    assert server.connections == 1


@pytest.mark.parametrize(
    ("settings", "bucket_name", "expected", "says"),
    [
        ({}, "photos", StoreCredentialsError, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"profile_name": "nobody"}, "photos", StoreCredentialsError, "nobody"),
        ({"endpoint_url": "127.0.0.1:9000"}, "photos", SettingsError, "AWS_ENDPOINT_URL_S3"),
        ({"access_key_id": "a"}, "photos", StoreCredentialsError, "set AWS_ACCESS_KEY_ID"),
        ({"access_key_id": "a", "secret_access_key": "b"}, "no such name!", SettingsError, "'no such name!'"),
    ],
)
def test_settings_that_cannot_work_are_named_without_a_connection(settings, bucket_name, expected, says):
    with pytest.raises(InferenceError) as caught:
        next(S3Store(**settings, attempts=1).list_pages(bucket_name, ""))

    assert type(caught.value) is expected
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
