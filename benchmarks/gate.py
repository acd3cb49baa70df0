"""What the gate says of models that are equal, better and worse, on a folder of labelled photos; and how sure it is.

    python -m benchmarks.gate FOLDER [--store FOLDER] [--each N] [--flaw-seeds N]

The photos are named ``<WordNet id>_<anything>``. Each is asked about through the gate's own path, with the bundled
model in the place of production. The candidates: the same model; EfficientNet-Lite2, if the store holds it (the part
`heavier` of the benchmark builds it there); the same model with 3 points of its right answers made wrong; with its
labels permuted; and with other preprocessing. ``--each N`` makes N variants of each photo (crops, turns, light) for
more images, which are not as independent as other photos would be.

Then, by exact enumeration and without any photo: how often the gate lets a model through that is as much worse.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import platformdirs
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.heavier import HEAVIER_MODEL
from inference.errors import ImageGoneError, ModelUnknownError
from inference.gate.answering import answer, with_speed
from inference.gate.comparing import compare, judge
from inference.gate.figures import Answers, Thresholds
from inference.gate.statistics import loss_bound
from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.ports import ModelHandle
from inference.settings import read_settings
from inference.types import ImageRef, ListedObject, ModelId, ObjectContent, PixelBatch, Scores
from inference.wiring import SystemClock

DELIVERED: Final = Thresholds(
    model_name="*",
    golden_set="photos",
    min_golden_images=150,
    max_unreadable=0.05,
    min_top1=0.5,
    max_loss=0.02,
    confidence=0.95,
    min_compared_images=50,
    min_agreement=0.6,
    max_slowdown=0.5,
)
"""As migration 0011 leaves them."""


class FolderStore:
    """Files of a folder as objects; enough of a store for the gate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:  # noqa: ARG002
        yield []

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:  # noqa: ARG002
        try:
            return ObjectContent((self._folder / ref.key).read_bytes(), is_etag_md5=False)
        except FileNotFoundError as error:
            raise ImageGoneError("the file is gone") from error


class Flawed:
    """A model that puts the second best label first, for a share of images that a seed chooses."""

    def __init__(self, handle: ModelHandle, share: float, seed: int) -> None:
        self._handle, self._share, self._seed = handle, share, seed
        self.model_id = ModelId("flawed", str(seed))
        self.labels, self.preprocessing, self.engine = handle.labels, handle.preprocessing, handle.engine
        self.best_batch_size, self.parallel_calls = handle.best_batch_size, handle.parallel_calls

    def predict(self, pixels: PixelBatch) -> Scores:
        scores = self._handle.predict(pixels).copy()
        for row, image in zip(scores, pixels, strict=True):
            digest = hashlib.sha256(b"%d " % self._seed + image.tobytes()).digest()
            if int.from_bytes(digest[:4], "big") < self._share * 2**32:
                second, first = np.argsort(row)[-2:]
                row[[first, second]] = row[[second, first]]
        return scores


class Other:
    """A model with something changed of what it says of itself."""

    def __init__(self, handle: ModelHandle, name: str, **changes: object) -> None:
        self._handle = handle
        self.model_id = ModelId(name, "1")
        self.labels, self.preprocessing, self.engine = handle.labels, handle.preprocessing, handle.engine
        self.best_batch_size, self.parallel_calls = handle.best_batch_size, handle.parallel_calls
        self._is_blue_for_red = bool(changes.pop("blue_for_red", False))
        vars(self).update(changes)

    def predict(self, pixels: PixelBatch) -> Scores:
        return self._handle.predict(np.ascontiguousarray(pixels[..., ::-1]) if self._is_blue_for_red else pixels)


def variants(folder: Path, each: int, into: Path) -> Path:
    """Make seeded variants of every photo and return the folder that they lie in, the photos themselves among them."""
    for path in sorted(folder.iterdir()):
        shutil.copy(path, into / path.name)
        draw = random.Random(path.name)
        with Image.open(path) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        for number in range(1, each):
            side = draw.uniform(0.8, 1.0) * min(photo.size)
            left, top = (draw.uniform(0, length - side) for length in photo.size)
            made = photo.rotate(draw.uniform(-5, 5), Image.Resampling.BICUBIC)
            made = made.crop((round(left), round(top), round(left + side), round(top + side)))
            made = ImageOps.mirror(made) if draw.random() < 0.5 else made
            made = ImageEnhance.Brightness(made).enhance(draw.uniform(0.8, 1.2))
            buffer = io.BytesIO()
            made.save(buffer, "JPEG", quality=90)
            (into / f"{path.stem}-{number}.JPEG").write_bytes(buffer.getvalue())
    return into


