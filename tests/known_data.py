"""A ledger whose every row is known: some weeks of nights, played out in Python, and what the public views show of it.

The views are worked out here a second time, in plain Python over the same values; nothing is read from a database.
Scores and seconds are whole parts of a power of two, so that sums and means are exact in SQL and in Python alike.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from inference.models.registry import register
from inference.types import ModelId, image_id
from tests.ledger import manifest

Row = dict[str, Any]

EXAMPLE_SEED = 11
"""Of the world that the examples of the cookbook are answers about."""

FIRST_NIGHT = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
NIGHTS = 21
MAY_BE_MISSED = (2, 3, 4, 5, 6, 7, 8, 13, 14, 17, 19)
"""Two of these nights have no run."""
FAILED_NIGHT = 9
REPLANNED_NIGHT = 10
PROMOTION_NIGHT = 12
FIRST_SHADOW_NIGHT = 14
SHADOW_SHARE = 0.75
MOST_IMAGES = 5
"""What a night labels at most; the rest is left for the next one."""

MODELS = (ModelId("tiny", "1"), ModelId("tiny", "2"), ModelId("candidate", "1"))
"""In the order of their registration. The first two are the production line; the third was only tried."""
PROMOTED_AT = {
    ModelId("tiny", "1"): FIRST_NIGHT - timedelta(days=1),
    ModelId("tiny", "2"): FIRST_NIGHT + timedelta(days=PROMOTION_NIGHT, hours=-6),
}

PROMOTED_BY = "an owner"

LABELS = (
    ("tabby", "n02123045"),
    ("Egyptian cat", "n02124075"),
    ("crane", "n02012849"),
    ("crane", "n03126707"),
    ("jack-o'-lantern", "n03590841"),
    ('12" ruler', "n04118776"),
    ("😺 smiling cat", "x0000001"),
    ("100% wool: {grey}", "x0000002"),
)
PREFIXES = ("in/2026/", "in/2025/", "archive/", "archive//", "", "/", "odd\n/")
NAMES = (
    "photo{}.jpg",
    "it's {}.jpg",
    'say "{}".jpg',
    "line\n{}.jpg",
    "tab\t{}\x01.jpg",
    "😀 {}.png",
    "100%{}\\.jpg",
    "a|b {}.jpg",
)


@dataclass(frozen=True)
class Image:
    """An object version."""

    bucket: str
    key: str
    etag: str
    size_bytes: int
    content: bytes
    last_modified: datetime
    first_seen_at: datetime

    @property
    def image_id(self) -> UUID:
        return image_id(self.bucket, self.key, self.etag)

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.content).digest()


@dataclass
class Object:
    """What a key holds."""

    image: Image
    changed_at: datetime
    gone_at: datetime | None = None


@dataclass(frozen=True)
class Outcome:
    """A row of the ledger."""

    image: Image
    model: ModelId
    run_id: UUID
    recorded_at: datetime
    label: str | None = None
    label_id: str | None = None
    top_labels: tuple[str, ...] | None = None
    top_scores: tuple[float, ...] | None = None
    is_copied: bool = False
    engine: str | None = None
    stage: str | None = None
    error_code: str | None = None
    message: str | None = None
    attempts: int = 1
    retry_after: datetime | None = None

    @property
    def score(self) -> float | None:
        return None if self.top_scores is None else self.top_scores[0]


@dataclass
class Shard:
    """A slice of a run's plan."""

    plan_number: int
    number: int
    state: str
    images: int
    labelled: int = 0
    copied: int = 0
    dead: int = 0
    gone: int = 0
    done_elsewhere: int = 0
    seconds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Fetch, decode, predict, write."""


@dataclass
class Run:
    """One execution."""

    run_id: UUID
    dag_id: str
    airflow_run_id: str | None
    model: ModelId
    started_at: datetime
    finished_at: datetime | None = None
    state: str = "running"
    discovered: int = 0
    already_done: int = 0
    deferred: int = 0
    plan_number: int = 1
    carried_labelled: int = 0
    carried_copied: int = 0
    carried_dead: int = 0
    list_s: float = 0.0
    max_images_per_second: float | None = None
    expected_s: float | None = None
    shadow_of: UUID | None = None
    shards: list[Shard] = field(default_factory=list)

    def of_plan(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.plan_number == self.plan_number]

    def total(self, count: str) -> int:
        return sum(getattr(shard, count) for shard in self.of_plan())


@dataclass(frozen=True)
class Judged:
    """How a run's labels compared with those before it. Made up: to work it out is `inference.judging`'s affair."""

    run: Run
    verdict: str
    reason: str
    dead: int
    scores: tuple[float, ...]
    """Of the labels that it recorded."""
    nights: int
    images_before: int
    judged_at: datetime
    figures: dict[str, float]
    """Distances, shares and means of before; none where nothing was judged."""
    moved: tuple[str, ...] = ()
    moved_labels: tuple[tuple[str, float, float], ...] = ()


LOW_SCORE = 0.5
"""Of the known data: `review_queue` shows what is below, and so do runs count it."""

FIGURES = (
    "js_distance", "js_ordinary", "psi", "psi_ordinary", "moved_share", "low_score_share_before",
    "low_score_share_ordinary", "mean_score_before", "mean_score_ordinary", "dead_ratio_before", "dead_ratio_ordinary",
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """A label that somebody gave to an image."""

    image: Image
    seen: Outcome
    label: str
    label_id: str
    reviewer: str
    note: str
    reviewed_at: datetime
    superseded_at: datetime | None = None


@dataclass
class World:
    """Everything that the database holds."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    images: dict[UUID, Image] = field(default_factory=dict)
    read: set[UUID] = field(default_factory=set)
    """Images whose bytes were read."""
    outcomes: dict[tuple[UUID, ModelId], Outcome] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    reviews: list[Review] = field(default_factory=list)

    # What the public views show.

    def line(self) -> list[ModelId]:
        """The production line, best first."""
        return sorted(PROMOTED_AT, key=lambda model: PROMOTED_AT[model], reverse=True)

    def existing(self) -> Iterator[Object]:
        return (found for found in self.objects.values() if found.gone_at is None)

    def best(self, image: Image) -> Outcome | None:
        """The outcome that counts for an image: the best label of the line, else its best dead letter."""
        of_line = [self.outcomes.get((image.image_id, model)) for model in self.line()]
        found = [outcome for outcome in of_line if outcome is not None]
        return next((outcome for outcome in found if outcome.label is not None), found[0] if found else None)

    def latest_prediction(self) -> list[Row]:
        rows = []
        for found in self.existing():
            best = self.best(found.image)
            if best is not None and best.label is not None:
                rows.append(
                    of_object(found.image)
                    | {
                        "size_bytes": found.image.size_bytes,
                        "last_modified": found.image.last_modified,
                        "label": best.label,
                        "label_id": best.label_id,
                        "score": best.score,
                        "top_labels": list(best.top_labels or ()),
                        "top_scores": list(best.top_scores or ()),
                    }
                    | of_model(best.model)
                    | {"engine": best.engine, "run_id": best.run_id, "predicted_at": best.recorded_at}
                )
        return rows

    def dead_letter_open(self) -> list[Row]:
        rows = []
        for found in self.existing():
            best = self.best(found.image)
            if best is not None and best.label is None:
                rows.append(
                    of_object(found.image)
                    | {
                        "stage": best.stage,
                        "error_code": best.error_code,
                        "message": best.message,
                        "attempts": best.attempts,
                        "permanent": best.retry_after is None,
                        "retry_after": best.retry_after,
                    }
                    | of_model(best.model)
                    | {"run_id": best.run_id, "failed_at": best.recorded_at}
                )
        return rows

    def never_labelled(self) -> list[Row]:
        return [
            of_object(found.image)
            | {
                "size_bytes": found.image.size_bytes,
                "last_modified": found.image.last_modified,
                "first_seen_at": found.image.first_seen_at,
            }
            for found in self.existing()
            if self.best(found.image) is None
        ]

    def run_summary(self) -> list[Row]:
        rows = []
        for run in self.runs:
            done = sum(run.total(count) for count in ("labelled", "dead", "gone", "done_elsewhere"))
            fetch, decode, predict, write = added(shard.seconds for shard in run.of_plan())
            labelled, dead = run.total("labelled") + run.carried_labelled, run.total("dead") + run.carried_dead
            rows.append(
                {
                    "run_id": run.run_id,
                    "dag_id": run.dag_id,
                    "airflow_run_id": run.airflow_run_id,
                    "state": run.state,
                    "started_at": run.started_at,
                    "finished_at": run.finished_at,
                }
                | of_model(run.model)
                | {
                    "discovered": run.discovered,
                    "already_done": run.already_done,
                    "deferred": run.deferred,
                    "labelled": labelled,
                    "copied": run.total("copied") + run.carried_copied,
                    "dead": dead,
                    "gone": run.total("gone"),
                    "done_elsewhere": run.total("done_elsewhere"),
                    "unfinished": run.total("images") - done,
                    "images_per_second": per(labelled + dead, seconds_of(run)),
                    "list_s": run.list_s,
                    "fetch_s": fetch,
                    "decode_s": decode,
                    "predict_s": predict,
                    "write_s": write,
                    "max_images_per_second": run.max_images_per_second,
                    "expected_s": run.expected_s,
                    "shadow_of": run.shadow_of,
                }
            )
        return rows

    def label_daily(self) -> list[Row]:
        return [
            {"day": day} | of_model(model) | {"label": label, "images": len(scores), "mean_score": mean(scores)}
            for (day, model, label), scores in self._scores(lambda one: ()).items()
        ]

    def label_by_prefix(self) -> list[Row]:
        def place(outcome: Outcome) -> tuple[str, str]:
            first, slash, _ = outcome.image.key.partition("/")
            return outcome.image.bucket, first + slash if slash else ""

        return [
            {"day": day, "bucket": bucket, "prefix": prefix}
            | of_model(model)
            | {"label": label, "images": len(scores), "mean_score": mean(scores)}
            for (day, model, label, bucket, prefix), scores in self._scores(place).items()
        ]

    def _scores(self, more: Callable[[Outcome], tuple[str, ...]]) -> dict[Any, list[float]]:
        """Scores of the labels by UTC day, model, label and whatever else."""
        scores: dict[Any, list[float]] = defaultdict(list)
        for outcome in self.outcomes.values():
            if outcome.label is not None and outcome.score is not None:
                day = outcome.recorded_at.astimezone(UTC).date()
                scores[(day, outcome.model, outcome.label, *more(outcome))].append(outcome.score)
        return scores

    def object_outcome(self) -> list[Row]:
        return [
            of_object(outcome.image)
            | of_model(outcome.model)
            | {
                "label": outcome.label,
                "label_id": outcome.label_id,
                "score": outcome.score,
                "is_copied": outcome.is_copied,
                "stage": outcome.stage,
                "error_code": outcome.error_code,
                "message": outcome.message,
                "attempts": outcome.attempts,
                "retry_after": outcome.retry_after,
                "engine": outcome.engine,
                "run_id": outcome.run_id,
                "recorded_at": outcome.recorded_at,
            }
            for found in self.existing()
            for model in MODELS
            if (outcome := self.outcomes.get((found.image.image_id, model))) is not None
        ]

    def run_drift(self) -> list[Row]:
        rows = []
        for one in self.judged:
            low = sum(score < LOW_SCORE for score in one.scores)
            figures: dict[str, float | None] = {name: one.figures.get(name) for name in FIGURES}
            rows.append(
                {"run_id": one.run.run_id, "dag_id": one.run.dag_id, "started_at": one.run.started_at}
                | of_model(one.run.model)
                | {"verdict": one.verdict, "reason": one.reason, "images": len(one.scores), "dead": one.dead}
                | {"nights": one.nights, "images_before": one.images_before}
                | {name: figures[name] for name in FIGURES[:5]}
                | {"low_score_share": per(low, len(one.scores))}
                | {name: figures[name] for name in FIGURES[5:7]}
                | {"mean_score": per(sum(one.scores), len(one.scores))}
                | {name: figures[name] for name in FIGURES[7:9]}
                | {"dead_ratio": per(one.dead, len(one.scores) + one.dead)}
                | {name: figures[name] for name in FIGURES[9:]}
                | {
                    "moved": list(one.moved),
                    "moved_labels": [label for label, _, _ in one.moved_labels],
                    "shares_before": [before for _, before, _ in one.moved_labels],
                    "shares_now": [now for _, _, now in one.moved_labels],
                    "judged_at": one.judged_at,
                }
            )
        return rows

    def review_queue(self) -> list[Row]:
        reviewed = {review.image.image_id for review in self.reviews if review.superseded_at is None}
        rows = []
        for found in self.existing():
            best = self.best(found.image)
            if best and best.score is not None and best.score < 0.5 and found.image.image_id not in reviewed:
                rows.append(
                    of_object(found.image)
                    | {
                        "label": best.label,
                        "label_id": best.label_id,
                        "score": best.score,
                        "top_labels": list(best.top_labels or ()),
                        "top_scores": list(best.top_scores or ()),
                    }
                    | of_model(best.model)
                    | {"run_id": best.run_id, "predicted_at": best.recorded_at}
                )
        return rows

    def image_review(self) -> list[Row]:
        return [
            of_object(review.image)
            | {
                "label": review.label,
                "label_id": review.label_id,
                "reviewer": review.reviewer,
                "note": review.note,
                "reviewed_at": review.reviewed_at,
                "superseded_at": review.superseded_at,
                "recorded_by": "postgres",
            }
            | of_model(review.seen.model)
            | {
                "seen_label": review.seen.label,
                "seen_label_id": review.seen.label_id,
                "seen_score": review.seen.score,
                "is_model_right": review.label_id == review.seen.label_id,
            }
            for review in self.reviews
        ]

    def label_change(self) -> list[Row]:
        rows = []
        for found in self.existing():
            for former, later in combinations(MODELS, 2):
                one = self.outcomes.get((found.image.image_id, former))
                two = self.outcomes.get((found.image.image_id, later))
                if one and two and one.label_id and two.label_id and one.label_id != two.label_id:
                    rows.append(
                        of_object(found.image)
                        | {
                            f"{side}_{name}": value
                            for side, outcome in (("from", one), ("to", two))
                            for name, value in {
                                **of_model(outcome.model),
                                "label": outcome.label,
                                "label_id": outcome.label_id,
                                "score": outcome.score,
                                "predicted_at": outcome.recorded_at,
                            }.items()
                        }
                    )
        return rows

    def dead_letter_reason(self) -> list[Row]:
        groups: dict[Any, list[Row]] = defaultdict(list)
        for row in self.dead_letter_open():
            groups[row["bucket"], row["stage"], row["error_code"], row["permanent"]].append(row)
        rows = []
        for (bucket, stage, code, permanent), letters in groups.items():
            last = max(letter["failed_at"] for letter in letters)
            newest = min(
                (one for one in letters if one["failed_at"] == last), key=lambda one: one["object_key"].encode()
            )
            rows.append(
                {
                    "bucket": bucket,
                    "stage": stage,
                    "error_code": code,
                    "permanent": permanent,
                    "objects": len(letters),
                    "first_failed_at": min(letter["failed_at"] for letter in letters),
                    "last_failed_at": last,
                    "next_retry_after": None if permanent else min(letter["retry_after"] for letter in letters),
                    "example_key": newest["object_key"],
                    "example_message": newest["message"],
                }
            )
        return rows

    def run_cost(self) -> list[Row]:
        rows = []
        for run, books in zip(self.runs, self.run_summary(), strict=True):
            stages = added(shard.seconds for shard in run.shards)
            worker, images = sum(stages), books["labelled"] + books["dead"]
            rows.append(
                {name: books[name] for name in ("run_id", "dag_id", "state", "started_at", "finished_at")}
                | of_model(run.model)
                | {
                    "images": images,
                    "copied": books["copied"],
                    "run_s": seconds_of(run),
                    "images_per_second": per(images, seconds_of(run)),
                    "list_s": run.list_s,
                    **{f"{stage}_s": spent for stage, spent in zip(STAGES, stages, strict=True)},
                    "worker_s": worker,
                    "seconds_per_1000": per(worker * 1000, images),
                    **{f"{stage}_share": per(spent, worker) for stage, spent in zip(STAGES, stages, strict=True)},
                }
            )
        return rows

    def duplicate_content(self) -> list[Row]:
        holders: dict[bytes, list[Image]] = defaultdict(list)
        for found in self.existing():
            if found.image.image_id in self.read:
                holders[found.image.sha256].append(found.image)
        label_of = {(row["bucket"], row["object_key"]): row["label"] for row in self.latest_prediction()}
        rows = []
        for sha256, images in holders.items():
            if len(images) > 1:
                images.sort(key=lambda image: (image.bucket.encode(), image.key.encode()))
                labels = {
                    label_of[image.bucket, image.key] for image in images if (image.bucket, image.key) in label_of
                }
                rows.append(
                    {
                        "content_sha256": sha256.hex(),
                        "objects": len(images),
                        "size_bytes": sum(image.size_bytes for image in images),
                        "buckets": [image.bucket for image in images][:10],
                        "object_keys": [image.key for image in images][:10],
                        "labels": sorted(labels, key=str.encode),
                    }
                )
        return rows

    def model_alias_history(self) -> list[Row]:
        line = sorted(PROMOTED_AT, key=lambda model: PROMOTED_AT[model])
        return [
            {
                "alias": "production",
                **of_model(model),
                "valid_from": PROMOTED_AT[model],
                "valid_to": PROMOTED_AT[later] if later else None,
                "changed_by": PROMOTED_BY,
                "approved_by": None,
                "reason": "known data",
                "is_forced": False,
                "check_id": None,
                "ended_by": PROMOTED_BY if later else None,
                "ended_reason": "known data" if later else None,
            }
            for model, later in zip(line, [*line[1:], None], strict=True)
        ]

    def shadow_daily(self) -> list[Row]:
        runs = {run.run_id: run for run in self.runs}
        groups: dict[Any, list[tuple[Outcome, Outcome]]] = defaultdict(list)
        for outcome in self.outcomes.values():
            if (shadow_of := runs[outcome.run_id].shadow_of) is not None:
                former = self.outcomes.get((outcome.image.image_id, runs[shadow_of].model))
                if former is not None and former.label is not None:
                    day = outcome.recorded_at.astimezone(UTC).date()
                    groups[day, former.model, outcome.model].append((former, outcome))
        rows = []
        for (day, model, shadow_model), pairs in groups.items():
            both = [(former, shadow) for former, shadow in pairs if shadow.label is not None]
            same = sum(1 for former, shadow in both if former.label_id == shadow.label_id)
            rows.append(
                {"day": day}
                | of_model(model)
                | {f"shadow_{name}": value for name, value in of_model(shadow_model).items()}
                | {
                    "images": len(both),
                    "same": same,
                    "agreement": per(same, len(both)),
                    "mean_score": mean_or_none([former.score or 0.0 for former, _ in both]),
                    "shadow_mean_score": mean_or_none([shadow.score or 0.0 for _, shadow in both]),
                    "shadow_dead": len(pairs) - len(both),
                }
            )
        return rows


