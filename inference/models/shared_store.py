"""models: the model store below a prefix of a bucket, which workers on many hosts share. Adapter, over a port.

``<name>/<version>/files/<SHA-256>`` holds each file, ``<name>/<version>/manifest.json`` says that the version is whole:
it is written last, once, and only where none is, so that of several registrations at once exactly one is the version.
Whatever else happens, a version without manifest is none. Each host reads from a cache (``models.cache``).
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

from inference.errors import (
    InferenceError,
    ModelFilesError,
    ModelUnknownError,
    StoreCredentialsError,
    TransientError,
)
from inference.models.cache import ModelCache
from inference.models.card import CARD_NAME, model_card
from inference.models.manifest import MANIFEST_NAME, EngineName, Manifest
from inference.models.store import (
    ModelStore,
    check_built,
    how_to_restore,
    manifest_of,
    taken_by_another,
    unknown_here,
)
from inference.ports import SharedFiles
from inference.types import ModelId, SharedFile

logger = logging.getLogger(__name__)

_ORPHAN_AGE: Final = timedelta(days=1)
"""After so long no registration can still be about to write the manifest that names a file."""
_MANIFEST_AT_MOST_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_MANIFEST: Final = re.compile(rf"(?P<name>{_NAME})/(?P<version>{_NAME})/{re.escape(MANIFEST_NAME)}")
_FILE: Final = re.compile(rf"(?P<name>{_NAME})/(?P<version>{_NAME})/files/(?P<digest>[0-9a-f]{{64}})")


@dataclass(frozen=True)
class SharedModelStore(ModelStore):
    """Models that hosts share; ``root`` is the folder of this host's copies.

    A task asks the shared store only for what the copies lack: with what was registered at hand, a whole copy needs no
    network. Without it, the shared store is asked for the manifest, and only if it does not answer the copy is used.
    """

    files: SharedFiles

    @property
    def place(self) -> str:
        """Where the models lie, for people: ``s3://bucket/prefix``."""
        return self.files.address

    @property
    def is_lasting(self) -> bool:
        """Not: the copies may be removed between two looks at them."""
        return False

    @property
    def _cache(self) -> ModelCache:
        return ModelCache(self.root)

    def models(self) -> list[ModelId]:
        """Return what the shared store holds, sorted; the files are not checked.

        Raises:
            ConfigurationError, StoreUnavailableError: it cannot be listed.
        """
        found = (_MANIFEST.fullmatch(file.name) for file in self.files.list_files())
        return sorted((ModelId(match["name"], match["version"]) for match in found if match), key=str)

    def read_manifest(self, model: ModelId, is_registered: Callable[[Manifest], bool] | None = None) -> Manifest:
        """Return a version's manifest, without checking its files.

        Raises:
            ModelUnknownError: the shared store does not hold this version.
            ModelFilesError: its manifest is damaged or another model's.
            ConfigurationError: the shared store does not let us.
            StoreUnavailableError: it does not answer, and no copy will do.
        """
        copy = self._copied_manifest(model)
        if copy is not None and is_registered is not None and is_registered(copy):
            return copy
        try:
            text = self._shared_text(model, MANIFEST_NAME)
        except TransientError as error:
            if copy is None or is_registered is not None:
                raise
            logger.warning("Going on with the copy of %s in %s: %s", model, self.root, error)
            return copy
        if text is None:
            raise ModelUnknownError(unknown_here(self.place, model))
        manifest = manifest_of(model, text, origin=self._address(model, MANIFEST_NAME))
        self._cache.keep_manifest(model, text)
        return manifest

    def check_files(self, manifest: Manifest, engine: EngineName | None = None) -> Path:
        """Make this host's copies whole, and return the folder that they lie in.

        Args:
            manifest: As of ``ModelStore.check_files``.
            engine: Only the files of this engine's artefact are needed; None for every file.

        Raises:
            ModelFilesError: the shared store holds a damaged file or lacks it, or the cache cannot be written.
            ConfigurationError: the shared store does not let us.
            StoreUnavailableError: a copy is not whole, and the shared store does not answer.
        """
        self.folder_of(manifest.model_id)  # refuses a name that would lead elsewhere
        wanted = manifest.files if engine is None else manifest.files_of(engine)
        return self._cache.fill(
            manifest.model_id, wanted, lambda path, digest, file: self._fetch(manifest, path, digest, file)
        )

    def check_store(self, manifest: Manifest) -> None:
        """Read every file of a version in the shared store, and compare it with the digests of a manifest.

        Raises:
            ModelFilesError: a file is missing or not the registered one; names both digests.
            ConfigurationError, StoreUnavailableError: the shared store cannot be read.
        """
        for path, digest in manifest.files.items():
            self._fetch(manifest, path, digest, None)

    def read_card(self, model: ModelId) -> str:
        """Return the model card of a version; where it is missing it is made of the manifest, and written if it may be.

        Raises:
            ModelUnknownError, ModelFilesError, ConfigurationError, StoreUnavailableError: as of ``read_manifest``.
        """
        manifest = self.read_manifest(model)
        try:
            text = self._shared_text(model, CARD_NAME)
        except TransientError:
            return model_card(manifest)
        if text is not None:
            return text.decode(errors="replace")
        self._write_card(manifest)
        return model_card(manifest)

    def add(self, folder: Path, manifest: Manifest) -> Manifest:
        """Put a version that was built in a ``workspace`` into the shared store: its files first, the manifest last.

        Files that are missing or damaged there are replaced if the version is the same.

        Args:
            folder: The workspace, with every file of the manifest.
            manifest: What to write beside the files.

        Returns:
            The manifest that the shared store now holds.

        Raises:
            ModelFilesError: the shared store holds another model under this name and version.
            ConfigurationError: it does not let us.
            StoreUnavailableError: it does not answer; called again it goes on.
        """
        model = manifest.model_id
        self.folder_of(model)  # refuses a name that would lead elsewhere
        check_built(folder, manifest)
        try:
            present = self._shared_manifest(model)
        except ModelFilesError as error:
            raise ModelFilesError(
                f"{self._address(model, MANIFEST_NAME)} is no manifest of {model}, and nothing there is ever replaced; "
                f"delete it, then register {model} again"
            ) from error
        self._refuse_another(present, manifest)
        self._remove_orphans()
        self._put_files(folder, manifest, manifest.files)

        self.files.put_new(_name(model, MANIFEST_NAME), manifest.to_json().encode())
        # What is there decides, and not the answer: that may have been lost, or the store may know no conditions.
        present = self._shared_manifest(model)
        if present is None:
            raise ModelFilesError(
                f"{self._address(model, MANIFEST_NAME)} was written and is not there; see whether somebody removes "
                f"{model} from the model store, and register it again"
            )
        try:
            self._refuse_another(present, manifest)
        except ModelFilesError:
            self._remove(model, set(manifest.files.values()) - set(present.files.values()))
            raise
        held = {file.name for file in self.files.list_files()}
        # Another host may have taken an older copy of one for an orphan, just before it was written again.
        self._put_files(
            folder, manifest, {p: digest for p, digest in manifest.files.items() if _file(model, digest) not in held}
        )
        if _name(model, CARD_NAME) not in held:
            self._write_card(present)
        self._keep_copies(folder, present)
        return present

    def _put_files(self, folder: Path, manifest: Manifest, files: dict[str, str]) -> None:
        for digest, path in {digest: path for path, digest in files.items()}.items():
            try:
                self.files.put(_file(manifest.model_id, digest), folder / path)
            except OSError as error:
                raise self._not_writable(error) from error

    def _keep_copies(self, folder: Path, manifest: Manifest) -> None:
        """Fill the cache from a workspace; it has room for the files, or the next task fetches them."""

        def copy(path: str, _: str, file: IO[bytes]) -> None:
            with (folder / path).open("rb") as source:
                shutil.copyfileobj(source, file)

        self._cache.keep_manifest(manifest.model_id, manifest.to_json().encode())
        with suppress(ModelFilesError):
            self._cache.fill(manifest.model_id, manifest.files, copy)

    def _write_card(self, manifest: Manifest) -> None:
        """Write the model card unless there is one; who may only read goes without."""
        try:
            self.files.put_new(_name(manifest.model_id, CARD_NAME), model_card(manifest).encode())
        except InferenceError as error:
            logger.debug("The model card of %s was not written: %s", manifest.model_id, error)

    def _refuse_another(self, present: Manifest | None, manifest: Manifest) -> None:
        if present is not None and (difference := present.difference(manifest)):
            raise taken_by_another(self.where(manifest.model_id), manifest.model_id, difference)

    def _remove_orphans(self) -> None:
        """Remove files that no manifest names: what was left where a registration was killed, or lost to another."""
        # Another host may finish registering one between the listing and the removal: the first look only spares most
        # files the second, which is made right before.
        named: dict[ModelId, set[str] | None] = {}
        for file in list(self.files.list_files()):
            match = _FILE.fullmatch(file.name)
            if not match or not _is_old(file):
                continue
            model, digest = ModelId(match["name"], match["version"]), match["digest"]
            if model not in named:
                named[model] = self._named_digests(model)
            if self._lacks(named[model], digest) and self._is_orphan_still(model, digest):
                self._remove(model, {digest})

    def _is_orphan_still(self, model: ModelId, digest: str) -> bool:
        """Look again at a file that no manifest named: has it been written anew, or named, meanwhile?"""
        name = _file(model, digest)
        is_old = any(_is_old(file) for file in self.files.list_files(name) if file.name == name)
        return is_old and self._lacks(self._named_digests(model), digest)

    @staticmethod
    def _lacks(named: set[str] | None, digest: str) -> bool:
        return named is not None and digest not in named

    def _named_digests(self, model: ModelId) -> set[str] | None:
        """Return the digests that a version's manifest names; None if that cannot be told."""
        try:
            manifest = self._shared_manifest(model)
        except ModelFilesError:
            return None
        return set() if manifest is None else set(manifest.files.values())

    def _remove(self, model: ModelId, digests: set[str]) -> None:
        for digest in sorted(digests):
            try:
                self.files.remove(_file(model, digest))
            except StoreCredentialsError as error:
                logger.warning("%s stays, which no manifest names: %s", self._address(model, f"files/{digest}"), error)

    def _fetch(self, manifest: Manifest, path: str, digest: str, into: IO[bytes] | None) -> None:
        """Read a file of the shared store to its end, and compare it.

        Raises:
            ModelFilesError: it is missing, or has another SHA-256.
        """
        model, found = manifest.model_id, hashlib.sha256()
        where = f"{self._address(model, f'files/{digest}')}, which is {path} of {model},"
        pieces = self.files.read(_file(model, digest))
        while True:
            try:
                piece = next(pieces, b"")
            except FileNotFoundError as error:
                raise ModelFilesError(
                    f"{where} is missing, expected a file with SHA-256 {digest}; {how_to_restore(manifest)}"
                ) from error
            if not piece:
                break
            found.update(piece)
            if into is not None:
                into.write(piece)
        if found.hexdigest() != digest:
            raise ModelFilesError(
                f"{where} has SHA-256 {found.hexdigest()}, expected {digest}; {how_to_restore(manifest)}"
            )

    def _copied_manifest(self, model: ModelId) -> Manifest | None:
        try:
            return ModelStore.read_manifest(self, model)
        except (ModelFilesError, ModelUnknownError):
            self.folder_of(model)  # refuses a name that would lead elsewhere
            return None

    def _shared_manifest(self, model: ModelId) -> Manifest | None:
        """Return the manifest in the shared store; None if it holds no such version."""
        text = self._shared_text(model, MANIFEST_NAME)
        return None if text is None else manifest_of(model, text, origin=self._address(model, MANIFEST_NAME))

    def _shared_text(self, model: ModelId, name: str) -> bytes | None:
        """Return a small file of a version; None if it is not there."""
        text = bytearray()
        try:
            for piece in self.files.read(_name(model, name)):
                text += piece
                if len(text) > _MANIFEST_AT_MOST_BYTES:
                    raise ModelFilesError(
                        f"{self._address(model, name)} has more than {_MANIFEST_AT_MOST_BYTES:,} bytes, which no such "
                        f"file has; register {model} again"
                    )
        except FileNotFoundError:
            return None
        return bytes(text)

    def _address(self, model: ModelId, name: str) -> str:
        return f"{self.place}/{_name(model, name)}"

    def _not_writable(self, error: OSError) -> ModelFilesError:
        return self._cache.not_writable(error)


def _name(model: ModelId, name: str) -> str:
    return f"{model.name}/{model.version}/{name}"


def _is_old(file: SharedFile) -> bool:
    return datetime.now(UTC) - file.last_modified >= _ORPHAN_AGE


def _file(model: ModelId, digest: str) -> str:
    return _name(model, f"files/{digest}")
