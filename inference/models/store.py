"""models: the model store as a folder, with ``<name>/<version>/`` of a manifest and its files. Adapter, on disk.

A version appears whole or not at all: it is built beside and renamed into place. What was half written or damaged since
is refused by its digests. The store in a bucket is ``shared_store``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from inference.errors import ModelFilesError, ModelUnknownError
from inference.models.card import CARD_NAME, model_card
from inference.models.manifest import MANIFEST_NAME, EngineName, Manifest
from inference.types import ModelId

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk, somebody's share of it, or what one file may have is used up."""

_LEFTOVER_AGE_S = 6 * 3600.0


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Return every file below a folder -> SHA-256, by relative path with ``/``, sorted; without manifest and card."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: hash_file(path) for name, path in names.items() if name not in {MANIFEST_NAME, CARD_NAME}}


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Models by name and version below one folder, which several processes may share.

    ``shared_store.SharedModelStore`` is one whose folder is this host's cache of what a bucket holds.
    """

    root: Path

    @property
    def place(self) -> str:
        """Where the models lie, for people."""
        return str(self.root)

    @property
    def is_lasting(self) -> bool:
        """Whether files that were whole just now can be relied on; a cache may be emptied at any time."""
        return True

    def where(self, model: ModelId) -> str:
        """Return where a version lies, or would lie, for people.

        Raises:
            ModelUnknownError: name or version is no folder name.
        """
        self.folder_of(model)
        return f"{self.place}/{model.name}/{model.version}"

    def folder_of(self, model: ModelId) -> Path:
        """Return where a version lies, or would lie.

        Raises:
            ModelUnknownError: name or version is no folder name.
        """
        if not _NAME.fullmatch(model.name) or not _NAME.fullmatch(model.version):
            raise ModelUnknownError(
                f"{str(model)!r} cannot be a model: expected a name and a version of letters, digits, dot, dash and "
                "underscore, as in efficientnet-lite0@1"
            )
        return self.root / model.name / model.version

    def models(self) -> list[ModelId]:
        """Return what the store holds, sorted; the files are not checked."""
        return sorted(
            (
                ModelId(path.parent.parent.name, path.parent.name)
                for path in self.root.glob(f"[!.]*/[!.]*/{MANIFEST_NAME}")
            ),
            key=str,
        )

    def read_manifest(
        self,
        model: ModelId,
        is_registered: Callable[[Manifest], bool] | None = None,  # noqa: ARG002 - there is no cache here
    ) -> Manifest:
        """Return a version's manifest, without checking its files.

        Args:
            model: Which version.
            is_registered: Says whether a manifest is what was registered, where that is known: a copy in a cache that
                is needs no look at the store that it was copied from. Other manifests are returned all the same.

        Raises:
            ModelUnknownError: the store does not hold this version.
            ModelFilesError: its manifest is missing, damaged or another model's.
        """
        folder = self.folder_of(model)
        path = folder / MANIFEST_NAME
        try:
            text = path.read_bytes()
        except FileNotFoundError as error:
            if not folder.is_dir():
                raise ModelUnknownError(unknown_here(self.place, model)) from error
            raise ModelFilesError(f"{path} is missing; register {model} again") from error
        except OSError as error:
            raise ModelFilesError(f"{path} cannot be read: {error.strerror}; check the model store's rights") from error
        return manifest_of(model, text, origin=str(path))

    def check_files(self, manifest: Manifest, engine: EngineName | None = None) -> Path:
        """Compare files with the digests of a manifest and return the folder that they lie in.

        Args:
            manifest: Read from here or from the registry, which knows what was registered.
            engine: Only the files of this engine's artefact; None for every file.

        Raises:
            ModelFilesError: a file is missing or not the registered one; names both digests.
        """
        folder = self.folder_of(manifest.model_id)
        expected = manifest.files if engine is None else manifest.files_of(engine)
        for name, digest in expected.items():
            path = folder / name
            try:
                found = hash_file(path)
            except OSError as error:
                raise ModelFilesError(
                    f"{path} of {manifest.model_id} cannot be read: {error.strerror}, expected a file with SHA-256 "
                    f"{digest}; {how_to_restore(manifest)}"
                ) from error
            if found != digest:
                raise ModelFilesError(
                    f"{path} of {manifest.model_id} has SHA-256 {found}, expected {digest}; {how_to_restore(manifest)}"
                )
        return folder

    def check_store(self, manifest: Manifest) -> None:
        """Compare every file as the store itself holds it, whatever is in a cache, with the digests of a manifest.

        Raises:
            ModelFilesError: a file is missing or not the registered one; names both digests.
        """
        self.check_files(manifest)

    def read_card(self, model: ModelId) -> str:
        """Return the model card of a version; where it is missing it is made of the manifest, and written if it may be.

        Raises:
            ModelUnknownError, ModelFilesError: as of ``read_manifest``.
        """
        path = self.folder_of(model) / CARD_NAME
        manifest = self.read_manifest(model)
        with suppress(OSError):
            return path.read_text(encoding="utf-8")
        card = model_card(manifest)
        with suppress(OSError):
            write_whole(path, card.encode())
        return card

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Lend an empty folder on the store's own disk to build a version in; it is gone afterwards.

        Raises:
            ModelFilesError: the store cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            folder = Path(tempfile.mkdtemp(prefix=".building-", dir=self.root))
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            yield folder
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._not_writable(error) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, folder: Path, manifest: Manifest) -> Manifest:
        """Move a version that was built in a ``workspace`` into its place, in one step.

        A damaged copy there is replaced; a good one with the same files stays.

        Args:
            folder: The workspace, with every file of the manifest.
            manifest: What to write beside the files.

        Returns:
            The manifest that the store now holds.

        Raises:
            ModelFilesError: the store holds another model under this name and version, or cannot be written.
        """
        model, target = manifest.model_id, self.folder_of(manifest.model_id)
        check_built(folder, manifest)
        try:
            folder.chmod(0o755)
            (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
            (folder / CARD_NAME).write_text(model_card(manifest), encoding="utf-8")
            _flush_to_disk(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A few times, because another process may put a copy there between our look and our step.
            for _ in range(5):
                if _renamed(folder, target):
                    _flush_folder(target.parent)
                    return manifest
                present = self._good_copy(model)
                if present is None:
                    self._put_aside(target)
                elif difference := present.difference(manifest):
                    raise taken_by_another(str(target), model, difference)
                else:
                    return present
        except OSError as error:
            raise self._not_writable(error) from error
        raise ModelFilesError(f"{target} is changed by other processes all the time; stop them and register again")

    @contextmanager
    def locked(self, model: ModelId) -> Iterator[None]:
        """Keep other processes from building the same version meanwhile; they wait.

        It saves work only: without it, on a disk that knows no locks, ``add`` still ends with one good copy.

        Raises:
            ModelFilesError: the store cannot be written.
        """
        self.folder_of(model)  # refuses a name that would lead elsewhere
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / f".lock-{model.name}-{model.version}").open("w")
        except OSError as error:
            raise self._not_writable(error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                logger.debug("The model store %s knows no locks: %s", self.root, error)
            yield

    def _good_copy(self, model: ModelId) -> Manifest | None:
        try:
            manifest = self.read_manifest(model)
            self.check_files(manifest)
        except (ModelFilesError, ModelUnknownError):
            return None
        return manifest

    def _put_aside(self, target: Path) -> None:
        aside = self.root / f".damaged-{uuid4().hex}"
        try:
            target.rename(aside)
        except FileNotFoundError:
            return  # another process was faster
        logger.warning("Replaced the damaged files in %s", target)
        shutil.rmtree(aside, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what killed builders left, once it is old enough that none can be alive."""
        for path in (*self.root.glob(".building-*"), *self.root.glob(".damaged-*")):
            try:
                is_old = time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S
            except FileNotFoundError:
                continue
            if is_old:
                shutil.rmtree(path, ignore_errors=True)

    def _not_writable(self, error: OSError) -> ModelFilesError:
        return ModelFilesError(
            f"the model store {self.root} cannot be written: {error.strerror or error}; give it room and rights, or "
            "set NIGHTLABEL_MODEL_STORE to another folder"
        )


