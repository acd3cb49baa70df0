"""What is given as a source is copied, hashed and recognised by its content; what could run code is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelSourceError
from inference.models.source_files import (
    check_digest,
    digest_of_folder,
    fetch_photos,
    fetch_source,
    hub_handle,
    read_file,
    without_query,
)
from inference.types import ListedObject
from tests.fakes import FakeObjects, FakeStore
from tests.unit.test_model_archives import tar, zipped

LITERT = b"\x1c\x00\x00\x00TFL3" + bytes(40)
SAVED = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "variables/variables.data-00000-of-00001": b"w"}


class FakeSource:
    """A bucket that can be listed and read."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._store = FakeStore(objects)
        self._objects = FakeObjects({("photos", key): body for key, body in objects.items()})
        self.denied = self._objects.denied

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        return self._store.list_pages(bucket, prefix)

    def open(self, bucket: str, key: str) -> io.BufferedReader:
        return self._objects.open(bucket, key)


def keras(path: Path, config: Any) -> Path:
    return zipped(
        path, ("metadata.json", b"{}"), ("config.json", json.dumps(config).encode()), ("model.weights.h5", b"")
    )


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


SEQUENTIAL = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {"layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}]},
}


def test_a_folder_is_copied_and_hashed_as_sha256sum_would(tmp_path: Path, target: Path, said: list[str]) -> None:
    given = written(tmp_path / "model", SAVED)
    (given / "variables.old").write_bytes(b"")
    command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["bash", "-c", command], cwd=given, capture_output=True, text=True, check=True).stdout

    found = fetch_source(str(given), target, None, said.append)

    assert (found.kind, found.sha256) == ("saved_model", printed.split()[0])
    assert below(found.path) == below(given) == {**SAVED, "variables.old": b""}
    assert said == [f"copying {given}"]


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("prefix", ["", "./", "export/1/"])
def test_an_archive_is_extracted_and_the_model_found_in_it(
    tmp_path: Path, target: Path, said: list[str], pack: Any, prefix: str
) -> None:
    archive = pack(tmp_path / "m.archive", *((prefix + name, data) for name, data in SAVED.items()), ("README", b"x"))

    found = fetch_source(str(archive), target, None, said.append)

    assert (found.kind, found.sha256) == ("saved_model", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert {name: data for name, data in below(found.path).items() if name != "README"} == SAVED


def test_single_files_are_recognised_by_their_content(tmp_path: Path, target: Path, said: list[str]) -> None:
    (tmp_path / "anything").write_bytes(LITERT)
    keras(tmp_path / "model", SEQUENTIAL)

    assert fetch_source(str(tmp_path / "anything"), target, None, said.append).kind == "litert"
    assert fetch_source(str(tmp_path / "model"), target, None, said.append).kind == "keras"


def test_an_archive_with_one_litert_file_is_that_file(tmp_path: Path, target: Path, said: list[str]) -> None:
    archive = tar(tmp_path / "kaggle.tar.gz", ("./1.tflite", LITERT))

    found = fetch_source(str(archive), target, None, said.append)

    assert (found.kind, found.path.read_bytes()) == ("litert", LITERT)


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("s3://photos/models/cats", {f"models/cats/{name}": data for name, data in SAVED.items()}),
        ("s3://photos/models/cats/", {f"models/cats/{name}": data for name, data in SAVED.items()}),
    ],
)
def test_a_folder_in_a_store_is_fetched(target: Path, said: list[str], address: str, keys: dict[str, bytes]) -> None:
    objects = FakeSource({**keys, "models/cats2/saved_model.pb": b"another", "models/cats/": b""})

    found = fetch_source(address, target, objects, said.append)

    assert found.kind == "saved_model"
    assert below(found.path) == SAVED
    assert found.sha256 == digest_of_folder(found.path)


def test_an_object_in_a_store_is_fetched(target: Path, said: list[str]) -> None:
    objects = FakeSource({"m/cats.tflite": LITERT, "m/cats.tflite/odd": b""})

    found = fetch_source("s3://photos/m/cats.tflite", target, objects, said.append)

    assert (found.kind, found.path.read_bytes()) == ("litert", LITERT)


