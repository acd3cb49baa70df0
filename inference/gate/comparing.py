"""Answers of two models -> figures -> reasons to stop the one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from inference.gate.figures import (
    Answer,
    Answers,
    Comparison,
    Flip,
    GoldenFigures,
    LabelShift,
    Reason,
    RecentFigures,
    ReviewedFigures,
    Rightness,
    Thresholds,
)
from inference.gate.statistics import images_to_tell, loss_bound
from inference.types import ImageRef, Label, ScoredLabel

MAX_FLIPS: Final = 100
MAX_SHIFTS: Final = 100
"""Most that are kept of each: enough to see what goes on, and little to store."""


def compare(
    candidate: Answers,
    production: Answers | None,
    *,
    golden: Mapping[ImageRef, str],
    recent: Sequence[ImageRef],
    days: int,
    confidence: float,
    reviewed: Mapping[ImageRef, str] | None = None,
) -> Comparison:
    """Return how a candidate does beside production.

    Args:
        candidate: Its answers.
        production: Those of production, on the same images; None where nothing is in production.
        golden: Golden images -> id of their right label.
        recent: Images without a known label, none of them among the golden ones.
        days: Of how many days back they are.
        confidence: Of the bound on the loss.
        reviewed: Images that a reviewer labelled -> id of that label; they are counted apart.
    """
    models = [candidate] if production is None else [candidate, production]
    judged = _answered(golden, models)
    seen = _answered(recent, models)
    pairs = [] if production is None else [*_pairs(judged, candidate, production), *_pairs(seen, candidate, production)]
    flips = [
        Flip(ref, ref in golden, golden.get(ref), _scored(before), _scored(after))
        for ref, before, after in pairs
        if before.label.label_id != after.label.label_id
    ]
    flips.sort(key=lambda flip: (-min(flip.before.score, flip.after.score), flip.ref.bucket, flip.ref.key))
    engines = dict.fromkeys(model.engine for model in models)
    return Comparison(
        candidate=candidate.model,
        production=None if production is None else production.model,
        golden=_golden(candidate, production, golden, judged, confidence),
        recent=RecentFigures(
            days=days,
            images=len(seen),
            unreadable=len(recent) - len(seen),
            agreement=_agreement(seen, candidate, production),
        ),
        score_shift=sum(after.score - before.score for _, before, after in pairs) / len(pairs) if pairs else None,
        engine=" and ".join(engines),
        images_per_second=candidate.images_per_second,
        production_images_per_second=None if production is None else production.images_per_second,
        label_shifts=_shifts(flips),
        flips=tuple(flips[:MAX_FLIPS]),
        flipped=len(flips),
        reviewed=_reviewed(candidate, production, _answered(reviewed or (), models)),
    )


def judge(comparison: Comparison, thresholds: Thresholds) -> tuple[Reason, ...]:
    """Return every threshold that a candidate misses; none of them but warnings let it pass."""
    judged = (
        *_judge_golden(comparison, thresholds),
        *_judge_agreement(comparison, thresholds),
        *_judge_recent(comparison, thresholds),
        *_judge_speed(comparison, thresholds),
    )
    return tuple(reason for reason in judged if reason is not None)


def _judge_golden(comparison: Comparison, thresholds: Thresholds) -> Iterable[Reason | None]:
    golden, name = comparison.golden, thresholds.golden_set
    if golden.images < thresholds.min_golden_images:
        yield _stop(
            "min_golden_images",
            f"the golden set {name!r} gave {golden.images} images to judge by, and {thresholds.min_golden_images} are "
            "needed; load more with `python -m inference models golden load`",
        )
    in_all = golden.images + golden.unreadable
    if in_all and golden.unreadable > thresholds.max_unreadable * in_all:
        why = ", ".join(f"{code} ({number})" for code, number in golden.why_unreadable)
        yield _stop(
            "max_unreadable",
            f"{golden.unreadable} of {in_all} images of the golden set {name!r} could not be judged: {why}; more than "
            f"{thresholds.max_unreadable:.1%} are not allowed, so load the set anew",
        )
    if golden.candidate is None:
        return
    if golden.candidate.top1 < thresholds.min_top1:
        yield _stop(
            "min_top1",
            f"top-1 is {golden.candidate.top1:.1%} on {golden.images} golden images, and at least "
            f"{thresholds.min_top1:.1%} is wanted{_unknown(golden)}",
        )
    if golden.production is None or golden.loss is None or golden.loss_bound is None:
        return
    if golden.loss_bound >= thresholds.max_loss:
        yield _stop("max_loss", _loss_text(golden, golden.production, golden.candidate, golden.loss_bound, thresholds))


def _loss_text(
    golden: GoldenFigures, production: Rightness, candidate: Rightness, bound: float, thresholds: Thresholds
) -> str:
    lost, won = golden.only_production_right or 0, golden.only_candidate_right or 0
    text = (
        f"top-1 is {candidate.top1:.1%} where production's is {production.top1:.1%}, on the same {golden.images} "
        f"golden images ({lost} of them only production has right, {won} only the candidate); at a confidence of "
        f"{thresholds.confidence:.0%} it may be up to {100 * bound:.1f} points worse in truth, and less than "
        f"{100 * thresholds.max_loss:.1f} has to be shown{_unknown(golden)}"
    )
    enough = images_to_tell(golden.images, lost, won, thresholds.confidence, thresholds.max_loss)
    if enough is not None:
        text += f"; with about {enough:,} golden images like these it would be"
    return text


def _unknown(golden: GoldenFigures) -> str:
    return f"; {golden.unknown} images carry labels that the candidate does not know" if golden.unknown else ""


def _judge_agreement(comparison: Comparison, thresholds: Thresholds) -> Iterable[Reason | None]:
    if comparison.production is None:
        return
    enough = thresholds.min_compared_images
    golden, recent = comparison.golden, comparison.recent
    if golden.images < enough and recent.images < enough:
        yield _stop(
            "min_compared_images",
            f"there are {golden.images} golden images and {recent.images} of the last {recent.days} days to compare "
            f"with {comparison.production}, and {enough} of one kind are needed; look further back with --days, or "
            "load a golden set",
        )
    kinds = (("golden images", golden.images, golden.agreement), ("recent images", recent.images, recent.agreement))
    for kind, images, agreement in kinds:
        if images >= enough and agreement is not None and agreement < thresholds.min_agreement:
            shifts = "; most often " + ", ".join(
                f"{shift.before.name} became {shift.after.name} ({shift.images})"
                for shift in comparison.label_shifts[:3]
            )
            yield _stop(
                "min_agreement",
                f"{agreement:.1%} of {images} {kind} get the label that {comparison.production} gives them, and at "
                f"least {thresholds.min_agreement:.1%} is wanted{shifts}; wrong preprocessing, or labels in another "
                "order, look like that",
            )


def _judge_recent(comparison: Comparison, thresholds: Thresholds) -> Iterable[Reason | None]:
    """Warn where images of the last days say little: the golden set alone has to show how it does on them."""
    golden, recent = comparison.golden, comparison.recent
    if comparison.production is None or not recent.days:
        return
    enough = thresholds.min_compared_images
    if recent.images < enough <= golden.images:
        yield _warning(
            "min_compared_images",
            f"{recent.images} images of the last {recent.days} days were compared with {comparison.production}, and "
            f"{enough} are wanted: how it does on what the nights bring is hardly known; look further back with "
            "--days, or take more with --images",
        )
    in_all = recent.images + recent.unreadable
    if recent.unreadable > thresholds.max_unreadable * in_all:
        yield _warning(
            "max_unreadable",
            f"{recent.unreadable} of {in_all} images of the last {recent.days} days could not be compared: they are "
            f"gone, or one of the models cannot read them; more than {thresholds.max_unreadable:.1%} are too many",
        )


def _judge_speed(comparison: Comparison, thresholds: Thresholds) -> Iterable[Reason | None]:
    speed, before = comparison.images_per_second, comparison.production_images_per_second
    if speed is None or not before or speed >= (1 - thresholds.max_slowdown) * before:
        return
    yield _warning(
        "max_slowdown",
        f"it does {speed:.0f} images/s where production does {before:.0f} ({comparison.engine}): a night takes "
        f"up to {before / speed:.1f} times as long",
    )


def _warning(threshold: str, message: str) -> Reason:
    return Reason(threshold, is_warning=True, message=message)


def _stop(threshold: str, message: str) -> Reason:
    return Reason(threshold, is_warning=False, message=message)


def _answered(refs: Iterable[ImageRef], models: Sequence[Answers]) -> list[ImageRef]:
    return [ref for ref in refs if all(ref.image_id in model.answers for model in models)]


def _pairs(
    refs: Sequence[ImageRef], candidate: Answers, production: Answers
) -> Iterable[tuple[ImageRef, Answer, Answer]]:
    return ((ref, production.answers[ref.image_id], candidate.answers[ref.image_id]) for ref in refs)


def _agreement(refs: Sequence[ImageRef], candidate: Answers, production: Answers | None) -> float | None:
    if production is None or not refs:
        return None
    pairs = _pairs(refs, candidate, production)
    return sum(before.label.label_id == after.label.label_id for _, before, after in pairs) / len(refs)


def _golden(
    candidate: Answers,
    production: Answers | None,
    golden: Mapping[ImageRef, str],
    judged: Sequence[ImageRef],
    confidence: float,
) -> GoldenFigures:
    codes = _codes(golden, [candidate] if production is None else [candidate, production])
    unreadable = len(golden) - len(judged)
    if not judged:
        return GoldenFigures(0, unreadable, codes)
    ids = [ref.image_id for ref in judged]
    unknown = sum(golden[ref] not in candidate.label_ids for ref in judged)
    figures = GoldenFigures(len(judged), unreadable, codes, unknown, candidate=_rightness(candidate, ids))
    if production is None:
        return figures
    right = [(production.answers[one].right_rank == 1, candidate.answers[one].right_rank == 1) for one in ids]
    lost, won = right.count((True, False)), right.count((False, True))
    return GoldenFigures(
        figures.images,
        unreadable,
        codes,
        unknown,
        candidate=figures.candidate,
        production=_rightness(production, ids),
        only_production_right=lost,
        only_candidate_right=won,
        loss=(lost - won) / len(judged),
        loss_bound=loss_bound(len(judged), lost, won, confidence),
        agreement=_agreement(judged, candidate, production),
    )


def _reviewed(candidate: Answers, production: Answers | None, refs: Sequence[ImageRef]) -> ReviewedFigures:
    def right(model: Answers) -> int:
        return sum(model.answers[ref.image_id].right_rank == 1 for ref in refs)

    return ReviewedFigures(len(refs), right(candidate), None if production is None else right(production))


def _rightness(model: Answers, ids: Sequence[UUID]) -> Rightness:
    answers = [model.answers[one] for one in ids]
    return Rightness(
        top1=sum(answer.right_rank == 1 for answer in answers) / len(answers),
        top5=sum(answer.right_rank is not None and answer.right_rank <= 5 for answer in answers) / len(answers),
        right_score=sum(answer.right_score or 0.0 for answer in answers) / len(answers),
    )


def _codes(refs: Iterable[ImageRef], models: Sequence[Answers]) -> tuple[tuple[str, int], ...]:
    """Return why images are unreadable, each counted once."""
    codes: Counter[str] = Counter()
    for ref in refs:
        why = [model.unreadable[ref.image_id] for model in models if ref.image_id in model.unreadable]
        codes.update(why[:1])
    return tuple(codes.most_common())


def _shifts(flips: Iterable[Flip]) -> tuple[LabelShift, ...]:
    counts: Counter[tuple[Label, Label]] = Counter((flip.before.label, flip.after.label) for flip in flips)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0][0].label_id, item[0][1].label_id))
    return tuple(LabelShift(before, after, images) for (before, after), images in ordered[:MAX_SHIFTS])


def _scored(answer: Answer) -> ScoredLabel:
    return ScoredLabel(answer.label, answer.score)
