"""Pages are read fast and as boto3 reads them, whatever they hold; what is unusual is left to boto3."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config

from inference.stores.pages import ENTRIES, listed_objects, read_fast, read_page
from tests.faulty_store import faulty_store
from tests.store_contract import PLAIN_KEYS

pytestmark = pytest.mark.integration

KEYS = (*PLAIN_KEYS, "a//b", "new\nline", "folder/", "/", "k" * 1024, "\N{GRINNING FACE}" * 256, "e\ufffe")
AMAZONS = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(
    *keys: str, space: str = AMAZONS, time: str = "2026-11-01T01:02:03.004Z", size: str = "1", about: str = ""
) -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>W/&quot;e&quot;</ETag><Size>{size}</Size>"
        f"<Owner><ID>o</ID></Owner></Contents>"
        for key in keys
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{space}><EncodingType>url</EncodingType>'
        f"<IsTruncated>false</IsTruncated>{about}{entries}</ListBucketResult>"
    ).encode()


@cache
def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="some", aws_secret_access_key="one", region_name="us-east-1")


def answer_to(body: bytes, *, fast: bool) -> Any:
    """What a client makes of a body: the objects, whether there are more, and the token; or the error's text."""
    with faulty_store(lambda request: request.say(200, body)) as server:
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={})
        client = session().client("s3", endpoint_url=server.url, config=config)
        if fast:
            read_fast(client)
        try:
            answer = client.list_objects_v2(Bucket="photos")
            found = listed_objects("photos", answer)
        except Exception as error:  # noqa: BLE001 - to be compared
            return type(error), str(error)
        return found, answer.get("IsTruncated"), answer.get("NextContinuationToken")


USUAL = {
    "plain": page("a.jpg", "b.jpg"),
    "empty": page(),
    "keys": page(*(quote(key) for key in KEYS)),
    "keys, slashes encoded": page(*(quote(key, safe="") for key in KEYS)),
    "keys, blanks as plus": page(*(quote(key).replace("%20", "+") for key in KEYS)),
    "not encoded": page("a%20b+c").replace(b"<EncodingType>url</EncodingType>", b""),
    "no namespace": page("a", space=""),
    "offset": page("a", time="2026-11-01T02:00:00+02:00"),
    "no fraction": page("a", time="2026-11-01T02:00:00Z"),
    "token": page("a", about="<NextContinuationToken>a%2Bb+c==</NextContinuationToken>"),
    "cdata and comment": page("<![CDATA[a&b]]><!-- no -->c"),
}
UNUSUAL = {
    "time of another kind": page("a", time="Sun, 01 Nov 2026 00:00:00 GMT"),
    "time without zone": page("a", time="2026-11-01T02:00:00"),
    "seconds": page("a", time="1793491200"),
    "no etag": page("a").replace(b"<ETag>W/&quot;e&quot;</ETag>", b""),
    "two namespaces": page("a").replace(b"<Contents>", b'<Contents xmlns="other">'),
    "size of another kind": page("a", size="1.5"),
    "not truncated, or what": page("a").replace(b"<IsTruncated>false</IsTruncated>", b""),
    "an error": b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>",
    "cut": page("a")[:-20],
    "nothing": b"",
    "web page": b"<html><body>It works!</body></html>",
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in USUAL.items()])
def test_a_page_is_read_fast_and_as_boto3_reads_it(body: bytes):
    assert read_page(body) is not None
    assert answer_to(body, fast=True) == answer_to(body, fast=False)


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in UNUSUAL.items()])
def test_what_is_unusual_is_left_to_boto3(body: bytes):
    assert read_page(body) is None
    assert answer_to(body, fast=True) == answer_to(body, fast=False)


def test_every_key_comes_as_it_was_stored():
    [*entries] = (read_page(page(*(quote(key) for key in KEYS))) or {})[ENTRIES]

    assert [key for key, *_ in entries] == list(KEYS)


def test_bytes_that_are_no_utf_8_are_kept_where_boto3_would_lose_them():
    [[key, *_]] = (read_page(page("caf%e9/%ff%00")) or {})[ENTRIES]

    assert key.encode("utf-8", "surrogateescape") == b"caf\xe9/\xff\0"


def test_a_page_is_parsed_once_only(monkeypatch: pytest.MonkeyPatch):
    parsed: list[bytes] = []
    monkeypatch.setattr("botocore.handlers._looks_like_special_case_error", lambda status, body: parsed.append(body))

    answer_to(page("a"), fast=True)
    assert parsed == [b""]
