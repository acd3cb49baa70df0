"""Single objects of the S3 adapter: against a real server, and against one that misbehaves."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta

import pytest

from inference.errors import BucketMissingError, ObjectAccessDeniedError, StoreCredentialsError, StoreUnavailableError
from inference.stores import s3_objects
from inference.stores.s3 import S3Store
from inference.stores.s3_objects import S3Objects
from tests.conftest import Bucket
from tests.faulty_store import Answer, FaultyStore, Request, content, error, faulty_store
from tests.store_contract import PLAIN_KEYS

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_credentials_around")]

LARGE = random.Random(7).randbytes(3 * 1024 * 1024 + 17)  # noqa: S311 - bytes that are the same each time
TIME = "Tue, 24 Nov 2026 02:00:00 GMT"


@pytest.fixture
def objects(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Objects:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return S3Objects(S3Store(attempts=1, connections=3))


def objects_at(server: FaultyStore, **more: int) -> S3Objects:
    return S3Objects(
        S3Store(
            endpoint_url=server.url,
            access_key_id="some",
            secret_access_key="one",
            region_name="us-east-1",
            attempts=more.pop("attempts", 1),
        )
    )


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "_SHORTEST_PAUSE_S", 0.0)


def test_a_look_shows_what_a_listing_shows(bucket: Bucket, objects: S3Objects):
    for key in (*PLAIN_KEYS, "new\nline.jpg"):
        bucket.put(key, key.encode())
    listed = [entry for page in S3Store(attempts=1).list_pages(bucket.name, "") for entry in page]
    for entry in listed:
        seen = objects.head(bucket.name, entry.key)
        assert seen is not None
        assert (seen.bucket, seen.key, seen.etag, seen.size_bytes) == (
            bucket.name, entry.key, entry.etag, entry.size_bytes,
        )  # fmt: skip
        assert abs(seen.last_modified - entry.last_modified) <= timedelta(seconds=1)
        assert seen.last_modified.tzinfo is UTC
    assert len(listed) == len(PLAIN_KEYS) + 1
    assert objects.connections == 3


def test_a_key_that_holds_nothing_is_none_and_a_bucket_that_is_not_there_an_error(bucket: Bucket, objects: S3Objects):
    assert objects.head(bucket.name, "none") is None
    with pytest.raises(BucketMissingError, match="there is no bucket 'no-such-bucket'"):
        objects.head("no-such-bucket", "a")
    with pytest.raises(BucketMissingError):
        objects.open("no-such-bucket", "a")
    with pytest.raises(FileNotFoundError):
        objects.open(bucket.name, "none")


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_no_refusal_of_one_key(bucket: Bucket, objects: S3Objects, monkeypatch, wrong):
    bucket.put("a", b"x")
    monkeypatch.setenv(wrong, "WRONGWRONGWRONG")
    for ask in (objects.head, objects.open):
        with pytest.raises(StoreCredentialsError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            ask(bucket.name, "a")


@pytest.mark.parametrize("body", [b"", b"x", LARGE])
def test_an_object_comes_as_a_stream(bucket: Bucket, objects: S3Objects, body):
    bucket.put("a", body)
    with objects.open(bucket.name, "a") as stream:
        assert stream.peek(4)[:4] == body[:4]
        assert stream.read(10) == body[:10]
        assert stream.read() == body[10:]
        assert stream.read() == b""


def test_a_stream_may_be_closed_before_its_end(bucket: Bucket, objects: S3Objects):
    bucket.put("a", LARGE)
    for _ in range(5):
        with objects.open(bucket.name, "a") as stream:
            stream.read(10)
    assert objects.head(bucket.name, "a") is not None


def part(body: bytes, *, cut_after: int | None = None, firsts: list[int] | None = None) -> Answer:
    """Send what a range asks for, or only the beginning of it; note in ``firsts`` where it begins."""

    def answer(request: Request) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if firsts is not None:
            firsts.append(first)
        rest = body[first:]
        sent = rest if cut_after is None else rest[:cut_after]
        request.say(206 if asked else 200, sent, announce=len(rest), ETag='"e"', Last_Modified=TIME)

    return answer


@pytest.mark.usefixtures("in_no_time")
def test_a_stream_that_is_cut_goes_on_where_it_was():
    firsts: list[int] = []
    cut, whole = part(LARGE, cut_after=700_000, firsts=firsts), part(LARGE, firsts=firsts)
    with faulty_store(cut, cut, cut, error(503, "SlowDown"), whole) as server:
        with objects_at(server, attempts=2).open("lists", "new.csv") as stream:
            assert stream.read(5) + stream.read() == LARGE
        assert len(server.paths) == 5
    assert firsts == [0, 700_000, 1_400_000, 2_100_000]


@pytest.mark.usefixtures("in_no_time")
def test_a_stream_that_is_cut_again_and_again_is_given_up():
    with faulty_store(part(LARGE, cut_after=9), part(LARGE, cut_after=0)) as server:
        with (
            objects_at(server).open("lists", "new.csv") as stream,
            pytest.raises(StoreUnavailableError, match=r"did not send s3://lists/new\.csv whole"),
        ):
            stream.read()
        assert len(server.paths) == 6


@pytest.mark.usefixtures("in_no_time")
@pytest.mark.parametrize(
    ("then", "raised", "sentence"),
    [
        (error(412, "PreconditionFailed"), OSError, "s3://lists/new.csv was overwritten while it was read"),
        (error(404, "NoSuchKey"), FileNotFoundError, "no such object"),
        (error(403, "AccessDenied"), PermissionError, "the object store refuses this object"),
        (content(LARGE), StoreUnavailableError, "does not send the rest of it"),
    ],
)
def test_what_happens_to_an_object_while_it_is_read_is_told(then, raised, sentence):
    with (
        faulty_store(part(LARGE, cut_after=9), then) as server,
        objects_at(server).open("lists", "new.csv") as stream,
        pytest.raises(raised, match=sentence),
    ):
        stream.read()


def test_a_refused_key_is_told_from_refused_credentials_by_reading_a_byte():
    with faulty_store(error(403), error(403, "AccessDenied", "not yours")) as server:
        with pytest.raises(ObjectAccessDeniedError, match="403 AccessDenied not yours"):
            objects_at(server).head("photos", "a")
        assert len(server.paths) == 2
    with faulty_store(error(400), error(400, "ExpiredToken")) as server, pytest.raises(StoreCredentialsError):
        objects_at(server).head("photos", "a")


def test_a_store_that_knows_no_head_is_asked_for_a_byte():
    byte = lambda request: request.say(  # noqa: E731
        206, b"x", ETag='"e"', Last_Modified=TIME, Content_Range="bytes 0-0/1234"
    )
    with faulty_store(error(405), byte) as server:
        seen = objects_at(server).head("photos", "a")
    assert seen is not None
    assert (seen.etag, seen.size_bytes, seen.last_modified) == ("e", 1234, datetime(2026, 11, 24, 2, tzinfo=UTC))


def test_a_store_in_trouble_is_asked_again():
    told = lambda request: request.say(200, b"four", ETag='W/"e"', Last_Modified=TIME)  # noqa: E731
    with faulty_store(error(503), error(429), told) as server:
        seen = objects_at(server, attempts=3).head("photos", "a")
        assert seen is not None
        assert (seen.etag, seen.size_bytes) == ("e", 4)
    with faulty_store(error(503)) as server, pytest.raises(StoreUnavailableError, match="asks for patience"):
        objects_at(server).head("photos", "a")


def test_an_answer_that_says_nothing_of_the_object_is_no_object():
    with (
        faulty_store(content(b"<html>")) as server,
        pytest.raises(StoreUnavailableError, match="says neither size nor time of the object 'a'"),
    ):
        objects_at(server).head("photos", "a")
