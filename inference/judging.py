"""judge: a run's labels beside those of the nights before -> what has moved, beyond chance. Pure, no NumPy.

A night of 500 images draws its labels from a thousand: its label mix differs from last week's whatever happens. So
each measure comes with what an ordinary night may reach: sampling, of this night and of the ones before, and what
nights differ by besides, as the nights before have shown it. An alarm takes both: more than that, and more than the
threshold, below which nobody cares. docs/adr/0019-what-an-ordinary-night-may-do.md has the figures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from inference.types import QualityRules

MeasureName: TypeAlias = Literal["js_distance", "psi", "moved_share", "low_score_share", "mean_score", "dead_ratio"]
VerdictName: TypeAlias = Literal["ordinary", "moved", "not_judged"]

LEAST_EXPECTED: Final = 5.0
"""Images that a label is expected on, from which it is a class of its own in JS and PSI; rarer ones are one class."""

USUAL_SPREAD: Final = 0.002
"""What nights are taken to differ by until enough of them have been seen: the variance of a share p is this times
p(1 - p), besides sampling."""

USUAL_SCORE_SPREAD: Final = 0.0001
"""Likewise of the mean score: a standard deviation of 0.01."""

NIGHTS_OF_USUAL: Final = 4.0
"""By so many nights the usual spread counts beside the one that was seen."""

USUAL_BURST: Final = 1.5
"""Images come in bursts, several of one scene, so that sampling is by so much coarser than one by one; likewise."""

SURE: Final = 4.5
"""Standard deviations by which a distance is beyond chance: one ordinary night of three hundred thousand, if all that
follows were known and not estimated; as it is, one of some thousand."""

SURE_OF_A_SHARE: Final = 4.0
"""Likewise of low scores, dead letters and the mean score."""

SURE_OF_A_LABEL: Final = 4.0
"""Likewise of a single label that has risen by ``LEAST_RISE``: few labels are frequent enough to do so by chance."""

LEAST_NIGHTS: Final = 7
"""Nights that show what nights differ by, before the next one is judged: until then it is learnt."""

MOST_OF_MOVED: Final = 3.0
"""Standard deviations, as the median of all nights shows them, by which a night that had moved may teach: a bucket all
of whose nights are lively is learnt by them, and one night of junk among others teaches next to nothing."""

LEAST_RISE: Final = 0.05
"""Share of the images by which a single label has to rise before all of its rise is counted as beyond the ordinary."""

ORDINARY_OF_A_LABEL: Final = 3.0
"""Up to here a label is ordinary for itself; what is beyond is little for one label, and tells of many."""

LEAST_OF_A_LABEL: Final = 3.0
"""So many images of a label are ordinary in any case."""

LEAST_FOR_NORMAL: Final = 10.0
"""Images that are expected from which a count is nearly a normal number."""

MOST_OF_RARE: Final = 20.0
"""Images of a rare label by which a night that had moved teaches how images come in bursts."""

BURST_OF_MOVED: Final = 2.0
"""By so much, of the median of all nights, such a night teaches it at most."""

MOST_OF_MEDIAN: Final = 3.0
"""By so much a night may be larger than the median of those before; a larger one counts as if it were that large."""

MOST_NAMED: Final = 10
"""Labels that are named as moved."""


@dataclass(frozen=True, slots=True)
class Night:
    """What a run recorded, or all runs of a day: counts only. None where it was not counted."""

    labels: Mapping[str, float]
    """Label -> images that got it, above 0."""
    score_sum: float
    score_square_sum: float | None = None
    low_scores: float | None = None
    """Images whose score is below the low score."""
    dead: float | None = None
    """Dead letters, which are not among the labels."""
    is_ordinary: bool = True
    """Whether nothing had moved; what nights differ by, a night that had teaches only within bounds."""

    @property
    def images(self) -> float:
        """Images with a label."""
        return sum(self.labels.values())


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a night beside what it was before."""

    name: MeasureName
    value: float
    before: float | None
    """The same of the nights before; None for a distance, which is between both."""
    ordinary_to: float
    """An ordinary night goes as far as this."""
    threshold: float
    """From the rules; of a rise or a fall its size."""
    is_moved: bool


