"""models: a source that somebody names -> a version in the model store, whole or not at all. Opens no database.

Fetched, converted and asked beside the store, under its lock; put into its place in one step by ``Prepared.put``. A
process that dies before leaves a folder that is tidied up later, and no version. Registering the same again is no work.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.errors import ModelError, ModelFilesError, ModelSourceError, ModelUnknownError, SettingsError
from inference.models.families import check_preprocessing, settle
from inference.models.labels import IMAGENET, MAX_LABELS_BYTES, fit_labels, imagenet_labels, read_labels
from inference.models.manifest import INSTALLED_PHOTOS, Manifest
from inference.models.source_files import (
    FetchedSource,
    Progress,
    SourceObjects,
    check_digest,
    fetch_photos,
    fetch_source,
    hub_handle,
    read_file,
    without_query,
)
from inference.models.store import ModelStore
from inference.models.tensorflow_child import in_child
from inference.types import LabelMap, RegistrationRequest

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 3600.0
"""Most seconds for fetching a handle and converting; a model of 3 GB in 8 bits takes most of them."""

MOST_GOLDEN: Final = 500
"""Golden photos that conversion and original are compared on; of more, every n-th."""

MOST_CALIBRATION: Final = 200
"""Photos that activations are measured on; more changes little."""

_EXTRAS: Final = "pip install 'nightlabel[tensorflow]'"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that is ready to be put into the store, or is there already."""

    manifest: Manifest
    put: Callable[[], Manifest]
    """Puts it there, in one step; returns the manifest that the store now holds."""


def check_registration(request: RegistrationRequest) -> None:
    """Refuse a registration that cannot mean anything, before anything is fetched.

    Raises:
        SettingsError: names what is missing or wrong.
    """
    check_preprocessing(request)
    if not request.source:
        raise SettingsError("no source is given; give a TensorFlow Hub or Kaggle handle, a path, or s3://bucket/key")
    if not request.labels:
        raise SettingsError(
            "no labels are given; give --labels with a file (CSV with label_id and name, or a name on each line), or "
            f"--labels {IMAGENET} for ImageNet's 1,000 classes in the order of their WordNet ids"
        )
    if request.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", request.sha256):
        raise SettingsError(f"the SHA-256 is {request.sha256!r}; give 64 hexadecimal digits")
    if request.calibration is not None and not request.int8:
        raise SettingsError("calibration photos are given and the version is not to be in 8 bits; give --int8 as well")
    if not request.licence:
        raise SettingsError("the licence is empty; name it, or leave it away")


@contextmanager
def prepared(
    request: RegistrationRequest,
    store: ModelStore,
    objects: Callable[[], SourceObjects],
    *,
    progress: Progress,
) -> Iterator[Prepared]:
    """Lend a version made out of a source, until the block ends; what was not put into the store is gone then.

    Other registrations of the same version wait for the block's end, where the store knows locks.

    Args:
        request: What to register.
        store: Where to.
        objects: Opens the object store, for addresses ``s3://…``.
        progress: Told what is being done.

    Raises:
        SettingsError: what was said of the model is not enough, or does not fit it.
        ModelSourceError: the source, its labels or photos cannot be fetched, or cannot be used.
        ModelConversionError: the conversion gives other answers than the original.
        ModelExecutionError: the model answers with what cannot be right, such as NaN.
        ModelFilesError: the store holds another model under this name and version, or cannot be written.
        ModelError: TensorFlow is not installed, or its process died.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: as of ``ports.ObjectReader``.
    """
    check_registration(request)
    store.folder_of(request.model_id)  # refuses a name that is none
    handle = hub_handle(request.source, has_digest=request.sha256 is not None)
    source = request.source if handle is None else without_query(handle)
    addresses = (request.source, request.labels, request.calibration, request.golden_photos)
    opened = objects() if any(address and address.startswith("s3://") for address in addresses) else None
    labels = _labels(request, opened)
    with store.locked(request.model_id), store.workspace() as folder, store.workspace() as incoming:
        present = _present(store, request)
        if present is not None and (handle is not None and request.sha256 is None):
            # Handles are versioned, and nothing but the handle says what is meant.
            digest = present.origin.sha256 if present.origin and present.source == source else ""
            _check_same(present, request, digest, labels)
            yield Prepared(present, lambda: present)
            return
        fetched = None
        if handle is None:
            fetched = fetch_source(request.source, incoming, opened, progress)
            check_digest(fetched.sha256, request.sha256, request.source)
        if present is not None:
            digest = fetched.sha256 if fetched is not None else str(request.sha256).lower()
            _check_same(present, request, digest, labels)
            yield Prepared(present, lambda: present)
            return
        manifest = _adopted(request, folder, incoming, source, handle, fetched, labels, opened, progress)
        progress("putting it into the store")
        yield Prepared(manifest, lambda: store.add(folder, manifest))


