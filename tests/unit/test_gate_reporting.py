"""The report says what a person needs for a yes, whatever labels and keys are called."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from inference.gate.comparing import judge
from inference.gate.figures import Flip, LabelShift, ModelCheck, ReviewedFigures
from inference.gate.reporting import MAX_ROWS, check_report, comparison_report
from inference.types import ImageRef, Label, ScoredLabel
from tests.unit.test_gate_comparing import CANDIDATE, THRESHOLDS, answers, compared, production, right, wrong_below

EVIL = "a|b\n<script>alert(1)</script> [x](http://x) `c`"


def check(**changes):
    comparison = compared(answers(CANDIDATE, wrong_below(55), wrong_below(120), speed=30.0), production())
    comparison = replace(comparison, **changes)
    reasons = judge(comparison, THRESHOLDS)
    return ModelCheck(7, datetime(2026, 11, 2, 3, 4, tzinfo=UTC), "failed", reasons, THRESHOLDS, comparison)


def test_the_verdict_comes_first_and_every_reason_with_its_threshold():
    lines = check_report(check()).splitlines()

    assert lines[0] == "## lite2@1: failed"
    assert "Check 7 of 2026-11-02 03:04 UTC, beside lite0@1" in lines[2]
    assert [line.split("`")[1] for line in lines if line.startswith("- **")] == [
        "max_loss", "min_agreement", "max_slowdown",
    ]  # fmt: skip
    assert sum(line.startswith("- **Warning") for line in lines) == 1


def test_the_figures_of_both_models_stand_side_by_side():
    text = check_report(check())

    assert "| top-1 | 81.7% | 86.7% |" in text
    assert "| images/s of the engine | 30 | 100 |" in text
    assert "Agreement: 95.0% of 300 golden images, 40.0% of 200 images of the last 7 days" in text
    assert "| label 0 | label 1 |" in text
    assert "135 images get another label; the 10 of which both models are surest:" in text


def test_reviewed_images_are_said_to_judge_nothing():
    assert "Reviewed" not in check_report(check())
    text = check_report(check(reviewed=ReviewedFigures(30, candidate_right=12, production_right=0)))
    assert "Reviewed images: 30, which judge nothing. lite2@1 has 12 of them right, lite0@1 0." in text


def test_names_and_keys_cannot_break_out_of_the_table():
    flip = Flip(
        ImageRef("photos", EVIL, "e", 1),
        True,
        "n1",
        ScoredLabel(Label(EVIL, "n1"), 0.9),
        ScoredLabel(Label("b", "n2"), 0.8),
    )
    text = check_report(check(flips=(flip,), label_shifts=(LabelShift(Label(EVIL, "n1"), Label("b", "n2"), 3),)))

    rows = [line for line in text.splitlines() if line.startswith("| ") and "script" in line]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4, 5], "columns of each table, and one more"
    outside_code = re.sub(r"`[^`]*`", "", text.replace("\\`", ""))
    assert re.findall(r"(?<!\\)[<>\[\]]", outside_code) == []


def test_a_report_is_short_whatever_was_found():
    comparison = compared(answers(CANDIDATE, lambda n: (n + 3) % 20, lambda n: (n + 3) % 20), production(right))
    text = comparison_report(comparison)

    assert len(text) < 6_000
    assert text.count("s3://") == MAX_ROWS


def test_without_production_the_report_says_so():
    comparison = compared(answers(CANDIDATE, right, right), None)
    text = check_report(ModelCheck(1, datetime(2026, 11, 2, tzinfo=UTC), "passed", (), THRESHOLDS, comparison))

    assert "## lite2@1: passed" in text
    assert "beside alone, since nothing is in production" in text
    assert "Agreement" not in text