def drawn(image: Image) -> float:
    """Where an image stands among those of a shadow's sample, 0 to 1: it is in every share above that."""
    return int(hashlib.sha256(f"shadow {image.image_id}".encode()).hexdigest()[:8], 16) / 2**32


STAGES = ("fetch", "decode", "predict", "write")
VIEWS = (
    "latest_prediction",
    "dead_letter_open",
    "run_summary",
    "label_daily",
    "label_by_prefix",
    "object_outcome",
    "label_change",
    "dead_letter_reason",
    "run_cost",
    "never_labelled",
    "duplicate_content",
    "model_alias_history",
    "run_drift",
    "review_queue",
    "image_review",
    "shadow_daily",
)
"""What analysts may read; each is a method of `World`."""


def of_object(image: Image) -> Row:
    return {"bucket": image.bucket, "object_key": image.key, "etag": image.etag}


def of_model(model: ModelId) -> Row:
    return {"model_name": model.name, "model_version": model.version}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def mean_or_none(values: list[float]) -> float | None:
    return mean(values) if values else None


def per(amount: float, divisor: float | None) -> float | None:
    """A quotient, None over nothing."""
    return amount / divisor if divisor else None


def seconds_of(run: Run) -> float | None:
    """From start to end; None while it runs, since then it is the clock's affair."""
    return None if run.finished_at is None else (run.finished_at - run.started_at).total_seconds()


