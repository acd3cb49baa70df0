"""models: what was given as a model's source -> its files in a folder, with their SHA-256. Reads disk and a store.

What is recognised is judged by content, not by name. A format that carries pickled code is refused: reading one runs
whatever its author wanted to run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Literal, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from inference.errors import ModelSourceError
from inference.models.archives import BROKEN, MAX_BYTES, MAX_FILES, ZIP_START, extract, is_archive
from inference.ports import ObjectSource
from inference.types import ListedObject

SourceKind: TypeAlias = Literal["saved_model", "keras", "litert"]
Progress: TypeAlias = Callable[[str], None]
"""Called with a few words on what is being done."""

SAVED_MODEL_FILE: Final = "saved_model.pb"
HUB_FORMAT_FILE: Final = "tfhub_module.pb"

_SAVED_MODEL_PARTS: Final = frozenset(
    {SAVED_MODEL_FILE, HUB_FORMAT_FILE, "variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb"}
)
_PIECE_BYTES: Final = 1024 * 1024

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_PICKLE_NAMES: Final = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin"})
_PICKLED_ENTRY: Final = "data.pkl"
"""What PyTorch's zip files hold."""
_LITERT_MAGIC: Final = b"TFL3"

_KAGGLE_FRAMEWORKS: Final = r"(?:tensorFlow2|tensorFlow1|tfLite|keras)"
_KAGGLE: Final = re.compile(rf"[\w-]+/[\w.-]+/{_KAGGLE_FRAMEWORKS}/[\w.-]+(?:/\d+)?", re.IGNORECASE)
_KAGGLE_MODELS: Final = "https://www.kaggle.com/models/"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_MAX_CONFIG_BYTES: Final = 16 * 1024 * 1024
"""Longest description of a Keras model's layers that is read; a thousand layers take some 700 KB."""

_KERAS_MODULES: Final = re.compile(r"(?:keras|builtins)(?:\..*)?")


class SourceObjects(ObjectSource, Protocol):
    """Objects of a store, listed and read one by one."""

    def open(self, bucket: str, key: str) -> IO[bytes]:
        """Return an object's bytes as a stream; raises as ``ports.ObjectReader.open``."""
        ...


@dataclass(frozen=True, slots=True)
class FetchedSource:
    """A model's source on this machine's disk."""

    kind: SourceKind
    path: Path
    """The SavedModel's folder, or the file."""
    sha256: str
    """Of the file or archive as it was given; of a folder as ``digest_of_folder`` makes it."""


def hub_handle(source: str, *, has_digest: bool) -> str | None:
    """Return the handle that tensorflow-hub resolves, or None for a path or an address in a store.

    Args:
        source: What was given: a URL, or Kaggle's short form ``publisher/model/tensorFlow2/variation/version``.
        has_digest: Whether the SHA-256 of what comes is known, so that somebody on the way could change nothing.

    Raises:
        ModelSourceError: a URL that must not be fetched, or of a kind that is not known.
    """
    scheme, mark, _ = source.partition("://")
    if not mark:
        if _KAGGLE.fullmatch(source) and not Path(source).exists():
            return f"{_KAGGLE_MODELS}{source}"
        return None
    if scheme == "s3":
        return None
    try:
        parts = urlsplit(source)
        host = parts.hostname
    except ValueError as error:
        raise ModelSourceError(f"{source!r} is no URL ({error}); correct it") from None
    if scheme not in {"http", "https"} or not host:
        raise ModelSourceError(
            f"{source!r} is no source of a model; give a TensorFlow Hub or Kaggle handle (https://…), a path, or "
            "s3://bucket/key"
        )
    if parts.username or parts.password:
        raise ModelSourceError(
            "the handle holds a user or password, which would be kept with the model; put the file into a bucket "
            "and give its s3:// address"
        )
    if scheme == "http" and host not in _LOOPBACK and not has_digest:
        raise ModelSourceError(
            f"{source} comes over plain HTTP, where anybody on the way can change it; give its https:// handle, or its "
            "SHA-256 with --sha256"
        )
    # tensorflow-hub adds this itself.
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "tf-hub-format"])
    return urlunsplit(parts._replace(query=query, fragment=""))


