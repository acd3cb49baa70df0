"""How often a JPEG that is decoded at a fraction of its size gets the label of its full decode, and what it saves.

    python benchmarks/shortcuts.py FOLDER [--crops 2000] [--least 1.0 --least 1.5] [--grain 4] [--seed 7]

FOLDER holds photos named ``<WordNet id>_<anything>``. Seeded crops of them are enlarged to what cameras give, as JPEGs
of short sides from 1,030 to 4,600 pixels with a grain as of a sensor, and each is decoded with the shortcut of
``inference.decoding`` and without it; smaller ones would be decoded in full. A label is right when its id is the prefix
of the photo's name. `least` is tried in the place of ``LEAST_SHRUNK``.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from inference import decoding
from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
from inference.models.resolve import load_handle
from inference.ports import ModelHandle
from inference.settings import read_settings
from inference.types import Pixels
from inference.wiring import open_model_store

NEVER = 1e9
"""With so many times the model's input nothing is shrunk."""

SHORT_SIDES = (1030, 4600)
"""Pixels; spread evenly over their logarithm. From the first on every crop is shrunk, to an eighth at the last."""


@dataclass
class Found:
    """What a shortcut did."""

    agreeing: int = 0
    right: int = 0
    largest: float = 0.0
    """Largest difference of the full decode's best score."""
    seconds: float = 0.0
    by_factor: dict[int, list[bool]] = field(default_factory=dict)


def enlarged(paths: list[Path], crops: int, seed: int, grain: float) -> Iterator[tuple[str, bytes, int]]:
    """Yield the id that is right, the JPEG and its crop's side, for each of so many seeded crops."""
    for number in range(crops):
        chance = random.Random(seed * 1_000_003 + number)
        path = paths[number % len(paths)]
        with Image.open(path) as photo:
            picture = photo.convert("RGB")
        share = chance.uniform(0.7, 1.0)
        width, height = round(picture.width * share), round(picture.height * share)
        left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
        short = round(SHORT_SIDES[0] * (SHORT_SIDES[1] / SHORT_SIDES[0]) ** chance.random())
        times = short / min(width, height)
        size = (round(width * times), round(height * times))
        made = picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
        if grain:
            noise = np.random.default_rng(number).normal(0, grain, (size[1], size[0], 1)).astype(np.float32)
            made = Image.fromarray(np.clip(np.asarray(made) + noise, 0, 255).astype(np.uint8))
        out = io.BytesIO()
        made.save(out, "JPEG", quality=chance.choice((75, 85, 92)), subsampling=chance.choice((0, 2)))
        yield path.name.partition("_")[0], out.getvalue(), min(size)


def decoded(data: bytes, handle: ModelHandle, least: float) -> tuple[Pixels, float]:
    """Return the pixels and the seconds that they took."""
    decoding.LEAST_SHRUNK = least  # type: ignore[misc]  # one thread, and no other way to have it both ways
    began = time.perf_counter()
    pixels = decoding.decode_image(data, handle.preprocessing)
    return pixels, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=2_000)
    parser.add_argument("--least", type=float, action="append")
    parser.add_argument("--grain", type=float, default=4.0, help="standard deviation of the noise, of 255")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    tried = arguments.least or [decoding.LEAST_SHRUNK]

    settings = read_settings()
    store = open_model_store(settings)
    manifest = ensure_default_model(store)
    handle = load_handle(manifest, store.check_files(manifest, "litert"), "litert", settings.engine_threads)
    paths = sorted(path for path in arguments.folder.iterdir() if path.is_file())
    columns = {label.label_id: column for column, label in enumerate(handle.labels)}
    found = {least: Found() for least in tried}
    full = Found()
    with ThreadPoolExecutor(1) as ahead:
        waiting = iter(enlarged(paths, arguments.crops, arguments.seed, arguments.grain))
        upcoming = ahead.submit(next, waiting, None)
        for _ in tqdm(range(arguments.crops)):
            made = upcoming.result()
            if made is None:
                break
            upcoming = ahead.submit(next, waiting, None)
            label_id, data, short = made
            pixels, seconds = decoded(data, handle, NEVER)
            variants = [decoded(data, handle, least) for least in tried]
            scores = handle.predict(np.stack([pixels, *(variant for variant, _ in variants)]))
            best = scores.argmax(axis=1)
            full.right += int(best[0]) == columns[label_id]
            full.seconds += seconds
            for number, (least, result) in enumerate(found.items(), start=1):
                side = int(handle.preprocessing.crop_fraction * short)
                factor = next((f for f in (8, 4, 2) if side >= f * least * handle.preprocessing.width), 1)
                is_same = bool(best[number] == best[0])
                result.agreeing += is_same
                result.right += int(best[number]) == columns[label_id]
                result.seconds += variants[number - 1][1]
                result.largest = max(result.largest, abs(float(scores[number, best[0]] - scores[0, best[0]])))
                result.by_factor.setdefault(factor, []).append(is_same)
    crops = arguments.crops
    print(f"{BUNDLED_MODEL}, {crops} crops, grain {arguments.grain:g}, seed {arguments.seed}")
    print(f"full decode   top-1 {full.right / crops:.4f}  {full.seconds / crops * 1e3:.1f} ms an image")
    for least, result in found.items():
        parts = "  ".join(
            f"1/{factor}: {sum(same) / len(same):.4f} of {len(same)}"
            for factor, same in sorted(result.by_factor.items())
        )
        print(
            f"least {least:<6}  top-1 {result.right / crops:.4f}  {result.seconds / crops * 1e3:.1f} ms an image  "
            f"agreement {result.agreeing / crops:.4f}  ({parts})  largest difference of a score {result.largest:.2f}"
        )


if __name__ == "__main__":
    main()