@dataclass(frozen=True, slots=True)
class MovedLabel:
    """A label with its share of the images, 0 to 1."""

    label: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a night."""

    name: VerdictName
    reason: str
    """One sentence; empty for an ordinary night."""
    measures: tuple[Measure, ...] = ()
    moved_labels: tuple[MovedLabel, ...] = ()
    """Those that moved most, first; only where something has moved."""
    nights: int = 0
    """Nights before that it was compared with."""
    images_before: int = 0
    """Labels of these nights together."""

    def measure(self, name: MeasureName) -> Measure | None:
        """Return a measure, or None if it was not taken."""
        return next((measure for measure in self.measures if measure.name == name), None)


def judge(night: Night, before: Sequence[Night], rules: QualityRules) -> Verdict:
    """Compare a night with the nights before it.

    Args:
        night: The one to judge.
        before: Nights of the same model and the same kind of images, in any order.
        rules: Thresholds.
    """
    before = [one for one in before if one.labels]
    images, images_before = night.images, sum(one.images for one in before)
    if images < max(rules.min_images, 1):
        return Verdict("not_judged", f"{images:,} labels are too few to judge, {rules.min_images:,} are needed")
    if images_before < max(rules.min_images, 1):
        return Verdict(
            "not_judged",
            f"the nights before hold {images_before:,} labels of this model, {rules.min_images:,} are needed",
            nights=len(before),
            images_before=round(images_before),
        )
    if len(before) < LEAST_NIGHTS:
        return Verdict(
            "not_judged",
            f"still learning what nights differ by: {len(before)} are known, {LEAST_NIGHTS} are needed",
            nights=len(before),
            images_before=round(images_before),
        )
    nights, before = len(before), _evened(before)
    mix = _Mix(night, before)
    candidates = (
        *mix.distances(rules),
        mix.moved_share(rules),
        _rise("low_score_share", night, before, rules.low_score_rise),
        _fall_of_score(night, before, rules.score_drop),
        _rise("dead_ratio", night, before, rules.dead_rise),
    )
    measures = tuple(measure for measure in candidates if measure is not None)
    moved = [measure for measure in measures if measure.is_moved]
    labels = mix.moved_labels() if moved else ()
    return Verdict(
        name="moved" if moved else "ordinary",
        reason=_sentence(moved, labels),
        measures=measures,
        moved_labels=labels,
        nights=nights,
        images_before=round(images_before),
    )


def failed(error: Exception) -> Verdict:
    """Return the verdict of a run that could not be judged for a reason that nobody foresaw: its books hold anyway."""
    return Verdict("not_judged", f"judging failed: {type(error).__name__}: {error}; the log has more, please report it")


def _evened(nights: Sequence[Night]) -> list[Night]:
    """Return the nights with none that outweighs the others: the first run of a bucket may hold years of it."""
    most = MOST_OF_MEDIAN * statistics.median(night.images for night in nights)
    return [night if night.images <= most else _scaled(night, most / night.images) for night in nights]


def _scaled(night: Night, factor: float) -> Night:
    """Return a night as if it had been so much smaller."""

    def part(count: float | None) -> float | None:
        return None if count is None else count * factor

    return Night(
        labels={label: images * factor for label, images in night.labels.items()},
        score_sum=night.score_sum * factor,
        score_square_sum=part(night.score_square_sum),
        low_scores=part(night.low_scores),
        dead=part(night.dead),
        is_ordinary=night.is_ordinary,
    )


class _Mix:
    """The label mixes of a night and of the nights before, and what each label may do by chance."""

    def __init__(self, night: Night, before: Sequence[Night]) -> None:
        self.night, self.images = night, night.images
        self.sizes = [one.images for one in before]
        self.total = sum(self.sizes)
        counts: dict[str, float] = {}
        for one in before:
            for label, images in one.labels.items():
                counts[label] = counts.get(label, 0) + images
        self.before = counts
        scale = self.images / self.total
        self.frequent = sorted(label for label, images in counts.items() if images * scale >= LEAST_EXPECTED)
        self.burst = _burst(sorted(set(counts) - set(self.frequent)), before)
        self.spreads, self.spread = _spreads(self.frequent, before, self.burst)
        self.of_history = sum(size * size for size in self.sizes) / self.total**2

    def variance(self, label: str | None, share: float) -> float:
        """Return the variance of the difference of a label's shares, on an ordinary night; None for the rare ones."""
        share = min(share, 1.0)  # sums of parts may be above it by a rounding
        sampling = self.burst * share * (1 - share) * (1 / self.images + 1 / self.total)
        usual = self.spread * share * (1 - share)
        spread = usual if label is None else self.spreads.get(label, usual)
        return sampling + spread * (1 + self.of_history)

    def classes(self) -> list[tuple[str | None, float, float]]:
        """Return the classes that JS and PSI are over: label (None for the rare ones), share before, share now."""
        found: list[tuple[str | None, float, float]] = []
        rest_before, rest_now = 1.0, 1.0
        for label in self.frequent:
            share = self.before[label] / self.total
            now = self.night.labels.get(label, 0) / self.images
            found.append((label, share, now))
            rest_before, rest_now = rest_before - share, rest_now - now
        if rest_before * self.total > 0.5 or rest_now * self.images > 0.5:
            # What is not there yet is expected on half an image, so that it can be compared with at all.
            found.append((None, max(rest_before, 0.5 / self.total), max(rest_now, 0.0)))
        return found

    def distances(self, rules: QualityRules) -> tuple[Measure, Measure]:
        classes = self.classes()
        expected = [self.variance(label, share) / share for label, share, _ in classes]
        # Both distances are close to a sum of squared differences over the shares, which chance makes a sum of squared
        # normal numbers: its mean and its spread give the chi-squared distribution that is nearest.
        chance = _chi_squared_like(expected, SURE)
        js = sum(_js_part(share, now) for _, share, now in classes)
        js_distance = math.sqrt(max(js, 0.0))
        js_limit = math.sqrt(min(chance / (8 * math.log(2)), 1.0))
        psi = sum(
            (now - share) * math.log(now / share)
            for _, share, now in ((label, share, max(now, 0.5 / self.images)) for label, share, now in classes)
        )
        is_js_moved = js_distance >= max(js_limit, rules.js)
        is_psi_moved = psi >= max(chance, rules.psi)
        return (
            Measure("js_distance", js_distance, None, js_limit, rules.js, is_js_moved),
            Measure("psi", psi, None, chance, rules.psi, is_psi_moved),
        )

    def moved_share(self, rules: QualityRules) -> Measure:
        """Add up the images by which labels go beyond what is ordinary for each; all that came, where it is sure."""
        beyond = 0.0
        for label, images in sorted(self.night.labels.items()):
            expected, ordinary, sure = self.most(label)
            rise = images - expected
            is_sure = images > sure and rise >= LEAST_RISE * self.images
            beyond += rise if is_sure else max(0.0, images - ordinary)
        share = beyond / self.images
        return Measure("moved_share", share, None, 0.0, rules.moved_share, share >= rules.moved_share)

    def most(self, label: str) -> tuple[float, float, float]:
        """Return how many images a label is expected on, up to how many it is ordinary, and beyond chance from."""
        # One that was never seen may well have been there: it is expected as if half an image had been seen.
        share = (self.before.get(label, 0) + 0.5) / self.total
        mean = share * self.images
        variance = max(self.variance(label, min(share, 0.5)) * self.images**2, self.burst * mean)
        least = LEAST_OF_A_LABEL * self.burst
        ordinary, sure = (_count_like(mean, variance, share, sure) for sure in (ORDINARY_OF_A_LABEL, SURE_OF_A_LABEL))
        return mean, max(least, ordinary), max(least, sure)

    def moved_labels(self) -> tuple[MovedLabel, ...]:
        """Return the labels that differ most, by how unlikely it is and how many images it concerns."""
        found = []
        for label in {*self.before, *self.night.labels}:
            before, now = self.before.get(label, 0) / self.total, self.night.labels.get(label, 0) / self.images
            share = (self.before.get(label, 0) + 0.5) / self.total
            beyond = abs(now - before) - 2 * math.sqrt(self.variance(label, min(share, 0.5)))
            if beyond > 0:
                found.append((-beyond, label, before, now))
        return tuple(MovedLabel(label, before, now) for _, label, before, now in sorted(found)[:MOST_NAMED])