def added(rows: Iterable[tuple[float, float, float, float]]) -> tuple[float, ...]:
    return tuple(sum(column) for column in zip((0.0,) * 4, *rows, strict=True))


# The weeks themselves.


@dataclass
class Story:
    """Plays the nights; all chance comes from one seed."""

    chance: random.Random
    world: World = field(default_factory=World)
    made: int = 0
    missed: frozenset[int] = frozenset()

    def moment(self, night: int, minutes: float = 0.0) -> datetime:
        return FIRST_NIGHT + timedelta(days=night, minutes=minutes)

    def production(self, when: datetime) -> ModelId:
        return max((model for model, since in PROMOTED_AT.items() if since <= when), key=PROMOTED_AT.__getitem__)

    def arrive(self, night: int, key: tuple[str, str] | None = None) -> None:
        """A new object, or a new version of one, that the listing of a night shows."""
        self.made += 1
        bucket, name = key or (
            "scans" if self.chance.random() < 0.15 else "photos",
            self.chance.choice(PREFIXES) + self.chance.choice(NAMES).format(self.made),
        )
        known = [image.content for image in self.world.images.values()]
        is_copy = known and self.chance.random() < 0.35
        content = self.chance.choice(known) if is_copy else f"bytes {self.made}".encode()
        etag = hashlib.md5(content + b"?" * (key is not None), usedforsecurity=False).hexdigest()
        seen = self.moment(night)
        written = seen - timedelta(minutes=self.chance.randrange(1, 1200))
        image = Image(bucket, name, etag, 1000 + len(content) * 100, content, written, seen)
        self.world.images.setdefault(image.image_id, image)
        image = self.world.images[image.image_id]
        self.world.objects[bucket, name] = Object(replace(image, last_modified=written), seen)

    def change(self, night: int) -> None:
        """Objects that come, are overwritten and vanish before a night."""
        for _ in range(self.chance.randrange(2, 6)):
            self.arrive(night)
        there = [key for key, found in self.world.objects.items() if found.gone_at is None]
        if night % 3 == 2:
            self.arrive(night, self.chance.choice(there))
        if night % 4 == 3:
            self.world.objects[self.chance.choice(there)].gone_at = self.moment(night)

    def pending(self, model: ModelId, when: datetime, *, is_retry: bool = False) -> list[tuple[Image, int]]:
        """Images of a night with the attempts made before: new ones first, then dead letters whose time has come."""
        todo = []
        for found in self.world.existing():
            best = self.world.best(found.image)
            if best is None:
                todo.append((found.image, 0))
            elif best.label is None and (is_retry or (best.retry_after and best.retry_after <= when)):
                mine = self.world.outcomes.get((found.image.image_id, model))
                todo.append((found.image, mine.attempts if mine else 0))
        if is_retry:
            todo = [(image, attempts) for image, attempts in todo if self.world.best(image)]
        return sorted(todo, key=lambda one: (one[1] > 0, one[0].last_modified, one[0].key))

    def judge(self, image: Image, run: Run, attempts: int, when: datetime) -> Outcome:
        """What comes of an image."""
        self.world.read.add(image.image_id)
        outcome = Outcome(image, run.model, run.run_id, when, attempts=attempts + 1)
        twin = next(
            (
                other
                for (_, model), other in self.world.outcomes.items()
                if model == run.model and other.label is not None and other.image.content == image.content
            ),
            None,
        )
        if twin is not None and self.chance.random() < 0.7:
            return replace(
                outcome,
                label=twin.label,
                label_id=twin.label_id,
                top_labels=twin.top_labels,
                top_scores=twin.top_scores,
                engine="litert",
                is_copied=True,
            )
        fate = self.chance.random()
        if fate < 0.12:
            message = f"{image.key} is no image; upload it again"
            return replace(outcome, stage="decode", error_code="undecodable", message=message)
        if fate < 0.16:
            message = f"{image.key} has 300 megapixels, and 100 are allowed"
            return replace(outcome, stage="decode", error_code="image_too_large", message=message)
        if fate < 0.3:
            again = None if attempts >= 2 else when + timedelta(hours=20)
            message = "the store refuses this key; it is tried again"
            return replace(outcome, stage="fetch", error_code="access_denied", message=message, retry_after=again)
        best, second, third = self.chance.sample(range(len(LABELS)), 3)
        first = self.chance.randrange(22, 60)
        next_best = self.chance.randrange(1, min(first, 64 - first - 1) + 1)
        scores = (first / 64, next_best / 64, (64 - first - next_best) / 128)
        if scores[2] > scores[1]:
            scores = (scores[0], scores[2], scores[1])
        return replace(
            outcome,
            label=LABELS[best][0],
            label_id=LABELS[best][1],
            top_labels=tuple(LABELS[column][0] for column in (best, second, third)),
            top_scores=scores,
            engine="tensorflow" if self.chance.random() < 0.2 else "litert",
        )

    def seconds(self, images: int) -> tuple[float, float, float, float]:
        fetch, decode, predict, write = (self.chance.randrange(1, 20) * images / 64 for _ in range(4))
        return fetch, decode, predict, write

    def shard(self, run: Run, number: int, todo: list[tuple[Image, int]], when: datetime) -> Shard:
        """Work a shard off."""
        shard = Shard(run.plan_number, number, "done", len(todo), seconds=self.seconds(len(todo)))
        for place, (image, attempts) in enumerate(todo):
            if self.chance.random() < 0.05:
                shard.gone += 1
                continue
            if attempts and self.chance.random() < 0.1:
                shard.done_elsewhere += 1
                continue
            outcome = self.judge(image, run, attempts, when + timedelta(seconds=place))
            self.world.outcomes[image.image_id, run.model] = outcome
            shard.labelled += outcome.label is not None
            shard.copied += outcome.is_copied
            shard.dead += outcome.label is None
        return shard

    def run(self, when: datetime, dag_id: str, model: ModelId, todo: list[tuple[Image, int]]) -> Run:
        """Plan a run; nothing is worked off yet."""
        number = len(self.world.runs) + 1
        name = f"scheduled__{when:%Y-%m-%dT%H:%M:%S}" if dag_id != "cli" else None
        run = Run(UUID(int=number), dag_id, name, model, when, list_s=self.chance.randrange(1, 40) / 8)
        seen = sum(1 for _ in self.world.existing()) if dag_id == "classify_images" else len(todo)
        run.discovered, run.already_done = seen, seen - len(todo)
        run.deferred = max(0, len(todo) - MOST_IMAGES)
        self.world.runs.append(run)
        return run

    def work(self, run: Run, todo: list[tuple[Image, int]]) -> None:
        """Bring a run to its end, in two shards."""
        todo = todo[:MOST_IMAGES]
        for number, part in enumerate([todo[:3], todo[3:]]):
            if part:
                run.shards.append(self.shard(run, number, part, run.started_at + timedelta(minutes=1 + number)))
        run.finished_at = run.started_at + timedelta(seconds=self.chance.randrange(64, 640))
        run.state = "succeeded"

    def replan(self, run: Run, todo: list[tuple[Image, int]]) -> list[tuple[Image, int]]:
        """The first shard is done when discovery is repeated: what it recorded is carried into the second plan."""
        first = self.shard(run, 0, todo[:2], run.started_at + timedelta(minutes=1))
        run.shards.append(replace(first, state="superseded"))
        run.carried_labelled, run.carried_copied, run.carried_dead = first.labelled, first.copied, first.dead
        run.plan_number = 2
        rest = [one for one in todo if not self.is_recorded_by(run, one[0])]
        run.deferred = max(0, len(rest) - MOST_IMAGES)
        run.already_done = run.discovered - len(rest) - first.labelled - first.dead
        return rest

    def is_recorded_by(self, run: Run, image: Image) -> bool:
        outcome = self.world.outcomes.get((image.image_id, run.model))
        return outcome is not None and outcome.run_id == run.run_id

    def night(self, night: int) -> None:
        self.change(night)
        if night in self.missed:
            return
        when = self.moment(night)
        model = self.production(when)
        todo = self.pending(model, when)
        run = self.run(when, "classify_images", model, todo)
        if night == FAILED_NIGHT:
            self.work(run, todo[:2])
            rest = len(todo) - 2 - run.deferred
            if rest > 0:
                run.shards.append(Shard(1, 2, "running", rest, seconds=self.seconds(1)))
            run.state = "failed"
        else:
            self.work(run, self.replan(run, todo) if night == REPLANNED_NIGHT else todo)

    def tell(self) -> World:
        self.missed = frozenset(self.chance.sample(MAY_BE_MISSED, 2))
        for night in range(NIGHTS):
            self.night(night)
            if night == 15:  # somebody tries the candidate on what is there
                when = self.moment(night, 600)
                todo = [(found.image, 0) for found in self.world.existing()]
                run = self.run(when, "cli", MODELS[2], todo)
                run.deferred = 0
                run.shards.append(self.shard(run, 0, todo, when + timedelta(minutes=1)))
                run.finished_at, run.state = when + timedelta(seconds=256), "succeeded"
            if night == 16:  # at midnight, the new production model does some of what the former one labelled
                when = self.moment(night + 1, -120)
                todo = [(found.image, 0) for found in self.world.existing() if self.is_of_former(found.image)][:12]
                run = self.run(when, "cli", MODELS[1], todo)
                run.deferred = 0
                run.max_images_per_second, run.expected_s = 0.125, len(todo) * 8.0
                run.shards.append(self.shard(run, 0, todo, when + timedelta(minutes=1)))
                run.finished_at, run.state = when + timedelta(seconds=128), "succeeded"
            if night == 18:  # and what is dead once more, whatever it is
                when = self.moment(night, 600)
                todo = self.pending(self.production(when), when, is_retry=True)
                self.work(self.run(when, "retry_dead_letters", self.production(when), todo), todo)
        for _ in range(3):  # seen by a listing after the last night
            self.arrive(NIGHTS)
        when = self.moment(NIGHTS)
        todo = self.pending(self.production(when), when)
        run = self.run(when, "classify_images", self.production(when), todo)
        run.deferred = 0
        run.shards.append(Shard(1, 0, "running", len(todo)))
        when = self.moment(NIGHTS, 60)  # and somebody asks for what is done already
        self.run(when, "cli", MODELS[2], []).finished_at = when + timedelta(seconds=8)
        self.world.runs[-1].state = "succeeded"
        for night in range(FIRST_SHADOW_NIGHT, NIGHTS):
            self.shadow(night)
        # Last, so that what comes before is what it was.
        self.judge_runs()
        self.review_images()
        return self.world

    def judge_runs(self) -> None:
        """At the end of each run; the first ones have nothing before them."""
        images_before: Counter[ModelId] = Counter()
        nights: Counter[ModelId] = Counter()
        for run in self.world.runs:
            of_run = [one for one in self.world.outcomes.values() if one.run_id == run.run_id]
            scores = tuple(one.score for one in of_run if one.score is not None)
            if run.finished_at is None:
                continue
            about = (sum(one.label is None for one in of_run), scores, nights[run.model], images_before[run.model])
            judged_at = run.finished_at + timedelta(seconds=1)
            if not images_before[run.model] or not scores:
                reason = f"{len(scores)} labels are too few to judge, 300 are needed"
                self.world.judged.append(Judged(run, "not_judged", reason, *about, judged_at, {}))
            else:
                figures = {name: self.chance.randrange(1, 64) / 64 for name in FIGURES}
                has_moved = self.chance.random() < 0.3
                named = self.chance.sample(LABELS, self.chance.randrange(1, 4)) if has_moved else []
                labels = {label: (self.chance.randrange(64) / 64, self.chance.randrange(64) / 64) for label, _ in named}
                self.world.judged.append(
                    Judged(
                        run, "moved" if has_moved else "ordinary", "psi 0.500" if has_moved else "", *about, judged_at,
                        figures, ("psi", "mean_score") if has_moved else (),
                        tuple((label, *shares) for label, shares in labels.items()),
                    )
                )  # fmt: skip
            images_before[run.model] += len(scores)
            nights[run.model] += bool(scores)

    def review_images(self) -> None:
        """Somebody looks at every third label; some are corrected a second time, and the model is right about half."""
        there = [found.image for found in self.world.existing()]
        when = self.moment(NIGHTS, 240)
        for image in [image for image in there if (best := self.world.best(image)) and best.label is not None][::3]:
            seen = self.world.best(image)
            assert seen
            labels = [(seen.label or "", seen.label_id or "")] if self.chance.random() < 0.5 else [*LABELS[:3]]
            given = self.chance.choice(labels)
            when += timedelta(minutes=1)
            review = Review(image, seen, *given, self.chance.choice(("ana", "böse 'ben'")), "", when)
            if self.chance.random() < 0.2:
                again = when + timedelta(seconds=30)
                self.world.reviews.append(replace(review, superseded_at=again))
                label, label_id = self.chance.choice(LABELS)
                note = "on a second look"
                review = replace(review, label=label, label_id=label_id, note=note, reviewed_at=again)
            self.world.reviews.append(review)

    def shadow(self, night: int) -> None:
        """After a night the candidate looks at some of what was labelled; how fast, nobody knows at first."""
        when = self.moment(night)
        main = next((run for run in self.world.runs if run.started_at == when), None)
        if main is None or main.state != "succeeded":
            return
        sample = [
            outcome.image
            for outcome in self.world.outcomes.values()
            if outcome.run_id == main.run_id and outcome.label is not None and drawn(outcome.image) < SHADOW_SHARE
        ]
        todo = [(image, 0) for image in sample if (image.image_id, MODELS[2]) not in self.world.outcomes]
        run = self.run(self.moment(night, 60), "shadow_images", MODELS[2], todo)
        run.discovered, run.already_done, run.deferred = len(sample), len(sample) - len(todo), 0
        run.shadow_of = main.run_id
        run.expected_s = None if night == FIRST_SHADOW_NIGHT else len(todo) / 4
        if todo:
            run.shards.append(self.shard(run, 0, todo, run.started_at + timedelta(minutes=1)))
        for image, _ in todo:  # mostly it says the same
            former = self.world.outcomes[image.image_id, main.model]
            found = self.world.outcomes.get((image.image_id, MODELS[2]))
            if found is not None and found.label is not None and self.chance.random() < 0.7:
                same = replace(found, label=former.label, label_id=former.label_id, top_labels=former.top_labels)
                self.world.outcomes[image.image_id, MODELS[2]] = same
        run.finished_at, run.state = run.started_at + timedelta(seconds=64), "succeeded"

    def is_of_former(self, image: Image) -> bool:
        best = self.world.best(image)
        return best is not None and best.model == MODELS[0] and (image.image_id, MODELS[1]) not in self.world.outcomes


