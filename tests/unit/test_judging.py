"""What is an ordinary night and what is not: by hand where it can be worked out, by simulation where chance decides."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.ordinary_nights import BURSTY, DRIFTS, WINDOW, WORLDS, World, caught, draw, judged
from inference.errors import SettingsError
from inference.judging import MOST_NAMED, Measure, Night, judge
from inference.settings import read_settings
from inference.types import QualityRules

RULES = QualityRules()
MILD = WORLDS[1]


def night(labels: dict[str, int], *, score: float = 0.75, low: int | None = 0, dead: int | None = 0) -> Night:
    """A night all of whose labels but the low ones have one score."""
    images = sum(labels.values())
    lows = low or 0
    return Night(
        labels=labels,
        score_sum=score * (images - lows) + 0.1 * lows,
        score_square_sum=score * score * (images - lows) + 0.01 * lows,
        low_scores=low,
        dead=dead,
    )


def measured(found: Night, before: list[Night], name: str) -> Measure:
    measure = judge(found, before * 7, RULES).measure(name)  # type: ignore[arg-type]
    assert measure is not None
    return measure


CATS_AND_DOGS = night({"cat": 600, "dog": 400})


def test_the_same_mix_again_is_ordinary_and_at_no_distance():
    verdict = judge(CATS_AND_DOGS, [CATS_AND_DOGS] * 7, RULES)

    assert (verdict.name, verdict.reason, verdict.moved_labels) == ("ordinary", "", ())
    assert (verdict.nights, verdict.images_before) == (7, 7000)
    js, psi, moved = verdict.measures[:3]
    assert (js.name, psi.name, moved.name) == ("js_distance", "psi", "moved_share")
    assert (js.value, psi.value, moved.value) == (pytest.approx(0), pytest.approx(0), 0)


def test_the_distances_are_those_of_the_books():
    """Worked out from their definitions, with logarithms to the base 2 and to the base e."""
    found = night({"cat": 300, "dog": 700})
    p, q = (0.6, 0.4), (0.3, 0.7)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    divergence = sum(
        share * math.log2(share / half) / 2 for side in (p, q) for share, half in zip(side, middle, strict=True)
    )
    assert measured(found, [CATS_AND_DOGS], "js_distance").value == pytest.approx(math.sqrt(divergence))
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert measured(found, [CATS_AND_DOGS], "psi").value == pytest.approx(expected)


def test_nothing_in_common_is_as_far_as_it_goes():
    before = night({"cat": 1000})
    found = night({"ship": 1000})
    assert measured(found, [before], "js_distance").value == pytest.approx(1, abs=0.01)
    assert math.isfinite(measured(found, [before], "psi").value), "though a share of nothing has no logarithm"
    assert measured(found, [before], "moved_share").value == pytest.approx(1, abs=0.01)


def test_what_moved_is_named_with_its_shares_and_the_most_first():
    found = night({"cat": 450, "dog": 300, "ship": 200, "plane": 50})
    verdict = judge(found, [CATS_AND_DOGS] * 7, RULES)

    assert verdict.name == "moved"
    first, *others = [(one.label, one.before, one.now) for one in verdict.moved_labels]
    assert first == ("ship", 0.0, 0.2)
    assert ("cat", 0.6, 0.45) in others
    assert "moved most: ship 0.0% -> 20.0%" in verdict.reason
    assert "Jensen-Shannon distance 0." in verdict.reason


def test_no_more_labels_are_named_than_anybody_reads():
    found = night({f"label {number}": 40 for number in range(50)})
    assert len(judge(found, [CATS_AND_DOGS] * 7, RULES).moved_labels) == MOST_NAMED


@pytest.mark.parametrize(
    ("images", "before", "reason"),
    [
        (299, [CATS_AND_DOGS], "299 labels are too few to judge, 300 are needed"),
        (300, [], "the nights before hold 0 labels of this model, 300 are needed"),
        (300, [night({"cat": 150}), night({"cat": 149})], "the nights before hold 299 labels"),
        (0, [CATS_AND_DOGS], "0 labels are too few"),
        (300, [CATS_AND_DOGS] * 6, "still learning what nights differ by: 6 are known, 7 are needed"),
    ],
)
def test_too_little_is_not_judged_and_says_so(images: int, before: list[Night], reason: str):
    verdict = judge(night({"cat": images} if images else {}), before, RULES)

    assert (verdict.name, verdict.measures, verdict.moved_labels) == ("not_judged", (), ())
    assert reason in verdict.reason


def test_a_night_without_labels_is_not_judged_whatever_the_rules_ask_for():
    assert judge(night({}), [], replace(RULES, min_images=0)).name == "not_judged"


def test_low_scores_are_told_though_the_labels_are_the_same():
    before = [night({"cat": 600, "dog": 400}, low=low) for low in (80, 90, 100, 90, 85)] * 2
    assert judge(night({"cat": 600, "dog": 400}, low=95), before, RULES).name == "ordinary"

    verdict = judge(night({"cat": 600, "dog": 400}, low=250), before, RULES)
    moved = {measure.name for measure in verdict.measures if measure.is_moved}
    assert moved == {"low_score_share", "mean_score"}
    share = verdict.measure("low_score_share")
    assert share is not None
    assert (share.value, share.before) == (0.25, pytest.approx(0.089))
    assert "share of low scores 0.250 (before 0.089)" in verdict.reason


def test_a_lower_mean_score_is_told_and_a_higher_one_is_welcome():
    before = [night({"cat": 1000}, score=score) for score in (0.74, 0.75, 0.76, 0.75)]
    assert measured(night({"cat": 1000}, score=0.6), before, "mean_score").is_moved
    assert not measured(night({"cat": 1000}, score=0.9), before, "mean_score").is_moved
    assert not measured(night({"cat": 1000}, score=0.73), before, "mean_score").is_moved


def test_more_dead_letters_are_told_and_fewer_are_welcome():
    before = [night({"cat": 1000}, dead=dead) for dead in (10, 12, 8, 9)]
    assert measured(night({"cat": 900}, dead=100), before, "dead_ratio").is_moved
    assert not measured(night({"cat": 1000}, dead=14), before, "dead_ratio").is_moved
    assert not measured(night({"cat": 1000}, dead=0), before, "dead_ratio").is_moved


EXTREMES = (0, 1, 2, 299, 300, 10**9, 10**15)


def test_whatever_was_counted_there_is_a_verdict_of_finite_figures():
    """Nothing, all and everything between: a bucket whose every label was a low score ended every report once."""
    chance = random.Random(4)  # noqa: S311 - the same every time
    for _ in range(2_000):

        def any_night(names: int = chance.randrange(1, 4), chance: random.Random = chance) -> Night:
            labels = {f"label {number}": chance.choice(EXTREMES[1:]) for number in range(names)}
            images = sum(labels.values())
            return Night(
                labels={label: count * chance.choice((1.0, 1 / 3, 0.1)) for label, count in labels.items()},
                score_sum=images * chance.choice((0.0, 0.5, 1.0)),
                score_square_sum=images * chance.choice((0.0, 0.25, 1.0)),
                low_scores=chance.choice((0, 1, images // 2, images, 2 * images, None)),
                dead=chance.choice((*EXTREMES, None)),
                is_ordinary=chance.random() < 0.7,
            )

        before = [any_night() for _ in range(chance.choice((1, 7, 28)))]
        before += chance.choice(([], [before[0]] * 7))
        for measure in judge(any_night(), before, replace(RULES, min_images=1)).measures:
            assert math.isfinite(measure.value), measure
            assert math.isfinite(measure.ordinary_to), measure


@pytest.mark.parametrize("low", [0, 1000])
def test_a_bucket_all_or_none_of_whose_scores_are_low_is_judged(low: int):
    before = [night({"cat": 1000}, low=low)] * 7
    assert judge(night({"cat": 1000}, low=low), before, RULES).name == "ordinary"


def test_what_was_not_counted_before_is_not_compared():
    before = [replace(CATS_AND_DOGS, low_scores=None, dead=None)] * 7
    names = {measure.name for measure in judge(CATS_AND_DOGS, before, RULES).measures}
    assert names == {"js_distance", "psi", "moved_share", "mean_score"}


@pytest.mark.parametrize("threshold", ["js", "psi", "moved_share", "low_score_rise", "score_drop", "dead_rise"])
def test_each_threshold_can_be_raised_until_nothing_is_worth_a_word(threshold: str):
    """Everything has moved here; what is below its threshold is not told."""
    found = night({"cat": 100, "ship": 900}, score=0.5, low=500, dead=500)
    before = [replace(CATS_AND_DOGS, low_scores=50, dead=10)] * 7
    names = {"js": "js_distance", "low_score_rise": "low_score_share", "score_drop": "mean_score"}
    name = {**names, "dead_rise": "dead_ratio"}.get(threshold, threshold)

    told = {measure.name for measure in judge(found, before, RULES).measures if measure.is_moved}
    silent = judge(found, before, replace(RULES, **{threshold: 99.0}))
    assert name in told
    assert {measure.name for measure in silent.measures if measure.is_moved} == told - {name}


def test_what_nights_differ_by_is_learnt_from_them():
    steady = [night({"cat": 600 + step, "dog": 400 - step}) for step in (-10, 5, 0, -5, 10, 0, 5)]
    restless = [night({"cat": 600 + step, "dog": 400 - step}) for step in (-200, 150, 0, -150, 200, -50, 50)]
    found = night({"cat": 430, "dog": 570})

    assert judge(found, steady, RULES).name == "moved"
    assert judge(found, restless, RULES).name == "ordinary"


def test_a_night_that_had_moved_does_not_make_the_next_one_like_it_ordinary():
    ordinary = [night({"cat": 600 + step, "dog": 400 - step}) for step in (-10, 5, 0, -5, 10, 0, 5)]
    junk = night({"cat": 400, "dog": 300, "ship": 300})
    assert judge(junk, [*ordinary, replace(junk, is_ordinary=False)], RULES).name == "moved"


def test_the_first_run_over_a_whole_bucket_does_not_outweigh_the_nights_after_it():
    backlog = night({"cat": 500_000, "dog": 500_000})
    nights = [night({"cat": 300 + step, "dog": 700 - step}) for step in (-10, 5, 0, -5, 10, 0, 5)]
    verdict = judge(night({"cat": 305, "dog": 695}), [backlog, *nights], RULES)

    assert (verdict.name, verdict.nights, verdict.images_before) == ("ordinary", 8, 1_007_000)
    js = verdict.measure("js_distance")
    assert js is not None
    assert js.value < measured(night({"cat": 500, "dog": 500}), nights, "js_distance").value / 2
    assert judge(night({"cat": 250, "dog": 550, "ship": 200}), [backlog, *nights], RULES).name == "moved"


def test_the_order_of_nights_and_labels_changes_nothing():
    before = [night({"cat": 500 + step, "dog": 300 - step, "ship": 200}) for step in (-20, 30, 0, 10, 5, -5, -10)]
    found = night({"ship": 400, "cat": 350, "dog": 250})
    other = replace(found, labels=dict(reversed(list(found.labels.items()))))
    assert judge(found, before, RULES) == judge(other, before[::-1], RULES)


def test_a_few_images_of_labels_that_were_never_seen_are_no_news():
    found = night({"cat": 595, "dog": 395, **{f"odd {number}": 1 for number in range(10)}})
    assert judge(found, [CATS_AND_DOGS] * 7, RULES).name == "ordinary"


def test_the_settings_change_some_thresholds_and_leave_the_others():
    chosen = read_settings(quality_thresholds="js=0.2, min_images=50,psi=1", quality_action="fail")
    assert chosen.quality_rules() == QualityRules("fail", min_images=50, js=0.2, psi=1.0)
    assert read_settings().quality_rules() == RULES


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("jss=0.2", "'jss' is no threshold; there are js, psi, moved_share"),
        ("js", "js is '', which is no number from 0 on"),
        ("js=-1", "js is '-1', which is no number"),
        ("psi=nan", "psi is 'nan', which is no number"),
        ("min_images=0.5", "min_images is '0.5', which is no number"),
    ],
)
def test_a_threshold_that_is_none_is_refused_with_the_variables_name(text: str, sentence: str):
    with pytest.raises(SettingsError, match=f"NIGHTLABEL_QUALITY_THRESHOLDS is .*{re.escape(sentence)}"):
        read_settings(quality_thresholds=text)


# By simulation: docs/adr/0019 has the long tables.


@pytest.mark.parametrize("images", [500, 1_000])
def test_thirty_ordinary_nights_raise_no_alarm(images: int):
    for world in WORLDS:
        moved = [verdict.reason for verdict in judged(world, images, seed=7, nights=30) if verdict.name == "moved"]
        assert moved == [], world.name


@pytest.mark.parametrize("images", [500, 1_000])
@pytest.mark.parametrize(("world", "of_frequent"), [(MILD, 1.0), (BURSTY, 0.6)], ids=["mild", "bursty"])
def test_from_the_first_night_on_a_bucket_is_learnt_and_a_quarter_of_a_night_is_reported(
    world: World, of_frequent: float, images: int
):
    """Nothing is known at first, and a night that was taken for moved must not keep it so for ever."""
    chance = np.random.default_rng(7)
    past: list[Night] = []
    names: list[str] = []
    caught_of: dict[str, list[bool]] = {"one label": [], "the most frequent label": []}
    for number in range(60):
        found = draw(world, images, chance)
        names.append(judge(found, past[-WINDOW:], RULES).name)
        if number >= WINDOW and number % 3 == 0:
            for drift in DRIFTS[:2]:
                planted = judge(draw(world, images, chance, drift, 0.25), past[-WINDOW:], RULES)
                caught_of[drift.name].append(planted.name == "moved")
        past.append(replace(found, is_ordinary=names[-1] != "moved"))

    assert names[:7] == ["not_judged"] * 7
    assert "not_judged" not in names[7:]
    assert names.count("moved") <= 2
    assert all(caught_of["one label"])
    assert sum(caught_of["the most frequent label"]) >= of_frequent * len(caught_of["the most frequent label"])


def test_nights_that_all_had_moved_teach_what_a_lively_bucket_is():
    """Also where no night at all was ordinary, which once was an alarm for ever."""
    lively = [night({"cat": 600 + step, "dog": 400 - step}) for step in (-200, 150, 0, -150, 200, -50, 50)]
    found = night({"cat": 430, "dog": 570})
    assert judge(found, [replace(one, is_ordinary=False) for one in lively], RULES).name == "ordinary"


@pytest.mark.parametrize("share", [0.10, 0.25])
def test_a_planted_label_or_junk_is_reported_in_that_run(share: float):
    for drift in (DRIFTS[0], DRIFTS[2], DRIFTS[4]):
        least = 0.75 if drift.is_junk and share < 0.2 else 1.0
        assert caught(MILD, 500, drift, share, seed=7, nights=12) >= least, drift.name


@pytest.mark.full
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_of_three_thousand_ordinary_nights_at_most_six_raise_an_alarm(world):
    alarms = {
        images: [verdict.reason for verdict in judged(world, images, seed=3, nights=1_000) if verdict.name == "moved"]
        for images in (500, 1_000, 5_000)
    }
    assert sum(map(len, alarms.values())) <= 6, alarms


@pytest.mark.full
@pytest.mark.parametrize("images", [500, 1_000, 5_000])
def test_one_label_few_labels_and_junk_are_reported_from_500_images_on(images: int):
    for share in (0.10, 0.25):
        for drift in (DRIFTS[0], DRIFTS[2], DRIFTS[4]):
            is_hard = images == 500 and share < 0.2 and drift is not DRIFTS[0]
            assert caught(MILD, images, drift, share, seed=5, nights=200) >= (0.88 if is_hard else 0.98), drift.name
    assert caught(MILD, images, DRIFTS[1], 0.25, seed=5, nights=200) >= 0.98, "the most frequent label"
