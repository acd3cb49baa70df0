"""A model version is in the store whole, or not at all; what is damaged is refused by name."""

import os
import threading
from pathlib import Path

import pytest

from inference.errors import ModelFilesError, ModelUnknownError
from inference.models.manifest import InputScale, Manifest
from inference.models.store import ModelStore, hash_files
from inference.types import Label, ModelId, Preprocessing

MODEL = ModelId("cats", "1")


def fill(folder: Path, content: bytes = b"weights", version: str = "1") -> Manifest:
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "variables" / "data").write_bytes(content)
    (folder / "model.tflite").write_bytes(content * 2)
    return Manifest(
        name="cats",
        version=version,
        source="a test",
        licence="CC0-1.0",
        preprocessing=Preprocessing(8, 8, 1.0, "bilinear"),
        input_scale=InputScale(mean=0.0, scale=255.0),
        output="probabilities",
        engines={"litert": "model.tflite", "tensorflow": "saved_model"},
        made_with={},
        files=hash_files(folder),
        labels=(Label("cat", "n1"),),
    )


def add(store: ModelStore, content: bytes = b"weights", version: str = "1") -> Manifest:
    with store.workspace() as folder:
        return store.add(folder, fill(folder, content, version))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "made on demand" / "models")


def visible(store: ModelStore) -> list[str]:
    """Everything below the store but its lock files."""
    paths = (path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith(".lock"))


WHOLE = ["cats/1/manifest.json", "cats/1/model.tflite", "cats/1/saved_model/variables/data"]


def test_what_was_added_is_found_checked_and_listed(store: ModelStore) -> None:
    manifest = add(store)
    add(store, b"better", "2")

    assert store.read_manifest(MODEL) == manifest
    assert store.check_files(manifest) == store.root / "cats" / "1"
    assert store.models() == [ModelId("cats", "1"), ModelId("cats", "2")]


def test_the_manifest_lists_every_file(store: ModelStore) -> None:
    assert set(add(store).files) == {"model.tflite", "saved_model/variables/data"}
    assert visible(store) == WHOLE


def test_an_unknown_model_says_where_it_was_looked_for(store: ModelStore) -> None:
    with pytest.raises(ModelUnknownError, match=f"{store.root} holds no cats@1; .*NIGHTLABEL_MODEL_STORE"):
        store.read_manifest(MODEL)
    assert store.models() == []


@pytest.mark.parametrize("model", [ModelId("..", "1"), ModelId("a/b", "1"), ModelId("cats", ""), ModelId("cats", "..")])
def test_a_name_cannot_lead_out_of_the_store(store: ModelStore, model: ModelId) -> None:
    with pytest.raises(ModelUnknownError, match="cannot be a model"):
        store.read_manifest(model)


def test_a_damaged_file_is_named_with_both_digests_and_what_to_do(store: ModelStore) -> None:
    manifest = add(store)
    path = store.root / "cats" / "1" / "model.tflite"
    path.write_bytes(b"weightsweightz")

    with pytest.raises(ModelFilesError) as raised:
        store.check_files(manifest)
    message = str(raised.value)
    assert str(path) in message
    assert manifest.files["model.tflite"] in message
    assert hash_files(path.parent)["model.tflite"] in message
    assert "python -m inference migrate" in message


def test_only_the_files_of_the_chosen_engine_have_to_be_whole(store: ModelStore) -> None:
    manifest = add(store)
    (store.root / "cats" / "1" / "saved_model" / "variables" / "data").unlink()

    assert store.check_files(manifest, "litert").is_dir()
    with pytest.raises(ModelFilesError, match="No such file"):
        store.check_files(manifest, "tensorflow")


@pytest.mark.parametrize("text", [None, b"", b"{", b'{"name": "cats"}'])
def test_a_half_written_manifest_is_refused(store: ModelStore, text: bytes | None) -> None:
    add(store)
    path = store.root / "cats" / "1" / "manifest.json"
    path.unlink() if text is None else path.write_bytes(text)

    with pytest.raises(ModelFilesError, match=r"manifest\.json (is missing|is not a model manifest)"):
        store.read_manifest(MODEL)