def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path: Path, target: Path, said: list[str]) -> None:
    objects = FakeSource({"m/saved_model.pb": b"g", "m/../../evil": b"x"})

    with pytest.raises(ModelSourceError, match="leads out of the folder"):
        fetch_source("s3://photos/m", target, objects, said.append)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("source", ["nowhere/at/all", "mobilenet_v2", "s3://photos/nothing"])
def test_what_is_nowhere_is_said_to_be_so(target: Path, said: list[str], source: str) -> None:
    with pytest.raises(ModelSourceError, match=r"there is no .*correct"):
        fetch_source(source, target, FakeSource({"other": b""}), said.append)


def torch_zip(path: Path) -> Path:
    return zipped(path, ("archive/data.pkl", b"\x80\x02}"), ("archive/data/0", bytes(8)))


@pytest.mark.parametrize(
    ("name", "make", "what"),
    [
        ("model.pkl", lambda path: path.write_bytes(pickle.dumps({"w": [1.0]})), "is a pickle"),
        ("weights", lambda path: path.write_bytes(pickle.dumps([1], protocol=2)), "is a pickle"),
        ("old.pkl", lambda path: path.write_bytes(pickle.dumps([1], protocol=0)), "is a pickle"),
        ("model.pt", torch_zip, "is a PyTorch file with a pickle in it|is a pickle"),
        ("model.anything", torch_zip, "is a PyTorch file with a pickle in it"),
        ("legacy.pth", lambda path: path.write_bytes(b"\x80\x02\x8a\n"), "is a pickle"),
        ("model.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(80)), "is a legacy Keras file"),
        ("model.keras", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(80)), "is a legacy Keras file"),
        (
            "lambda.keras",
            lambda path: keras(path, {"layers": [{"module": "keras.layers", "class_name": "Lambda", "config": {}}]}),
            "with a Lambda layer, which is pickled code",
        ),
        (
            "deep.keras",
            lambda path: keras(path, {"a": [{"b": {"class_name": "__lambda__", "config": {"value": "4wEA"}}}]}),
            "with a Lambda layer, which is pickled code",
        ),
        (
            "custom.keras",
            lambda path: keras(path, {"layers": [{"module": "os.path", "class_name": "join", "config": {}}]}),
            r"uses os\.path\.join, which is no part of Keras",
        ),
        ("broken.keras", lambda path: zipped(path, ("metadata.json", b""), ("config.json", b"{")), "a damaged .keras"),
        (
            "bomb.keras",
            lambda path: zipped(path, ("metadata.json", b""), ("config.json", b" " * 20_000_000)),
            "take more than 16,777,216 bytes",
        ),
        (
            "deep.keras",
            lambda path: zipped(path, ("metadata.json", b""), ("config.json", b"[" * 200_000)),
            "a damaged .keras",
        ),
        ("photo.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 a photo"), "is no model that is known here"),
        ("empty", lambda path: path.write_bytes(b""), "is no model that is known here"),
        ("cut.zip", lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is a damaged or encrypted archive"),
    ],
)
def test_what_carries_code_or_is_no_model_is_refused(
    tmp_path: Path, target: Path, said: list[str], name: str, make: Any, what: str
) -> None:
    make(tmp_path / name)

    with pytest.raises(ModelSourceError, match=what) as raised:
        fetch_source(str(tmp_path / name), target, None, said.append)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/saved_model.pb": b"1", "b/saved_model.pb": b"2"}, r"holds 2 SavedModels \(a, b"),
        ({"README": b"text"}, r"holds no saved_model\.pb, and no \.keras and \.tflite files; found README"),
        ({"a.tflite": LITERT, "b.tflite": LITERT}, r"and 2 \.keras and \.tflite files"),
        ({"weights.pkl": b"\x80\x04."}, "is a pickle"),
    ],
)
def test_a_folder_without_one_model_is_refused(
    tmp_path: Path, target: Path, said: list[str], files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(ModelSourceError, match=message):
        fetch_source(str(written(tmp_path / "model", files)), target, None, said.append)


def test_an_altered_file_is_refused_with_both_digests() -> None:
    check_digest("ab" * 32, None, "m")
    check_digest("ab" * 32, "AB" * 32, "m")
    with pytest.raises(ModelSourceError, match=f"m has SHA-256 {'ab' * 32}, expected {'cd' * 32}: it was altered"):
        check_digest("ab" * 32, "cd" * 32, "m")


@pytest.mark.parametrize(
    ("source", "handle"),
    [
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classification/5",) * 2,
        (
            "https://tfhub.dev/google/m/1?tf-hub-format=compressed&a=b#top",
            "https://tfhub.dev/google/m/1?a=b",
        ),
        ("https://www.kaggle.com/models/google/mobilenet-v2/frameworks/TensorFlow2/variations/100-224/versions/2",) * 2,
        (
            "google/mobilenet-v2/tensorFlow2/100-224-classification/2",
            "https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-classification/2",
        ),
        ("http://127.0.0.1:8080/m/1", "http://127.0.0.1:8080/m/1"),
        ("http://localhost/m/1", "http://localhost/m/1"),
        ("models/cats", None),
        ("/models/cats.keras", None),
        ("s3://bucket/models/cats", None),
    ],
)
def test_a_handle_is_told_from_a_path(source: str, handle: str | None) -> None:
    assert hub_handle(source, has_digest=False) == handle


def test_a_path_wins_over_a_short_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google/mobilenet/tensorFlow2/a/1").mkdir(parents=True)

    assert hub_handle("google/mobilenet/tensorFlow2/a/1", has_digest=False) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gs://bucket/m.tar.gz", "is no source of a model; give a TensorFlow Hub or Kaggle handle"),
        ("ftp://host/m", "is no source of a model"),
        ("https:///m", "is no source of a model"),
        ("https://me:secret@host/m", "the handle holds a user or password"),
        ("http://models.example/m/1", "comes over plain HTTP"),
        ("https://[::1/m", "is no URL"),
    ],
)
def test_a_handle_that_must_not_be_fetched_is_refused(source: str, message: str) -> None:
    with pytest.raises(ModelSourceError, match=message) as raised:
        hub_handle(source, has_digest=False)
    assert "secret" not in str(raised.value)


