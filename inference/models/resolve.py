"""models: a manifest and its files -> a loaded model handle. The engine is imported here, when it is chosen."""

from __future__ import annotations

from pathlib import Path

from inference.errors import ModelFilesError
from inference.models.manifest import EngineName, Manifest
from inference.planning import engine_of
from inference.ports import ModelHandle
from inference.settings import available_cores
from inference.types import Device


def engine_for(manifest: Manifest, device: Device) -> EngineName:
    """Return what executes a model on a device: on the CPU LiteRT, or TensorFlow for what LiteRT cannot express.

    A model without an artefact for the GPU's engine is not made to look as if it used the GPU: loading it says so.
    """
    engine = engine_of(device)
    return "tensorflow" if device == "cpu" and engine not in manifest.engines else engine


def load_handle(
    manifest: Manifest,
    folder: Path,
    engine: EngineName = "litert",
    threads: int | None = None,
    *,
    parallel_calls: int | None = None,
) -> ModelHandle:
    """Load a model whose files were checked (``ModelStore.check_files``).

    Args:
        manifest: The model.
        folder: Where its files lie.
        engine: What executes it.
        threads: Cores to use; None for every core of this process.
        parallel_calls: Calls that share them; None for what the engine is fastest with.

    Raises:
        ModelFilesError: no artefact for this engine, or it is not there.
        ModelExecutionError: the engine cannot load it.
        ModelError: the engine is not installed.
    """
    manifest.files_of(engine)  # refuses an engine without artefact
    path = folder / manifest.engines[engine]
    if not path.exists():
        raise ModelFilesError(
            f"{path} of {manifest.model_id} is missing; copy {manifest.model_id} into the store again"
        )
    cores = threads or available_cores()
    if engine == "litert":
        from inference.engines.litert import LiteRTHandle

        return LiteRTHandle(path, manifest.facts, threads=cores, parallel_calls=parallel_calls)
    from inference.engines.tensorflow import TensorFlowHandle

    return TensorFlowHandle(path, manifest.facts, threads=cores)
