"""A comparison as a person reads it before he says yes: Markdown that reads well in a terminal too. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from inference.gate.figures import Comparison, Flip, ModelCheck, Rightness

MAX_ROWS: Final = 10
"""Label shifts and images that are shown; the database has more."""

_MAX_TEXT: Final = 80


def check_report(check: ModelCheck) -> str:
    """Return a check with its verdict, its reasons and its figures."""
    comparison = check.comparison
    beside = "alone, since nothing is in production" if comparison.production is None else f"{comparison.production}"
    lines = [
        f"## {_text(str(comparison.candidate))}: {check.verdict}",
        "",
        f"Check {check.check_id} of {check.checked_at:%Y-%m-%d %H:%M} UTC, beside {_text(beside)}, by the golden set "
        f"{_text(check.thresholds.golden_set)} and the thresholds of "
        + ("every model." if check.thresholds.model_name == "*" else f"{_text(check.thresholds.model_name)}."),
        "",
    ]
    for reason in check.reasons:
        kind = "Warning" if reason.is_warning else "Stopped by"
        lines.append(f"- **{kind} `{reason.threshold}`**: {_text(reason.message, limit=600)}")
    if check.reasons:
        lines.append("")
    return "\n".join([*lines, *_figures(comparison)]) + "\n"


def comparison_report(comparison: Comparison) -> str:
    """Return a comparison without a verdict."""
    title = f"## {_text(str(comparison.production))} and {_text(str(comparison.candidate))}"
    return "\n".join([title, "", *_figures(comparison)]) + "\n"


def _figures(comparison: Comparison) -> Iterator[str]:
    golden, recent = comparison.golden, comparison.recent
    before = "production" if comparison.production is None else str(comparison.production)
    yield f"| | {_text(str(comparison.candidate))} | {_text(before)} |"
    yield "| --- | ---: | ---: |"
    for name, title in (("top1", "top-1"), ("top5", "top-5"), ("right_score", "mean score of the right label")):
        yield f"| {title} | {_of(golden.candidate, name)} | {_of(golden.production, name)} |"
    speeds = (comparison.images_per_second, comparison.production_images_per_second)
    yield f"| images/s of the engine | {' | '.join(map(_speed, speeds))} |"
    yield ""
    yield (
        f"Golden images: {golden.images} judged, {golden.unreadable} not"
        + (f" ({', '.join(f'{code} {number}' for code, number in golden.why_unreadable)})" if golden.unreadable else "")
        + (f", {golden.unknown} with a label that the candidate does not know" if golden.unknown else "")
        + "."
    )
    if reviewed := comparison.reviewed.images:
        yield (
            f"Reviewed images: {reviewed}, which judge nothing. {_text(str(comparison.candidate))} has "
            f"{comparison.reviewed.candidate_right} of them right"
            + (
                ""
                if comparison.reviewed.production_right is None
                else f", {_text(before)} {comparison.reviewed.production_right}"
            )
            + "."
        )
    if golden.loss is not None and golden.loss_bound is not None:
        yield (
            f"Loss of top-1: {100 * golden.loss:+.1f} points measured, {100 * golden.loss_bound:+.1f} at most in truth "
            f"({golden.only_production_right} images only production has right, {golden.only_candidate_right} only the "
            "candidate)."
        )
    if comparison.production is None:
        return
    yield (
        f"Agreement: {_share(golden.agreement)} of {golden.images} golden images, {_share(recent.agreement)} of "
        f"{recent.images} images of the last {recent.days} days ({recent.unreadable} more could not be read)."
    )
    if comparison.score_shift is not None:
        yield f"Scores of the best label: {comparison.score_shift:+.3f} on the average. Engine: {comparison.engine}."
    yield ""
    yield from _shifts(comparison)
    yield from _flips(comparison)


def _shifts(comparison: Comparison) -> Iterator[str]:
    if not comparison.label_shifts:
        return
    yield "| label before | label after | images |"
    yield "| --- | --- | ---: |"
    for shift in comparison.label_shifts[:MAX_ROWS]:
        yield f"| {_text(shift.before.name)} | {_text(shift.after.name)} | {shift.images} |"
    yield ""


def _flips(comparison: Comparison) -> Iterator[str]:
    if not comparison.flips:
        return
    shown = comparison.flips[:MAX_ROWS]
    yield f"{comparison.flipped} images get another label; the {len(shown)} of which both models are surest:"
    yield ""
    yield "| image | before | after | right |"
    yield "| --- | --- | --- | --- |"
    for flip in shown:
        yield (
            f"| {_code(f's3://{flip.ref.bucket}/{flip.ref.key}')} | {_text(flip.before.label.name)} "
            f"{flip.before.score:.2f} | {_text(flip.after.label.name)} {flip.after.score:.2f} | {_right(flip)} |"
        )


def _right(flip: Flip) -> str:
    if flip.right_label_id is None:
        return ""
    for which, scored in (("before", flip.before), ("after", flip.after)):
        if scored.label.label_id == flip.right_label_id:
            return which
    return "neither"


def _of(rightness: Rightness | None, name: str) -> str:
    if rightness is None:
        return "-"
    value: float = getattr(rightness, name)
    return f"{value:.3f}" if name == "right_score" else f"{value:.1%}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _text(text: str, limit: int = _MAX_TEXT) -> str:
    """Return text that Markdown shows as it is: names and keys are whatever somebody chose."""
    shown = "".join(character if character.isprintable() else "�" for character in _cut(text, limit))
    for mark in "\\`*_[]<>|#&":
        shown = shown.replace(mark, f"\\{mark}" if mark != "&" else "&amp;")
    return shown


def _code(text: str) -> str:
    shown = "".join(character if character.isprintable() else "�" for character in _cut(text, _MAX_TEXT))
    return "`" + shown.replace("`", "'").replace("|", "\\|") + "`"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