def test_plain_http_is_taken_where_the_digest_is_known() -> None:
    assert hub_handle("http://models.example/m/1", has_digest=True) == "http://models.example/m/1"


def test_the_query_of_a_handle_is_not_kept() -> None:
    assert without_query("https://host/m/1?X-Amz-Signature=secret") == "https://host/m/1"


def test_photos_are_fetched_in_the_order_of_their_names_and_spread(tmp_path: Path) -> None:
    folder = written(tmp_path / "photos", {f"{number:02}.jpg": bytes([number]) for number in range(10)})
    objects = FakeSource({f"p/{number:02}.jpg": bytes([number]) for number in range(10)} | {"p/": b""})

    for address, store in ((str(folder), None), ("s3://photos/p/", objects)):
        target = tmp_path / f"to-{store is None}"
        paths = fetch_photos(address, target, store, most=4)
        assert [path.read_bytes() for path in paths] == [b"\x00", b"\x02", b"\x05", b"\x07"]
        assert [path.suffix for path in paths] == [".jpg"] * 4
    with pytest.raises(ModelSourceError, match="there is no folder"):
        fetch_photos(str(tmp_path / "none"), tmp_path / "n", None, most=4)
    with pytest.raises(ModelSourceError, match="there are no photos in s3://photos/q"):
        fetch_photos("s3://photos/q", tmp_path / "q", objects, most=4)


def test_a_small_file_is_read_from_disk_or_store(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"cat\n")
    objects = FakeSource({"labels.txt": b"dog\n"})

    assert read_file(str(tmp_path / "labels.txt"), "file", None, max_bytes=10) == b"cat\n"
    assert read_file("s3://photos/labels.txt", "file", objects, max_bytes=10) == b"dog\n"
    with pytest.raises(ModelSourceError, match="has more than 3 bytes"):
        read_file("s3://photos/labels.txt", "file", objects, max_bytes=3)
    objects.denied.add("labels.txt")
    for address in ("s3://photos/labels.txt", "s3://photos/none", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ModelSourceError, match="cannot be read"):
            read_file(address, "file", objects, max_bytes=10)
