"""What stops a candidate: every threshold can fail it, alone, and what passes passes for the right reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inference.gate.comparing import MAX_FLIPS, compare, judge
from inference.gate.figures import Answer, Answers, Comparison, Flip, LabelShift, ReviewedFigures, Thresholds
from inference.types import ImageRef, Label, ModelId, ScoredLabel

PRODUCTION, CANDIDATE = ModelId("lite0", "1"), ModelId("lite2", "1")
LABELS = tuple(Label(f"label {number}", f"n{number:02}") for number in range(20))
THRESHOLDS = Thresholds(
    model_name="*",
    golden_set="default",
    min_golden_images=150,
    max_unreadable=0.05,
    min_top1=0.5,
    max_loss=0.02,
    confidence=0.95,
    min_compared_images=50,
    min_agreement=0.6,
    max_slowdown=0.5,
)

Says = Callable[[int], int | None]
"""Number of an image -> number of the label that a model gives it; None for what it cannot read."""


def right(number: int) -> int:
    return number % len(LABELS)


def wrong(number: int) -> int:
    return (number + 1) % len(LABELS)


def wrong_below(bound: int) -> Says:
    return lambda number: wrong(number) if number < bound else right(number)


def refs(kind: str, count: int) -> list[ImageRef]:
    return [ImageRef("photos", f"{kind}/{number:05}", "e1", 100) for number in range(count)]


GOLDEN, RECENT = refs("golden", 300), refs("recent", 200)


def answers(
    model: ModelId,
    golden: Says,
    recent: Says,
    *,
    speed: float | None = 100.0,
    rank: int = 2,
    score: float = 0.8,
    known: int = len(LABELS),
) -> Answers:
    """What a model says; what it gets wrong has the right label in the place ``rank``."""
    found: dict[Any, Answer] = {}
    unreadable: dict[Any, str] = {}
    for images, says, is_golden in ((GOLDEN, golden, True), (RECENT, recent, False)):
        for number, ref in enumerate(images):
            said = says(number)
            if said is None:
                unreadable[ref.image_id] = "gone"
                continue
            is_right = said == right(number)
            found[ref.image_id] = Answer(
                LABELS[said],
                score,
                (1 if is_right else rank) if is_golden else None,
                (score if is_right else 0.1) if is_golden else None,
            )
    return Answers(model, "litert", found, unreadable, speed, frozenset(label.label_id for label in LABELS[:known]))


def compared(
    candidate: Answers, production: Answers | None, *, golden: int = len(GOLDEN), recent: int = len(RECENT)
) -> Comparison:
    return compare(
        candidate,
        production,
        golden={ref: LABELS[right(number)].label_id for number, ref in enumerate(GOLDEN[:golden])},
        recent=RECENT[:recent],
        days=7,
        confidence=0.95,
    )


def stopped_by(comparison: Comparison, **thresholds: Any) -> list[str]:
    return [one.threshold for one in judge(comparison, replace(THRESHOLDS, **thresholds)) if not one.is_warning]


def production(golden: Says | None = None, recent: Says = right) -> Answers:
    """Wrong on 40 golden images, unless said otherwise."""
    return answers(PRODUCTION, golden or wrong_below(40), recent)


def test_an_equal_model_passes_and_nothing_differs():
    found = compared(answers(CANDIDATE, wrong_below(40), right), production())

    assert judge(found, THRESHOLDS) == ()
    assert (found.golden.loss, found.golden.agreement, found.recent.agreement, found.flips) == (0.0, 1.0, 1.0, ())
    assert found.golden.loss_bound == pytest.approx(0.00894, abs=1e-4)
    assert found.golden.candidate == found.golden.production
    assert found.score_shift == 0.0


def test_a_better_model_passes():
    found = compared(answers(CANDIDATE, wrong_below(20), right), production())

    assert judge(found, THRESHOLDS) == ()
    assert found.golden.loss == pytest.approx(-20 / 300)


@pytest.mark.parametrize("lost", [3, 9])
def test_a_model_that_may_be_more_than_the_loss_worse_is_stopped_by_the_loss_alone(lost: int):
    found = compared(answers(CANDIDATE, wrong_below(40 + lost), right), production())

    [reason] = judge(found, THRESHOLDS)
    assert reason.threshold == "max_loss"
    assert f"({lost} of them only production has right, 0 only the candidate)" in reason.message
    assert "less than 2.0 has to be shown" in reason.message
    assert ("golden images like these it would be" in reason.message) == (lost == 3)
    assert stopped_by(found, max_loss=0.1) == []


def test_a_least_top1_stops_where_production_is_bad_too():
    found = compared(answers(CANDIDATE, wrong_below(160), right), production(wrong_below(160)))

    assert stopped_by(found) == ["min_top1"]
    assert stopped_by(found, min_top1=0.4) == []


def test_too_few_golden_images_stop_whatever_they_say():
    found = compared(answers(CANDIDATE, right, right), production(), golden=149)

    assert stopped_by(found) == ["min_golden_images"]
    assert stopped_by(found, min_golden_images=149) == []


def test_without_a_golden_set_agreement_alone_guards_if_that_is_wanted():
    permuted = compared(answers(CANDIDATE, right, wrong), production(), golden=0)
    equal = compared(answers(CANDIDATE, right, right), production(), golden=0)

    assert stopped_by(permuted, min_golden_images=0) == ["min_agreement"]
    assert stopped_by(equal, min_golden_images=0) == []
    assert stopped_by(equal) == ["min_golden_images"]
    [reason] = judge(permuted, replace(THRESHOLDS, min_golden_images=0))
    assert "0.0% of 200 recent images get the label that lite0@1 gives them" in reason.message
    assert "label 0 became label 1 (10)" in reason.message


def test_agreement_is_judged_on_golden_and_on_recent_images_apart():
    on_recent = compared(answers(CANDIDATE, right, wrong_below(90)), production(right))
    on_golden = compared(answers(CANDIDATE, wrong_below(130), right), production(right))

    assert stopped_by(on_recent) == ["min_agreement"]
    assert "min_agreement" in stopped_by(on_golden, min_top1=0.0)
    assert stopped_by(on_recent, min_compared_images=201) == [], "too few to say, and the golden images agree"


def test_too_few_images_to_compare_stop():
    found = compared(answers(CANDIDATE, right, right), production(), golden=0, recent=49)

    assert stopped_by(found, min_golden_images=0) == ["min_compared_images"]
    assert stopped_by(found, min_golden_images=0, min_compared_images=49) == []


@pytest.mark.parametrize("recent", [0, 49])
def test_too_few_recent_images_are_a_warning_where_the_golden_set_suffices(recent: int):
    found = compared(answers(CANDIDATE, right, right), production(), recent=recent)

    [reason] = judge(found, THRESHOLDS)
    assert (reason.threshold, reason.is_warning) == ("min_compared_images", True)
    assert f"{recent} images of the last 7 days were compared with lite0@1, and 50 are wanted" in reason.message
    unwanted = replace(found, recent=replace(found.recent, days=0))
    assert judge(unwanted, THRESHOLDS) == (), "nobody wanted any"
    assert judge(replace(found, production=None), THRESHOLDS) == (), "there is nothing to compare with"


@pytest.mark.parametrize(("gone", "warned"), [(10, []), (11, ["max_unreadable"])])
def test_recent_images_that_a_model_cannot_read_are_a_warning_when_they_are_too_many(gone: int, warned: list[str]):
    def some_gone(number: int) -> int | None:
        return None if number < gone else right(number)

    found = compared(answers(CANDIDATE, right, some_gone), production())

    assert [(one.threshold, one.is_warning) for one in judge(found, THRESHOLDS)] == [(name, True) for name in warned]


def test_unreadable_golden_images_cost_only_themselves_until_they_are_too_many():
    def some_gone(count: int) -> Says:
        return lambda number: None if number < count else right(number)

    few = compared(answers(CANDIDATE, some_gone(15), right), production(right))
    many = compared(answers(CANDIDATE, some_gone(16), right), production(right))

    assert (few.golden.images, few.golden.unreadable, few.golden.why_unreadable) == (285, 15, (("gone", 15),))
    assert stopped_by(few) == []
    assert stopped_by(many) == ["max_unreadable"]


def test_what_only_one_model_can_read_counts_for_neither():
    def broken_for_candidate(number: int) -> int | None:
        return None if number == 0 else right(number)

    found = compared(answers(CANDIDATE, broken_for_candidate, right), production(right))

    assert (found.golden.images, found.golden.unreadable) == (299, 1)
    assert found.golden.candidate == found.golden.production


def test_a_slower_model_is_a_warning_and_passes():
    found = compared(answers(CANDIDATE, right, right, speed=40.0), production())

    [reason] = judge(found, THRESHOLDS)
    assert (reason.threshold, reason.is_warning) == ("max_slowdown", True)
    assert "40 images/s where production does 100 (litert): a night takes up to 2.5 times as long" in reason.message
    assert judge(found, replace(THRESHOLDS, max_slowdown=0.6)) == ()


def test_without_a_production_model_only_the_golden_set_judges():
    found = compared(answers(CANDIDATE, wrong_below(40), right), None)

    assert judge(found, THRESHOLDS) == ()
    assert (found.production, found.golden.loss, found.recent.agreement, found.flips) == (None, None, None, ())
    assert found.golden.candidate is not None
    assert stopped_by(found, min_top1=0.9) == ["min_top1"]


def test_labels_that_the_candidate_does_not_know_are_said():
    found = compared(answers(CANDIDATE, wrong, right, known=15), production(right))

    assert found.golden.unknown == 75
    assert any(
        "75 images carry labels that the candidate does not know" in one.message for one in judge(found, THRESHOLDS)
    )


def test_top5_counts_the_right_label_among_the_best_five():
    fifth = compared(answers(CANDIDATE, wrong_below(30), right, rank=5), None)
    sixth = compared(answers(CANDIDATE, wrong_below(30), right, rank=6), None)

    assert fifth.golden.candidate is not None
    assert sixth.golden.candidate is not None
    assert (fifth.golden.candidate.top1, fifth.golden.candidate.top5) == (0.9, 1.0)
    assert sixth.golden.candidate.top5 == 0.9
    assert fifth.golden.candidate.right_score == pytest.approx((270 * 0.8 + 30 * 0.1) / 300)


def test_shifts_count_and_flips_name_the_images_of_which_both_are_surest():
    candidate = answers(CANDIDATE, right, wrong_below(3))
    surer = candidate.answers[RECENT[1].image_id]
    candidate.answers[RECENT[1].image_id] = replace(surer, score=0.7)
    found = compared(candidate, production(right))

    assert found.label_shifts == tuple(LabelShift(LABELS[n], LABELS[n + 1], 1) for n in range(3))
    assert [flip.ref.key for flip in found.flips] == ["recent/00000", "recent/00002", "recent/00001"]
    assert found.flips[2] == Flip(RECENT[1], False, None, ScoredLabel(LABELS[1], 0.8), ScoredLabel(LABELS[2], 0.7))


def test_reviewed_images_are_counted_apart_and_move_no_figure_that_judges():
    """They were picked by what production was unsure of, so that each correction can only count for the candidate."""
    production_says, candidate_says = production(wrong_below(100)), answers(CANDIDATE, right, right)
    labels = {ref: LABELS[right(number)].label_id for number, ref in enumerate(GOLDEN)}
    golden = {ref: labels[ref] for ref in GOLDEN[100:]}
    picked = {ref: labels[ref] for ref in GOLDEN[:100]}

    without = compare(candidate_says, production_says, golden=golden, recent=RECENT, days=7, confidence=0.95)
    found = compare(
        candidate_says, production_says, golden=golden, reviewed=picked, recent=RECENT, days=7, confidence=0.95
    )
    assert found.reviewed == ReviewedFigures(100, candidate_right=100, production_right=0)
    assert replace(found, reviewed=without.reviewed) == without
    alone = compare(candidate_says, None, golden=golden, reviewed=picked, recent=RECENT, days=7, confidence=0.95)
    assert alone.reviewed == ReviewedFigures(100, candidate_right=100, production_right=None)


def test_flips_are_kept_within_bounds_and_counted_all():
    found = compared(answers(CANDIDATE, wrong, wrong), production(right))

    assert (len(found.flips), found.flipped) == (MAX_FLIPS, 500)


def test_a_score_shift_is_the_candidates_less_productions():
    found = compared(answers(CANDIDATE, right, right, score=0.6), production(right))

    assert found.score_shift == pytest.approx(-0.2)


def test_two_labels_of_one_name_are_two_labels():
    """ImageNet has two cranes: only the id says which."""
    candidate, before = answers(CANDIDATE, right, right), production(right)
    bird, machine = Label("crane", "n1"), Label("crane", "n2")
    before.answers[RECENT[0].image_id] = Answer(bird, 0.9)
    candidate.answers[RECENT[0].image_id] = Answer(machine, 0.9)

    assert compared(candidate, before).label_shifts == (LabelShift(bird, machine, 1),)
