"""The pure pieces of the embedded stack: settings, pools, environment, samples, and which processes are whose."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from inference.settings import Settings
from local_stack import samples
from local_stack.airflow import pool_slots
from local_stack.airflow_parts import MAX_RESTARTS, RESTARTS_WITHIN_S, SHARED_MODULES, may_restart
from local_stack.processes import (
    ProcessIdentity,
    StackError,
    end_processes,
    exit_words,
    families,
    free_ports,
    kept_secret,
    log_tail,
    orphans,
    wait_until,
)
from local_stack.settings import REPOSITORY, StackSettings
from local_stack.stack import LauncherLock, Stack, StackRecord, stop_running

PHOTO_FORMATS = {
    "samples/astronaut.jpg": "JPEG",
    "samples/cat.png": "PNG",
    "samples/coffee.webp": "WEBP",
    "samples/flower.jpg": "JPEG",
    "samples/pavilion.jpg": "JPEG",
    "samples/rocket.jpg": "JPEG",
}


def test_without_settings_the_ports_and_folders_are_the_documented_ones():
    settings = StackSettings.read({})
    assert settings == StackSettings(
        state=REPOSITORY / ".state",
        airflow_port=8080,
        postgres_port=5433,
        store_port=8333,
        dags_folder=REPOSITORY / "dags",
        plugins_folder=REPOSITORY / "plugins",
    )


def test_settings_come_from_the_environment(tmp_path: Path):
    settings = StackSettings.read(
        {
            "NIGHTLABEL_STATE": str(tmp_path / "state"),
            "NIGHTLABEL_AIRFLOW_PORT": "18080",
            "NIGHTLABEL_POSTGRES_PORT": "15433",
            "NIGHTLABEL_STORE_PORT": "18333",
            "NIGHTLABEL_DAGS_FOLDER": str(tmp_path / "dags"),
            "NIGHTLABEL_PLUGINS_FOLDER": str(tmp_path / "plugins"),
        }
    )
    assert settings == StackSettings(tmp_path / "state", 18080, 15433, 18333, tmp_path / "dags", tmp_path / "plugins")


@pytest.mark.parametrize("text", ["http", "0", "80", "65536", "-1", "8080.0", "\N{FULLWIDTH DIGIT EIGHT}080"])
def test_a_port_that_is_none_is_named_with_its_setting(text: str):
    with pytest.raises(StackError) as caught:
        StackSettings.read({"NIGHTLABEL_STORE_PORT": text})
    assert str(caught.value) == f"NIGHTLABEL_STORE_PORT is {text!r}, expected a port number from 1024 to 65535."


def test_two_parts_cannot_have_the_same_port():
    with pytest.raises(StackError, match=r"NIGHTLABEL_AIRFLOW_PORT and NIGHTLABEL_STORE_PORT are both 8333"):
        StackSettings.read({"NIGHTLABEL_AIRFLOW_PORT": "8333"})


@pytest.mark.parametrize(
    ("cores", "engine_threads", "cpu_slots"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (8, 2, 4), (7, 2, 3), (2, 4, 1)]
)
def test_tasks_on_one_host_never_ask_for_more_threads_than_cores(cores: int, engine_threads: int, cpu_slots: int):
    assert pool_slots(cores, engine_threads) == {"classify_cpu": cpu_slots, "classify_gpu": 1}


def test_airflow_gets_its_own_servers_and_nothing_of_the_users_cloud(tmp_path: Path):
    stack = Stack(
        StackSettings.read({"NIGHTLABEL_STATE": str(tmp_path / "state")}),
        {
            "PATH": "/usr/bin",
            "AWS_PROFILE": "production",
            "PGHOST": "production",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "NIGHTLABEL_DATABASE_URL": "postgresql://production",
            "NIGHTLABEL_BATCH_SIZE": "4",
            "no_proxy": "intranet",
            "ALL_PROXY": "socks5://127.0.0.1:9",
            "https_proxy": "http://proxy:3128",
        },
    )
    environment = stack.airflow.environment()
    assert "ALL_PROXY" not in environment, "Airflow's HTTP client cannot even ignore it"
    assert environment["https_proxy"] == "http://proxy:3128"
    assert "production" not in "".join(environment.values())
    assert environment["NIGHTLABEL_BATCH_SIZE"] == "4"
    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    connections = {name: json.loads(value) for name, value in environment.items() if name.startswith("AIRFLOW_CONN_")}
    assert {name: value["login"] for name, value in connections.items()} == {
        "AIRFLOW_CONN_IMAGES_S3": stack.store.reader.access_key,
        "AIRFLOW_CONN_RESULTS_DB": "nightlabel_writer_login",
        "AIRFLOW_CONN_RESULTS_DB_READER": "nightlabel_reader_login",
        "AIRFLOW_CONN_RESULTS_DB_OWNER": "nightlabel_owner_login",
    }
    assert connections["AIRFLOW_CONN_IMAGES_S3"]["extra"]["bucket"] == "photos"


def test_secrets_differ_between_stacks_and_stay_within_one(tmp_path: Path):
    def airflow_password(name: str) -> str:
        return Stack(StackSettings.read({"NIGHTLABEL_STATE": str(tmp_path / name)}), {}).airflow.password

    assert airflow_password("a") == airflow_password("a")
    assert airflow_password("a") != airflow_password("b")


def test_a_secret_is_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "secret"
    assert kept_secret(path) == kept_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_the_good_samples_are_coloured_photos_in_three_formats():
    photos = {key: body for key, body in samples.sample_objects() if "/bad/" not in key}
    formats = {}
    for key, body in photos.items():
        with Image.open(io.BytesIO(body)) as image:
            formats[key] = image.format
            assert min(image.size) >= 300
            saturation = image.convert("HSV").getchannel("S").resize((1, 1)).getpixel((0, 0))
        assert isinstance(saturation, int)
        assert saturation > 10
    assert formats == PHOTO_FORMATS


def test_samples_are_the_same_each_time():
    assert dict(samples.sample_objects()) == dict(samples.sample_objects())


def test_the_truncated_sample_is_a_jpeg_that_ends_too_early():
    with Image.open(io.BytesIO(samples.truncated_jpeg())) as image:
        assert image.format == "JPEG"
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_the_text_sample_is_no_image():
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(samples.text_in_disguise()))


def test_the_bomb_is_small_and_announces_more_pixels_than_are_decoded():
    bomb = samples.decompression_bomb()
    assert len(bomb) < 60_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(bomb))
    assert Settings.model_fields["max_pixels"].default < samples.BOMB_SIDE**2


def test_the_bomb_is_a_valid_png_but_for_its_size():
    with Image.open(io.BytesIO(samples.decompression_bomb(side=100))) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (100, 100))


def test_a_missing_package_of_photos_is_named():
    with pytest.raises(StackError, match=r"data/cat\.png of the package no_such_package"):
        samples.photo_bytes(samples.Photo("cat.png", "no_such_package", "data/cat.png"))


def test_every_sample_has_its_credits():
    credits = (REPOSITORY / "local_stack" / "SAMPLES.md").read_text(encoding="utf-8")
    for key, _ in samples.sample_objects():
        assert f"`{key.removeprefix(samples.PREFIX)}`" in credits


def test_a_family_is_found_when_its_leader_is_gone_and_ended_with_all_its_members():
    script = "import os, subprocess, sys, time; subprocess.Popen(['sleep', '600']); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        leader.stdout.readline()
        identity = ProcessIdentity.of(leader.pid)
        assert identity
        assert len(families([identity])) == 2
        leader.send_signal(signal.SIGKILL)
    left = families([identity])
    assert len(left) == 1
    end_processes(left, patience_s=5)
    assert wait_until(lambda: not families([identity]), 5)


def test_who_outlives_a_dead_part_is_told_from_the_living_parts_and_what_they_started():
    script = (
        "import subprocess, sys, time\n"
        "part = [sys.executable, '-c', 'import subprocess, time; "
        'print(subprocess.Popen(["sleep", "600"]).pid, flush=True); time.sleep(600)\']\n'
        "dead, living = (subprocess.Popen(part, stdout=subprocess.PIPE, text=True) for _ in range(2))\n"
        "print(dead.stdout.readline().strip(), living.stdout.readline().strip(), living.pid, flush=True)\n"
        "dead.kill(), dead.wait(), time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        of_dead, _, living = map(int, leader.stdout.readline().split())
        assert wait_until(lambda: {left.pid for left in orphans(leader.pid, [living])} == {of_dead}, 5)
        identity = ProcessIdentity.of(leader.pid)
        assert identity
        end_processes(families([identity]), patience_s=5)


def test_a_part_is_started_again_a_few_times_and_as_often_once_more_later():
    assert may_restart([], now=1_000)
    assert not may_restart([990] * MAX_RESTARTS, now=1_000)
    assert may_restart([990] * (MAX_RESTARTS - 1), now=1_000)
    assert may_restart([990] * MAX_RESTARTS, now=990 + RESTARTS_WITHIN_S)


def test_a_stranger_with_a_reused_number_is_not_family():
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        identity = ProcessIdentity.of(stranger.pid)
        assert identity
        assert families([ProcessIdentity(stranger.pid, identity.started_ticks - 1)]) == set()
        stranger.kill()


def test_a_process_that_waits_to_be_reaped_counts_as_gone():
    with subprocess.Popen(["true"]) as done:
        assert wait_until(lambda: ProcessIdentity.of(done.pid) is None, 5)


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL")])
def test_an_end_is_told_in_words(code: int, words: str):
    assert exit_words(code) == words


def test_the_end_of_a_log_is_told_even_when_there_is_none(tmp_path: Path):
    log = tmp_path / "log"
    assert log_tail(log) == "  (no log: No such file or directory)"
    log.write_text("\n".join(map(str, range(100))), encoding="utf-8")
    assert log_tail(log, 2) == "  98\n  99"


def test_free_ports_differ():
    assert len(set(free_ports(8))) == 8


def test_one_launcher_at_a_time_has_a_state_folder(tmp_path: Path):
    with LauncherLock(tmp_path) as first:
        assert first.acquire()
        assert not LauncherLock(tmp_path).acquire()
        assert not LauncherLock(tmp_path).is_free()
    assert LauncherLock(tmp_path).is_free()


def test_the_parts_of_another_boot_are_not_looked_for(tmp_path: Path):
    myself = ProcessIdentity.of(os.getpid())
    assert myself
    record = {"boot_id": "another", "launcher": {"pid": myself.pid, "started_ticks": myself.started_ticks}}
    record["parts"] = {"Postgres": record["launcher"]}
    (tmp_path / "stack.json").write_text(json.dumps(record), encoding="utf-8")
    assert StackRecord(tmp_path).parts() == {}
    assert StackRecord(tmp_path).launcher() is None
    assert not stop_running(StackSettings.read({"NIGHTLABEL_STATE": str(tmp_path)}))


def test_what_airflows_parts_share_holds_no_library_of_numbers_and_no_client(tmp_path: Path):
    script = (
        "import importlib, sys\n"
        f"for name in {SHARED_MODULES!r}: importlib.import_module(name)\n"
        "print(sorted({'numpy', 'pandas', 'tensorflow', 'boto3', 'psycopg', 'inference.runner'} & set(sys.modules)))"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_settings_survive_a_change_of_folder():
    settings = StackSettings.read({"NIGHTLABEL_STATE": "relative", "NIGHTLABEL_STORE_PORT": "18333"})
    assert settings.state == Path.cwd() / "relative"
    assert StackSettings.read(settings.environment()) == settings


@pytest.mark.parametrize("command", ["up", "run", "launch"])
def test_a_state_folder_that_cannot_be_is_one_sentence(tmp_path: Path, command: str):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "local_stack", command],
        env={**os.environ, "NIGHTLABEL_STATE": str(tmp_path / "file")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: The stack cannot keep its state in ")
    assert line.endswith("choose another folder by NIGHTLABEL_STATE.")