def _js_part(one: float, other: float) -> float:
    """Return what a class adds to the Jensen-Shannon divergence, in bits."""
    middle = (one + other) / 2
    return sum(share * math.log2(share / middle) for share in (one, other) if share > 0) / 2


def _burst(labels: Iterable[str], nights: Sequence[Night]) -> float:
    """Return by what images that come several at a time make sampling coarser, as rare labels show it; at least 1."""
    rare = dict.fromkeys(labels, 0.0)
    taught = []
    for night in nights:
        # Of a rare label a night that had moved teaches no more than this many images.
        most = math.inf if night.is_ordinary else MOST_OF_RARE
        taught.append({label: min(images, most) for label, images in night.labels.items() if label in rare})
        for label, images in taught[-1].items():
            rare[label] += images
    sizes = [night.images for night in nights]
    total, square = sum(sizes), sum(size * size for size in sizes)
    known = len(nights) - 1
    shares = {label: images / total for label, images in rare.items()}
    all_shares = sum(shares.values())
    if known < 1 or all_shares <= 0:
        return USUAL_BURST
    of_all = sum(share * share for share in shares.values())
    ratios = []
    for images_of, size in zip(taught, sizes, strict=True):
        squares = sum(images * (images - 2 * shares[label] * size) for label, images in images_of.items())
        ratios.append((squares + of_all * size * size) / (all_shares * size))
    most = BURST_OF_MOVED * statistics.median(ratios)
    seen = sum(
        size * (ratio if night.is_ordinary else min(ratio, most))
        for night, ratio, size in zip(nights, ratios, sizes, strict=True)
    ) / (total - square / total)
    return max(1.0, (NIGHTS_OF_USUAL * USUAL_BURST + known * seen) / (NIGHTS_OF_USUAL + known))


