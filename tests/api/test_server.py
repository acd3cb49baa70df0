"""The server as a process of its own: start, slow callers, a taken port, stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from inference.api.server import check_exposure, serve
from inference.errors import SettingsError
from inference.settings import Settings

EVERYWHERE = "0.0.0.0"  # noqa: S104  # nothing is bound
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def process(**environment: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.api.tiny"],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def wait_for(url: str, status: int = 200) -> None:
    for _ in range(300):
        try:
            if httpx.get(url).status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} never answered {status}")


def test_a_slow_upload_is_answered_though_the_server_was_told_to_stop_meanwhile(png):
    port = free_port()
    image = png(255, 200)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="slow.png"\r\n\r\n' + image + b"\r\n--x--\r\n"
    )
    with process(NIGHTLABEL_API_PORT=str(port)) as server:
        wait_for(f"http://127.0.0.1:{port}/v2/health/ready")

        def slowly() -> Iterator[bytes]:
            step = len(form) // 8
            for first in range(0, len(form), step):
                yield form[first : first + step]
                time.sleep(0.05)
                if first == step * 3:
                    server.send_signal(signal.SIGTERM)

        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/classify",
            content=slowly(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
            timeout=20,
        )
        output, _ = server.communicate(timeout=20)

    assert [(result["name"], result["label"]) for result in answer.json()["results"]] == [("slow.png", "cat")]
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("POST /v1/classify 200 in") == 1


def test_the_port_answers_while_the_model_is_being_loaded():
    port = free_port()
    with process(NIGHTLABEL_API_PORT=str(port), TINY_LOAD_S="2"):
        wait_for(f"http://127.0.0.1:{port}/v2/health/live")
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 503
        wait_for(f"http://127.0.0.1:{port}/v2/health/ready")


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence():
    with process(NIGHTLABEL_API_PORT=str(free_port()), TINY_FAILS="1") as server:
        output, _ = server.communicate(timeout=20)

    assert server.returncode == 1
    assert output.count("the files are damaged") == 1
    assert output.splitlines()[-1] == "error: the files are damaged; register the model again"
    assert "Traceback" not in output


def test_a_taken_port_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} of 127\.0\.0\.1 is taken .* NIGHTLABEL_API_PORT"):
            serve(Settings(_env_file=None, api_port=port), lambda: pytest.fail("no model is loaded for nothing"))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_one_clear_sentence(host):
    with pytest.raises(SettingsError, match=r"cannot listen on .* NIGHTLABEL_API_HOST"):
        serve(Settings(_env_file=None, api_host=host, api_key="k", api_port=free_port()), lambda: pytest.fail("no"))


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.1.2.3", "label.example"])
@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_only_loopback_may_be_listened_on(host, key):
    with pytest.raises(SettingsError, match="NIGHTLABEL_API_KEY is not set"):
        check_exposure(Settings(_env_file=None, api_host=host, api_key=key))


@pytest.mark.parametrize(("host", "key"), [("127.0.0.1", None), ("::1", None), ("localhost", None), (EVERYWHERE, "k")])
def test_loopback_or_a_key_is_enough(host, key):
    check_exposure(Settings(_env_file=None, api_host=host, api_key=key))