def measure(folder: Path, store: ModelStore, flaw_seeds: int) -> None:
    """Print what the gate says of each candidate."""
    settings = read_settings()
    golden = {
        ImageRef("photos", path.name, "e", path.stat().st_size): path.name.partition("_")[0]
        for path in sorted(folder.iterdir())
        if path.is_file()
    }

    def ask(handle: ModelHandle) -> Answers:
        files = FolderStore(folder)
        found = answer(handle, golden, [], store=files, settings=settings, clock=SystemClock())
        return with_speed(found, handle, SystemClock(), for_s=1.5)

    def load(model: ModelId) -> ModelHandle:
        manifest = store.read_manifest(model)
        return load_handle(manifest, store.check_files(manifest, "litert"), "litert", settings.engine_threads)

    present = load(BUNDLED_MODEL)
    production = ask(present)
    wrong = replace(present.preprocessing, crop_fraction=0.5)
    squeezed = replace(present.preprocessing, crop_fraction=1.0, resize_filter="nearest")
    candidates: list[tuple[str, ModelHandle]] = [
        ("the same model", Other(present, "equal")),
        ("labels permuted by one", Other(present, "permuted", labels=present.labels[1:] + present.labels[:1])),
        ("half the crop", Other(present, "cropped", preprocessing=wrong)),
        ("no crop, nearest pixel", Other(present, "squeezed", preprocessing=squeezed)),
        ("blue for red", Other(present, "swapped", blue_for_red=True)),
        *((f"3 points worse, seed {seed}", Flawed(present, 0.03 / 0.867, seed)) for seed in range(flaw_seeds)),
    ]
    try:
        candidates.insert(1, (str(HEAVIER_MODEL), load(HEAVIER_MODEL)))
    except ModelUnknownError as error:
        print(f"without {HEAVIER_MODEL}: {error}")
    print("| candidate | images | top-1 | lost | won | loss | bound | agreement | images/s | verdict |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, handle in candidates:
        found = compare(ask(handle), production, golden=golden, recent=[], days=0, confidence=DELIVERED.confidence)
        reasons = judge(found, DELIVERED)
        stopped = ", ".join(reason.threshold for reason in reasons if not reason.is_warning)
        warned = ", ".join(reason.threshold for reason in reasons if reason.is_warning)
        of = found.golden
        assert of.candidate is not None
        assert of.loss is not None
        assert of.loss_bound is not None
        print(
            f"| {name} | {of.images} | {of.candidate.top1:.1%} | {of.only_production_right} | "
            f"{of.only_candidate_right} | {100 * of.loss:+.1f} | {100 * of.loss_bound:+.1f} | {of.agreement:.1%} | "
            f"{found.images_per_second:.0f} | {f'stopped: {stopped}' if stopped else 'passed'}"
            f"{f' (warned: {warned})' if warned else ''} |"
        )


@cache
def passes(images: int, lost: int, won: int, max_loss: float, confidence: float) -> bool:
    return loss_bound(images, lost, won, confidence) < max_loss


def binomial(n: int, k: int, p: float) -> float:
    if p <= 0:
        return float(k == 0)
    return math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    )


def chance_to_pass(
    images: int, loss: float, differing: float, *, max_loss: float = 0.02, confidence: float = 0.95
) -> float:
    """Return how often a candidate passes, by going through everything that so many images may show.

    Args:
        images: Golden images, drawn independently.
        loss: What it loses of top-1 in truth, as a share.
        differing: Share of images on which one of the two models is right and the other wrong.
        max_loss: The threshold.
        confidence: The other one.
    """
    lost_share, won_share = (differing + loss) / 2, (differing - loss) / 2
    most = math.ceil(images * differing + 8 * math.sqrt(images * differing)) + 4
    chance = 0.0
    for lost in range(min(most, images) + 1):
        of_lost = binomial(images, lost, lost_share)
        if of_lost < 1e-9:
            continue
        for won in range(min(most, images) - lost + 1):
            of_won = binomial(images - lost, won, won_share / (1 - lost_share))
            if of_won > 1e-9 and passes(images, lost, won, max_loss, confidence):
                chance += of_lost * of_won
    return chance


def print_power() -> None:
    """Print how often models pass that lose so much in truth."""
    losses = (0.03, 0.02, 0.01, 0.0, -0.01, -0.025)
    print("| golden images | differing | " + " | ".join(f"{100 * loss:+.1f} points" for loss in losses) + " |")
    print("| ---: | ---: |" + " ---: |" * len(losses))
    for images in (150, 300, 1_000, 3_000):
        for differing in (0.03, 0.06, 0.10, 0.15):
            chances = [chance_to_pass(images, loss, differing) for loss in losses]
            print(f"| {images} | {differing:.0%} | " + " | ".join(f"{chance:.1%}" for chance in chances) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="photos named <WordNet id>_<anything>")
    parser.add_argument("--store", type=Path, help="model store (default: that of the benchmark, in the user's cache)")
    parser.add_argument("--each", type=int, default=1, metavar="N", help="variants of each photo (default: itself)")
    parser.add_argument("--flaw-seeds", type=int, default=3, metavar="N", help="models that are 3 points worse")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        cache_folder = Path(platformdirs.user_cache_dir("nightlabel", appauthor=False))
        store = ModelStore(arguments.store or cache_folder / "benchmarks" / "models")
        ensure_default_model(store)
        with tempfile.TemporaryDirectory() as into:
            folder = arguments.folder
            if arguments.each > 1:
                folder = variants(folder, arguments.each, Path(into))
            measure(folder, store, arguments.flaw_seeds)
    print_power()


if __name__ == "__main__":
    main()