def test_a_manifest_under_another_name_is_refused(store: ModelStore) -> None:
    add(store)
    (store.root / "cats" / "1").rename(store.root / "cats" / "3")

    with pytest.raises(ModelFilesError, match="describes cats@1, expected cats@3"):
        store.read_manifest(ModelId("cats", "3"))


def test_adding_heals_a_damaged_copy(store: ModelStore) -> None:
    manifest = add(store)
    (store.root / "cats" / "1" / "model.tflite").write_bytes(b"")

    assert add(store) == manifest
    store.check_files(manifest)
    assert visible(store) == WHOLE


def test_a_folder_without_manifest_is_healed_too(store: ModelStore) -> None:
    (store.root / "cats" / "1").mkdir(parents=True)
    (store.root / "cats" / "1" / "model.tflite").write_bytes(b"half")

    store.check_files(add(store))
    assert visible(store) == WHOLE


def test_another_model_never_takes_the_place_of_a_good_one(store: ModelStore) -> None:
    manifest = add(store)

    with pytest.raises(ModelFilesError, match=r"already holds another cats@1: .*give the new one another version"):
        add(store, b"other weights")
    store.check_files(manifest)
    assert visible(store) == WHOLE


def test_files_that_are_not_as_the_manifest_says_are_not_added(store: ModelStore) -> None:
    with store.workspace() as folder:
        manifest = fill(folder)
        (folder / "model.tflite").write_bytes(b"changed since")
        with pytest.raises(ModelFilesError, match=r"model\.tflite of cats@1 is not as its manifest says"):
            store.add(folder, manifest)
    assert visible(store) == []


def test_a_builder_that_fails_leaves_nothing(store: ModelStore) -> None:
    with pytest.raises(RuntimeError, match="the build"), store.workspace() as folder:
        raise RuntimeError(f"the build in {fill(folder).name}")
    assert list(store.root.iterdir()) == []


def test_what_a_killed_builder_left_is_removed_later(store: ModelStore) -> None:
    old, new = store.root / ".building-old", store.root / ".building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"x")
    os.utime(old, (0, 0))

    add(store)

    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_many_builders_at_once_end_with_one_good_copy(store: ModelStore, is_damaged: bool) -> None:
    if is_damaged:
        add(store)
        (store.root / "cats" / "1" / "model.tflite").write_bytes(b"")
    barrier, added = threading.Barrier(8), []

    def build() -> None:
        with store.workspace() as folder:  # without the lock: on some disks it does nothing
            manifest = fill(folder)
            barrier.wait()
            added.append(store.add(folder, manifest))

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(added) == 8
    assert all(manifest == added[0] for manifest in added)
    store.check_files(store.read_manifest(MODEL))
    assert visible(store) == WHOLE


def test_the_lock_lets_one_builder_in_at_a_time(store: ModelStore) -> None:
    inside, most = 0, 0
    counting = threading.Lock()

    def build() -> None:
        nonlocal inside, most
        with store.locked(MODEL):
            with counting:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with counting:
                inside -= 1

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ModelStore(tmp_path / "file" / "models")

    with pytest.raises(ModelFilesError, match=r"model store .* cannot be written: .*NIGHTLABEL_MODEL_STORE"):
        add(store)
    with pytest.raises(ModelFilesError, match="cannot be written"), store.locked(MODEL):
        pass


def test_a_disk_that_is_full_leaves_no_half_of_a_model_and_is_one_clear_error(store: ModelStore) -> None:
    with store.workspace() as folder:
        manifest = fill(folder)
        (folder / "manifest.json").symlink_to("/dev/full")
        with pytest.raises(ModelFilesError, match=r"cannot be written: No space left on device; give it room"):
            store.add(folder, manifest)
    with pytest.raises(ModelFilesError, match="No space left on device"), store.workspace():
        Path("/dev/full").write_bytes(b"what a converter writes")

    assert visible(store) == []
    assert [path.name for path in store.root.iterdir() if path.name.startswith(".building")] == []
    add(store)
    assert visible(store) == WHOLE
