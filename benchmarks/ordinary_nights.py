"""How often an ordinary night raises an alarm, and how often a planted drift does: what `inference.judging` is worth.

    python -m benchmarks.ordinary_nights            # the tables of docs/adr/0019, some minutes
    python -m benchmarks.ordinary_nights --nights 100

Nights are made, not measured: labels as skewed as photos have them, in bursts (a scene gives several images), with
shares, scores and dead letters that differ from night to night by more than sampling. Everything comes from the seed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from inference.judging import Night, Verdict, judge
from inference.types import QualityRules

WINDOW = 28
LOW_SCORE = 0.3
SIZES = (500, 1_000, 5_000, 50_000)
PLANTED = (0.10, 0.25)


@dataclass(frozen=True)
class World:
    """Where nights come from."""

    name: str
    labels: int
    skew: float
    """Zipf's exponent of the label shares."""
    label_spread: float = 0.08
    """By how much a label's share differs from night to night, relative to itself (standard deviation of the log)."""
    scene: float = 1.25
    """Images of one scene, which have one label, in the mean."""
    score_spread: float = 0.05
    """By how much the scores of a night differ, in logits (standard deviation)."""
    dead: float = 0.01
    dead_spread: float = 0.3
    """Relative to itself."""

    def shares(self) -> np.ndarray:
        shares = 1.0 / np.arange(1, self.labels + 1) ** self.skew
        return shares / shares.sum()


WORLDS = (
    World("1,000 labels, sampling alone", 1000, 1.0, label_spread=0.0, scene=1.0, score_spread=0.0, dead_spread=0.0),
    World("1,000 labels, mild", 1000, 1.0),
    World("1,000 labels, rough", 1000, 1.0, label_spread=0.25, scene=3.0, score_spread=0.1),
    World("1,000 labels, none frequent", 1000, 0.3),
    World("20 labels, mild", 20, 1.0),
    World("2 labels, mild", 2, 0.6),
)

BURSTY = World("1,000 labels, eight images a scene", 1000, 1.0, scene=8.0)
LIVELY = World("1,000 labels, lively", 1000, 1.0, label_spread=0.5, scene=8.0, score_spread=0.2)


@dataclass(frozen=True)
class Drift:
    """What replaces a share of a night's images."""

    name: str
    labels: int = 0
    """How many labels it has; 0 for those of an ordinary night."""
    is_frequent: bool = False
    """Whether these are the most frequent labels, which is the hardest to see, or any."""
    is_junk: bool = False
    """Whether its scores are low."""


DRIFTS = (
    Drift("one label", 1),
    Drift("the most frequent label", 1, is_frequent=True),
    Drift("five labels", 5),
    Drift("the five most frequent labels", 5, is_frequent=True),
    Drift("low scores", is_junk=True),
)


def draw(world: World, images: int, chance: Generator, drift: Drift | None = None, share: float = 0.0) -> Night:
    """Make a night."""
    of_night = world.shares() * np.exp(world.label_spread * chance.standard_normal(world.labels))
    of_night /= of_night.sum()
    scenes = 1 + chance.poisson(world.scene - 1, images) if world.scene > 1 else np.ones(images, dtype=int)
    labels = np.repeat(chance.choice(world.labels, images, p=of_night), scenes)[:images]
    shift = world.score_spread * chance.standard_normal()
    scores = 1 / (1 + np.exp(-(1.0 + shift + 1.4 * chance.standard_normal(images))))
    if drift is not None:
        planted = round(share * images)
        if drift.labels:
            few = min(drift.labels, world.labels)
            pool = np.arange(few) if drift.is_frequent else chance.choice(world.labels, few, replace=False)
            labels[:planted] = chance.choice(pool, planted)
        if drift.is_junk:
            scores[:planted] = chance.uniform(0.05, 0.25, planted)
    counted = np.bincount(labels, minlength=world.labels)
    dead = world.dead * np.exp(world.dead_spread * chance.standard_normal())
    return Night(
        labels={f"label {number}": int(counted[number]) for number in np.flatnonzero(counted)},
        score_sum=float(scores.sum()),
        score_square_sum=float((scores**2).sum()),
        low_scores=int((scores < LOW_SCORE).sum()),
        dead=int(chance.binomial(images, min(dead, 1.0))),
    )


def judged(world: World, images: int, seed: int, nights: int, *, before: int = WINDOW) -> list[Verdict]:
    """Judge ordinary nights as they come one after the other, each by the ones before it.

    Args:
        world: Where they come from.
        images: Of each night.
        seed: Of all chance.
        nights: How many are judged.
        before: Nights that are known at first, and the newest that count; 0 to know none, and count up to 28.
    """
    chance = np.random.default_rng(seed)
    past: list[Night] = [draw(world, images, chance) for _ in range(before)]
    found = []
    for _ in range(nights):
        night = draw(world, images, chance)
        found.append(judge(night, past, QualityRules()))
        past = [*past, replace(night, is_ordinary=found[-1].name != "moved")][-(before or WINDOW) :]
    return found


def caught(
    world: World, images: int, drift: Drift, share: float, seed: int, nights: int, *, before: int = WINDOW
) -> float:
    """Return the share of nights with a planted drift that are reported."""
    chance, found = np.random.default_rng(seed), 0
    past: list[Night] = [draw(world, images, chance) for _ in range(before)]
    for _ in range(nights):
        past = [*past[1:], draw(world, images, chance)]
        found += judge(draw(world, images, chance, drift, share), past, QualityRules()).name == "moved"
    return found / nights


def table(rows: list[list[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rest]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=1_000, help="ordinary nights of each kind (default: %(default)s)")
    parser.add_argument("--planted", type=int, default=200, help="nights with a drift of each kind")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES[:3])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    sizes = [f"{images:,} images" for images in options.sizes]
    for before in (WINDOW, 7, 0):
        rows = [[f"nights before: {before}", *sizes]]
        for world in (*WORLDS, BURSTY, LIVELY):
            row = [world.name]
            for images in options.sizes:
                nights = options.nights if before == WINDOW else options.nights // 3
                found = judged(world, images, options.seed, nights, before=before)
                alarms = [measure.name for verdict in found for measure in verdict.measures if measure.is_moved]
                names = ", ".join(f"{name} {alarms.count(name)}" for name in sorted(set(alarms)))
                moved = sum(verdict.name == "moved" for verdict in found)
                row.append(f"{moved} of {len(found):,}" + (f" ({names})" if names else ""))
            rows.append(row)
        print(f"\nAlarms in ordinary nights\n\n{table(rows)}", flush=True)
        for share in PLANTED if before else ():
            rows = [[f"{share:.0%} planted, nights before: {before}", *sizes]]
            for world in (WORLDS[1], WORLDS[2]) if before == WINDOW else (WORLDS[1],):
                for drift in DRIFTS:
                    shares = [
                        caught(world, images, drift, share, options.seed, options.planted, before=before)
                        for images in options.sizes
                    ]
                    rows.append([f"{world.name}: {drift.name}", *(f"{one:.1%}" for one in shares)])
            print(f"\nReported in that run\n\n{table(rows)}", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
