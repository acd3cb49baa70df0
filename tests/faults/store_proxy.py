"""A proxy on loopback before a real S3 server, which goes wrong as a test plans it.

A rule says which requests a fault befalls: by kind and key, from the nth on, how often, with what chance. What no rule
befalls is passed on as it comes. Each rule counts what it did, so that a test can tell that its fault happened.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

Kind = Literal["list", "get", "any"]
Fault = Callable[["Exchange"], None]


@dataclass
class Rule:
    """Which requests a fault befalls."""

    fault: Fault
    kind: Kind = "any"
    key: str | None = None
    """Only requests for this key."""
    skip: int = 0
    """Fitting requests that are let pass first."""
    times: int | None = None
    """How often at most; None for always."""
    chance: float = 1.0
    seen: int = field(default=0, init=False)
    injected: int = field(default=0, init=False)

    def befalls(self, kind: Kind, key: str | None, rng: random.Random) -> bool:
        """Count a request and decide; called under the proxy's lock."""
        if self.kind not in {"any", kind} or self.key not in {None, key}:
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.injected >= self.times):
            return False
        if rng.random() >= self.chance:
            return False
        self.injected += 1
        return True


class Exchange(BaseHTTPRequestHandler):
    """One client's connection, with one to the real server behind it; faults have its methods to go wrong with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StoreProxy
    upstream: HTTPConnection | None = None

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    @property
    def key(self) -> str | None:
        """The key that is asked for; None for a listing."""
        parts = unquote(urlsplit(self.path).path).split("/", 2)
        return parts[2] if len(parts) == 3 and parts[2] else None

    def do_GET(self) -> None:
        kind: Kind = "get" if self.key else "list"
        fault = self.server.fault_for(kind, self.key)
        if fault is not None:
            fault(self)
            return
        self.server.over.wait(self.server.pace_s)
        if kind == "list" and self.server.page_size:
            self.server.paging.answer(self)
        else:
            self.pass_on()

    def ask(self, path: str | None = None, headers: dict[str, str] | None = None) -> HTTPResponse:
        """Send the request to the real server, Host and signature as the client made them."""
        if self.upstream is None:
            self.upstream = HTTPConnection(*self.server.behind, timeout=60)
        for attempt in (1, 2):
            try:
                self.upstream.putrequest(self.command, path or self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in (headers or dict(self.headers.items())).items():
                    self.upstream.putheader(name, value)
                self.upstream.endheaders()
                return self.upstream.getresponse()
            except OSError:  # it was closed while nobody used it
                self.upstream.close()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def begin(self, answer: HTTPResponse, *, announce: int | None = None) -> None:
        """Send the head of an answer; ``announce`` lies about the length."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(announce if announce is not None else answer.length or 0))
        self.end_headers()

    def pass_on(self) -> None:
        """Answer as the real server does, as it comes."""
        answer = self.ask()
        if answer.chunked:
            self.say(answer.status, answer.read(), dict(answer.getheaders()))
            return
        self.begin(answer)
        while piece := answer.read(65_536):
            self.wfile.write(piece)

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer without the real server."""
        self.send_response_only(status)
        for name, value in (headers or {"Content-Type": "application/xml"}).items():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection off, so that the other side sees a reset."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
        reset(self.connection)

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        self.server.forget(self.connection)
        with suppress(OSError, ValueError):
            super().finish()

    def setup(self) -> None:
        super().setup()
        self.server.remember(self.connection)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


class StoreProxy(ThreadingHTTPServer):
    """Passes requests on to a real S3 server, but for what its rules befall.

    Args:
        endpoint_url: The real server.
        seed: What chances are drawn from.
        credentials: Key and secret with which listings are signed anew where ``page_size`` is given.
        page_size: Keys a page; None for the real server's 1,000. Then every token that clients see is used once.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        endpoint_url: str,
        *,
        seed: int = 0,
        credentials: tuple[str, str] | None = None,
        page_size: int | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        where = urlsplit(endpoint_url)
        assert where.hostname is not None
        assert where.port is not None
        self.behind = (where.hostname, where.port)
        self.page_size = page_size
        self.generated_pages = 0
        """Pages of a bucket that a fault makes up."""
        self.pace_s = 0.0
        """Seconds before each answer that no fault befalls."""
        self.paging = _Paging(self, credentials)
        self.rules: list[Rule] = []
        self.requests: list[tuple[Kind, str | None]] = []
        """What was asked for so far."""
        self.over = threading.Event()
        """Set when the test is over, so that an answer that hangs can end."""
        self.refused = 0
        """Connections and requests that met an outage."""
        self._is_down = False
        self._rng = random.Random(seed)  # noqa: S311 - a repeatable draw
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def rule(self, fault: Fault, kind: Kind = "any", **when: Any) -> Rule:
        """Add a rule; the first that fits a request befalls it."""
        rule = Rule(fault, kind, **when)
        with self._lock:
            self.rules.append(rule)
        return rule

    def lift(self, rule: Rule) -> None:
        with self._lock:
            self.rules.remove(rule)

    def fault_for(self, kind: Kind, key: str | None) -> Fault | None:
        with self._lock:
            self.requests.append((kind, key))
            if self._is_down:
                self.refused += 1
                return lambda exchange: exchange.reset()
            return next((rule.fault for rule in self.rules if rule.befalls(kind, key, self._rng)), None)

    def count(self, kind: Kind, key: str | None = None) -> int:
        """Requests of a kind so far, for a key or for any."""
        return sum(1 for asked, about in self.requests if asked == kind and key in {None, about})

    def go_down(self) -> None:
        """Reset every connection, and every new one."""
        with self._lock:
            self._is_down = True
            for connection in self._connections:
                reset(connection)

    def come_up(self) -> None:
        with self._lock:
            self._is_down = False

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self._is_down:
            self.refused += 1
            reset(request)
            return False
        return True

    def remember(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Either side may hang up whenever it likes."""


@contextmanager
def store_proxy(endpoint_url: str, **settings: Any) -> Iterator[StoreProxy]:
    with StoreProxy(endpoint_url, **settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def reset(connection: socket.socket) -> None:
    """Throw a connection away in a way that the other side sees as a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes who reads from it here
    with suppress(OSError):
        socket.socket(fileno=connection.detach()).close()


# Faults


def error(status: int, code: str, message: str = "by the test's plan") -> Fault:
    """An error as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return lambda exchange: exchange.say(status, body)


SLOW_DOWN = error(503, "SlowDown", "Please reduce your request rate.")
ACCESS_DENIED = error(403, "AccessDenied", "Access Denied.")
EXPIRED_TOKEN = error(400, "ExpiredToken", "The provided token has expired.")


def late(seconds: float) -> Fault:
    """The real answer, later."""

    def fault(exchange: Exchange) -> None:
        exchange.server.over.wait(seconds)
        exchange.pass_on()

    return fault


def after(action: Callable[[], object]) -> Fault:
    """The real answer, after something else happened in the store."""

    def fault(exchange: Exchange) -> None:
        action()
        exchange.pass_on()

    return fault


def drip(bytes_per_s: float, *, at_most_s: float = 60.0) -> Fault:
    """The real answer, its body a byte at a time."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.ask()
        exchange.begin(answer)
        end = time.monotonic() + at_most_s
        for byte in answer.read():
            exchange.wfile.write(bytes([byte]))
            if time.monotonic() > end or exchange.server.over.wait(1 / bytes_per_s):
                exchange.close_connection = True
                return

    return fault


def reset_at_once(exchange: Exchange) -> None:
    """No answer but a reset."""
    exchange.reset()


def reset_in_body(exchange: Exchange) -> None:
    """Half of the body, then a reset."""
    answer = exchange.ask()
    body = answer.read()
    exchange.begin(answer, announce=len(body))
    exchange.wfile.write(body[: len(body) // 2])
    exchange.wfile.flush()
    time.sleep(0.02)  # a reset throws away what has not arrived
    exchange.reset()


def short_body(exchange: Exchange) -> None:
    """Less than was announced, then an orderly end."""
    answer = exchange.ask()
    body = answer.read()
    exchange.begin(answer, announce=len(body))
    exchange.wfile.write(body[: len(body) // 2])
    exchange.close_connection = True


def corrupt_body(exchange: Exchange) -> None:
    """One byte is another."""
    answer = exchange.ask()
    body = bytearray(answer.read())
    body[len(body) // 2] ^= 0xFF
    exchange.begin(answer, announce=len(body))
    exchange.wfile.write(bytes(body))


def repeat_page(exchange: Exchange) -> None:
    """The page before once more."""
    exchange.server.paging.answer(exchange, again=True)


def lead_in_a_circle(exchange: Exchange) -> None:
    """A page as it is, but the last one leads to the first again."""
    exchange.server.paging.answer(exchange, is_circle=True)


def empty_page(exchange: Exchange) -> None:
    """Nothing, and a token for more."""
    exchange.server.paging.answer(exchange, is_empty=True)


class _Paging:
    """Listings in pages of another size, under tokens that are each used once."""

    def __init__(self, server: StoreProxy, credentials: tuple[str, str] | None) -> None:
        self._server = server
        self._credentials = credentials
        self._tokens: dict[str, str | None] = {}
        self._last: bytes | None = None

    def answer(
        self, exchange: Exchange, *, again: bool = False, is_circle: bool = False, is_empty: bool = False
    ) -> None:
        query = exchange.query
        if is_empty:
            text = (
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
                "<IsTruncated>true</IsTruncated></ListBucketResult>"
            )
            self._send(exchange, text, query.get("continuation-token"))
            return
        if again and self._last is not None:
            exchange.say(200, self._last)
            return
        real = self._tokens.get(query.get("continuation-token", ""))
        text = self._ask(exchange, query, real)
        found = re.search(r"<NextContinuationToken>(.*?)</NextContinuationToken>", text)
        following = found.group(1) if found else None
        if following is None and is_circle:
            text = text.replace("<IsTruncated>false<", "<IsTruncated>true<")
        self._send(exchange, text, following)

    def _send(self, exchange: Exchange, text: str, following: str | None) -> None:
        text = re.sub(r"<NextContinuationToken>.*?</NextContinuationToken>", "", text)
        if "<IsTruncated>true<" in text:
            token = f"token-{len(self._tokens) + 1}"
            self._tokens[token] = following
            text = text.replace(
                "</IsTruncated>", f"</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
            )
        self._last = text.encode()
        exchange.say(200, self._last)

    def _ask(self, exchange: Exchange, query: dict[str, str], token: str | None) -> str:
        """Return the real server's page after a token, signed anew since the question is another one."""
        assert self._credentials is not None
        asked = {name: value for name, value in query.items() if name != "continuation-token"}
        asked["max-keys"] = str(self._server.page_size)
        if token is not None:
            asked["continuation-token"] = token
        host, port = self._server.behind
        path = f"{urlsplit(exchange.path).path}?{urlencode(sorted(asked.items()), quote_via=quote)}"
        request = AWSRequest("GET", f"http://{host}:{port}{path}")
        S3SigV4Auth(Credentials(*self._credentials), "s3", "us-east-1").add_auth(request)
        headers = {"Host": f"{host}:{port}", **dict(request.headers.items())}
        return exchange.ask(path, headers).read().decode()
