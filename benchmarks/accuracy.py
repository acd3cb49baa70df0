"""Top-1 and top-5 of a model on a folder of photos named ``<WordNet id>_<anything>``, by each engine that it has.

    python benchmarks/accuracy.py FOLDER [--model efficientnet-lite0@1] [--store PLACE] [--engine litert|tensorflow]

The photos go through the decoder and the preprocessing of the nightly job. A label is right when its id is the prefix
of the file's name.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from inference.decoding import decode_image
from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
from inference.models.resolve import load_handle
from inference.ports import ModelHandle
from inference.predicting import predict_batch
from inference.settings import read_settings
from inference.types import ContentDigest, DecodedImage, ImageRef, ModelId
from inference.wiring import open_model_store


def decoded(paths: list[Path], handle: ModelHandle, max_pixels: int) -> Iterator[DecodedImage]:
    for path in paths:
        data = path.read_bytes()
        ref = ImageRef("", path.name, "", len(data))
        pixels = decode_image(data, handle.preprocessing, max_pixels=max_pixels)
        yield DecodedImage(ref, pixels, ContentDigest(hashlib.sha256(data).digest()))


def measure(paths: list[Path], handle: ModelHandle, max_pixels: int) -> str:
    top1 = top5 = 0
    images = list(decoded(paths, handle, max_pixels))
    started = time.perf_counter()
    for start in range(0, len(images), handle.best_batch_size):
        for prediction in predict_batch(images[start : start + handle.best_batch_size], handle, top_k=5):
            right = prediction.ref.key.partition("_")[0]
            ids = [scored.label.label_id for scored in prediction.top]
            top1 += ids[0] == right
            top5 += right in ids
    seconds = time.perf_counter() - started
    return (
        f"{handle.model_id} in {handle.engine:<10}  {len(paths)} photos  top-1 {top1 / len(paths):.4f}  "
        f"top-5 {top5 / len(paths):.4f}  {len(paths) / seconds:.0f} images/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--store", default=None, help="default: NIGHTLABEL_MODEL_STORE")
    parser.add_argument("--engine", choices=("litert", "tensorflow"), action="append")
    arguments = parser.parse_args()

    settings = read_settings()
    store = open_model_store(settings, place=arguments.store)
    name, _, version = arguments.model.partition("@")
    model = ModelId(name, version)
    if model == BUNDLED_MODEL:
        ensure_default_model(store)
    manifest = store.read_manifest(model)
    paths = sorted(path for path in arguments.folder.iterdir() if path.is_file())
    for engine in arguments.engine or sorted(manifest.engines):
        handle = load_handle(manifest, store.check_files(manifest, engine), engine, settings.engine_threads)
        print(measure(paths, handle, settings.max_pixels))


if __name__ == "__main__":
    main()
