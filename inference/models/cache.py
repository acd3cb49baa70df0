"""models: this host's copies of what a shared model store holds, in a folder. Adapter, on disk.

Nothing in the folder is taken on trust: a file counts as long as it has its SHA-256, and what has not is fetched anew
and put into place by renaming, so that nobody reads a part of it. So the folder may be emptied at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeAlias
from uuid import uuid4

from inference.errors import ModelFilesError
from inference.models.manifest import MANIFEST_NAME
from inference.models.store import hash_file, write_whole
from inference.types import ModelId

logger = logging.getLogger(__name__)

Fetch: TypeAlias = Callable[[str, str, IO[bytes]], None]
"""Writes the file of a path and a SHA-256 into an open file, or raises: what it wrote has that SHA-256."""

UNUSED_AGE_S: Final = 30 * 86_400.0
"""After so long without a use a version's copy makes room for others."""
_LEFTOVER_AGE_S: Final = 6 * 3600.0
"""After so long nobody can still be writing a part of a file."""
_LOCK_PATIENCE_S: Final = 600.0
"""After so long whoever fetches counts as stuck, and others fetch for themselves."""
_LOCK_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ModelCache:
    """Copies of model versions, each in ``<name>/<version>/``, which the processes of a host share."""

    root: Path

    def fill(self, model: ModelId, wanted: Mapping[str, str], fetch: Fetch) -> Path:
        """Make files of a version whole and return the folder that they lie in.

        Several processes that want the same ones wait for the first, which fetches them once.

        Args:
            model: Which version.
            wanted: Relative path with ``/`` -> SHA-256.
            fetch: Gets what is lacking or damaged.

        Raises:
            ModelFilesError: the cache cannot be written.
            InferenceError: as ``fetch``; what is whole stays.
        """
        folder = self._folder_of(model)
        if lacking := _lacking(folder, wanted):
            logger.info("Fetching %d of %d files of %s into %s", len(lacking), len(wanted), model, folder)
            try:
                with self._alone(model) as is_alone:
                    self._remove_leftovers(model, is_alone=is_alone)
                    for path, digest in _lacking(folder, lacking).items():  # others may have fetched meanwhile
                        self._bring(model, folder / path, lambda file, p=path, d=digest: fetch(p, d, file))  # type: ignore[misc]
                self._remove_unused(keep=folder)
            except OSError as error:
                raise self.not_writable(error) from error
        with suppress(OSError):  # it may be another user's
            os.utime(folder)
        return folder

    def keep_manifest(self, model: ModelId, text: bytes) -> None:
        """Keep a copy of a version's manifest; a cache that cannot be written goes without."""
        path = self._folder_of(model) / MANIFEST_NAME
        try:
            if _content(path) != text:
                self._make_way(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, text)
        except OSError as error:
            logger.debug("No copy of the manifest of %s is kept: %s", model, error)

    def not_writable(self, error: OSError) -> ModelFilesError:
        """Return our error for a disk that is full, or that must not be written."""
        return ModelFilesError(
            f"the model cache {self.root} cannot be written: {error.strerror or error}; give it room and rights, or "
            "set NIGHTLABEL_MODEL_CACHE to another folder"
        )

    def _folder_of(self, model: ModelId) -> Path:
        return self.root / model.name / model.version

    def _bring(self, model: ModelId, target: Path, write: Callable[[IO[bytes]], None]) -> None:
        """Put a file into its place in one step."""
        for attempt in (1, 2, 3):
            part = self.root / f".fetching-{_key(model)}-{uuid4().hex}"
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                with part.open("xb") as file:
                    write(file)
                self._make_way(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
            except FileNotFoundError:  # somebody empties the cache meanwhile
                if attempt == 3:
                    raise
            else:
                return
            finally:
                part.unlink(missing_ok=True)

    def _make_way(self, target: Path) -> None:
        """Remove what is a file where a folder has to be, or a folder where the file has to be."""
        for above in reversed(target.relative_to(self.root).parents):
            path = self.root / above
            if path.is_symlink() or path.exists():
                if path.is_dir():
                    continue
                path.unlink(missing_ok=True)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)

    @contextmanager
    def _alone(self, model: ModelId) -> Iterator[bool]:
        """Keep other processes from fetching the same version; whether that is so.

        It saves fetching only: where it is not so, each process puts whole files into place all the same.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f".fill-{_key(model)}").open("w") as file:
            give_up_at = time.monotonic() + _LOCK_PATIENCE_S
            is_alone = False
            while not is_alone:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_alone = True
                except BlockingIOError:
                    if time.monotonic() > give_up_at:
                        logger.warning(
                            "Another process has been fetching %s into %s for %.0f s; fetching it here as well",
                            model,
                            self.root,
                            _LOCK_PATIENCE_S,
                        )
                        break
                    time.sleep(_LOCK_PAUSE_S)
                except OSError as error:
                    logger.debug("The model cache %s knows no locks: %s", self.root, error)
                    break
            yield is_alone

    def _remove_leftovers(self, model: ModelId, *, is_alone: bool) -> None:
        """Remove parts of files that killed processes left."""
        mine = f".fetching-{_key(model)}-"
        for pattern in (".fetching-*", ".building-*", ".damaged-*"):
            for path in self.root.glob(pattern):
                if (is_alone and path.name.startswith(mine)) or _age_s(path) > _LEFTOVER_AGE_S:
                    _remove(path)

    def _remove_unused(self, *, keep: Path) -> None:
        """Remove versions that nobody has used for a month."""
        for folder in self.root.glob("[!.]*/[!.]*"):
            if folder != keep and _age_s(folder) > UNUSED_AGE_S:
                logger.info("Removing %s from the model cache, which nobody has used for a month", folder)
                _remove(folder)
                with suppress(OSError):  # it holds other versions
                    folder.parent.rmdir()


def _lacking(folder: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what of the files that are wanted is not there, or is not what it should be."""
    return {path: digest for path, digest in wanted.items() if _digest(folder / path) != digest}


def _digest(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _key(model: ModelId) -> str:
    """Return a name for a version that is short enough to be part of a file's."""
    return hashlib.sha256(str(model).encode()).hexdigest()[:16]


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
