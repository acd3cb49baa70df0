"""A model is registered whole or not at all: with a real database, a real object store and TensorFlow in its child."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr

from inference import wiring
from inference.errors import ModelError, ModelFilesError, ModelSourceError, ModelUnknownError, SettingsError
from inference.models.agreement import photo_crops
from inference.models.families import PIXEL
from inference.models.registering import prepared
from inference.models.store import ModelStore
from inference.settings import Settings, read_settings
from inference.sinks.migrating import migrate
from inference.types import ModelId, RegistrationRequest
from local_stack.processes import free_ports
from tests.conftest import Bucket
from tests.integration.adopted_models import example_code
from tests.sql.logins import PASSWORD, as_user

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LABELS = "cat\ndog\nbird\nfish\nfrog\n"


@pytest.fixture(scope="module")
def small_models(tensorflow_answers: dict[str, Any]) -> Path:
    """A folder of small models that the one process with TensorFlow has made."""
    return Path(tensorflow_answers["models"])


@pytest.fixture
def settings(database: str, tmp_path: Path, no_credentials_around: None) -> Settings:
    made = read_settings(database_url=database, model_store=tmp_path / "store")
    migrate(made)
    return made


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text(LABELS)
    return path


@pytest.fixture
def request_for(labels: Path) -> Callable[..., RegistrationRequest]:
    """Make a request for one of the small models in pixels; name only what the test is about."""

    def make(source: Path | str, **fields: Any) -> RegistrationRequest:
        given = {
            "name": "small",
            "version": "1",
            "labels": str(labels),
            "crop_fraction": 1.0,
            "resize_filter": "bilinear",
            "input_scale": PIXEL,
            "output": "probabilities",
        }
        return RegistrationRequest(source=str(source), **{**given, **fields})

    return make


def registered(settings: Settings) -> list[str]:
    return [str(model.model_id) for model in wiring.list_models(settings)]


def in_store(settings: Settings) -> list[str]:
    return [str(model) for model in ModelStore(settings.model_store).models()]


def left_over(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.model_store.glob(".building-*"))


class Cli:
    """``python -m inference models register`` with its settings in its environment."""

    def __init__(self, settings: Settings, **more: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
        self.environment = {
            **inherited,
            "NIGHTLABEL_DATABASE_URL": settings.required_database_url(),
            "NIGHTLABEL_MODEL_STORE": str(settings.model_store),
            **more,
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "inference", "models", "register", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, status: int = 0) -> tuple[str, str]:
        child = self.start(*arguments)
        out, err = child.communicate(timeout=120)
        assert child.returncode == status, err
        assert "Traceback" not in err
        return out, err


def in_pixels(labels: Path, version: str = "1") -> list[str]:
    return [
        *("--name", "small", "--version", version, "--labels", str(labels), "--crop", "1", "--filter", "bilinear"),
        *("--scale", "pixel", "--output", "probabilities"),
    ]


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    """Serve a folder on loopback as docs/models.md does, and lend the port."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: is_listening(port))
            yield port
        finally:
            server.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_worked_example_goes_from_a_hub_handle_to_labels(settings: Settings, small_models: Path) -> None:
    """The whole way, as the page says: tensorflow-hub, 1,001 columns, conversion, store, database, handle."""
    *_, command = example_code("bash").replace("\\\n", "").strip().splitlines()
    words = shlex.split(command)
    assert words[:5] == ["python", "-m", "inference", "models", "register"]
    handle, *options = words[5:]
    [shown] = re.findall(r"^registered .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    with file_server(small_models / "hub") as port:
        here = handle.replace(":8500/", f":{port}/")
        out, err = Cli(settings, NO_PROXY="127.0.0.1").run(here, *options)
    told, _ = Cli(settings).run(here, *options, "--json")  # the server is gone: nothing is fetched twice

    assert err == ""
    assert re.sub(r"\d\S* at most", "", out.strip()).replace(here, handle) == re.sub(r"\d\S* at most", "", shown)
    manifest = json.loads(told)
    assert (manifest["name"], manifest["source"], manifest["labels"]) == ("example", here, 1000)
    assert manifest["preprocessing"] == {"height": 96, "width": 96, "crop_fraction": 0.875, "resize_filter": "bilinear"}
    assert (manifest["background_columns"], manifest["origin"]["family"]) == (1, "mobilenet-v2")
    assert registered(settings) == ["example@1"]
    assert [path.name for path in settings.model_store.iterdir() if path.name[0] != "."] == ["example"]
    assert left_over(settings) == []

    with wiring.open_sink(settings) as sink:
        loaded = wiring.load_model(ModelId("example", "1"), sink, settings, device="cpu")
    scores = loaded.predict(photo_crops(loaded.preprocessing, 3))
    assert (loaded.engine, scores.shape) == ("litert", (3, 1000))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert loaded.labels[0].label_id == "n01440764"


def test_a_litert_file_in_a_bucket_is_registered_with_its_labels_there(
    settings: Settings,
    bucket: Bucket,
    small_models: Path,
    request_for: Callable[..., RegistrationRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    bucket.put("models/small/v1.tflite", (small_models / "floats.tflite").read_bytes())
    bucket.put("models/small/labels.csv", b"label_id,name\nn1,cat\nn2,dog\nn3,crane\nn4,crane\nn5,frog\n")
    words: list[str] = []

    request = request_for(
        f"s3://{bucket.name}/models/small/v1.tflite", labels=f"s3://{bucket.name}/models/small/labels.csv"
    )
    manifest = wiring.register_model(settings, request, progress=words.append)

    assert words == [f"fetching {request.source}", "asking LiteRT", "putting it into the store"]
    assert manifest.source == request.source
    assert [label.label_id for label in manifest.labels] == ["n1", "n2", "n3", "n4", "n5"]
    with wiring.open_sink(settings) as sink:
        handle = wiring.load_model(manifest.model_id, sink, settings, device="cpu")
    assert handle.predict(photo_crops(handle.preprocessing, 2)).shape == (2, 5)
    of_folder = wiring.register_model(settings, request_for(f"s3://{bucket.name}/models/small", version="2"))
    assert of_folder.files == manifest.files
    with pytest.raises(ModelSourceError, match="there is no object s3://"):
        wiring.register_model(settings, request_for(f"s3://{bucket.name}/models/none", version="3"))
    assert registered(settings) == ["small@1", "small@2"]


def test_a_model_goes_into_a_store_in_a_bucket_where_every_host_finds_it(
    settings: Settings,
    bucket: Bucket,
    tmp_path: Path,
    small_models: Path,
    request_for: Callable[..., RegistrationRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    one, other = (
        settings.model_copy(update={"model_store": f"s3://{bucket.name}/models", "model_cache": tmp_path / name})
        for name in ("one", "other")
    )
    request = request_for(small_models / "floats.tflite")

    manifest = wiring.register_model(one, request)
    assert wiring.register_model(other, request) == manifest
    with pytest.raises(ModelFilesError, match="already holds another small@1"):
        wiring.register_model(other, request_for(small_models / "bytes.tflite"))
    with wiring.open_sink(other) as sink:
        handle = wiring.load_model(manifest.model_id, sink, other, device="cpu")
    assert handle.predict(photo_crops(handle.preprocessing, 2)).shape == (2, 5)


def test_registering_the_same_again_is_no_work_and_another_model_is_refused(
    settings: Settings, small_models: Path, tmp_path: Path, request_for: Callable[..., RegistrationRequest]
) -> None:
    request = request_for(small_models / "floats.tflite", licence="MIT")
    manifest = wiring.register_model(settings, request)
    path = settings.model_store / "small" / "1" / "manifest.json"
    before = path.stat().st_mtime_ns

    words: list[str] = []
    assert wiring.register_model(settings, request, progress=words.append) == manifest
    assert path.stat().st_mtime_ns == before
    assert words == [f"copying {small_models / 'floats.tflite'}"]

    other_labels = tmp_path / "other.txt"
    other_labels.write_text("a\nb\nc\nd\ne\n")
    for change, message in (
        ({"source": str(small_models / "bytes.tflite")}, "it comes from .*floats.tflite"),
        ({"labels": str(other_labels)}, "its label map is another"),
        ({"crop_fraction": 0.5}, "its preprocessing or output is another"),
        ({"output": "logits"}, "its preprocessing or output is another"),
        ({"licence": "BSD"}, "its licence is MIT"),
        ({"int8": True}, "its precision is float32"),
        ({"background_columns": 1}, "expected 4"),
    ):
        given = {"licence": "MIT", **change}
        source = given.pop("source", request.source)
        with pytest.raises(ModelFilesError, match=rf"already holds another small@1: .*{message}.*another version"):
            wiring.register_model(settings, request_for(source, **given))
    assert registered(settings) == in_store(settings) == ["small@1"]
    assert left_over(settings) == []


def test_a_version_that_the_database_knows_with_other_files_never_reaches_the_store(
    settings: Settings, small_models: Path, tmp_path: Path, request_for: Callable[..., RegistrationRequest]
) -> None:
    wiring.register_model(settings, request_for(small_models / "floats.tflite"))
    elsewhere = settings.model_copy(update={"model_store": tmp_path / "another store"})

    with pytest.raises(ModelFilesError, match="is registered with other files than the model store holds"):
        wiring.register_model(elsewhere, request_for(small_models / "bytes.tflite"))
    assert in_store(elsewhere) == []
    wiring.register_model(elsewhere, request_for(small_models / "floats.tflite"))
    assert in_store(elsewhere) == ["small@1"]


def test_a_damaged_version_is_healed_by_registering_it_again(
    settings: Settings, small_models: Path, request_for: Callable[..., RegistrationRequest]
) -> None:
    request = request_for(small_models / "floats.tflite")
    manifest = wiring.register_model(settings, request)
    (settings.model_store / "small" / "1" / "model.tflite").write_bytes(b"half")

    assert wiring.register_model(settings, request) == manifest
    ModelStore(settings.model_store).check_files(manifest)


def test_two_registrations_of_one_version_at_once_end_with_one_model(
    settings: Settings, small_models: Path, labels: Path
) -> None:
    cli = Cli(settings)
    children = {name: cli.start(small_models / f"{name}.tflite", *in_pixels(labels)) for name in ("floats", "bytes")}
    ended = {name: (*child.communicate(timeout=120), child.returncode) for name, child in children.items()}

    assert sorted(status for _, _, status in ended.values()) == [0, 1], ended
    [winner] = [name for name, (_, _, status) in ended.items() if status == 0]
    [(_, complaint, _)] = [end for end in ended.values() if end[2] == 1]
    assert complaint.startswith("error [model_files]: the model store already holds another small@1: it comes from")
    assert complaint.count("\n") == 1
    manifest = ModelStore(settings.model_store).read_manifest(ModelId("small", "1"))
    assert manifest.source.endswith(f"{winner}.tflite")
    assert registered(settings) == ["small@1"]


@pytest.mark.full
def test_two_registrations_into_two_stores_at_once_end_with_one_model(
    settings: Settings, small_models: Path, labels: Path, tmp_path: Path
) -> None:
    stores = {name: settings.model_copy(update={"model_store": tmp_path / name}) for name in ("floats", "bytes")}
    children = {
        name: Cli(of_one).start(small_models / f"{name}.tflite", *in_pixels(labels)) for name, of_one in stores.items()
    }
    statuses = {name: (child.communicate(timeout=120), child.returncode)[1] for name, child in children.items()}

    assert sorted(statuses.values()) == [0, 1]
    assert {name: in_store(of_one) for name, of_one in stores.items()} == {
        name: ["small@1"] if status == 0 else [] for name, status in statuses.items()
    }
    assert registered(settings) == ["small@1"]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
    return found


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A source that never comes to its end."""
    path = tmp_path / "source.tflite"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("moment", [pytest.param("fetching", marks=pytest.mark.full), "converting"])
def test_a_kill_leaves_nothing_half_registered_and_the_next_try_succeeds(
    settings: Settings, small_models: Path, labels: Path, pipe: Path, moment: str
) -> None:
    source = pipe if moment == "fetching" else small_models / "floats.tflite"
    child = Cli(settings).start(source, *in_pixels(labels))
    grandchildren: list[int] = []
    if moment == "fetching":
        wait_for(lambda: left_over(settings))
    else:
        grandchildren = wait_for(lambda: children_of(child.pid))
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)

    assert child.returncode == -signal.SIGKILL
    for pid in grandchildren:
        wait_for(
            lambda pid=pid: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        )
    assert in_store(settings) == registered(settings) == []

    out, _ = Cli(settings).run(small_models / "floats.tflite", *in_pixels(labels))
    assert out.startswith("registered small@1 from")
    assert in_store(settings) == registered(settings) == ["small@1"]


def test_what_is_in_the_store_and_not_in_the_database_is_registered_by_the_next_try_without_converting_it_again(
    settings: Settings, small_models: Path, request_for: Callable[..., RegistrationRequest]
) -> None:
    request = request_for(small_models / "floats.tflite")
    store = ModelStore(settings.model_store)
    with prepared(request, store, lambda: pytest.fail("no store is asked"), progress=lambda _: None) as version:
        version.put()
    assert (in_store(settings), registered(settings)) == (["small@1"], [])
    with wiring.open_sink(settings) as sink, pytest.raises(ModelUnknownError, match="is not registered"):
        wiring.load_model(request.model_id, sink, settings, device="cpu")

    words: list[str] = []
    wiring.register_model(settings, request, progress=words.append)
    assert words == [f"copying {request.source}"]
    assert registered(settings) == ["small@1"]


def test_the_command_line_says_what_is_missing_in_a_sentence(settings: Settings, small_models: Path) -> None:
    out, err = Cli(settings).run(small_models / "floats.tflite", "--name", "small", "--version", "1", status=2)

    assert out == ""
    assert err.startswith("error [bad_setting]: nothing says how ")
    assert "--crop, --filter, --scale, --output missing; give them, or --family" in err
    assert err.count("\n") == 1


def test_a_process_that_dies_of_the_model_is_one_sentence(
    settings: Settings, small_models: Path, request_for: Callable[..., RegistrationRequest], tmp_path: Path
) -> None:
    """Bytes that pass for a LiteRT file may well end whoever reads them; here or there it is a sentence."""
    broken = bytearray((small_models / "floats.tflite").read_bytes())
    broken[8:200] = os.urandom(192)
    (tmp_path / "broken.tflite").write_bytes(broken)

    with pytest.raises(ModelError, match=r"^[^\n]+$"):
        wiring.register_model(settings, request_for(tmp_path / "broken.tflite"))
    assert in_store(settings) == registered(settings) == left_over(settings) == []


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"labels": None}, SettingsError, "no labels are given; give --labels"),
        ({"labels": "nowhere.txt"}, ModelSourceError, r"the file of labels nowhere\.txt cannot be read"),
        ({"source": ""}, SettingsError, "no source is given"),
        ({"source": "https://host/m/1", "output": None}, SettingsError, "--output missing"),
        ({"source": "gs://bucket/m"}, ModelSourceError, "is no source of a model"),
        ({"source": "mobilenet_v2"}, ModelSourceError, "there is no mobilenet_v2: it is no path"),
        ({"sha256": "abc"}, SettingsError, "give 64 hexadecimal digits"),
        ({"calibration": "photos"}, SettingsError, "give --int8 as well"),
        ({"licence": ""}, SettingsError, "the licence is empty"),
        ({"name": "../cats"}, ModelUnknownError, "cannot be a model"),
        ({"version": "a/b"}, ModelUnknownError, "cannot be a model"),
    ],
)
def test_a_registration_that_cannot_mean_anything_touches_nothing(
    settings: Settings,
    small_models: Path,
    request_for: Callable[..., RegistrationRequest],
    fields: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    source = fields.pop("source", small_models / "floats.tflite")

    with pytest.raises(error, match=message):
        wiring.register_model(settings, request_for(source, **fields))
    assert registered(settings) == in_store(settings) == []


def test_a_writers_rights_are_enough(
    settings: Settings, small_models: Path, request_for: Callable[..., RegistrationRequest]
) -> None:
    login = f"registering_{uuid4().hex}"
    with psycopg.connect(settings.required_database_url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE nightlabel_writer")
        try:
            url = SecretStr(as_user(settings.required_database_url(), login))
            as_writer = settings.model_copy(update={"database_url": url})
            wiring.register_model(as_writer, request_for(small_models / "floats.tflite"))
        finally:
            connection.execute(f"DROP ROLE {login}")
    assert registered(settings) == ["small@1"]
