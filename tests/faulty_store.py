"""An S3 service on loopback that answers as a test wishes: late, cut short, in circles, or with an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; answers have the methods below to say something."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyStore

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        number = min(len(self.server.paths), len(self.server.answers)) - 1
        self.server.answers[number](self)

    def do_HEAD(self) -> None:
        """Answer for an object as for GET; of a bucket nobody tells anything."""
        if "/" in urlsplit(self.path).path.strip("/"):
            self.do_GET()
        else:
            self.send_error(501)

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def say(self, status: int, body: bytes, *, announce: int | None = -1, **headers: str) -> None:
        """Send a whole answer; ``announce`` lies about the length, None leaves it out."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if announce is not None:
            self.send_header("Content-Length", str(len(body) if announce == -1 else announce))
        if announce != -1:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


class FaultyStore(ThreadingHTTPServer):
    """Gives each request the next of its answers, and the last one from then on."""

    daemon_threads = True

    def __init__(self, answers: Sequence[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers = answers
        self.paths: list[str] = []
        """What was asked for so far."""
        self.connections = 0
        self.over = threading.Event()
        """Set when the test is over, so that an answer that hangs can end."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side may hang up whenever it likes."""


@contextmanager
def faulty_store(*answers: Answer) -> Iterator[FaultyStore]:
    with FaultyStore(answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def listing(keys: Sequence[str], *, truncated: bool = False, token: str | None = None) -> Answer:
    entries = "".join(
        f"<Contents><Key>{quote(key)}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    following = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>photos</Name><EncodingType>url</EncodingType><IsTruncated>{str(truncated).lower()}</IsTruncated>"
        f"{following}{entries}</ListBucketResult>"
    )
    return lambda request: request.say(200, body.encode(), Content_Type="application/xml")


def error(status: int, code: str = "", message: str = "") -> Answer:
    """An error as S3 words it; without a code, as a proxy does."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else "<html>no</html>"
    return lambda request: request.say(status, body.encode())


def content(body: bytes, *, announce: int | None = -1, **headers: str) -> Answer:
    return lambda request: request.say(200, body, announce=announce, **{"ETag": '"e"', **headers})


def stall(body: bytes, *, announce: int) -> Answer:
    """Send the beginning, then nothing more."""

    def answer(request: Request) -> None:
        request.say(200, body, announce=announce, ETag='"e"')
        request.wfile.flush()
        request.server.over.wait(30)

    return answer
