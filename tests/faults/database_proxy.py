"""A TCP proxy in front of a real Postgres that fails at named moments, and counts what it did.

It reads as much of the protocol as it needs: a message is a type byte, four bytes of length and a body, once the
start-up packets, which have no type byte, are through. A *statement* is what the client ends by Query or Sync, and
what the server answers up to ReadyForQuery; its text is that of what is executed, and empty where something is only
prepared.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


@dataclass
class Fault:
    """Something that is to happen at a statement."""

    kind: str
    """``before``: the statement never reaches the server. ``after``: its answer never reaches the client. ``hold``: it
    does, later."""
    matching: bytes
    """What the statement's SQL has to hold."""
    left: int
    """Strikes at this many matching statements from now."""
    then: Callable[[], None] | None = None
    """What else happens after the cut, such as going down."""
    struck: threading.Event = field(default_factory=threading.Event)


class _GoneError(Exception):
    """One side has closed, or is to be cut."""


class DatabaseProxy:
    """Listens on loopback in front of a server.

    Attributes:
        url: The database's URL by way of the proxy.
        counts: ``connections``, ``statements``, ``before``, ``after``, ``hold``, ``bytes`` (faults of each kind),
            ``refused`` (connections while down) and ``cut`` (connections ended by going down).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=parts.netloc.rsplit(":", 1)[0] + f":{port}").geturl()
        self.counts: Counter[str] = Counter()
        self.texts: list[bytes] = []
        """SQL of each statement that was forwarded, in order."""
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self._bytes_left: tuple[int, Callable[[], None] | None] | None = None
        self._is_down = False
        self._passing = threading.Event()
        self._passing.set()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> DatabaseProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every connection and thread."""
        with self._lock:
            self._is_down = True
        self._passing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), thread.name

    # What a test asks for

    def cut_before(self, matching: str = "", *, nth: int = 1, then: Callable[[], None] | None = None) -> Fault:
        """Cut the connection instead of forwarding the nth statement from now on that holds a text."""
        return self._arm(Fault("before", matching.encode(), nth, then))

    def cut_after(self, matching: str = "", *, nth: int = 1, then: Callable[[], None] | None = None) -> Fault:
        """Forward the nth such statement, wait until the server has done it, and cut instead of passing the answer."""
        return self._arm(Fault("after", matching.encode(), nth, then))

    def cut_in(self, count: int, *, then: Callable[[], None] | None = None) -> None:
        """Cut the connection that passes the last of so many bytes, wherever in a message that is."""
        with self._lock:
            self._bytes_left = (count, then)

    def hold_after(self, matching: str, then: Callable[[], None], *, nth: int = 1) -> Fault:
        """Do something between the server's end of the nth such statement and the client's hearing of it."""
        return self._arm(Fault("hold", matching.encode(), nth, then))

    def go_down(self) -> None:
        """Reset every connection, and each new one until ``come_back``."""
        with self._lock:
            self._is_down = True
        self.counts["cut"] += self.cut()

    def come_back(self) -> None:
        """Forward again."""
        with self._lock:
            self._is_down = False

    def stall(self) -> None:
        """Pass nothing and close nothing until ``resume``."""
        self._passing.clear()

    def resume(self) -> None:
        """Pass what has piled up."""
        self._passing.set()

    def cut(self) -> int:
        """Reset every connection and return how many there were."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    # Inside

    def _arm(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                is_down = self._is_down
            if is_down:
                self.counts["refused"] += 1
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._server, timeout=5)
            except OSError:  # the server itself is down
                self.counts["refused"] += 1
                _reset(client)
                continue
            server.settimeout(None)
            self.counts["connections"] += 1
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            self._start(link.run_client)
            self._start(link.run_server)

    def _due(self, text: bytes) -> Fault | None:
        """Count a statement and return the fault that strikes at it."""
        with self._lock:
            self.counts["statements"] += 1
            for fault in self._faults:
                if fault.matching in text:
                    fault.left -= 1
                    if fault.left <= 0:
                        self._faults.remove(fault)
                        self.counts[fault.kind] += 1
                        if fault.kind != "before":
                            self.texts.append(text)
                        return fault
            self.texts.append(text)
            return None

    def _allowed(self, count: int) -> tuple[int, bool]:
        """Return how many of so many bytes pass, and whether the connection is cut then."""
        with self._lock:
            if self._bytes_left is None:
                return count, False
            left, then = self._bytes_left
            if count < left:
                self._bytes_left = (left - count, then)
                return count, False
            self._bytes_left = None
            self.counts["bytes"] += 1
            if then is not None:
                then()
            return left, True

    def _ended(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: DatabaseProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._texts: dict[bytes, bytes] = {}
        self._text = b""
        self._awaiting: Fault | None = None
        """Set before its statement is forwarded, so that the other thread sees it before the answer."""

    def run_client(self) -> None:
        """Forward what the client sends, statement by statement."""
        self._run(self._forward_requests)

    def run_server(self) -> None:
        """Forward what the server answers, message by message."""
        self._run(self._forward_answers)

    def cut(self) -> None:
        """Reset the client's side and close the server's, which goes on with what it has received."""
        _reset(self._client)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._proxy._ended(self)

    def _run(self, forward: Callable[[], None]) -> None:
        with suppress(_GoneError, OSError):
            forward()
        self.cut()

    def _forward_requests(self) -> None:
        while True:  # start-up packets
            length = _receive(self._client, 4)
            body = _receive(self._client, int.from_bytes(length) - 4)
            if int.from_bytes(body[:4]) in {SSL_REQUEST, GSS_REQUEST}:
                self._client.sendall(b"N")
                continue
            self._pass(self._server, length + body)
            break
        held = b""
        while True:
            kind, body, message = _message(self._client)
            held += message
            if kind == b"P":
                name, _, rest = body.partition(b"\0")
                self._texts[name] = rest.partition(b"\0")[0]
                self._text = b""  # only prepared, until it is bound
            elif kind == b"B":
                name = body.split(b"\0", 2)[1]
                self._text = self._texts.get(name, b"")
            elif kind == b"Q":
                self._text = body.rstrip(b"\0")
            if kind in {b"Q", b"S"}:
                fault = self._proxy._due(self._text)
                if fault is not None and fault.kind == "before":
                    self._strike(fault)
                self._awaiting = fault
            if kind in b"QSpXdcfH":
                self._pass(self._server, held)
                held = b""

    def _forward_answers(self) -> None:
        while True:
            kind, _, message = _message(self._server)
            fault = self._awaiting
            if fault is not None and kind == b"Z":
                if fault.kind == "after":
                    self._strike(fault)
                assert fault.then is not None
                fault.then()
                fault.struck.set()
            if fault is None or fault.kind == "hold":
                self._pass(self._client, message)

    def _strike(self, fault: Fault) -> None:
        if fault.then is not None:
            fault.then()
        self.cut()
        fault.struck.set()
        raise _GoneError

    def _pass(self, to: socket.socket, data: bytes) -> None:
        self._proxy._passing.wait()
        allowed, is_cut = self._proxy._allowed(len(data))
        to.sendall(data[:allowed])
        if is_cut:
            raise _GoneError


def _message(source: socket.socket) -> tuple[bytes, bytes, bytes]:
    """Return type, body and the whole of the next message."""
    head = _receive(source, 5)
    body = _receive(source, int.from_bytes(head[1:]) - 4)
    return head[:1], body, head + body


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise _GoneError
        data += more
    return data


def _reset(peer: socket.socket) -> None:
    with suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    with suppress(OSError):  # wakes a thread that reads from it; closing alone does not
        peer.shutdown(socket.SHUT_RDWR)
    peer.close()
