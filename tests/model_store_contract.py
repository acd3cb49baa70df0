"""What holds of a model store, be it a folder or a prefix of a bucket: in it whole or not at all, refused by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelFilesError, ModelUnknownError
from inference.models.card import model_card
from inference.models.manifest import InputScale, Manifest
from inference.models.store import ModelStore, hash_files
from inference.types import Label, ModelId, Preprocessing

MODEL = ModelId("cats", "1")


def fill(folder: Path, content: bytes = b"weights", version: str = "1", **others: Any) -> Manifest:
    """Build a model of two artefacts; its files are as large as what they are made of."""
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "variables" / "data").write_bytes(content)
    (folder / "model.tflite").write_bytes(content * 2)
    facts = {
        "name": "cats",
        "version": version,
        "source": "a test",
        "licence": "CC0-1.0",
        "preprocessing": Preprocessing(8, 8, 1.0, "bilinear"),
        "input_scale": InputScale(mean=0.0, scale=255.0),
        "output": "probabilities",
        "engines": {"litert": "model.tflite", "tensorflow": "saved_model"},
        "made_with": {},
        "files": hash_files(folder),
        "labels": (Label("cat", "n1"),),
    }
    return Manifest(**facts | others)


def add(store: ModelStore, content: bytes = b"weights", version: str = "1", **others: Any) -> Manifest:
    with store.workspace() as folder:
        return store.add(folder, fill(folder, content, version, **others))


@dataclass(frozen=True)
class Case:
    """A store as the hosts that use it see it, and a hand that may change what it holds."""

    host: Callable[[], ModelStore]
    """The store as one more host sees it, which has no copy of anything."""
    names: Callable[[], set[str]]
    """What it holds: manifests and cards as ``cats/1/manifest.json``, other files by their SHA-256."""
    overwrite: Callable[[Manifest, str, bytes | None], object]
    """Put other bytes into a file of a model, or remove it."""


class ModelStoreContract:
    """Give it a fixture ``case``."""

    def test_what_was_added_is_found_checked_and_listed_by_every_host(self, case: Case) -> None:
        manifest = add(case.host())
        add(case.host(), b"better", "2")

        for store in (case.host(), case.host()):
            assert store.read_manifest(MODEL) == manifest
            folder = store.check_files(manifest)
            assert folder == store.folder_of(MODEL)
            assert hash_files(folder) == manifest.files
            assert store.models() == [MODEL, ModelId("cats", "2")]
            store.check_store(manifest)

    def test_it_holds_the_manifest_the_card_and_every_file_and_no_more(self, case: Case) -> None:
        manifest = add(case.host())

        expected = {"cats/1/manifest.json", "cats/1/MODEL_CARD.md", *manifest.files.values()}
        assert case.names() == expected

    def test_an_unknown_model_says_where_it_was_looked_for(self, case: Case) -> None:
        store = case.host()

        with pytest.raises(ModelUnknownError, match=f"{store.place} holds no cats@1; .*NIGHTLABEL_MODEL_STORE"):
            store.read_manifest(MODEL)
        assert store.models() == []
        assert store.where(MODEL) == f"{store.place}/cats/1"

    @pytest.mark.parametrize(
        "model", [ModelId("..", "1"), ModelId("a/b", "1"), ModelId("cats", ""), ModelId("cats", "..")]
    )
    def test_a_name_cannot_lead_out_of_the_store(self, case: Case, model: ModelId) -> None:
        with pytest.raises(ModelUnknownError, match="cannot be a model"):
            case.host().read_manifest(model)
        with pytest.raises(ModelUnknownError, match="cannot be a model"):
            case.host().where(model)

    @pytest.mark.parametrize("damaged", [b"other bytes", b"", b"weightsweight", None], ids=str)
    def test_a_damaged_file_is_named_with_both_digests_and_what_to_do(
        self, case: Case, damaged: bytes | None, tmp_path: Path
    ) -> None:
        manifest = add(case.host())
        case.overwrite(manifest, "model.tflite", damaged)
        (tmp_path / "as it is").mkdir()
        (tmp_path / "as it is" / "x").write_bytes(damaged or b"")

        for check in (case.host().check_files, case.host().check_store):
            with pytest.raises(ModelFilesError) as raised:
                check(manifest)
            message = str(raised.value)
            assert "model.tflite" in message
            assert manifest.files["model.tflite"] in message
            if damaged is not None:
                assert hash_files(tmp_path / "as it is")["x"] in message
            assert "python -m inference models copy cats@1 --from" in message
            assert "\n" not in message

    def test_only_the_files_of_the_chosen_engine_have_to_be_whole(self, case: Case) -> None:
        manifest = add(case.host())
        case.overwrite(manifest, "saved_model/variables/data", None)

        assert (case.host().check_files(manifest, "litert") / "model.tflite").read_bytes() == b"weightsweights"
        with pytest.raises(ModelFilesError, match="saved_model/variables/data"):
            case.host().check_files(manifest, "tensorflow")

    @pytest.mark.parametrize("text", [b"", b"{", b'{"name": "cats"}'], ids=str)
    def test_a_damaged_manifest_is_refused(self, case: Case, text: bytes) -> None:
        case.overwrite(add(case.host()), "manifest.json", text)

        with pytest.raises(ModelFilesError, match=r"manifest\.json is not a model manifest"):
            case.host().read_manifest(MODEL)

    def test_the_manifest_of_another_model_is_refused(self, case: Case) -> None:
        manifest, other = add(case.host()), add(case.host(), b"better", "2")
        case.overwrite(manifest, "manifest.json", other.to_json().encode())

        with pytest.raises(ModelFilesError, match="describes cats@2, expected cats@1"):
            case.host().read_manifest(MODEL)

    @pytest.mark.parametrize("damaged", [b"", None], ids=str)
    def test_adding_the_same_again_heals_what_is_damaged(self, case: Case, damaged: bytes | None) -> None:
        manifest = add(case.host())
        case.overwrite(manifest, "model.tflite", damaged)

        assert add(case.host()) == manifest
        case.host().check_store(manifest)
        assert hash_files(case.host().check_files(manifest)) == manifest.files

    @pytest.mark.parametrize(
        ("others", "difference"),
        [
            ({"content": b"other weights"}, r"model\.tflite has SHA-256 \w{64}, the new one's is \w{64}"),
            ({"preprocessing": Preprocessing(8, 8, 0.5, "bilinear")}, "it has other preprocessing than the new one"),
            ({"labels": (Label("dog", "n1"),)}, "it has other labels than the new one"),
        ],
        ids=["files", "preprocessing", "labels"],
    )
    def test_another_model_never_takes_the_place_of_a_good_one(
        self, case: Case, others: dict[str, Any], difference: str
    ) -> None:
        manifest = add(case.host())
        before = case.names()

        with pytest.raises(ModelFilesError, match=f"already holds another cats@1: {difference}; give the new one"):
            add(case.host(), **others)
        assert case.host().read_manifest(MODEL) == manifest
        case.host().check_store(manifest)
        assert case.names() == before

    def test_other_notes_on_the_same_model_change_nothing(self, case: Case) -> None:
        manifest = add(case.host())

        assert add(case.host(), source="another mirror", made_with={"a converter": "2"}) == manifest
        assert case.host().read_manifest(MODEL) == manifest

    def test_files_that_are_not_as_the_manifest_says_are_not_added(self, case: Case) -> None:
        store = case.host()
        with store.workspace() as folder:
            manifest = fill(folder)
            (folder / "model.tflite").write_bytes(b"changed since")
            with pytest.raises(ModelFilesError, match=r"model\.tflite of cats@1 is not as its manifest says"):
                store.add(folder, manifest)
        assert case.names() == set()

    def test_a_builder_that_fails_leaves_nothing(self, case: Case) -> None:
        store = case.host()
        with pytest.raises(RuntimeError, match="the build"), store.workspace() as folder:
            raise RuntimeError(f"the build in {fill(folder).name}")
        assert case.names() == set()
        assert [path for path in store.root.iterdir() if not path.name.startswith(".lock")] == []

    def test_many_hosts_that_add_the_same_at_once_end_with_one_good_version(self, case: Case) -> None:
        barrier = threading.Barrier(6)

        def build(_: int) -> Manifest:
            store = case.host()
            with store.workspace() as folder:
                manifest = fill(folder)
                barrier.wait()
                return store.add(folder, manifest)

        with ThreadPoolExecutor(6) as hosts:
            added = list(hosts.map(build, range(6)))

        assert added == [added[0]] * 6
        assert case.host().read_manifest(MODEL) == added[0]
        case.host().check_store(added[0])
        assert case.names() == {"cats/1/manifest.json", "cats/1/MODEL_CARD.md", *added[0].files.values()}

    def test_of_many_hosts_that_add_different_ones_at_once_exactly_one_wins(self, case: Case) -> None:
        barrier = threading.Barrier(6)

        def build(number: int) -> Manifest | ModelFilesError:
            store = case.host()
            with store.workspace() as folder:
                manifest = fill(folder, str(number).encode())
                barrier.wait()
                try:
                    return store.add(folder, manifest)
                except ModelFilesError as error:
                    return error

        with ThreadPoolExecutor(6) as hosts:
            ended = list(hosts.map(build, range(6)))

        [winner] = [end for end in ended if isinstance(end, Manifest)]
        assert case.host().read_manifest(MODEL) == winner
        case.host().check_store(winner)
        for end in ended:
            if end != winner:
                assert "already holds another cats@1" in str(end)
        assert case.names() == {"cats/1/manifest.json", "cats/1/MODEL_CARD.md", *winner.files.values()}

    def test_the_model_card_is_there_and_made_again_where_it_is_missing(self, case: Case) -> None:
        manifest = add(case.host())
        assert case.host().read_card(MODEL) == model_card(manifest)
        case.overwrite(manifest, "MODEL_CARD.md", b"what somebody wrote")
        assert case.host().read_card(MODEL) == "what somebody wrote"
        case.overwrite(manifest, "MODEL_CARD.md", None)
        assert "cats/1/MODEL_CARD.md" not in case.names()

        assert case.host().read_card(MODEL) == model_card(manifest)
        assert "cats/1/MODEL_CARD.md" in case.names()

    def test_the_lock_lets_one_builder_of_a_host_in_at_a_time(self, case: Case) -> None:
        inside, most = 0, 0
        counting = threading.Lock()
        store = case.host()

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
