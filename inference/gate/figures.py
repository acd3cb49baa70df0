"""What was found out about a candidate, and what it was to reach. Pure; words that the rest of the gate shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from inference.types import ImageRef, Label, ModelId, ScoredLabel

DEFAULT_GOLDEN_SET: Final = "default"
EVERY_MODEL: Final = "*"
"""Stands for every model that has no thresholds of its own."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What is to be checked, and on how much."""

    model: str
    """NAME@VERSION, or an alias such as ``candidate``."""
    days: int = 7
    """Of how many days back labels of production, present and former, are sampled; 0 for none."""
    images: int = 500
    """Most images of those days."""
    seed: int = 0
    """Which of them: the same seed takes the same images, as long as these are there."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a candidate has to reach. Each can fail the check, but for ``max_slowdown``, which warns."""

    model_name: str
    """Whose they are; ``*`` for every model without its own."""
    golden_set: str
    min_golden_images: int
    max_unreadable: float
    """Share of the golden set, 0 to below 1."""
    min_top1: float
    """Share of golden images, 0 to 1."""
    max_loss: float
    """Share of golden images, above 0 to 0.2."""
    confidence: float
    """0.8 to below 1."""
    min_compared_images: int
    min_agreement: float
    """Share of images, 0 to 1."""
    max_slowdown: float
    """Share of production's images per second, 0 to below 1."""


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """An image version with its right label."""

    bucket: str
    key: str
    etag: str
    label_id: str


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """What a golden set holds at a moment."""

    name: str
    images: tuple[GoldenImage, ...]
    """Those of a file, which judge."""
    sha256: str
    """Over these: equal digests judge alike."""
    reviewed: tuple[GoldenImage, ...] = ()
    """Those of reviewers. They were picked by what production was unsure of, so they say nothing of the nights."""


@dataclass(frozen=True, slots=True)
class GoldenSetSummary:
    """One golden set, as a list of them shows it."""

    name: str
    images: int
    labels: int
    """Different labels."""
    from_review: int
    """Images whose label a reviewer gave."""
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said of one image."""

    label: Label
    score: float
    """Probability of the label, 0 to 1."""
    right_rank: int | None = None
    """Place of the right label, 1 for the best; None where it is not known, or the model does not know the label."""
    right_score: float | None = None
    """Probability of the right label, 0 where the model does not know it; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of some images, and of which it could say nothing."""

    model: ModelId
    engine: str
    answers: dict[UUID, Answer]
    """By image id."""
    unreadable: dict[UUID, str]
    """Image id -> code: ``gone``, or as of a dead letter."""
    images_per_second: float | None = None
    """Of the engine alone; None if it was not measured."""
    label_ids: frozenset[str] = frozenset()
    """What the model knows."""


@dataclass(frozen=True, slots=True)
class Rightness:
    """How right a model is on golden images; shares and probabilities, 0 to 1."""

    top1: float
    top5: float
    right_score: float
    """Mean probability of the right label."""


@dataclass(frozen=True, slots=True)
class GoldenFigures:
    """What the golden set shows. Judged are images that every model of the comparison could answer."""

    images: int
    unreadable: int
    why_unreadable: tuple[tuple[str, int], ...] = ()
    """Code and number, the most frequent first."""
    unknown: int = 0
    """Images among the judged whose right label the candidate does not know; it cannot be right there."""
    candidate: Rightness | None = None
    """None without images."""
    production: Rightness | None = None
    """None without images, or without a production model; likewise all below."""
    only_production_right: int | None = None
    only_candidate_right: int | None = None
    loss: float | None = None
    loss_bound: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class RecentFigures:
    """What images show that production, present or former, labelled in the last days."""

    days: int
    images: int
    unreadable: int
    agreement: float | None = None
    """None without images."""


@dataclass(frozen=True, slots=True)
class ReviewedFigures:
    """What reviewed images of the golden set show, for a look only: they judge nothing."""

    images: int = 0
    """Those that every model of the comparison could answer."""
    candidate_right: int = 0
    production_right: int | None = None
    """None without a production model."""


@dataclass(frozen=True, slots=True)
class LabelShift:
    """How often one label of production became another one of the candidate."""

    before: Label
    after: Label
    images: int


@dataclass(frozen=True, slots=True)
class Flip:
    """An image that the two models label differently."""

    ref: ImageRef
    is_golden: bool
    right_label_id: str | None
    """None where the right label is not known."""
    before: ScoredLabel
    """By production."""
    after: ScoredLabel
    """By the candidate."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside production; or, without a production model, by itself."""

    candidate: ModelId
    production: ModelId | None
    golden: GoldenFigures
    recent: RecentFigures
    score_shift: float | None
    """Mean probability of the candidate's best label less that of production's, over all images that both labelled."""
    engine: str
    images_per_second: float | None
    production_images_per_second: float | None
    label_shifts: tuple[LabelShift, ...]
    """The most frequent first."""
    flips: tuple[Flip, ...]
    """Some of them: those first of which both models are surest."""
    flipped: int
    """How many there are."""
    reviewed: ReviewedFigures = ReviewedFigures()


@dataclass(frozen=True, slots=True)
class Reason:
    """A threshold that was missed."""

    threshold: str
    """Name of the field of ``Thresholds``."""
    is_warning: bool
    """Whether the check passes all the same."""
    message: str


Verdict = Literal["passed", "failed"]


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """A check of a candidate, as it is recorded."""

    check_id: int
    checked_at: datetime
    verdict: Verdict
    reasons: tuple[Reason, ...]
    thresholds: Thresholds
    comparison: Comparison

    @property
    def is_passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return self.verdict == "passed"
