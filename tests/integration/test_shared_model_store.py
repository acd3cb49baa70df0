"""The model store in a bucket of a real S3 server: hosts that share it, a store that goes away, processes that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from inference import wiring
from inference.errors import (
    BucketMissingError,
    ModelFilesError,
    ModelUnknownError,
    SettingsError,
    StoreCredentialsError,
    StoreUnavailableError,
    TransientError,
)
from inference.models import registry, resolve, shared_store
from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
from inference.models.manifest import MANIFEST_NAME, Manifest
from inference.models.shared_store import SharedModelStore
from inference.models.store import ModelStore, hash_files
from inference.settings import Settings, read_settings
from inference.sinks.migrating import migrate
from inference.stores.s3 import S3Store
from inference.stores.s3_files import MODEL_STORE, S3Files
from inference.types import ModelId
from local_stack.object_store import EmbeddedObjectStore
from local_stack.processes import free_ports
from tests.conftest import Bucket
from tests.faults import store_proxy
from tests.faults.store_proxy import StoreProxy
from tests.faulty_store import error, faulty_store
from tests.model_store_contract import MODEL, Case, ModelStoreContract, add, fill

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_credentials_around")]

PREFIX = "team/models"


@cache
def session() -> boto3.Session:
    """One for all hosts here: each session parses the description of S3 anew."""
    return boto3.Session()


class Hosts:
    """Hosts with a cache each, before one bucket."""

    def __init__(self, bucket: Bucket, folder: Path, url: str | None = None) -> None:
        self.bucket, self.folder = bucket, folder
        self.url = url or bucket.environment["AWS_ENDPOINT_URL_S3"]
        self._numbers = count(1)

    def __call__(
        self, cache: Path | None = None, *, url: str | None = None, bucket: str | None = None, **more: Any
    ) -> SharedModelStore:
        """One more host; with a cache that is given, the same one again."""
        settings: dict[str, Any] = {
            "access_key_id": self.bucket.environment["AWS_ACCESS_KEY_ID"],
            "secret_access_key": self.bucket.environment["AWS_SECRET_ACCESS_KEY"],
            "region_name": "us-east-1",
            "attempts": 1,
        }
        store = S3Store(session=session(), endpoint_url=url or self.url, words=MODEL_STORE, **settings | more)
        root = cache or self.folder / f"host {next(self._numbers)}"
        return SharedModelStore(root, S3Files(store, bucket or self.bucket.name, PREFIX))

    def held(self) -> list[str]:
        """Every key of the bucket below the prefix, without it."""
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name)
        return [entry["Key"].removeprefix(f"{PREFIX}/") for page in pages for entry in page.get("Contents", [])]

    def put(self, name: str, body: bytes) -> None:
        self.bucket.put(f"{PREFIX}/{name}", body)

    def delete(self, name: str) -> None:
        self.bucket.client.delete_object(Bucket=self.bucket.name, Key=f"{PREFIX}/{name}")


@pytest.fixture
def hosts(bucket: Bucket, tmp_path: Path) -> Hosts:
    return Hosts(bucket, tmp_path)


def file_of(manifest: Manifest, path: str) -> str:
    """The key of a model's file, below the prefix."""
    return f"{manifest.name}/{manifest.version}/files/{manifest.files[path]}"


def parts_of_files(store: ModelStore) -> list[Path]:
    return list(store.root.glob(".fetching-*"))


