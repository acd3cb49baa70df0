"""A served tiny model: the app behind a real HTTP server on a free port, in this process."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from PIL import Image

from inference.api.app import create_app
from inference.settings import Settings
from tests.api.tiny import TinyHandle

Serve = Callable[..., httpx.Client]


@contextmanager
def served(settings: Settings, load: Callable[[], object]) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(settings, load)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def wait_until_ready(client: httpx.Client) -> None:
    for _ in range(500):
        if client.get("/v2/health/ready").status_code == 200:
            return
        time.sleep(0.01)
    raise AssertionError("the model never became ready")


def started(stack: ExitStack, load: Callable[[], object], settings: dict[str, object], *, wait: bool) -> httpx.Client:
    client = stack.enter_context(served(Settings(_env_file=None, **settings), load))
    if wait:
        wait_until_ready(client)
    return client


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve with the settings named and a model of its own; everything stops after the test."""
    with ExitStack() as stack:

        def start(load: Callable[[], object] = TinyHandle, *, wait: bool = True, **settings: object) -> httpx.Client:
            return started(stack, load, settings, wait=wait)

        yield start


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[httpx.Client, TinyHandle]]:
    handle = TinyHandle()
    with ExitStack() as stack:
        yield started(stack, lambda: handle, {}, wait=True), handle


@pytest.fixture
def client(shared: tuple[httpx.Client, TinyHandle]) -> httpx.Client:
    """The service with default settings, shared by all tests that change nothing of it."""
    return shared[0]


@pytest.fixture
def handle(shared: tuple[httpx.Client, TinyHandle]) -> Iterator[TinyHandle]:
    """The model of ``client``, as new."""
    handle = shared[1]
    handle.calls.clear()
    yield handle
    handle.hold.set()
    handle.is_broken = False


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Make a plain picture of one red value: 255 is a cat for the tiny model, 0 a dog."""

    def make(red: int, size: int = 16) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (size, size), (red, 40, 90)).save(file, "PNG")
        return file.getvalue()

    return make
