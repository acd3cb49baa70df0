"""The short way to an object's bytes: taken where its answer can be judged, and never the last word."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.session import get_session
from hypothesis import HealthCheck, assume, given
from hypothesis import seed as seeded
from hypothesis import settings as how
from hypothesis import strategies as st

from inference.errors import ImageGoneError, ObjectAccessDeniedError, ObjectTooLargeError, StoreUnavailableError
from inference.stores import quick_reads
from inference.stores.quick_reads import QuickReads, is_plain
from inference.stores.s3 import S3Store
from inference.types import ImageRef
from tests.conftest import Bucket
from tests.faulty_store import Answer, FaultyStore, Request, content, error, faulty_store

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_credentials_around")]

MIB = 1024 * 1024
BODY = b"some bytes " * 9


def ref_to(body: bytes = BODY, key: str = "in/a.jpg") -> ImageRef:
    return ImageRef("photos", key, hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body))


def whole(body: bytes = BODY) -> Answer:
    return content(body, ETag=f'"{ref_to(body).etag}"')


def store_at(url: str, **more: Any) -> S3Store:
    arguments: dict[str, Any] = {
        "endpoint_url": url,
        "access_key_id": "some",
        "secret_access_key": "one",
        "region_name": "us-east-1",
        "attempts": 1,
        "read_timeout_s": 10.0,
    }
    return S3Store(**{**arguments, **more})


class Asked(NamedTuple):
    """A request as it came; what served it serves the next one of its connection, too."""

    path: str
    headers: Message


def noted(requests: list[Asked], answer: Answer) -> Answer:
    def note(request: Request) -> None:
        requests.append(Asked(request.path, request.headers))
        answer(request)

    return note


def ways(requests: list[Asked]) -> list[str]:
    """By which way each request came: boto3 says much more of itself."""
    return ["long" if "Boto3" in request.headers["User-Agent"] else "short" for request in requests]


def test_an_object_whose_etag_is_its_md5_comes_by_one_signed_request_for_that_version():
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server:
        got = store_at(server.url).fetch(ref_to(), max_bytes=MIB)

    assert (got.data, got.is_etag_md5) == (BODY, True)
    assert type(got.data) is bytes
    assert ways(requests) == ["short"]
    [request] = requests
    assert request.path == "/photos/in/a.jpg"
    assert request.headers["If-Match"] == f'"{ref_to().etag}"'
    assert "Credential=some/" in request.headers["Authorization"]


@pytest.mark.parametrize(
    ("ref", "max_bytes"),
    [
        pytest.param(ImageRef("photos", "a", "9b2cf535f27731c974343645a3985328-2", 9), MIB, id="came in parts"),
        pytest.param(ImageRef("photos", "a", "0x8D4BCC2E4835CD0", 9), MIB, id="another kind of ETag"),
        pytest.param(ImageRef("photos", "a", "", 9), MIB, id="no ETag"),
        pytest.param(ref_to(key="a//b"), MIB, id="empty segment"),
        pytest.param(ref_to(key="x/../y"), MIB, id="dots"),
        pytest.param(ref_to(key="new\nline"), MIB, id="control character"),
        pytest.param(ref_to(key="50%.jpg"), MIB, id="percent"),
        pytest.param(ImageRef("photos", "a", "0" * 32, quick_reads.LARGEST_BYTES + 1), 100 * MIB, id="large"),
    ],
)
def test_what_cannot_be_judged_by_itself_is_asked_for_the_long_way(ref, max_bytes):
    requests: list[Asked] = []
    with faulty_store(noted(requests, content(BODY, ETag=f'"{ref.etag}"'))) as server:
        store_at(server.url).fetch(ref, max_bytes=max_bytes)

    assert ways(requests) == ["long"]


def test_a_key_that_takes_the_short_way_arrives_as_it_is(seed: int):
    with faulty_store(whole()) as server:
        store = store_at(server.url)

        @seeded(seed)
        @how(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
        def read(key: str) -> None:
            assume(is_plain("photos", key))
            server.paths.clear()
            store.fetch(ref_to(key=key), max_bytes=MIB)
            assert [unquote(urlsplit(path).path) for path in server.paths] == [f"/photos/{key}"]

        read()


def test_ordinary_keys_take_the_short_way():
    for key in ("a.jpg", "2026/11/café 1.jpg", "a+b=c@d,e&f;g.png", "🌙/ü (1)!.webp", "it's.gif", "x..y/.z"):
        assert is_plain("photos", key), key
    for bucket in ("photos", "dot.ted", "under_score"):
        assert is_plain(bucket, "a.jpg"), bucket
    for bucket in ("arn:aws:s3:eu-west-1:1:accesspoint/a", "UPPER", "..", "a"):
        assert not is_plain(bucket, "a.jpg"), bucket


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (error(404, "NoSuchKey"), ImageGoneError),
        (error(412, "PreconditionFailed"), ImageGoneError),
        (error(403, "AccessDenied"), ObjectAccessDeniedError),
        (error(503, "SlowDown"), StoreUnavailableError),
        (content(BODY, ETag='"00000000000000000000000000000000"'), ImageGoneError),
        (content(BODY[:50], announce=len(BODY), ETag=f'"{ref_to().etag}"'), StoreUnavailableError),
    ],
)
def test_what_goes_wrong_is_what_the_long_way_says(answer, raised):
    requests: list[Asked] = []
    with faulty_store(noted(requests, answer)) as server, pytest.raises(raised):
        store_at(server.url).fetch(ref_to(), max_bytes=MIB)

    assert ways(requests)[:2] == ["short", "long"]


def test_an_object_that_is_larger_than_was_listed_is_refused_before_its_body_comes():
    huge = content(b"", announce=10**12, ETag=f'"{ref_to().etag}"')
    with faulty_store(huge) as server, pytest.raises(ObjectTooLargeError):
        store_at(server.url).fetch(ref_to(), max_bytes=1000)


def test_damaged_bytes_are_never_taken():
    requests: list[Asked] = []
    damaged = content(BODY[:-1] + b"?", ETag=f'"{ref_to().etag}"')
    with faulty_store(noted(requests, damaged), noted(requests, whole())) as server:
        got = store_at(server.url).fetch(ref_to(), max_bytes=MIB)

    assert (got.data, got.is_etag_md5) == (BODY, True)
    assert ways(requests) == ["short", "long"]


def test_a_bucket_whose_etags_are_no_md5_is_soon_read_the_long_way_at_once():
    requests: list[Asked] = []
    encrypted = ImageRef("photos", "a", "9b2cf535f27731c974343645a3985328", len(BODY))
    with faulty_store(noted(requests, content(BODY, ETag=f'"{encrypted.etag}"'))) as server:
        store = store_at(server.url)
        got = [store.fetch(encrypted, max_bytes=MIB) for _ in range(12)]

    assert [(one.data, one.is_etag_md5) for one in got] == [(BODY, False)] * 12
    assert ways(requests) == ["short", "long"] * 8 + ["long"] * 4


class Quick:
    """The short way alone, its clock in the test's hand, against a server that does as the letters say.

    ``.`` gives the object, ``x`` asks for patience, ``?`` gives bytes of another MD5; the last letter goes on for ever.
    """

    def __init__(self, server: FaultyStore) -> None:
        self.server = server
        self.now = 1_000.0
        self.reads = QuickReads(
            endpoint_url=server.url,
            region_name="us-east-1",
            credentials=Credentials("some", "one"),
            connections=1,
            connect_timeout_s=1.0,
            read_timeout_s=1.0,
            timeout_s=1.0,
            clock=lambda: self.now,
        )

    def read(self, times: int = 1) -> str:
        """What came of so many reads: ``.`` the object, ``x`` a failure, ``?`` other bytes, ``-`` not asked for."""
        came = ""
        for _ in range(times):
            before = len(self.server.paths)
            got = self.reads.read(ref_to(), max_bytes=MIB)
            if len(self.server.paths) == before:
                assert got == (None, False)
                came += "-"
            else:
                assert got.data in {None, BODY}
                came += "." if got.data else "x" if got.has_failed else "?"
        return came


@contextmanager
def quick_at(letters: str) -> Iterator[Quick]:
    answers = {".": whole(), "x": error(503, "SlowDown"), "?": content(b"else", ETag=f'"{ref_to().etag}"')}
    with faulty_store(*(answers[letter] for letter in letters)) as server:
        yield Quick(server)


def test_only_trouble_in_a_row_makes_the_short_way_rest():
    with quick_at("xx." * 10 + "xxx.") as quick:
        assert quick.read(40) == "xx." * 10 + "xxx" + "-" * 7


def test_the_short_way_rests_longer_each_time_until_it_is_well_for_long(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, quick_reads.__name__)
    with quick_at("xxx" + "x" + "." * 99 + "xxx" + "." * 100 + "xxx.") as quick:
        assert quick.read(4) == "xxx-"
        quick.now += 4.9
        assert quick.read() == "-"
        quick.now += 0.1
        assert quick.read(2) == "x-"  # it has not recovered: one is enough
        quick.now += 10
        assert quick.read(103) == "." * 99 + "xxx-"
        quick.now += 19.9
        assert quick.read() == "-"
        quick.now += 0.1
        assert quick.read(104) == "." * 100 + "xxx-"
        quick.now += 5
        assert quick.read() == "."

    said = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in said] == [
        f"Objects are read the long way for {seconds} seconds" for seconds in (5, 10, 20, 5)
    ]
    assert all("503" in message for message in said)


def test_the_longest_rest_is_ten_minutes():
    with quick_at("x") as quick:
        for _ in range(12):
            quick.read(3)
            quick.now += 600
        quick.read()
        quick.now += 599
        assert quick.read() == "-"
        quick.now += 1
        assert quick.read() == "x"


def test_a_bucket_with_some_md5s_is_only_left_for_a_while(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, quick_reads.__name__)
    with quick_at("." + "?" * 7 + "." + "?" * 8 + ".") as quick:
        assert quick.read(20) == "." + "?" * 7 + "." + "?" * 8 + "---"
        quick.now += 5
        assert quick.read() == "."

    [record] = caplog.records
    assert "'photos' have other MD5s than their ETags" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", ""),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT", ""),
        ("AWS_PROXY_URL", ""),
        ("AWS_BUCKET", "other"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ("AWS_ALLOW_HTTP", "false"),
    ],
)
def test_the_environment_leads_the_short_way_nowhere_else(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server, faulty_store(whole()) as other:
        monkeypatch.setenv(name, value or other.url)
        store_at(server.url).fetch(ref_to(), max_bytes=MIB)

    assert other.paths == []
    assert ways(requests) == ["short"]
    assert requests[0].path == "/photos/in/a.jpg"
    assert "/us-east-1/s3/" in requests[0].headers["Authorization"]


@pytest.mark.parametrize(("name", "value"), [("AWS_CHECKSUM_ALGORITHM", "CRC32"), ("AWS_S3_EXPRESS", "true")])
def test_an_environment_that_obstore_refuses_is_said_once_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
):
    monkeypatch.setenv(name, value)
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server:
        store = store_at(server.url)
        assert [store.fetch(ref_to(), max_bytes=MIB).data for _ in range(3)] == [BODY] * 3

    assert ways(requests) == ["long"] * 3
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "'photos' are read the long way: Generic" in record.getMessage()


def test_a_fork_of_a_process_that_has_read_reads_the_long_way():
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server:
        store = store_at(server.url)
        store.fetch(ref_to(), max_bytes=MIB)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which this is about
            child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            came = [one.fetch(ref_to(), max_bytes=MIB).data for one in (store, store_at(server.url))]
            os._exit(0 if came == [BODY] * 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert ways(requests) == ["short", "long", "long"]


def test_an_object_that_takes_too_long_has_its_full_time_the_long_way():
    requests: list[Asked] = []

    def hangs(request: Request) -> None:
        request.server.over.wait(10)

    def late(request: Request) -> None:
        time.sleep(0.8)
        whole()(request)

    with faulty_store(noted(requests, hangs), noted(requests, late)) as server:
        store = store_at(server.url, fetch_timeout_s=1.0, read_timeout_s=5.0)
        began = time.monotonic()
        got = store.fetch(ref_to(), max_bytes=MIB)

    assert got.data == BODY
    assert time.monotonic() - began > 1.0  # a quarter of its time, and then more than what would be left of it
    assert ways(requests) == ["short", "long"]


@pytest.mark.parametrize(
    ("attempts", "asked"), [(1, ["short", "long"]), (2, ["short", "long"]), (3, ["short"] + ["long"] * 2)]
)
def test_a_read_that_failed_is_the_first_of_an_objects_requests(attempts: int, asked: list[str]):
    requests: list[Asked] = []
    with faulty_store(noted(requests, error(503, "SlowDown"))) as server:
        store = store_at(server.url, attempts=attempts)
        with pytest.raises(StoreUnavailableError, match=rf"\(asked {len(asked)} times\)"):
            store.fetch(ref_to(), max_bytes=MIB)

    assert ways([request for request in requests if request.path == "/photos/in/a.jpg"]) == asked


def test_authorities_of_ones_own_that_cannot_be_read_are_left_to_botocore(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server:
        store_at(server.url).fetch(ref_to(), max_bytes=MIB)

    assert ways(requests) == ["long"]


@pytest.mark.parametrize(
    ("variable", "region", "is_taken"),
    [("", "us-east-1", True), ("", "aws-global", False), ("AWS_USE_FIPS_ENDPOINT", "us-east-1", False)],
)
def test_endpoints_whose_region_only_botocore_knows_are_asked_the_long_way(
    monkeypatch: pytest.MonkeyPatch, variable: str, region: str, is_taken: bool
):
    if variable:
        monkeypatch.setenv(variable, "true")
    store = S3Store(access_key_id="some", secret_access_key="one", region_name=region)

    assert (store._connection().quick is not None) is is_taken


def test_credentials_that_renew_themselves_are_those_that_sign(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quick_reads, "_CREDENTIALS_KEPT_S", 0.0)
    keys = (f"KEY{number}" for number in count())

    def fresh() -> dict[str, str]:
        soon = datetime.now(UTC) + timedelta(seconds=1)  # so that they are renewed each time
        return {"access_key": next(keys), "secret_key": "s", "token": "t", "expiry_time": soon.isoformat()}

    renewing = RefreshableCredentials.create_from_metadata(fresh(), refresh_using=fresh, method="test")
    botocore_session = get_session()
    botocore_session._credentials = renewing
    session = boto3.Session(botocore_session=botocore_session, region_name="us-east-1")
    requests: list[Asked] = []
    with faulty_store(noted(requests, whole())) as server:
        store = S3Store(session=session, endpoint_url=server.url, attempts=1)
        for _ in range(2):
            store.fetch(ref_to(), max_bytes=MIB)
            time.sleep(0.15)  # obstore asks for them no more than ten times a second

    assert ways(requests) == ["short", "short"]
    signed_by = [request.headers["Authorization"].partition("Credential=")[2].partition("/")[0] for request in requests]
    assert len(set(signed_by)) == 2
    assert {request.headers["X-Amz-Security-Token"] for request in requests} == {"t"}


def test_objects_of_a_real_store_take_the_short_way(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    refs = []
    for number, key in enumerate(("a.jpg", "b/ü (1).jpg", "c+d e.png")):
        body = bytes([number]) * 1_000
        refs.append((ImageRef(bucket.name, key, bucket.put(key, body), len(body)), body))
    store = S3Store(attempts=1)

    def long_way(*_: object) -> bytes:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(store, "_get", long_way)
    assert [store.fetch(ref, max_bytes=MIB).data for ref, _ in refs] == [body for _, body in refs]


def test_many_threads_read_at_once():
    bodies = {f"{number}.jpg": bytes([number]) * 500 for number in range(64)}

    def answer(request: Request) -> None:
        body = bodies[request.path.rpartition("/")[2]]
        request.say(200, body, ETag=f'"{ref_to(body).etag}"')

    got: dict[str, bytes] = {}

    def read(store: S3Store, keys: list[str]) -> None:
        got.update({key: store.fetch(ref_to(bodies[key], key), max_bytes=MIB).data for key in keys})

    with faulty_store(answer) as server:
        store, names = store_at(server.url), list(bodies)
        work: list[Callable[[], None]] = [lambda part=part: read(store, names[part::8]) for part in range(8)]
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert got == bodies
    assert len(server.paths) == 64