def how_to_restore(manifest: Manifest) -> str:
    """Return what to do when files of a version are damaged in the store."""
    return (
        f"bring it back with `python -m inference models copy {manifest.model_id} --from` a store that has it, or with "
        "`python -m inference migrate` if it is the bundled model"
    )


def manifest_of(model: ModelId, text: str | bytes, *, origin: str) -> Manifest:
    """Read the manifest of a version.

    Raises:
        ModelFilesError: it is none, or another model's.
    """
    manifest = Manifest.from_json(text, origin=origin)
    if manifest.model_id != model:
        raise ModelFilesError(f"{origin} describes {manifest.model_id}, expected {model}; register {model} again")
    return manifest


def check_built(folder: Path, manifest: Manifest) -> None:
    """Compare what was built in a workspace with its manifest.

    Raises:
        ModelFilesError: they differ.
    """
    found = hash_files(folder)
    if found != manifest.files:
        changed = sorted(set(found.items()) ^ set(manifest.files.items()))[0][0]
        model = manifest.model_id
        raise ModelFilesError(f"{folder / changed} of {model} is not as its manifest says; build {model} again")


def unknown_here(place: str, model: ModelId) -> str:
    """Return the sentence for a version that a store does not hold."""
    return (
        f"the model store {place} holds no {model}; register it, or point NIGHTLABEL_MODEL_STORE at the store that "
        "holds it"
    )


def taken_by_another(where: str, model: ModelId, difference: str) -> ModelFilesError:
    """Return the error of who adds other files under a name and version that are taken."""
    return ModelFilesError(f"{where} already holds another {model}: {difference}; give the new one another version")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody sees a part of it.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    beside = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _renamed(folder: Path, target: Path) -> bool:
    """Rename a folder unless its target is taken; say whether it was renamed."""
    try:
        folder.rename(target)
    except OSError as error:
        # By the error and not by another look: the target may have been put aside since.
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            return False
        raise
    return True


def _flush_to_disk(folder: Path) -> None:
    """Write files and folders through to the disk, so that a crash leaves all of them or none."""
    for path in folder.rglob("*"):
        _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