def _winsorised(values: Sequence[float], chance: Sequence[float], nights: Sequence[Night]) -> list[float]:
    """Return a figure of each night, of those that had moved no further from the median than nights go.

    Args:
        values: The figure of each night.
        chance: Its standard deviation by sampling.
        nights: The nights.
    """
    if all(night.is_ordinary for night in nights):
        return list(values)
    middle = statistics.median(values)
    usual = 1.4826 * statistics.median(abs(value - middle) for value in values)
    found = []
    for value, sampling, night in zip(values, chance, nights, strict=True):
        reach = math.inf if night.is_ordinary else MOST_OF_MOVED * max(usual, sampling)
        found.append(min(max(value, middle - reach), middle + reach))
    return found


def _winsorised_counts(
    counts: Sequence[float], sizes: Sequence[float], nights: Sequence[Night], burst: float = 1.0
) -> list[float]:
    """Return a count of each night likewise."""
    if all(night.is_ordinary for night in nights):
        return list(counts)
    share = min(statistics.median(count / size for count, size in zip(counts, sizes, strict=True)), 1.0)
    share = max(share, 0.5 / sum(sizes))
    shares = [count / size for count, size in zip(counts, sizes, strict=True)]
    chance = [_sampling(share, size, burst) for size in sizes]
    return [value * size for value, size in zip(_winsorised(shares, chance, nights), sizes, strict=True)]


def _sampling(share: float, size: float, burst: float = 1.0) -> float:
    """Return the standard deviation of a share of a night of so many images."""
    return math.sqrt(burst * max(share * (1 - share), 0.0) / size)


