"""An S3 service on loopback with a bucket of any size: its pages are made as they are asked for.

Run as a process of its own, ``python -m tests.generated_bucket KEYS``, it prints its port, and at the end of its input
what it did: so its time is not the time of whoever is measured.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

PREFIX = "in/"
KEYS_A_DAY = 40_000


@dataclass(frozen=True)
class PlannedKeys(Sequence[str]):
    """Keys in the order of their bytes, of which any is made from its number: some days, each with photos of a night.

    SQL makes the same ones: ``tests/scale/ledger.sql``.
    """

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(self.count))]
        if not 0 <= number < self.count:
            raise IndexError(number)
        day, of_day = divmod(number, KEYS_A_DAY)
        return f"{PREFIX}2026/{day + 1:03}/{of_day:05}-{md5(number)[:12]}.jpg"


def md5(number: int) -> str:
    """The ETag of a number's object."""
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GeneratedBucket

    def do_GET(self) -> None:
        began = time.perf_counter()
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        status, body = self.server.answer(query)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.note(time.perf_counter() - began)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


class GeneratedBucket(ThreadingHTTPServer):
    """Answers ListObjectsV2, whatever the bucket is called."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, keys: Sequence[str], *, page_size: int = 1_000) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.keys = keys
        self.page_size = page_size
        self.requests = self.probes = 0
        self.busy_s = 0.0
        """Seconds spent on answers, added over threads that answer at the same time."""
        self.befalls: Callable[[dict[str, str]], tuple[int, bytes] | None] = lambda query: None
        """May give another answer to a request; called from several threads."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def note(self, busy_s: float) -> None:
        with self._lock:
            self.busy_s += busy_s

    def answer(self, query: dict[str, str]) -> tuple[int, bytes]:
        with self._lock:
            self.requests += 1
            self.probes += query.get("max-keys") == "1"
        return self.befalls(query) or (200, self.page(query))

    def page(self, query: dict[str, str]) -> bytes:
        prefix = query.get("prefix", "")
        after = query.get("start-after", "")
        if "continuation-token" in query:
            start = int(query["continuation-token"])
        else:
            start = max(bisect_right(self.keys, after) if after else 0, self._first(prefix))
        stop = min(start + int(query.get("max-keys", self.page_size)), self._end(prefix))
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>2026-11-01T00:00:{number % 60:02}.000Z</LastModified>"
            f"<ETag>&quot;{md5(number)}&quot;</ETag><Size>{100_000 + number % 1_000}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for number, key in enumerate(self.keys[start:stop], start)
        )
        is_last = stop >= self._end(prefix)
        following = "" if is_last else f"<NextContinuationToken>{stop}</NextContinuationToken>"
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>photos</Name><EncodingType>url</EncodingType><IsTruncated>{str(not is_last).lower()}</IsTruncated>"
            f"{following}{entries}</ListBucketResult>"
        ).encode()

    def _first(self, prefix: str) -> int:
        return bisect_right(self.keys, False, key=lambda key: key >= prefix)

    def _end(self, prefix: str) -> int:
        return bisect_right(self.keys, False, key=lambda key: key > prefix and not key.startswith(prefix))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side may hang up whenever it likes."""


@contextmanager
def generated_bucket(keys: Sequence[str], *, page_size: int = 1_000) -> Iterator[GeneratedBucket]:
    with GeneratedBucket(keys, page_size=page_size) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def odd_keys(rng: random.Random, count: int) -> list[str]:
    """Keys in the order of their bytes, with everything that S3 allows in a key."""
    signs = [chr(point) for point in (*range(1, 0x80), 0xE9, 0x301, 0xFFFD, 0xFFFE, 0x1F408, 0x10FFFF)]
    folders = ["", "a//", "in/", "in/2026/11/25/", "in-between/", "\n", "100%/", "a+b/", "\N{CAT FACE}/", "k" * 900]
    made: set[str] = set()
    while len(made) < count:
        made.add(rng.choice(folders) + "".join(rng.choices(signs, k=rng.choice([1, 2, 5, 20]))))
    return sorted(made)


def main() -> None:
    with generated_bucket(PlannedKeys(int(sys.argv[1]))) as server:
        print(server.server_address[1], flush=True)  # noqa: T201 - whoever started it reads it
        sys.stdin.read()
        said = {"requests": server.requests, "probes": server.probes, "busy_s": server.busy_s}
        print(json.dumps(said), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
