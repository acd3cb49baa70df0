"""A host's copies of models: what is not whole is fetched, once, and nothing else is ever read."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from inference.errors import ModelFilesError, StoreUnavailableError
from inference.models import cache as caching
from inference.models.cache import ModelCache
from inference.types import ModelId

MODEL = ModelId("cats", "1")
CONTENT = {"model.tflite": b"weights" * 10_000, "saved_model/variables/data": b"more" * 10_000}
WANTED = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENT.items()}


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "made on demand" / "cache")


class Shared:
    """Where the files come from; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fetch(self, path: str, digest: str, file: IO[bytes]) -> None:
        assert digest == WANTED[path]
        self.asked.append(path)
        file.write(CONTENT[path])


def held(cache: ModelCache) -> dict[str, bytes]:
    """Every file of the cache but its locks."""
    return {
        path.relative_to(cache.root).as_posix(): path.read_bytes()
        for path in cache.root.rglob("*")
        if path.is_file() and not path.name.startswith(".fill-")
    }


WHOLE = {f"cats/1/{path}": content for path, content in CONTENT.items()}


def test_what_is_lacking_is_fetched_and_what_is_whole_is_not(cache: ModelCache) -> None:
    shared = Shared()

    first = cache.fill(MODEL, {"model.tflite": WANTED["model.tflite"]}, shared.fetch)
    assert first == cache.root / "cats" / "1"
    assert held(cache) == {"cats/1/model.tflite": CONTENT["model.tflite"]}
    assert cache.fill(MODEL, WANTED, shared.fetch) == first
    assert cache.fill(MODEL, WANTED, shared.fetch) == first

    assert shared.asked == ["model.tflite", "saved_model/variables/data"]
    assert held(cache) == WHOLE


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def alter(path: Path) -> None:
    path.write_bytes(b"W" + path.read_bytes()[1:])


def make_folder_of(path: Path) -> None:
    path.unlink()
    (path / "odd").mkdir(parents=True)


def make_file_of_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"odd")


def make_dangling_link_of(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        alter,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        make_folder_of,
        make_file_of_its_folder,
        make_dangling_link_of,
    ],
    ids=["truncated", "altered", "emptied", "removed", "a folder", "no folder", "a dangling link"],
)
@pytest.mark.parametrize("path", CONTENT)
def test_damage_is_healed_by_fetching_what_is_damaged(
    cache: ModelCache, path: str, damage: Callable[[Path], object]
) -> None:
    cache.fill(MODEL, WANTED, Shared().fetch)
    damage(cache.root / "cats" / "1" / path)
    shared = Shared()

    cache.fill(MODEL, WANTED, shared.fetch)

    assert held(cache) == WHOLE
    assert path in shared.asked


def test_a_cache_that_is_emptied_is_filled_again(cache: ModelCache) -> None:
    cache.fill(MODEL, WANTED, Shared().fetch)
    shutil.rmtree(cache.root)

    cache.fill(MODEL, WANTED, Shared().fetch)

    assert held(cache) == WHOLE


def test_a_cache_that_is_emptied_while_it_is_filled_is_filled_all_the_same(cache: ModelCache) -> None:
    shared, emptied = Shared(), []

    def fetch(path: str, digest: str, file: IO[bytes]) -> None:
        shared.fetch(path, digest, file)
        if not emptied:
            emptied.append(shutil.rmtree(cache.root))

    cache.fill(MODEL, WANTED, fetch)

    assert held(cache) == WHOLE
    assert shared.asked == ["model.tflite", "model.tflite", "saved_model/variables/data"]