def _spreads(labels: Iterable[str], nights: Sequence[Night], burst: float) -> tuple[dict[str, float], float]:
    """Return by how much the share of each label differs between nights besides sampling, as a variance.

    Args:
        labels: Which ones.
        nights: The nights before.
        burst: By what sampling is coarser than of images one by one.

    Returns:
        The variance of each label, and for all others the factor of p(1 - p).
    """
    seen = {}
    excess = scale = 0.0
    sizes = [night.images for night in nights]
    for label in labels:
        counts = _winsorised_counts([night.labels.get(label, 0) for night in nights], sizes, nights, burst)
        found = _excess(counts, sizes, burst)
        if found is None:
            continue
        share, over, weight = found
        seen[label] = (share, max(over / weight, 0.0))
        excess, scale = excess + over, scale + share * (1 - share) * weight
    known = len(nights) - 1
    common = max(excess / scale, 0.0) if scale else 0.0
    if known < 1:
        return {}, USUAL_SPREAD
    common = (NIGHTS_OF_USUAL * USUAL_SPREAD + known * common) / (NIGHTS_OF_USUAL + known)
    return {
        label: (NIGHTS_OF_USUAL * common * share * (1 - share) + known * own) / (NIGHTS_OF_USUAL + known)
        for label, (share, own) in seen.items()
    }, common


def _excess(counts: Sequence[float], sizes: Sequence[float], burst: float = 1.0) -> tuple[float, float, float] | None:
    """Return a share over all nights, what it varies by beyond sampling, and the weight of that (DerSimonian-Laird)."""
    total = sum(sizes)
    if len(sizes) < 2 or not total:
        return None
    share = sum(counts) / total
    squares = math.fsum(size * (count / size - share) ** 2 for count, size in zip(counts, sizes, strict=True) if size)
    weight = total - sum(size * size for size in sizes) / total
    if weight <= 0:
        return None
    return share, squares - burst * (len(sizes) - 1) * share * (1 - share), weight


def _rise(
    name: Literal["low_score_share", "dead_ratio"], night: Night, before: Sequence[Night], threshold: float
) -> Measure | None:
    """Measure a share that must not rise; None if it was not counted."""

    def counted(one: Night) -> tuple[float, float] | None:
        if name == "dead_ratio":
            return None if one.dead is None else (one.dead, one.images + one.dead)
        return None if one.low_scores is None else (one.low_scores, one.images)

    now = counted(night)
    pairs = [(pair, one) for one in before if (pair := counted(one)) is not None and pair[1]]
    total = sum(size for (_, size), _ in pairs)
    if now is None or not now[1] or not total:
        return None
    share = sum(count for (count, _), _ in pairs) / total
    # Never of all and never of none: that would leave chance no room, and nothing to divide by.
    assumed = min(max(share, 0.5 / total), max(1 - 0.5 / total, 0.5))
    sizes, nights = [size for (_, size), _ in pairs], [one for _, one in pairs]
    found = _excess(_winsorised_counts([count for (count, _), _ in pairs], sizes, nights), sizes)
    usual = USUAL_SPREAD * assumed * (1 - assumed)
    known = len(pairs) - 1
    spread = usual
    if found is not None:
        own = max(found[1] / found[2], 0.0)
        spread = (NIGHTS_OF_USUAL * usual + known * own) / (NIGHTS_OF_USUAL + known)
    of_history = sum(size * size for (_, size), _ in pairs) / total**2
    variance = assumed * (1 - assumed) * (1 / now[1] + 1 / total) + spread * (1 + of_history)
    value = now[0] / now[1]
    reach = _count_like(assumed * now[1], variance * now[1] ** 2, assumed, SURE_OF_A_SHARE) / now[1]
    rise = max(reach - share, 0.0)
    return Measure(name, value, share, share + rise, threshold, value - share >= max(rise, threshold))


