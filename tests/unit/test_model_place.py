"""Where the models are: a folder or a prefix of a bucket, and nothing that only looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference import wiring
from inference.errors import SettingsError
from inference.models.shared_store import SharedModelStore
from inference.models.store import ModelStore
from inference.settings import Settings, read_settings, split_shared_store
from inference.supervising import _plain


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/srv/models", Path("/srv/models")),
        ("models", Path("models")),
        ("s3", Path("s3")),
        ("s3://models", "s3://models"),
        ("s3://models/", "s3://models"),
        ("s3://models/team a".replace(" ", "-"), "s3://models/team-a"),
        ("s3://My.Models_2/a/b/", "s3://My.Models_2/a/b"),
        ("s3://models/é", "s3://models/é"),
    ],
)
def test_a_place_is_read_from_the_environment(given: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLABEL_MODEL_STORE", given)

    settings = read_settings()

    assert settings.model_store == expected
    sent = {name: _plain(value) for name, value in settings.model_dump().items()}
    assert Settings(**sent).model_store == expected, "as a worker process gets it"


@pytest.mark.parametrize(
    "given",
    ["", "s3:/models", "s3:models", "s3://", "s3:///prefix", "s3://m", "gs://models/a", "S3://models", "file:///srv"]
    + [
        f"s3://models/{prefix}"
        for prefix in ("/a", "a//b", "..", "a/../b", "a/./b", "a b", "a?b", "a#b", "a\\b", "a\n")
    ],
)
def test_what_is_no_place_is_refused_by_the_name_of_the_setting(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLABEL_MODEL_STORE", given)

    with pytest.raises(SettingsError, match=r"^NIGHTLABEL_MODEL_STORE is .*expected (the name of )?a (folder|prefix)"):
        read_settings()


def test_an_empty_name_of_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLABEL_MODEL_CACHE", "")

    with pytest.raises(SettingsError, match=r"NIGHTLABEL_MODEL_CACHE is ''.*expected the name of a folder"):
        read_settings()


def test_bucket_and_prefix_of_an_address() -> None:
    assert split_shared_store("s3://models") == ("models", "")
    assert split_shared_store("s3://models/a/b") == ("models", "a/b")


def test_a_folder_is_opened_as_a_folder(tmp_path: Path) -> None:
    store = wiring.open_model_store(read_settings(model_store=tmp_path))

    assert type(store) is ModelStore
    assert (store.place, store.is_lasting) == (str(tmp_path), True)


def test_a_bucket_is_opened_with_a_cache_of_its_own_and_asked_for_nothing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    stores = [
        wiring.open_model_store(read_settings(model_store=address, model_cache=tmp_path))
        for address in ("s3://models/a", "s3://models/b", "s3://models/a/")
    ]

    assert all(isinstance(store, SharedModelStore) and not store.is_lasting for store in stores)
    assert [store.place for store in stores] == ["s3://models/a", "s3://models/b", "s3://models/a"]
    assert stores[0].root == stores[2].root
    assert stores[0].root != stores[1].root
    assert {store.root.parent for store in stores} == {tmp_path}
    assert list(tmp_path.iterdir()) == []


def test_another_place_may_be_named(tmp_path: Path) -> None:
    settings = read_settings(model_store="s3://models/a")

    assert wiring.open_model_store(settings, place=str(tmp_path)).root == tmp_path
    with pytest.raises(SettingsError, match="the model store is 'gs://x': expected a folder, or s3://bucket/prefix"):
        wiring.open_model_store(settings, place="gs://x")
