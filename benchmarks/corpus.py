"""The images that are measured with: seeded crops of real photos, kept outside the repository. Writes disk.

Three kinds: JPEGs as large as ImageNet's (500 x 375, about 100 KB), JPEGs of 12 megapixels as cameras write them, and
PNGs. The same photos, seed and Pillow give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import PIL
from PIL import Image

Kind: TypeAlias = Literal["small", "large", "png"]

SMALL_SIZE: Final = (500, 375)
LARGE_SIZE: Final = (4000, 3000)
SMALL_BYTES: Final = 100_000
"""Mean size that the quality of the small JPEGs is chosen for."""
LARGE_QUALITY: Final = 90
GRAIN: Final = 5.0
"""Standard deviation of the grain on the large photos, of 255: enlarged ones are smoother than a camera's."""
FORMAT_VERSION: Final = "1"
"""Rises when the same photos and seed give other images."""


@dataclass(frozen=True, slots=True)
class Source:
    """A photo to crop from."""

    name: str
    """Begins with the WordNet id of its class, if that is known."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Corpus:
    """Images on disk."""

    folder: Path
    digest: str
    """Of photos, seed and format."""
    quality: int
    """JPEG quality of the small ones."""

    def paths(self, kind: Kind, images: int) -> list[Path]:
        """Return the first images of a kind; fewer if fewer were made."""
        return sorted((self.folder / kind).iterdir())[:images]


def read_sources(photos: Path | None) -> list[Source]:
    """Return the photos of a folder by name, or those that the sample run finds in wheels.

    Raises:
        ValueError: the folder holds no JPEG or PNG.
    """
    if photos is None:
        from local_stack.samples import PHOTOS, photo_bytes

        return [Source(photo.key.rpartition(".")[0], photo_bytes(photo)) for photo in PHOTOS]
    paths = sorted(path for path in photos.iterdir() if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    if not paths:
        raise ValueError(f"{photos} holds no JPEG or PNG; give a folder of photos, or none for those in wheels")
    return [Source(path.stem, path.read_bytes()) for path in paths]


def digest_of(sources: Sequence[Source], seed: int) -> str:
    """Return what tells one corpus from another, 12 hex digits."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {seed} {PIL.__version__}".encode())
    for source in sources:
        digest.update(hashlib.sha256(source.data).digest())
    return digest.hexdigest()[:12]


def crop_of(source: Source, size: tuple[int, int], randomness: random.Random) -> Image.Image:
    """Return a crop of a photo with the proportions of ``size``, resized to it and perhaps mirrored."""
    with Image.open(io.BytesIO(source.data)) as image:
        photo = image.convert("RGB")
    width, height = photo.size
    scale = min(width / size[0], height / size[1]) * randomness.uniform(0.75, 1.0)
    crop_width, crop_height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    left = randomness.randint(0, width - min(width, crop_width))
    top = randomness.randint(0, height - min(height, crop_height))
    crop = photo.resize(size, Image.Resampling.BICUBIC, box=(
        left, top, min(width, left + crop_width), min(height, top + crop_height)
    ))  # fmt: skip
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if randomness.random() < 0.5 else crop


def image_bytes(kind: Kind, number: int, sources: Sequence[Source], seed: int, quality: int) -> bytes:
    """Return image ``number`` of a kind, encoded."""
    randomness = random.Random(f"{seed} {kind} {number}")
    source = sources[number % len(sources)]
    image = crop_of(source, LARGE_SIZE if kind == "large" else SMALL_SIZE, randomness)
    if kind == "large":
        normal = np.random.default_rng(randomness.getrandbits(63)).standard_normal
        grain = (GRAIN * normal((image.height, image.width, 1), np.float32)).astype(np.int16)
        image = Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))
    encoded = io.BytesIO()
    if kind == "png":
        image.save(encoded, "PNG")
    else:
        image.save(encoded, "JPEG", quality=LARGE_QUALITY if kind == "large" else quality)
    return encoded.getvalue()


def choose_quality(sources: Sequence[Source], seed: int, wanted_bytes: int = SMALL_BYTES) -> int:
    """Return the JPEG quality at which a few small images are nearest to the wanted size on average."""
    few = range(0, len(sources), max(1, len(sources) // 30))

    def mean_bytes(quality: int) -> float:
        return sum(len(image_bytes("small", number, sources, seed, quality)) for number in few) / len(few)

    low, high = 60, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if mean_bytes(middle) >= wanted_bytes else (middle + 1, high)
    return min((max(low - 1, 60), low), key=lambda quality: abs(mean_bytes(quality) - wanted_bytes))


def make_corpus(
    cache: Path,
    photos: Path | None,
    seed: int,
    wanted: dict[Kind, int],
    tell: Callable[[str], None],
) -> Corpus:
    """Return a corpus with at least so many images of each kind; makes what is not kept yet.

    Args:
        cache: Folder that keeps corpora.
        photos: Folder of photos; None for those in wheels.
        seed: What all choices come from.
        wanted: Images of each kind.
        tell: Gets a line for each kind that is made.
    """
    sources = read_sources(photos)
    digest = digest_of(sources, seed)
    folder = cache / f"corpus-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "quality"
    if not note.exists():
        note.write_text(str(choose_quality(sources, seed)), encoding="ascii")
    corpus = Corpus(folder, digest, int(note.read_text(encoding="ascii")))

    for kind, images in wanted.items():
        suffix = "png" if kind == "png" else "jpg"
        (folder / kind).mkdir(exist_ok=True)
        paths = [
            folder / kind / f"{number:06}_{sources[number % len(sources)].name}.{suffix}" for number in range(images)
        ]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        if not missing:
            continue
        tell(f"Making {len(missing):,} {kind} images in {folder}")

        def make(number: int, kind: Kind = kind, paths: list[Path] = paths) -> None:
            draft = paths[number].with_suffix(".draft")
            draft.write_bytes(image_bytes(kind, number, sources, seed, corpus.quality))
            draft.rename(paths[number])

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(make, missing))
    return corpus