def _fall_of_score(night: Night, before: Sequence[Night], threshold: float) -> Measure | None:
    """Measure the mean score, which must not fall; None without the spread of this night's scores."""
    images = night.images
    if night.score_square_sum is None:
        return None
    mean = night.score_sum / images
    of_one = max(night.score_square_sum / images - mean * mean, 0.0)
    sizes = [one.images for one in before]
    total = sum(sizes)
    mean_before = math.fsum(one.score_sum for one in before) / total
    chance = [math.sqrt(of_one / size) for size in sizes]
    means = _winsorised([one.score_sum / one.images for one in before], chance, before)
    spread = USUAL_SCORE_SPREAD
    known = len(before) - 1
    if known >= 1 and (weight := total - sum(size * size for size in sizes) / total) > 0:
        middle = math.fsum(size * one for size, one in zip(sizes, means, strict=True)) / total
        squares = math.fsum(size * (one - middle) ** 2 for size, one in zip(sizes, means, strict=True))
        own = max((squares - known * of_one) / weight, 0.0)
        spread = (NIGHTS_OF_USUAL * spread + known * own) / (NIGHTS_OF_USUAL + known)
    of_history = sum(size * size for size in sizes) / total**2
    drop = SURE_OF_A_SHARE * math.sqrt(of_one * (1 / images + 1 / total) + spread * (1 + of_history))
    return Measure(
        "mean_score", mean, mean_before, mean_before - drop, threshold, mean_before - mean >= max(drop, threshold)
    )


def _chi_squared_like(means: Sequence[float], sure: float) -> float:
    """Return how far a sum of squared normal numbers goes by chance.

    Args:
        means: The mean of each square.
        sure: Standard deviations of a normal number that would be as unlikely.
    """
    mean = sum(means)
    variance = 2 * sum(one * one for one in means)
    return _gamma_like(mean, variance, sure) if mean > 0 else 0.0


def _count_like(mean: float, variance: float, share: float, sure: float) -> float:
    """Return how far a count goes by chance.

    Args:
        mean: What is expected.
        variance: At least that of single draws.
        share: The share of all that is expected, 0 to 1; what is near a half is as likely below as above.
        sure: As of ``_chi_squared_like``.
    """
    if variance <= 0 or mean < LEAST_FOR_NORMAL:
        return _gamma_like(mean, variance, sure)
    # Cornish and Fisher: a normal number, bent by the skewness of counts that vary by more than draws do.
    skewness = max(2 * variance / mean - 1, 0.0) / math.sqrt(variance) * max(1 - 2 * share, 0.0)
    return mean + math.sqrt(variance) * (sure + (sure * sure - 1) * skewness / 6)


def _gamma_like(mean: float, variance: float, sure: float) -> float:
    """Return how far a number that cannot be negative goes by chance: Wilson and Hilferty's cube of a normal number."""
    if variance <= 0:
        return mean
    ninth = variance / (9 * mean * mean)
    return float(mean * max(0.0, 1 - ninth + sure * math.sqrt(ninth)) ** 3)


WORDS: Final[dict[MeasureName, str]] = {
    "js_distance": "Jensen-Shannon distance",
    "psi": "population stability index",
    "moved_share": "share of images with labels beyond the ordinary",
    "low_score_share": "share of low scores",
    "mean_score": "mean score",
    "dead_ratio": "share of dead letters",
}
"""What each measure is called in a sentence."""


def _sentence(moved: Sequence[Measure], labels: Sequence[MovedLabel]) -> str:
    if not moved:
        return ""
    found = ", ".join(f"{WORDS[one.name]} {one.value:.3f} ({_beside(one)})" for one in moved)
    named = ", ".join(f"{one.label} {one.before:.1%} -> {one.now:.1%}" for one in labels[:5])
    return found + (f"; moved most: {named}" if named else "")


def _beside(measure: Measure) -> str:
    if measure.before is not None:
        return f"before {measure.before:.3f}"
    return f"ordinary up to {max(measure.ordinary_to, measure.threshold):.3f}"
