"""batch: what fetching and decoding made of refs -> what one call of the model, and one transaction, take. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from inference.errors import SettingsError
from inference.types import CopiedPrediction, DeadLetter, DecodedImage, DoneElsewhere, Gone, Prepared

MAX_HELD_BACK: Final = 64
"""Dead letters and vanished images that wait for good ones; in a stretch without any they are recorded all the same."""

MAX_COPIES: Final = 500
"""Copied labels that are recorded at once: enough to make the round trip a small part of it."""


@dataclass(slots=True)
class Batch:
    """Images of one call of the model, and what is recorded together with their outcomes."""

    images: list[DecodedImage] = field(default_factory=list)
    copies: list[CopiedPrediction] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    gone: int = 0
    done_elsewhere: int = 0

    @property
    def refs(self) -> int:
        """How many refs it brings to an end."""
        return len(self.images) + len(self.copies) + len(self.dead) + self.gone + self.done_elsewhere


def batches(prepared: Iterable[Prepared], batch_size: int) -> Iterator[Batch]:
    """Yield batches of ``batch_size`` images, in order; fewer are in the last, and with many copies or dead letters.

    Nothing is lost, nothing is in two batches, and none is empty. Reads no further ahead than the batch that it yields.

    Raises:
        SettingsError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise SettingsError(f"the batch size is {batch_size}, but at least 1 is needed; correct NIGHTLABEL_BATCH_SIZE")
    batch = Batch()
    for item in prepared:
        match item:
            case DecodedImage():
                batch.images.append(item)
            case CopiedPrediction():
                batch.copies.append(item)
            case DeadLetter():
                batch.dead.append(item)
            case Gone():
                batch.gone += 1
            case DoneElsewhere():
                batch.done_elsewhere += item.images
        is_full = len(batch.images) >= batch_size or len(batch.copies) >= MAX_COPIES
        if is_full or len(batch.dead) + batch.gone >= MAX_HELD_BACK:
            yield batch
            batch = Batch()
    if batch.refs:
        yield batch