def check_remote(source: str, labels: str | None) -> str:
    """Return a source that is fetched from elsewhere, a short Kaggle handle written out; a path is refused.

    For whoever may name a source and must not read this machine's files.

    Raises:
        ModelSourceError: the source is a path or comes over plain HTTP, or the labels are a file here.
    """
    if _KAGGLE.fullmatch(source):
        source = f"{_KAGGLE_MODELS}{source}"
    if not source.startswith(("https://", "s3://")):
        raise ModelSourceError(
            f"the source {without_query(source)!r} is neither a TensorFlow Hub or Kaggle handle (https://…) nor "
            "s3://bucket/key; put a file into a bucket, or register it with `python -m inference models register`"
        )
    if labels and labels != "imagenet" and not labels.startswith("s3://"):
        raise ModelSourceError(
            f"the labels {labels!r} are neither imagenet nor s3://bucket/key; put the file into a bucket"
        )
    return source


def without_query(source: str) -> str:
    """Return a source as it may be kept and shown: the query of a URL can be what lets anybody fetch it."""
    if not source.startswith(("http://", "https://")):
        return source
    return source.partition("?")[0].partition("#")[0]


def fetch_source(source: str, folder: Path, objects: SourceObjects | None, progress: Progress) -> FetchedSource:
    """Copy a source from disk or from a store, extract it if it is an archive, and recognise it.

    Args:
        source: A path, or ``s3://bucket/key``; of a folder ``s3://bucket/prefix``.
        folder: Empty; everything goes below it.
        objects: The store; None where ``source`` is a path.
        progress: Told what is being done.

    Raises:
        ModelSourceError: there is nothing, or nothing that can be used.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ports.ObjectReader``.
    """
    given = folder / "given"
    if source.startswith("s3://"):
        if objects is None:
            raise TypeError("an address in a store was given without the store")
        digest = _download(source, given, objects, progress)
    else:
        digest = _copy(source, given, progress)
    return recognise(given, folder, digest, source)


def recognise(given: Path, folder: Path, digest: str, source: str) -> FetchedSource:
    """Return what a file or folder is, after extracting it if it is an archive.

    Args:
        given: The file or folder as it was fetched.
        folder: Where an archive is extracted to, under the name ``extracted``.
        digest: SHA-256 of what was fetched.
        source: Where it came from, for messages.

    Raises:
        ModelSourceError: nothing that can be used.
    """
    if given.is_dir():
        return _found_in(given, digest, source)
    kind = _kind_of_file(given, source)
    if kind is not None:
        return FetchedSource(kind, given, digest)
    if not is_archive(given):
        with given.open("rb") as file:
            start = file.read(40)
        raise ModelSourceError(
            f"{source} is no model that is known here: it begins with {start!r}; give a SavedModel (folder, .tar.gz or "
            ".zip), a .keras file or a .tflite file"
        )
    extracted = folder / "extracted"
    extracted.mkdir()
    extract(given, extracted)
    given.unlink()
    return _found_in(extracted, digest, source)


def digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 over a folder's files: of the lines that ``sha256sum`` prints, by the bytes of their paths."""
    total = hashlib.sha256()
    names = sorted(os.fsencode(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    for name in names:
        with (folder / os.fsdecode(name)).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(digest.encode() + b"  " + name + b"\n")
    return total.hexdigest()


def check_digest(found: str, expected: str | None, source: str) -> None:
    """Compare a source's SHA-256 with the one that was given.

    Raises:
        ModelSourceError: they differ; names both.
    """
    if expected is not None and found != expected.lower():
        raise ModelSourceError(
            f"{source} has SHA-256 {found}, expected {expected.lower()}: it was altered or is another file; fetch it "
            "from where the digest comes from"
        )


def fetch_photos(address: str, folder: Path, objects: SourceObjects | None, *, most: int) -> list[Path]:
    """Copy photos from a folder, or from under a prefix of a store, in the order of their names.

    Args:
        address: Folder, or ``s3://bucket/prefix``.
        folder: Where to; files get numbers for names.
        objects: The store; None where ``address`` is a path.
        most: How many at most; of more, every n-th.

    Raises:
        ModelSourceError: no such folder or prefix, or nothing in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for number, (name, stream) in enumerate(_spread(_files_at(address, objects), most)):
        target = folder / f"{number:06}{PurePosixPath(name).suffix[:8]}"
        with stream() as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _PIECE_BYTES)
        copied.append(target)
    if not copied:
        raise ModelSourceError(f"there are no photos in {address}; give a folder or s3://bucket/prefix that holds some")
    return copied


def read_file(address: str, what: str, objects: SourceObjects | None, *, max_bytes: int) -> bytes:
    """Return a small file, from disk or a store.

    Raises:
        ModelSourceError: it is not there, must not be read, or is too large.
    """
    try:
        place = _place(address)
        stream = open(address, "rb") if place is None else _store(objects).open(*place)  # noqa: SIM115 - closed below
        with stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise ModelSourceError(
            f"the {what} {address} cannot be read ({error.strerror or error}); correct the address"
        ) from error
    if len(data) > max_bytes:
        raise ModelSourceError(f"the {what} {address} has more than {max_bytes:,} bytes; correct the address")
    return data


def keep_saved_model(source: Path, target: Path) -> None:
    """Move a SavedModel's own parts to another place; what else lies beside them stays."""
    target.mkdir()
    for path in source.iterdir():
        if path.name in _SAVED_MODEL_PARTS:
            shutil.move(path, target / path.name)


def _copy(source: str, given: Path, progress: Progress) -> str:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            progress(f"copying {source}")
            given.mkdir()
            size = 0
            for count, name in enumerate(_files_below(path), 1):
                size += name.stat().st_size
                if count > MAX_FILES or size > MAX_BYTES:
                    raise ModelSourceError(
                        f"{source} holds more than {MAX_FILES:,} files or {MAX_BYTES:,} bytes, which no model has; "
                        "give the folder of the SavedModel alone"
                    )
                target = given / name.relative_to(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, target)
            return digest_of_folder(given)
        with path.open("rb") as file:
            progress(f"copying {source}")
            return _write(file, given, source)
    except FileNotFoundError:
        raise ModelSourceError(
            f"there is no {source}: it is no path on this machine, no s3:// address and no TensorFlow Hub or Kaggle "
            "handle; correct it"
        ) from None
    except PermissionError as error:
        raise ModelSourceError(f"{source} must not be read ({error.strerror}); allow it") from error


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; links are followed, as whoever runs this may read them anyway."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if len(Path(root).relative_to(folder).parts) > 16:
            raise ModelSourceError(f"{folder} holds folders in folders without end; give the SavedModel's own folder")
        for name in sorted(names):
            yield Path(root, name)


def _download(source: str, given: Path, objects: SourceObjects, progress: Progress) -> str:
    bucket, key = _place(source) or ("", "")
    if key and not key.endswith("/"):
        try:
            stream = objects.open(bucket, key)
        except FileNotFoundError:
            key += "/"
        except PermissionError as error:
            raise ModelSourceError(f"{source} must not be read ({error}); allow it") from error
        else:
            progress(f"fetching {source}")
            with stream:
                return _write(stream, given, source)
    progress(f"fetching {source}")
    size = 0
    listed = _listed(objects, bucket, key)
    if not listed:
        raise ModelSourceError(f"there is no object {source} and none under it; correct the address")
    for entry in listed:
        parts = PurePosixPath(entry.key[len(key) :]).parts
        size += entry.size_bytes
        if not parts or entry.key.endswith("/"):
            continue
        if ".." in parts or parts[0] == "/" or any("\\" in part or "\x00" in part for part in parts):
            raise ModelSourceError(f"the key {entry.key!r} leads out of the folder of a model; give the model alone")
        if size > MAX_BYTES:
            raise ModelSourceError(f"{source} holds more than {MAX_BYTES:,} bytes, which no model has")
        target = given.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with objects.open(bucket, entry.key) as stream:
            _write(stream, target, f"s3://{bucket}/{entry.key}")
    given.mkdir(exist_ok=True)
    return digest_of_folder(given)


def _listed(objects: SourceObjects, bucket: str, prefix: str) -> list[ListedObject]:
    listed: list[ListedObject] = []
    for page in objects.list_pages(bucket, prefix):
        listed += page
        if len(listed) > MAX_FILES:
            raise ModelSourceError(
                f"s3://{bucket}/{prefix} holds more than {MAX_FILES:,} objects; give the prefix of what is meant alone"
            )
    return sorted(listed, key=lambda entry: entry.key)


def _write(stream: IO[bytes], target: Path, source: str) -> str:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while piece := stream.read(_PIECE_BYTES):
            size += len(piece)
            if size > MAX_BYTES:
                raise ModelSourceError(f"{source} has more than {MAX_BYTES:,} bytes, which no model has")
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _found_in(folder: Path, digest: str, source: str) -> FetchedSource:
    """Return the one model below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    saved = [path.parent for path in files if path.name == SAVED_MODEL_FILE]
    if len(saved) == 1:
        return FetchedSource("saved_model", saved[0], digest)
    if len(saved) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in saved[:3])
        raise ModelSourceError(f"{source} holds {len(saved)} SavedModels ({names}, …); give one of them")
    found = [(kind, path) for path in files if (kind := _kind_of_file(path, f"{source}, {path.name},")) is not None]
    if len(found) == 1:
        return FetchedSource(found[0][0], found[0][1], digest)
    held = ", ".join(path.relative_to(folder).as_posix() for path in files[:5]) or "nothing"
    raise ModelSourceError(
        f"{source} holds no {SAVED_MODEL_FILE}, and {len(found) or 'no'} .keras and .tflite files; found {held[:200]}; "
        "give one model"
    )


def _kind_of_file(path: Path, source: str) -> SourceKind | None:
    """Return what a single file is; None for what may be an archive.

    Raises:
        ModelSourceError: it carries pickled code, or may.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:8] == _LITERT_MAGIC:
        return "litert"
    if start == _HDF5:
        raise _pickled(source, "a legacy Keras file (HDF5), which may hold pickled code", "save it as .keras")
    if _PICKLE.match(start) or path.suffix.lower() in _PICKLE_NAMES or Path(source).suffix.lower() in _PICKLE_NAMES:
        raise _pickled(source, "a pickle, which runs code when it is read", "export the model as a SavedModel")
    if start.startswith(ZIP_START):
        try:
            with zipfile.ZipFile(path) as packed:
                names = packed.namelist()
                if any(PurePosixPath(name).name == _PICKLED_ENTRY for name in names):
                    raise _pickled(source, "a PyTorch file with a pickle in it", "export the model as a SavedModel")
                if "config.json" in names and "metadata.json" in names:
                    with packed.open("config.json") as config:
                        check_keras_config(config.read(_MAX_CONFIG_BYTES + 1), source)
                    return "keras"
        except BROKEN as error:
            raise ModelSourceError(f"{source} is a damaged or encrypted archive ({error}); pack it anew") from error
    return None


def check_keras_config(config: bytes, source: str) -> None:
    """Refuse a ``.keras`` file whose layers bring code of their own; what Keras' safe mode refuses again later.

    Raises:
        ModelSourceError: a Lambda layer, or a class from elsewhere than Keras.
    """
    if len(config) > _MAX_CONFIG_BYTES:
        raise ModelSourceError(
            f"the layers of {source} take more than {_MAX_CONFIG_BYTES:,} bytes, as of no classifier"
        )
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ModelSourceError(f"{source} is a damaged .keras file ({error}); save it anew") from error
    for node in _nodes(parsed):
        name = node.get("class_name")
        if name in {"Lambda", "__lambda__"}:
            raise _pickled(
                source, "a .keras file with a Lambda layer, which is pickled code", "write it as a layer of Keras' own"
            )
        module = node.get("module")
        if isinstance(module, str) and isinstance(name, str) and not _KERAS_MODULES.fullmatch(module):
            raise ModelSourceError(
                f"{source} uses {module}.{name}, which is no part of Keras and would be code from elsewhere; export "
                "the model as a SavedModel"
            )


def _nodes(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - whatever JSON holds
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _pickled(source: str, what: str, advice: str) -> ModelSourceError:
    return ModelSourceError(f"{source} is {what}; {advice}")


def _place(address: str) -> tuple[str, str] | None:
    """Return bucket and key of ``s3://bucket/key``; None for a path."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return None
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ModelSourceError(f"{address!r} is neither a path nor s3://bucket/key; correct it")
    return bucket, key


def _store(objects: SourceObjects | None) -> SourceObjects:
    if objects is None:
        raise TypeError("an address in a store was given without the store")
    return objects


def _files_at(address: str, objects: SourceObjects | None) -> Sequence[tuple[str, Callable[[], IO[bytes]]]]:
    place = _place(address)
    if place is None:
        folder = Path(address).expanduser()
        if not folder.is_dir():
            raise ModelSourceError(f"there is no folder {address}; give a folder of photos or s3://bucket/prefix")
        return [(path.name, lambda path=path: path.open("rb")) for path in _files_below(folder)]  # type: ignore[misc]
    store = _store(objects)
    bucket, prefix = place
    return [
        (entry.key, lambda key=entry.key: store.open(bucket, key))  # type: ignore[misc]
        for entry in _listed(store, bucket, prefix)
        if not entry.key.endswith("/")
    ]


def _spread(
    files: Sequence[tuple[str, Callable[[], IO[bytes]]]], most: int
) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    for number in range(min(len(files), most)):
        yield files[number * len(files) // min(len(files), most)]
