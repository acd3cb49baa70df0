"""The embedded stack as its user meets it: up, up again, a night on the samples, killed, down with nothing left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from local_stack.airflow_parts import MAX_RESTARTS
from local_stack.processes import LOOPBACK, port_is_free, wait_until
from local_stack.settings import REPOSITORY
from local_stack.stack import Stack
from tests.e2e.stacks import Commands
from tests.listening import LOOPBACK_AS_WRITTEN, listening_addresses

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_second_up_finds_the_first(stack: Commands):
    before = stack.processes()
    again = stack("up")
    assert again.returncode == 0
    assert "The stack is up already." in again.stdout
    assert f"http://{LOOPBACK}:{stack.settings.airflow_port}" in again.stdout
    assert {identity.pid for identity in before} & {identity.pid for identity in stack.processes()}


def test_status_names_the_parts(stack: Commands):
    status = stack("status")
    assert status.returncode == 0
    assert "The stack is ready." in status.stdout
    for part in ("Postgres", "The object store", "Airflow"):
        assert f"  {part}: process " in status.stdout


def test_everything_listens_on_loopback_only(stack: Commands):
    listening = listening_addresses(stack.processes())
    assert set(listening.values()) == {LOOPBACK_AS_WRITTEN}
    assert set(stack.settings.ports.values()) <= set(listening)


def test_nobody_reads_airflow_without_a_login(stack: Commands):
    with pytest.raises(HTTPError) as caught:
        urlopen(f"http://{LOOPBACK}:{stack.settings.airflow_port}/api/v2/dags")
    assert caught.value.code == 401
    caught.value.close()


def test_what_is_secret_is_for_its_owner_only(stack: Commands):
    secrets = stack.settings.state / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
    assert not stack.settings.state.stat().st_mode & 0o007


def test_the_pools_are_there(stack: Commands):
    api = Stack(stack.settings, os.environ).airflow.api()
    pools = {pool["name"]: pool["slots"] for pool in api.get("/api/v2/pools")["pools"]}
    assert pools["classify_cpu"] >= 1
    assert pools["classify_gpu"] == 1


def test_a_night_on_the_samples_labels_them_and_a_second_one_finds_nothing_new(stack: Commands):
    first = stack("run")
    assert first.returncode == 0, first.stdout + first.stderr
    words = {line.split()[0]: line for line in first.stdout.splitlines() if line.strip().startswith("samples/")}
    for key, label in {"cat.png": "cat", "coffee.webp": "espresso", "rocket.jpg": "missile"}.items():
        assert label in words[f"samples/{key}"]
    for key, code in {"truncated.jpg": "truncated", "text.jpg": "not_an_image", "bomb.png": "too_many_pixels"}.items():
        assert code in words[f"samples/bad/{key}"]
    assert "9 discovered, 6 labelled, 3 dead" in first.stdout

    second = stack("run")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "9 discovered, 9 already done" in second.stdout
    assert "Nothing was new" in second.stdout
    assert "The stack is up already; it is used, and left running" in second.stdout


def test_a_killed_launcher_leaves_nothing_behind_after_down(stack: Commands):
    launcher = stack.record.launcher()
    assert launcher
    processes = stack.processes()
    assert len(processes) > 10
    os.kill(launcher.pid, signal.SIGKILL)
    assert wait_until(lambda: not launcher.is_alive, 5)

    down = stack("down")

    assert down.returncode == 0, down.stderr
    assert not [identity for identity in processes if identity.is_alive]
    assert all(port_is_free(port) for port in stack.settings.ports.values())
    inner = json.loads((stack.settings.state / "store" / "ports.json").read_text(encoding="utf-8"))
    assert all(port_is_free(port) for port in inner.values())
    assert not list(Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{inner['master_grpc']}.sock"))
    assert stack("down").stdout == "Nothing was running.\n"
    assert stack("status").returncode == 1


def launched(stack: Commands) -> subprocess.Popen[str]:
    """A launcher in the foreground, once everything is ready."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "local_stack", "launch"],
        env=stack.environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def is_ready() -> bool:
        found = stack.record.launcher()
        return found is not None and found.pid == launcher.pid and stack.record.read().get("phase") == "ready"

    assert wait_until(is_ready, 120)
    return launcher


@pytest.mark.full
def test_a_part_of_airflow_that_dies_is_started_again_and_one_that_dies_often_stops_everything(stack: Commands):
    launcher = launched(stack)
    processes = stack.processes()
    airflow = Stack(stack.settings, stack.environment).airflow
    for time in range(1, MAX_RESTARTS + 1):
        os.kill(airflow.pids["scheduler"], signal.SIGKILL)
        assert wait_until(lambda time=time: len(airflow.restarts) == time, 30)
        assert launcher.poll() is None
    assert "Airflow's scheduler ended with signal SIGKILL and was started again at" in stack("status").stdout
    processes |= stack.processes()
    os.kill(airflow.pids["scheduler"], signal.SIGKILL)
    out, error = launcher.communicate(timeout=60)

    assert launcher.returncode == 1
    [first, *_] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "Airflow's scheduler ended with signal SIGKILL after 3 restarts within 10 minutes" in first
    assert out.count("and was started again at") == MAX_RESTARTS
    assert not [identity for identity in processes if identity.is_alive]


@pytest.mark.full
def test_postgres_that_dies_is_named_and_the_others_stop(stack: Commands):
    launcher = launched(stack)
    processes = stack.processes()
    os.kill(stack.record.parts()["Postgres"].pid, signal.SIGKILL)
    _, error = launcher.communicate(timeout=60)

    assert launcher.returncode == 1
    [first, *_] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert first.startswith("error: Postgres ended with signal SIGKILL")
    assert not [identity for identity in processes if identity.is_alive]


def test_ctrl_c_stops_every_part(stack: Commands):
    launcher = launched(stack)
    processes = stack.processes()
    launcher.send_signal(signal.SIGINT)
    out, error = launcher.communicate(timeout=60)

    assert "Everything stopped in" in out
    assert error == ""
    assert not [identity for identity in processes if identity.is_alive]


def test_a_taken_port_is_one_sentence_before_anything_starts(stack: Commands):
    port = stack.settings.airflow_port
    with socket.create_server((LOOPBACK, port)):
        up = stack("up")
    assert up.returncode == 1
    assert up.stderr.splitlines() == [
        f"error: Airflow's api-server cannot listen on 127.0.0.1:{port} because another program has that port; "
        "stop that program or choose another port by NIGHTLABEL_AIRFLOW_PORT."
    ]
    assert stack.processes() == set()
