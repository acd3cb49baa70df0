"""REST server: one process that listens until it is told to stop. Entry point of ``python -m inference serve``."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from inference.errors import SettingsError
from inference.settings import Settings

if TYPE_CHECKING:
    from inference.ports import ModelHandle

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 15
"""Longer than most clients pause between two requests, short enough that idle ones do not pile up."""
DRAIN_S = 30
"""Requests that are being answered may end within this time after SIGTERM."""
BACKLOG = 256


def serve(settings: Settings, load_handle: Callable[[], ModelHandle]) -> None:
    """Serve until SIGTERM or Ctrl-C, then let the requests that are being answered end.

    Args:
        settings: Address, port, key and bounds.
        load_handle: Loads the model; the port answers ``/v2/health/live`` meanwhile.

    Raises:
        SettingsError: the address would be open to others without a key, or cannot be listened on.
        ModelError: the model cannot be loaded.
    """
    check_exposure(settings)
    listener = listen(settings.api_host, settings.api_port)

    import uvicorn

    from inference.api.app import create_app

    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, load_handle, on_load_failure=stop),
            access_log=False,  # ours has no query strings
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    # A service that says nothing of its requests cannot be operated, however quiet the command line is otherwise.
    logging.getLogger("inference.api").setLevel(logging.INFO)
    with listener, quiet_signals():
        logger.info("Listening on http://%s:%d", settings.api_host, settings.api_port)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def check_exposure(settings: Settings) -> None:
    """Refuse to be reachable from other machines without a key.

    Raises:
        SettingsError: it would be.
    """
    from inference.api.guards import api_key_of, is_loopback

    if api_key_of(settings) is None and not is_loopback(settings.api_host):
        raise SettingsError(
            f"NIGHTLABEL_API_HOST is {settings.api_host!r}, which other machines can reach, and NIGHTLABEL_API_KEY is "
            "not set; set a key, or listen on 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        SettingsError: the port is taken, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {host!r}: {error}; correct NIGHTLABEL_API_HOST") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} of {host} is taken by another program; stop that, or choose another NIGHTLABEL_API_PORT"
            ) from error
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error}; correct NIGHTLABEL_API_HOST or NIGHTLABEL_API_PORT"
        ) from error
    return listener


@contextlib.contextmanager
def quiet_signals() -> Iterator[None]:
    """Let a drained server end as a success: uvicorn raises the signal again that it was stopped with."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
