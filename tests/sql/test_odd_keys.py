"""Keys whose bytes are no UTF-8, or hold NUL, against a store that keeps any bytes: listed, read and looked up."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

import pytest

from inference.errors import ImageGoneError
from inference.stores.odd_keys import named_to_boto3
from inference.stores.s3 import S3Store
from inference.stores.s3_objects import S3Objects
from inference.types import ImageRef, RunRequest, key_of
from tests.ledger import Ledger, Pages

pytestmark = pytest.mark.integration

KEYS = [
    b"in/plain.jpg",
    b"in/caf\xe9.jpg",
    "in/café.jpg".encode(),
    b"in/caf\xe9/\xff\xfe",
    b"in/nul\x00.jpg",
    b"in/\xc3",
    "in/首.jpg".encode(),
    named_to_boto3("in/caf\udce9.jpg").encode(),
    b"in/" + named_to_boto3("caf\udce9.jpg").encode(),
    b"in/question?and=\xe9&more#",
    b"in/percent%E9\xe9",
]


def md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class Request(BaseHTTPRequestHandler):
    """Lists in the order of the bytes, as S3 does, and gives what is asked for by its very bytes."""

    protocol_version = "HTTP/1.1"
    server: AnyBytes

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if "list-type" in query:
            self._list(query)
            return
        key = unquote_to_bytes(address.path.removeprefix("/photos/"))
        body = self.server.objects.get(key)
        if body is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>", "application/xml")
            return
        self._send(200, body, "image/jpeg", ETag=f'"{md5(body)}"', **{"Last-Modified": DATE})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _list(self, query: dict[str, str]) -> None:
        assert query["encoding-type"] == "url"
        after = query.get("continuation-token") or query.get("start-after", "")
        begin = unquote_to_bytes(after) if "continuation-token" in query else after.encode()
        keys = [
            key
            for key in sorted(self.server.objects)
            if key.startswith(query.get("prefix", "").encode()) and key > begin
        ]
        page = keys[: min(int(query.get("max-keys", 1000)), self.server.page_size)]
        more = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if len(page) < len(keys) else ""
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{md5(self.server.objects[key])}&quot;</ETag>"
            f"<Size>{len(self.server.objects[key])}</Size></Contents>"
            for key in page
        )
        self._send(
            200,
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated><EncodingType>url</EncodingType>"
            f"{more}{entries}</ListBucketResult>".encode(),
            "application/xml",
        )

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class AnyBytes(ThreadingHTTPServer):
    daemon_threads = True
    page_size = 1000
    objects: dict[bytes, bytes]


@pytest.fixture
def server() -> Iterator[AnyBytes]:
    server = AnyBytes(("127.0.0.1", 0), Request)
    server.objects = {key: b"the bytes of " + key for key in KEYS}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(server: AnyBytes, no_credentials_around: None) -> S3Store:
    return S3Store(
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        access_key_id="a",
        secret_access_key="b",
        region_name="us-east-1",
    )


def refs(store: S3Store, prefix: str = "") -> dict[bytes, ImageRef]:
    return {
        entry.key.encode("utf-8", "surrogateescape"): ImageRef(entry.bucket, entry.key, entry.etag, entry.size_bytes)
        for page in store.list_pages("photos", prefix)
        for entry in page
    }


def test_every_key_is_listed_and_read_by_its_bytes(store: S3Store, server: AnyBytes):
    found = refs(store)
    assert found.keys() == set(KEYS)
    assert {key: store.fetch(ref, max_bytes=1000).data for key, ref in found.items()} == server.objects


def test_one_that_was_deleted_since_is_gone(store: S3Store, server: AnyBytes):
    found = refs(store)
    del server.objects[KEYS[1]]
    with pytest.raises(ImageGoneError):
        store.fetch(found[KEYS[1]], max_bytes=1000)


def test_one_that_a_manifest_names_is_looked_up(store: S3Store, server: AnyBytes):
    objects = S3Objects(store)
    for key in KEYS:
        seen = objects.head("photos", key.decode("utf-8", "surrogateescape"))
        assert seen
        assert (seen.etag, seen.size_bytes) == (md5(server.objects[key]), len(server.objects[key]))
    assert objects.head("photos", "in/no\udce9") is None


def test_a_prefix_that_is_no_text_finds_what_begins_with_its_bytes(store: S3Store):
    assert refs(store, "in/caf\udce9").keys() == {b"in/caf\xe9.jpg", b"in/caf\xe9/\xff\xfe"}
    assert refs(store, "in/nul\x00").keys() == {b"in/nul\x00.jpg"}


def test_a_large_listing_of_such_keys_is_whole(store: S3Store, server: AnyBytes):
    server.page_size = 200
    many = {
        b"in/%s/%05d" % (day, number): b"x"
        for number in range(700)
        for day in (b"caf\xe9", "首".encode(), b"\xff", b"z")
    }
    server.objects |= many
    assert refs(store).keys() == {*KEYS, *many}
    assert refs(store, "in/\udcff").keys() == {key for key in many if key.startswith(b"in/\xff")}


def test_a_night_finds_plans_and_reads_every_one_and_the_next_finds_nothing_new(
    store: S3Store, server: AnyBytes, ledger: Ledger
):
    plan = ledger.sink.plan_run(RunRequest("photos", prefix="in/"), Pages(store.list_pages("photos", "in/")))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    read = {ref.key: store.fetch(ref, max_bytes=1000).data for ref in ledger.refs(shard)}
    wanted = {key: body for key, body in server.objects.items() if key.startswith(b"in/")}
    assert {key.encode("utf-8", "surrogateescape"): body for key, body in read.items()} == wanted

    ledger.work(plan)
    shown = {key_of(key).encode("utf-8", "surrogateescape") for key in ledger.latest()}
    assert shown == wanted.keys()
    again = ledger.sink.plan_run(RunRequest("photos", prefix="in/"), Pages(store.list_pages("photos", "in/")))
    assert (again.already_done, again.to_classify) == (len(wanted), 0)
