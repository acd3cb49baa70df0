"""The model store as a folder: what holds of every model store, and what a disk adds to it."""

import os
import threading
from pathlib import Path

import pytest

from inference.errors import ModelFilesError
from inference.models.manifest import Manifest
from inference.models.store import ModelStore, hash_files
from tests.model_store_contract import MODEL, Case, ModelStoreContract, add, fill


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "made on demand" / "models")


def visible(store: ModelStore) -> list[str]:
    """Everything below the store but its lock files."""
    paths = (path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith(".lock"))


WHOLE = [
    "cats/1/MODEL_CARD.md",
    "cats/1/manifest.json",
    "cats/1/model.tflite",
    "cats/1/saved_model/variables/data",
]


class TestFolder(ModelStoreContract):
    @pytest.fixture
    def case(self, store: ModelStore) -> Case:
        def names() -> set[str]:
            paths = {store.root / name for name in visible(store)}
            described = {path for path in paths if path.name in {"manifest.json", "MODEL_CARD.md"}}
            digests = {digest for path in paths - described for digest in [hash_files(path.parent)[path.name]]}
            return {path.relative_to(store.root).as_posix() for path in described} | digests

        def overwrite(manifest: Manifest, name: str, content: bytes | None) -> None:
            path = store.folder_of(manifest.model_id) / name
            path.unlink() if content is None else path.write_bytes(content)

        return Case(lambda: ModelStore(store.root), names, overwrite)


def test_a_manifest_that_is_missing_is_refused(store: ModelStore) -> None:
    add(store)
    (store.root / "cats" / "1" / "manifest.json").unlink()

    with pytest.raises(ModelFilesError, match=r"manifest\.json is missing"):
        store.read_manifest(MODEL)


def test_a_folder_without_manifest_is_healed_too(store: ModelStore) -> None:
    (store.root / "cats" / "1").mkdir(parents=True)
    (store.root / "cats" / "1" / "model.tflite").write_bytes(b"half")

    store.check_files(add(store))
    assert visible(store) == WHOLE


def test_a_version_that_is_being_built_is_not_seen(store: ModelStore) -> None:
    with store.workspace() as folder:
        manifest = fill(folder)
        assert store.models() == []
        store.add(folder, manifest)
        assert store.models() == [MODEL]
    assert visible(store) == WHOLE


def test_a_card_that_cannot_be_written_is_read_all_the_same(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    (store.root / "cats" / "1" / "MODEL_CARD.md").unlink()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)

    assert store.read_card(MODEL).startswith("# cats@1\n")
    assert "cats/1/MODEL_CARD.md" not in visible(store)


def test_what_a_killed_builder_left_is_removed_later(store: ModelStore) -> None:
    old, new = store.root / ".building-old", store.root / ".building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"x")
    os.utime(old, (0, 0))

    add(store)

    assert not old.exists()
    assert new.exists()


def test_many_builders_at_once_replace_a_damaged_copy_with_one_good_one(store: ModelStore) -> None:
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
