"""REST guards: who may ask, the access log, and the last net under every request. Before any route, pure ASGI."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
import time
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.api.errors import HostNotAllowedError, UnauthorizedError, problem
from inference.errors import InferenceError
from inference.settings import Settings

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("inference.api.access")

PUBLIC_PREFIX = "/v2/health/"
MAX_LOGGED_PATH = 120


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, without port and brackets, can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_origin(origin: str) -> bool:
    """Return whether the authority of a URL, or the whole URL, names this machine; anything odd does not."""
    try:
        parts = urlsplit(origin if "//" in origin else f"//{origin}")
        return parts.username is None and is_loopback(parts.hostname or "")
    except ValueError:
        return False


def api_key_of(settings: Settings) -> str | None:
    """Return the key that callers must know; an empty one is none."""
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    return key or None


class Guard:
    """Lets through who may ask, logs a line for each request, and turns what nobody foresaw into a plain 500.

    With a key every route but the health routes wants it. Without a key the service is for this machine alone, and a
    request must come under this machine's name: a web page that is open in somebody's browser could otherwise point
    its own name at 127.0.0.1 and read the answers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        key = api_key_of(settings)
        self._key_digest = hashlib.sha256(key.encode()).digest() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one request; other kinds of scope pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_and_note)
        except InferenceError as error:
            await problem(error)(scope, receive, send_and_note)
        except Exception:
            logger.exception("A request failed in a way that nobody foresaw")
            if status:
                raise
            await problem(InferenceError("unforeseen"))(scope, receive, send_and_note)
        finally:
            # The path is escaped and cut, so that a caller cannot write lines of its own; the query may hold names.
            path = quote(scope["path"][:MAX_LOGGED_PATH], errors="replace")
            client = scope["client"][0] if scope.get("client") else "-"
            seconds = time.perf_counter() - started
            access_logger.info("%s %s %s %d in %.3f s", client, scope["method"], path, status, seconds)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._key_digest is None:
            self._check_host(headers)
        elif not scope["path"].startswith(PUBLIC_PREFIX):
            self._check_key(headers, self._key_digest)

    @staticmethod
    def _check_host(headers: Headers) -> None:
        origin = headers.get("origin")
        if not is_loopback_origin(headers.get("host", "")) or (origin and not is_loopback_origin(origin)):
            raise HostNotAllowedError(
                "Without NIGHTLABEL_API_KEY only this machine may ask, as localhost, 127.0.0.1 or [::1]; set a key."
            )

    @staticmethod
    def _check_key(headers: Headers, key_digest: bytes) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Digests are compared, in constant time: neither the key's letters nor its length can be measured.
        given_digest = hashlib.sha256(given.strip().encode("latin-1")).digest()
        if scheme.lower() != "bearer" or not secrets.compare_digest(given_digest, key_digest):
            raise UnauthorizedError("The key is missing or wrong; send it as 'Authorization: Bearer <key>'.")