def _labels(request: RegistrationRequest, objects: SourceObjects | None) -> LabelMap:
    address = request.labels or IMAGENET  # `check_registration` has refused none
    if address == IMAGENET:
        return imagenet_labels()
    return read_labels(read_file(address, "file of labels", objects, max_bytes=MAX_LABELS_BYTES), address)


def _present(store: ModelStore, request: RegistrationRequest) -> Manifest | None:
    """Return what the store holds under this name and version, if it is whole."""
    try:
        manifest = store.read_manifest(request.model_id)
        store.check_files(manifest)
    except ModelUnknownError:
        return None
    except ModelFilesError as error:
        logger.warning("Registering %s again: %s", request.model_id, error)
        return None
    return manifest


def _check_same(present: Manifest, request: RegistrationRequest, digest: str, labels: LabelMap) -> None:
    """Refuse another model under the name and version of one that the store holds.

    Raises:
        ModelFilesError: names the first thing that differs.
    """
    origin, size = present.origin, present.preprocessing
    columns = len(present.labels) + present.background_columns
    differs: str | None = None
    if origin is None or origin.sha256 != digest:
        differs = f"it comes from {present.source}"
    elif present.licence != request.licence:
        differs = f"its licence is {present.licence}"
    elif (present.precision == "int8") != request.int8:
        differs = f"its precision is {present.precision}"
    elif request.int8 and origin.calibration != (request.calibration or INSTALLED_PHOTOS):
        differs = f"its activations were measured on {origin.calibration}"
    else:
        try:
            settled = settle(request, (size.height, size.width), columns)
            fitting = fit_labels(labels, columns, settled.background_columns, what=str(present.model_id))
        except (SettingsError, ModelSourceError) as error:
            differs = str(error)
        else:
            given = (
                settled.preprocessing,
                settled.input_scale,
                settled.output,
                settled.background_columns,
            )
            scale = (present.input_scale.mean, present.input_scale.scale)
            if given != (size, scale, present.output, present.background_columns):
                differs = "its preprocessing or output is another"
            elif fitting != present.labels:
                differs = "its label map is another"
    if differs is not None:
        raise ModelFilesError(
            f"the model store already holds another {present.model_id}: {differs}; give the new one another version"
        )


def _adopted(
    request: RegistrationRequest,
    folder: Path,
    incoming: Path,
    source: str,
    handle: str | None,
    fetched: FetchedSource | None,
    labels: LabelMap,
    objects: SourceObjects | None,
    progress: Progress,
) -> Manifest:
    if (fetched is None or fetched.kind != "litert") and importlib.util.find_spec("tensorflow") is None:
        raise ModelError(
            f"{source} has to be converted once and TensorFlow is not installed; {_EXTRAS}, or register it "
            "from a machine that has it, into a store that both see"
        )
    golden: list[Path] = []
    calibration: list[Path] = []
    if request.golden_photos:
        progress(f"fetching photos from {request.golden_photos}")
        golden = fetch_photos(request.golden_photos, incoming / "golden", objects, most=MOST_GOLDEN)
    if request.calibration:
        progress(f"fetching photos from {request.calibration}")
        calibration = fetch_photos(request.calibration, incoming / "calibration", objects, most=MOST_CALIBRATION)
    arguments: dict[str, Any] = {
        "folder": str(folder),
        "incoming": str(incoming),
        "request": dataclasses.asdict(request),
        "labels": [[label.label_id, label.name] for label in labels],
        "source": source,
        "handle": handle,
        "fetched": None
        if fetched is None
        else {"kind": fetched.kind, "path": str(fetched.path), "sha256": fetched.sha256},
        "golden": [str(path) for path in golden],
        "calibration": [str(path) for path in calibration],
    }
    return in_child(
        "adopt",
        f"converting {source}",
        arguments,
        timeout_s=_TIMEOUT_S,
        advice="run it again with -v for what TensorFlow said",
        progress=progress,
    )