@pytest.fixture
def away() -> str:
    """The address of a store that does not answer."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


class TestBucket(ModelStoreContract):
    @pytest.fixture
    def case(self, hosts: Hosts) -> Case:
        def overwrite(manifest: Manifest, name: str, content: bytes | None) -> None:
            key = file_of(manifest, name) if name in manifest.files else f"{manifest.name}/{manifest.version}/{name}"
            hosts.delete(key) if content is None else hosts.put(key, content)

        def names() -> set[str]:
            return {key.rpartition("files/")[2] for key in hosts.held()}

        return Case(hosts, names, overwrite)


# The cache before the store


def test_a_whole_copy_of_what_is_registered_asks_the_store_nothing(hosts: Hosts, away: str):
    manifest = add(hosts())
    host = hosts()
    host.check_files(host.read_manifest(MODEL), "litert")

    cut_off = hosts(host.root, url=away)

    assert cut_off.read_manifest(MODEL, manifest.__eq__) == manifest
    assert (cut_off.check_files(manifest, "litert") / "model.tflite").read_bytes() == b"weightsweights"


def test_who_registered_a_version_has_a_whole_copy(hosts: Hosts, away: str):
    host = hosts()
    manifest = add(host)

    assert hash_files(hosts(host.root, url=away).check_files(manifest)) == manifest.files


def test_a_host_fetches_only_the_files_of_the_engine_that_it_runs(hosts: Hosts):
    manifest = add(hosts())
    host = hosts()

    folder = host.check_files(manifest, "litert")

    assert set(hash_files(folder)) == {"model.tflite"}


def test_without_the_registered_digests_a_copy_does_only_where_the_store_is_away(
    hosts: Hosts, away: str, caplog: pytest.LogCaptureFixture
):
    host = hosts()
    manifest = add(host)

    assert hosts(host.root, url=away).read_manifest(MODEL) == manifest
    assert f"Going on with the copy of cats@1 in {host.root}" in caplog.text
    hosts.delete("cats/1/manifest.json")
    with pytest.raises(ModelUnknownError, match="holds no cats@1"):
        hosts(host.root).read_manifest(MODEL)


def test_a_copy_that_is_not_what_was_registered_is_not_gone_on_with(hosts: Hosts, away: str):
    host = hosts()
    add(host)
    with pytest.raises(StoreUnavailableError):
        hosts(host.root, url=away).read_manifest(MODEL, lambda _: False)


def test_a_version_that_was_registered_anew_replaces_the_copy(hosts: Hosts):
    host = hosts()
    add(host)
    for key in hosts.held():
        hosts.delete(key)
    manifest = add(hosts(), b"better")

    assert host.read_manifest(MODEL, manifest.__eq__) == manifest
    assert hash_files(host.check_files(manifest)) == manifest.files


@pytest.mark.parametrize("text", [b"", b"{", None], ids=str)
def test_a_copied_manifest_that_is_damaged_is_read_anew(hosts: Hosts, text: bytes | None):
    host = hosts()
    manifest = add(host)
    path = host.folder_of(MODEL) / MANIFEST_NAME
    path.unlink() if text is None else path.write_bytes(text)

    assert host.read_manifest(MODEL, manifest.__eq__) == manifest
    assert Manifest.from_json(path.read_bytes(), origin="the copy") == manifest


def test_a_store_that_is_away_is_waited_for_where_the_copy_is_not_whole(hosts: Hosts, away: str):
    host = hosts()
    manifest = add(host)
    (host.folder_of(MODEL) / "model.tflite").write_bytes(b"weights")

    cut_off = hosts(host.root, url=away)
    for ask in (lambda: cut_off.check_files(manifest), cut_off.models, lambda: cut_off.check_store(manifest)):
        with pytest.raises(StoreUnavailableError) as raised:
            ask()
        assert isinstance(raised.value, TransientError), "so that the shard is tried again"
        assert away in str(raised.value)
        assert "the connection model_store_s3" in str(raised.value)
    assert host.check_files(manifest, "litert").is_dir()


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (502, "")])
def test_a_store_that_is_in_trouble_is_tried_again_later(hosts: Hosts, status: int, code: str):
    manifest = add(hosts())
    with faulty_store(error(status, code)) as server:
        host = hosts(url=server.url)
        with pytest.raises(TransientError, match="asks for patience"):
            host.check_files(manifest)
        with pytest.raises(TransientError, match="asks for patience"):
            host.read_manifest(MODEL)


@pytest.mark.parametrize("content", [b"weightsweightz", b"weights", b""], ids=["altered", "truncated", "emptied"])
def test_a_file_that_is_damaged_in_the_store_does_not_get_into_a_cache(hosts: Hosts, content: bytes):
    manifest = add(hosts())
    host = hosts()
    host.check_files(manifest, "tensorflow")
    hosts.put(file_of(manifest, "model.tflite"), content)

    with pytest.raises(ModelFilesError) as raised:
        host.check_files(manifest)

    message = str(raised.value)
    assert f"s3://{hosts.bucket.name}/{PREFIX}/{file_of(manifest, 'model.tflite')}, which is model.tflite of" in message
    assert manifest.files["model.tflite"] in message
    assert set(hash_files(host.folder_of(MODEL))) == {"saved_model/variables/data"}
    assert parts_of_files(host) == []
    assert not isinstance(raised.value, TransientError)


# Rights


def test_a_reader_reads_and_is_told_what_it_takes_to_register(hosts: Hosts, object_store_server: EmbeddedObjectStore):
    manifest = add(hosts())
    reader = object_store_server.reader
    keys = {"access_key_id": reader.access_key, "secret_access_key": reader.secret_key}

    assert hash_files(hosts(**keys).check_files(manifest)) == manifest.files
    assert hosts(**keys).models() == [MODEL]
    hosts.delete("cats/1/MODEL_CARD.md")
    assert hosts(**keys).read_card(MODEL).startswith("# cats@1\n")
    with pytest.raises(StoreCredentialsError, match=r"is written with these credentials .*s3:PutObject") as raised:
        add(hosts(**keys), b"better", "2")
    assert "model_store_s3" in str(raised.value)
    assert hosts().models() == [MODEL]


def test_wrong_credentials_are_named(hosts: Hosts):
    manifest = add(hosts())
    for ask in (
        lambda host: host.check_files(manifest),
        lambda host: host.read_manifest(MODEL),
        lambda host: host.models(),
        lambda host: add(host, b"better", "2"),
    ):
        with pytest.raises(StoreCredentialsError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            ask(hosts(secret_access_key="wrong"))


def test_one_file_that_must_not_be_read_is_named(hosts: Hosts, bucket: Bucket):
    manifest = add(hosts())
    with store_proxy.store_proxy(bucket.environment["AWS_ENDPOINT_URL_S3"]) as proxy:
        proxy.rule(store_proxy.ACCESS_DENIED, "get", key=f"{PREFIX}/{file_of(manifest, 'model.tflite')}")
        with pytest.raises(StoreCredentialsError, match=f"{file_of(manifest, 'model.tflite')} must not be read: "):
            hosts(url=proxy.url).check_files(manifest)


def test_a_bucket_that_is_not_there_is_named(hosts: Hosts):
    store = hosts(bucket="nobody-made-this")

    for ask in (store.models, lambda: store.read_manifest(MODEL), lambda: add(store)):
        # Some stores look for the object first, and say that it is not there.
        with pytest.raises((BucketMissingError, ModelUnknownError), match="nobody-made-this"):
            ask()


# Registering


def test_a_store_that_knows_no_conditions_is_refused(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    with faulty_store(error(501, "NotImplemented", "A header you provided implies functionality")) as server:
        monkeypatch.setattr(server.RequestHandlerClass, "do_PUT", server.RequestHandlerClass.do_GET, raising=False)
        with pytest.raises(SettingsError, match=r"knows no conditional requests .*or a shared folder"):
            hosts(url=server.url).files.put_new("cats/1/manifest.json", b"{}")


def test_a_registration_that_is_killed_leaves_no_version_and_can_be_done_again(hosts: Hosts):
    host = hosts()
    with host.workspace() as folder:
        manifest = fill(folder)
        host.files.put(file_of(manifest, "model.tflite"), folder / "model.tflite")  # as far as it got

    assert hosts().models() == []
    with pytest.raises(ModelUnknownError):
        hosts().read_manifest(MODEL)
    assert add(hosts()) == manifest
    hosts().check_store(manifest)


def test_files_that_no_manifest_names_are_removed_a_day_later(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    manifest = add(hosts())
    stray = ["cats/1/files/" + "0" * 64, "dogs/1/files/" + "1" * 64]
    foreign = ["readme.txt", "cats/1/files/notes", "dogs/photo.jpg", "a/b/c/files/" + "0" * 64]
    for name in (*stray, *foreign):
        hosts.put(name, b"x")
    kept = {*foreign, *(key for key in hosts.held() if key.startswith("cats/1")), *stray}

    add(hosts(), b"better", "2")
    assert kept <= set(hosts.held()), "somebody may be about to write their manifest"
    monkeypatch.setattr(shared_store, "_ORPHAN_AGE", timedelta(0))
    add(hosts(), b"best", "3")

    assert kept - set(hosts.held()) == set(stray)
    hosts().check_store(manifest)


@pytest.mark.parametrize("is_named", [True, False], ids=["registered", "being_registered"])
def test_files_that_are_registered_while_another_host_looks_for_orphans_stay(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_named: bool
):
    manifest = fill(tmp_path / "left", b"great", "2")
    other = hosts()
    other._put_files(tmp_path / "left", manifest, manifest.files)  # and was killed, days ago
    look, looks, anew = SharedModelStore._named_digests, count(1), set[str]()

    def meanwhile(store: SharedModelStore, model: ModelId) -> set[str] | None:
        named = look(store, model)
        if next(looks) == 1:
            if is_named:
                other.files.put_new("cats/2/manifest.json", manifest.to_json().encode())
            else:
                anew.update(file_of(manifest, path) for path in manifest.files)
        return named

    monkeypatch.setattr(SharedModelStore, "_named_digests", meanwhile)
    monkeypatch.setattr(shared_store, "_is_old", lambda file: file.name not in anew, raising=False)
    monkeypatch.setattr(shared_store, "_ORPHAN_AGE", timedelta(0))
    hosts()._remove_orphans()

    assert next(looks) > 1
    assert {file_of(manifest, path) for path in manifest.files} <= set(hosts.held())


def test_a_manifest_that_is_damaged_is_in_the_way_until_somebody_deletes_it(hosts: Hosts):
    manifest = add(hosts())
    hosts.put("cats/1/manifest.json", b"{")

    with pytest.raises(ModelFilesError, match=r"cats/1/manifest\.json is no manifest of cats@1, .*; delete it, then"):
        add(hosts())
    hosts.delete("cats/1/manifest.json")
    assert add(hosts()) == manifest


def test_a_manifest_that_cannot_be_read_keeps_its_files(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    manifest = add(hosts())
    hosts.put("cats/1/manifest.json", b"{")
    monkeypatch.setattr(shared_store, "_ORPHAN_AGE", timedelta(0))

    add(hosts(), b"better", "2")

    assert {file_of(manifest, path) for path in manifest.files} <= set(hosts.held())


def test_what_another_host_removed_meanwhile_is_put_again(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    host = hosts()
    put_new = host.files.put_new

    def remove_first(name: str, data: bytes) -> bool:
        if name.endswith(MANIFEST_NAME):
            hosts.delete(next(key for key in hosts.held() if "/files/" in key))
        return put_new(name, data)

    monkeypatch.setattr(host.files, "put_new", remove_first)

    hosts().check_store(add(host))


def test_a_build_that_another_host_beat_is_given_up_for_theirs(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    """Two builds of the bundled model may differ in some bytes."""
    monkeypatch.setattr("inference.models.bundled.BUNDLED_MODEL", MODEL)
    monkeypatch.setattr("inference.models.bundled._check_installed", lambda: None)
    theirs: list[Manifest] = []

    def build(folder: Path) -> Manifest:
        theirs.append(add(hosts()))  # while this host is building
        return fill(folder, b"other bytes")

    monkeypatch.setattr("inference.models.bundled._build_in_child", build)

    assert ensure_default_model(hosts()) == theirs[0]
    assert hosts().read_manifest(MODEL) == theirs[0]


# Processes of one host

CHILD = """
import json, sys
from pathlib import Path
from inference import wiring
from inference.models.manifest import Manifest
from inference.settings import read_settings
store = wiring.open_model_store(read_settings())
manifest = Manifest.from_json(sys.argv[1], origin="the test")
folder = store.check_files(manifest)
print(json.dumps({path: (folder / path).read_bytes() == path.encode() * 200_000 for path in manifest.files}))
"""


@pytest.fixture
def large(hosts: Hosts) -> Manifest:
    """A version of two files of some megabytes."""
    host = hosts()
    with host.workspace() as folder:
        manifest = fill(folder)
        for path in manifest.files:
            (folder / path).write_bytes(path.encode() * 200_000)
        manifest = manifest.model_copy(update={"files": hash_files(folder)})
        return host.add(folder, manifest)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[StoreProxy]:
    with store_proxy.store_proxy(bucket.environment["AWS_ENDPOINT_URL_S3"]) as server:
        yield server


def start(hosts: Hosts, proxy: StoreProxy, manifest: Manifest, cache: Path) -> subprocess.Popen[str]:
    """A process that reads a model, behind the proxy."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    settings = {
        "AWS_ENDPOINT_URL_S3": proxy.url,
        "NIGHTLABEL_MODEL_STORE": f"s3://{hosts.bucket.name}/{PREFIX}",
        "NIGHTLABEL_MODEL_CACHE": str(cache),
    }
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, manifest.to_json()],
        env={**inherited, **hosts.bucket.environment, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(child: subprocess.Popen[str]) -> dict[str, bool]:
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    return dict(json.loads(out))


def wait_until(is_so: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_processes_that_start_together_fetch_each_file_once(
    hosts: Hosts, proxy: StoreProxy, large: Manifest, tmp_path: Path
):
    proxy.pace_s = 0.3
    children = [start(hosts, proxy, large, tmp_path / "cache") for _ in range(2)]

    assert [answer(child) for child in children] == [dict.fromkeys(large.files, True)] * 2
    for path in large.files:
        assert proxy.count("get", f"{PREFIX}/{file_of(large, path)}") == 1


def test_a_process_that_is_killed_while_it_fetches_is_taken_over_from_at_once(
    hosts: Hosts, proxy: StoreProxy, large: Manifest, tmp_path: Path
):
    second = f"{PREFIX}/{file_of(large, list(large.files)[-1])}"
    hanging = proxy.rule(store_proxy.drip(10), "get", key=second)
    killed = start(hosts, proxy, large, tmp_path / "cache")
    wait_until(lambda: hanging.injected or killed.poll() is not None)
    wait_until(lambda: list((tmp_path / "cache").rglob(".fetching-*")))
    waiting = start(hosts, proxy, large, tmp_path / "cache")
    seen = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert seen == {Path(next(iter(large.files))).name}, "only what is whole is in its place"

    proxy.lift(hanging)
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL

    assert answer(waiting) == dict.fromkeys(large.files, True)
    assert list((tmp_path / "cache").rglob(".fetching-*")) == []
    killed.communicate()


@pytest.mark.parametrize("fault", [store_proxy.short_body, store_proxy.reset_in_body, store_proxy.SLOW_DOWN])
def test_a_fetch_that_is_cut_goes_on(hosts: Hosts, proxy: StoreProxy, large: Manifest, fault: store_proxy.Fault):
    rule = proxy.rule(fault, "get", key=f"{PREFIX}/{file_of(large, 'model.tflite')}", times=1)
    host = hosts(url=proxy.url, attempts=2)

    assert hash_files(host.check_files(large)) == large.files
    assert rule.injected == 1


# A task


@pytest.fixture(scope="module")
def shared_default(
    object_store_server: EmbeddedObjectStore, default_model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The bundled model in a bucket; the variables with which it is found, without a cache."""
    client = object_store_server.client()
    client.create_bucket(Bucket="shared-default-model")
    place = {"NIGHTLABEL_MODEL_STORE": "s3://shared-default-model/models"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store_server.environment().items():
            patch.setenv(name, value)
        cache = tmp_path_factory.mktemp("cache")
        settings = read_settings(model_store=place["NIGHTLABEL_MODEL_STORE"], model_cache=cache)
        wiring.copy_model(settings, BUNDLED_MODEL, source=str(default_model_store.root))
    yield place
    client.delete_bucket(Bucket="shared-default-model")


@pytest.fixture
def task_settings(
    shared_default: dict[str, str],
    object_store_server: EmbeddedObjectStore,
    database: str,
    default_model_store: ModelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """What a task on a host with an empty cache has, with the model registered."""
    for name, value in object_store_server.environment(as_reader=True).items():
        monkeypatch.setenv(name, value)
    settings = read_settings(
        database_url=database, model_store=shared_default["NIGHTLABEL_MODEL_STORE"], model_cache=tmp_path / "cache"
    )
    migrate(settings)
    with wiring.open_sink(settings) as sink, sink.asking() as connection:
        registry.register(connection, default_model_store.read_manifest(BUNDLED_MODEL))
    return settings


def test_a_task_reads_a_model_from_the_bucket_and_then_from_its_cache_alone(task_settings: Settings, away: str):
    with wiring.open_sink(task_settings) as sink:
        cold = wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu")
        cut_off = wiring.open_model_store(task_settings, endpoint_url=away)
        warm = wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu", models=cut_off)

    assert cold.model_id == warm.model_id == BUNDLED_MODEL
    assert len(warm.labels) == 1_000
    held = {path.name for path in task_settings.model_cache.rglob("*") if path.is_file()}
    assert {name for name in held if not name.startswith(".")} == {"manifest.json", "model.tflite"}


def test_labels_that_were_altered_in_the_cache_are_not_believed(task_settings: Settings):
    store = wiring.open_model_store(task_settings)
    with wiring.open_sink(task_settings) as sink:
        manifest = store.read_manifest(BUNDLED_MODEL)
        permuted = manifest.model_copy(update={"labels": (*manifest.labels[1:], manifest.labels[0])})
        (store.folder_of(BUNDLED_MODEL) / MANIFEST_NAME).write_text(permuted.to_json(), encoding="utf-8")

        handle = wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu")

    assert handle.labels == manifest.labels


def test_a_cache_that_is_emptied_before_the_engine_has_read_it_is_filled_again(
    task_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    load_handle, emptied = resolve.load_handle, []

    def load(*arguments: Any, **more: Any) -> Any:
        if not emptied:
            emptied.append(shutil.rmtree(task_settings.model_cache))
        return load_handle(*arguments, **more)

    monkeypatch.setattr(resolve, "load_handle", load)
    with wiring.open_sink(task_settings) as sink:
        assert wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu").model_id == BUNDLED_MODEL
    assert len(emptied) == 1


def test_a_model_that_is_damaged_in_the_bucket_and_one_that_is_not_there_stop_a_task(
    task_settings: Settings, bucket: Bucket, hosts: Hosts
):
    other = wiring.open_model_store(task_settings, place=f"s3://{bucket.name}/empty")
    with wiring.open_sink(task_settings) as sink:
        with pytest.raises(ModelUnknownError, match=f"s3://{bucket.name}/empty holds no {BUNDLED_MODEL}"):
            wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu", models=other)
        with psycopg.connect(task_settings.required_database_url()) as connection:
            connection.execute(
                "UPDATE nightlabel.model SET files = jsonb_set(files, '{model.tflite}', %s)", [json.dumps("0" * 64)]
            )
        with pytest.raises(ModelFilesError, match=r"registered with other files than the model store holds \(model"):
            wiring.load_model(BUNDLED_MODEL, sink, task_settings, device="cpu")


def test_a_cache_without_room_is_one_sentence_that_names_the_setting(task_settings: Settings):
    task_settings.model_cache.parent.joinpath("file").write_bytes(b"")
    crammed = task_settings.model_copy(update={"model_cache": task_settings.model_cache.parent / "file"})
    with (
        wiring.open_sink(crammed) as sink,
        pytest.raises(ModelFilesError, match=r"the model cache .* cannot be written: .*NIGHTLABEL_MODEL_CACHE"),
    ):
        wiring.load_model(BUNDLED_MODEL, sink, crammed, device="cpu")