def test_a_fetch_that_fails_leaves_what_was_whole_and_nothing_of_its_own(cache: ModelCache) -> None:
    cache.fill(MODEL, {"model.tflite": WANTED["model.tflite"]}, Shared().fetch)

    def fetch(path: str, digest: str, file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise StoreUnavailableError("the store went away")

    with pytest.raises(StoreUnavailableError, match="went away"):
        cache.fill(MODEL, WANTED, fetch)
    assert held(cache) == {"cats/1/model.tflite": CONTENT["model.tflite"]}


def test_a_disk_without_room_is_one_clear_error_and_no_half_of_a_file(cache: ModelCache) -> None:
    def fetch(path: str, digest: str, file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ModelFilesError) as raised:
        cache.fill(MODEL, WANTED, fetch)

    assert str(raised.value) == (
        f"the model cache {cache.root} cannot be written: No space left on device; give it room and rights, or set "
        "NIGHTLABEL_MODEL_CACHE to another folder"
    )
    assert held(cache) == {}


def test_a_cache_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ModelFilesError, match=r"model cache .* cannot be written: .*NIGHTLABEL_MODEL_CACHE"):
        ModelCache(tmp_path / "file" / "cache").fill(MODEL, WANTED, Shared().fetch)


def test_many_that_want_the_same_at_once_fetch_it_once(cache: ModelCache) -> None:
    shared, barrier = Shared(), threading.Barrier(6)

    def fetch(path: str, digest: str, file: IO[bytes]) -> None:
        time.sleep(0.05)
        shared.fetch(path, digest, file)

    def want(_: int) -> dict[str, bytes]:
        barrier.wait()
        folder = cache.fill(MODEL, WANTED, fetch)
        return {path: (folder / path).read_bytes() for path in WANTED}

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(want, range(6)))

    assert seen == [CONTENT] * 6
    assert sorted(shared.asked) == sorted(CONTENT)


def test_whoever_fetches_for_too_long_is_not_waited_for(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_LOCK_PATIENCE_S", 0.05)
    is_over, has_begun = threading.Event(), threading.Event()

    def hang(path: str, digest: str, file: IO[bytes]) -> None:
        has_begun.set()
        is_over.wait(30)
        Shared().fetch(path, digest, file)

    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(cache.fill, MODEL, WANTED, hang)
        has_begun.wait(30)
        cache.fill(MODEL, WANTED, Shared().fetch)
        assert WHOLE.items() <= held(cache).items(), "beside what the other one has begun"
        is_over.set()
        stuck.result(30)

    assert held(cache) == WHOLE


def test_what_a_killed_process_left_is_removed_by_the_next_that_fetches(cache: ModelCache) -> None:
    cache.root.mkdir(parents=True)
    of_this, of_another, old = (
        cache.root / f".fetching-{caching._key(model)}-{name}"
        for model, name in ((MODEL, "left"), (ModelId("dogs", "1"), "left"), (ModelId("dogs", "1"), "old"))
    )
    for path in (of_this, of_another, old):
        path.write_bytes(b"half of it")
    os.utime(old, (0, 0))

    cache.fill(MODEL, WANTED, Shared().fetch)

    assert not of_this.exists(), "nobody else fetches this version now"
    assert not old.exists()
    assert of_another.exists(), "somebody may be at work on it"


def test_versions_that_nobody_uses_make_room_and_used_ones_stay(cache: ModelCache) -> None:
    for version in ("1", "2", "3"):
        cache.fill(ModelId("cats", version), WANTED, Shared().fetch)
    for version in ("1", "2", "3"):
        os.utime(cache.root / "cats" / version, (0, 0))
    used = Shared()
    cache.fill(ModelId("cats", "2"), WANTED, used.fetch)
    assert used.asked == []

    cache.fill(ModelId("dogs", "1"), WANTED, Shared().fetch)

    assert sorted(path.relative_to(cache.root).as_posix() for path in cache.root.glob("[!.]*/*")) == [
        "cats/2",
        "dogs/1",
    ]


def test_a_manifest_is_kept_whole_or_not_at_all(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep_manifest(MODEL, b"{}")
    assert held(cache) == {"cats/1/manifest.json": b"{}"}

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    cache.keep_manifest(MODEL, b'{"newer": 1}')
    assert held(cache) == {"cats/1/manifest.json": b"{}"}