def world(seed: int) -> World:
    """The weeks that a seed makes."""
    return Story(random.Random(seed)).tell()  # noqa: S311 - chance, not secrets


def load(known: World, url: str) -> None:
    """Write a world into a migrated database, as its superuser."""
    with psycopg.connect(url) as connection:
        for model in MODELS:
            register(connection, manifest(model))
        ids = {
            ModelId(name, version): number
            for number, name, version in connection.execute("SELECT model_id, name, version FROM nightlabel.model")
        }
        line = sorted(PROMOTED_AT, key=lambda model: PROMOTED_AT[model])
        for model, later in zip(line, [*line[1:], None], strict=True):
            connection.execute(
                "INSERT INTO nightlabel.model_alias (alias, model_id, valid_from, valid_to, reason, changed_by, "
                "ended_by, ended_reason) VALUES ('production', %s, %s, %s, 'known data', %s, %s, %s)",
                [
                    ids[model], PROMOTED_AT[model], PROMOTED_AT[later] if later else None, PROMOTED_BY,
                    PROMOTED_BY if later else None, "known data" if later else None,
                ],
            )  # fmt: skip
        cursor = connection.cursor()
        cursor.executemany(
            "INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified, "
            "content_sha256, first_seen_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    image.image_id, image.bucket, image.key, image.etag, image.size_bytes, image.last_modified,
                    image.sha256 if image.image_id in known.read else None, image.first_seen_at,
                )
                for image in known.images.values()
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO nightlabel.object VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (bucket, key, found.image.image_id, found.image.last_modified, found.changed_at, found.gone_at)
                for (bucket, key), found in known.objects.items()
            ],
        )
        cursor.executemany(
            "INSERT INTO nightlabel.run (run_id, dag_id, airflow_run_id, bucket, prefix, parameters, model_id, "
            "plan_number, state, started_at, finished_at, max_dead_ratio, min_images_for_ratio, discovered, "
            "already_done, deferred, carried_labelled, carried_copied, carried_dead, list_s, expected_s, shadow_of) "
            "VALUES (%s, %s, %s, 'photos', '', %s, %s, %s, %s, %s, %s, 1, 100, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    run.run_id, run.dag_id, run.airflow_run_id, Jsonb({}), ids[run.model], run.plan_number, run.state,
                    run.started_at, run.finished_at, run.discovered, run.already_done, run.deferred,
                    run.carried_labelled, run.carried_copied, run.carried_dead, run.list_s, run.expected_s,
                    run.shadow_of,
                )
                for run in known.runs
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO nightlabel.run_pace (run_id, images_per_second) VALUES (%s, %s)",
            [(run.run_id, run.max_images_per_second) for run in known.runs if run.max_images_per_second is not None],
        )
        cursor.executemany(
            "INSERT INTO nightlabel.shard (run_id, plan_number, shard_number, device, state, images, labelled, copied, "
            "dead, gone, done_elsewhere, fetch_s, decode_s, predict_s, write_s, started_at) "
            "VALUES (%s, %s, %s, 'cpu', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    run.run_id, shard.plan_number, shard.number, shard.state, shard.images, shard.labelled,
                    shard.copied, shard.dead, shard.gone, shard.done_elsewhere, *shard.seconds, run.started_at,
                )
                for run in known.runs
                for shard in run.shards
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, "
            "stage, error_code, message, attempts, retry_after, engine, run_id, recorded_at, is_copied) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    outcome.image.image_id, ids[outcome.model], outcome.label, outcome.label_id, outcome.score,
                    outcome.top_labels and list(outcome.top_labels), outcome.top_scores and list(outcome.top_scores),
                    outcome.stage, outcome.error_code, outcome.message, outcome.attempts, outcome.retry_after,
                    outcome.engine, outcome.run_id, outcome.recorded_at, outcome.is_copied,
                )
                for outcome in known.outcomes.values()
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO nightlabel.run_quality (run_id, model_id, judged_at, is_history, verdict, reason, images, "
            "dead, score_sum, score_square_sum, low_score, low_scores, nights, images_before, "
            f"{', '.join(FIGURES)}, moved, moved_labels, shares_before, shares_now, thresholds) "
            f"VALUES (%s, %s, %s, true, {', '.join(['%s'] * (10 + len(FIGURES) + 4))}, '{{}}')",
            [
                (
                    one.run.run_id, ids[one.run.model], one.judged_at, one.verdict, one.reason, len(one.scores),
                    one.dead, sum(one.scores), sum(score * score for score in one.scores), LOW_SCORE,
                    sum(score < LOW_SCORE for score in one.scores), one.nights, one.images_before,
                    *(one.figures.get(name) for name in FIGURES), list(one.moved),
                    [label for label, _, _ in one.moved_labels], [before for _, before, _ in one.moved_labels],
                    [now for _, _, now in one.moved_labels],
                )
                for one in known.judged
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO nightlabel.review (image_id, bucket, object_key, etag, label, label_id, reviewer, note, "
            "reviewed_at, superseded_at, model_id, seen_label, seen_label_id, seen_score) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    review.image.image_id, review.image.bucket, review.image.key, review.image.etag, review.label,
                    review.label_id, review.reviewer, review.note, review.reviewed_at, review.superseded_at,
                    ids[review.seen.model], review.seen.label, review.seen.label_id, review.seen.score,
                )
                for review in known.reviews
            ],
        )  # fmt: skip


def counted(known: World) -> Counter[str]:
    """How many rows each view shows."""
    return Counter({view: len(getattr(known, view)()) for view in VIEWS})


def days_of(known: World) -> list[date]:
    return sorted({row["day"] for row in known.label_daily()})
