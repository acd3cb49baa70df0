"""Every question of the cookbook, asked as an analyst, is answered as plain Python answers it over the same data.

The answers here are worked out from `tests/known_data.py`, whose views are plain Python too; nothing is copied from an
answer of the database. A file of sql/queries without a function here fails.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import sqlalchemy

from local_stack.postgres import program
from scripts.make_sql_docs import Query, answer, ask, queries, read_query, with_answer
from tests.known_data import EXAMPLE_SEED, NIGHTS, STAGES, Row, World
from tests.sql.conftest import Known

pytestmark = pytest.mark.integration

Given = dict[str, str]
Answer = list[tuple[Any, ...]]
OTHER_SEED = 4

QUESTIONS = {query.name: query for query in queries()}
ANSWERS: dict[str, Callable[[World, Given], Answer]] = {}


def answers(work_out: Callable[[World, Given], Answer]) -> Callable[[World, Given], Answer]:
    ANSWERS[work_out.__name__] = work_out
    return work_out


def rounded(value: Fraction | float | None, digits: int) -> Decimal | None:
    """As Postgres rounds a numeric: half away from zero."""
    if value is None:
        return None
    exact = Fraction(value)
    quotient = Decimal(exact.numerator) / Decimal(exact.denominator)
    return quotient.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def percent(part: int, whole: int, digits: int = 1) -> Decimal | None:
    return rounded(Fraction(100 * part, whole), digits)


def percent_of(share: float) -> Decimal | None:
    """As Postgres makes percents of a share in single precision, which it shows with six digits."""
    return rounded(100 * Fraction(f"{share:.6g}"), 1)


def of_real(value: Fraction | float, digits: int) -> Any:
    """Equal to what was rounded from single precision, whose last digit may go either way."""
    return pytest.approx(rounded(value, digits), abs=Decimal("1.01").scaleb(-digits))


def bytewise(*parts: str) -> tuple[bytes, ...]:
    return tuple(part.encode() for part in parts)


def by_key(row: Row) -> tuple[bytes, ...]:
    return bytewise(row["bucket"], row["object_key"])


def model_of(row: Row, side: str = "") -> str:
    return f"{row[f'{side}model_name']}@{row[f'{side}model_version']}"


def span(given: Given) -> tuple[date, date]:
    """First and last day."""
    until = date.fromisoformat(given["until"])
    return until - timedelta(days=int(given["days"]) - 1), until


def utc_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def picked(rows: list[Row], *names: str) -> Answer:
    return [tuple(row[name] for name in names) for row in rows]


def first(given: Given, rows: list[Any], name: str = "limit") -> list[Any]:
    return rows[: int(given[name])]


def newest(rows: list[Row], name: str = "started_at") -> list[Row]:
    return sorted(rows, key=lambda row: row[name], reverse=True)


def prefix_of(key: str) -> str:
    return key[: key.index("/") + 1] if "/" in key else ""


# Analysts.


def mix(rows: list[Row]) -> Answer:
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        scores[row["label"]] += [row["mean_score"]] * row["images"]
    total = sum(map(len, scores.values()))
    found = [(label, len(all_), percent(len(all_), total), sum(all_) / len(all_)) for label, all_ in scores.items()]
    return sorted(found, key=lambda row: (-row[1], row[0].encode()))


@answers
def label_mix_of_a_day(world: World, given: Given) -> Answer:
    counts = world.label_daily()
    day = date.fromisoformat(given["day"]) if given["day"] else max(row["day"] for row in counts)
    return mix([row for row in counts if row["day"] == day])


@answers
def label_mix_of_days(world: World, given: Given) -> Answer:
    start, end = span(given)
    return mix([row for row in world.label_daily() if start <= row["day"] <= end])


@answers
def newest_of_a_label(world: World, given: Given) -> Answer:
    rows = sorted((row for row in world.latest_prediction() if row["label"] == given["label"]), key=by_key)
    return picked(first(given, newest(rows, "predicted_at")), "bucket", "object_key", "score", "predicted_at")


@answers
def low_scores(world: World, given: Given) -> Answer:
    rows = [row for row in world.latest_prediction() if row["score"] < float(given["below"])]
    rows.sort(key=lambda row: (row["score"], by_key(row)))
    return [
        (r["bucket"], r["object_key"], r["label"], r["score"], r["top_labels"][1], r["top_scores"][1])
        for r in first(given, rows)
    ]


@answers
def might_be(world: World, given: Given) -> Answer:
    wanted = given["labels"].split("|")
    found = []
    for row in world.latest_prediction():
        pairs = zip(row["top_labels"], row["top_scores"], strict=True)
        hits = [(-s, label.encode(), label) for label, s in pairs if label in wanted and s >= float(given["least"])]
        if hits:
            score, _, label = min(hits)
            found.append((score, by_key(row), (row["bucket"], row["object_key"], label, -score, row["label"])))
    return first(given, [row for *_, row in sorted(found)])


@answers
def label_share_by_week(world: World, given: Given) -> Answer:
    def monday(day: date) -> date:
        return day - timedelta(days=day.weekday())

    last = monday(date.fromisoformat(given["until"]))
    weeks: dict[date, list[int]] = {}
    for row in world.label_daily():
        week = monday(row["day"])
        if last - timedelta(weeks=int(given["weeks"]) - 1) <= week <= last:
            counts = weeks.setdefault(week, [0, 0])
            counts[0] += row["images"] if row["label"] == given["label"] else 0
            counts[1] += row["images"]
    rows: Answer = []
    former: Fraction | None = None
    for week in sorted(weeks):
        share = Fraction(100 * weeks[week][0], weeks[week][1])
        change = None if former is None else rounded(share - former, 1)
        rows.append((week, *weeks[week], rounded(share, 1), change))
        former = share
    return rows


@answers
def new_labels(world: World, given: Given) -> Answer:
    start, end = span(given)
    days: dict[str, list[date]] = defaultdict(list)
    for row in world.label_daily():
        if row["day"] <= end:
            days[row["label"]] += [row["day"]] * row["images"]
    found = [(label, min(all_), len(all_)) for label, all_ in days.items() if min(all_) >= start]
    return sorted(found, key=lambda row: (-row[1].toordinal(), row[0].encode()))


@answers
def mix_by_prefix(world: World, given: Given) -> Answer:
    start, end = span(given)
    places: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for outcome in world.outcomes.values():
        if outcome.label is not None and start <= utc_day(outcome.recorded_at) <= end:
            places[outcome.image.bucket, prefix_of(outcome.image.key)][outcome.label] += 1
    rows: Answer = []
    for bucket, prefix in sorted(places, key=lambda place: bytewise(*place)):
        counts = places[bucket, prefix]
        ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0].encode()))[: int(given["top"])]
        rows += [(bucket, prefix, label, images, percent(images, counts.total())) for label, images in ranked]
    return rows


@answers
def mix_by_folder(world: World, given: Given) -> Answer:
    counts: Counter[tuple[str, str]] = Counter()
    for row in world.latest_prediction():
        if row["bucket"] == given["bucket"]:
            folders = row["object_key"].split("/")[:-1]
            counts["/".join(folders[: int(given["depth"])]), row["label"]] += 1
    ranked = sorted(counts.items(), key=lambda one: (-one[1], bytewise(*one[0])))
    return first(given, [(*place, images) for place, images in ranked])


@answers
def score_drift(world: World, given: Given) -> Answer:
    start, end = span(given)
    scores: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for outcome in world.outcomes.values():
        day = utc_day(outcome.recorded_at)
        if outcome.label is not None and start - timedelta(days=int(given["days"])) <= day <= end:
            scores[outcome.label][day >= start].append(outcome.score or 0.0)
    rows = []
    for label, (before, now) in scores.items():
        if min(len(before), len(now)) >= int(given["least"]):
            old, new = sum(before) / len(before), sum(now) / len(now)
            rows.append((label, len(before), len(now), old, new, new - old))
    return sorted(rows, key=lambda row: (-abs(row[5]), row[0].encode()))


@answers
def duplicates_with_different_labels(world: World, given: Given) -> Answer:
    rows = [row for row in world.duplicate_content() if len(row["labels"]) > 1]
    rows.sort(key=lambda row: (-row["objects"], row["content_sha256"]))
    return picked(first(given, rows), "content_sha256", "objects", "object_keys", "labels")


@answers
def space_of_duplicates(world: World, given: Given) -> Answer:
    holders: dict[bytes, list[int]] = defaultdict(list)
    for found in world.existing():
        if found.image.image_id in world.read:
            holders[found.image.content].append(found.image.size_bytes)
    repeated = [sizes for sizes in holders.values() if len(sizes) > 1]
    objects = sum(map(len, repeated))
    return [(len(repeated), objects, objects - len(repeated), sum(sum(sizes[1:]) for sizes in repeated))]


@answers
def changed_since(world: World, given: Given) -> Answer:
    since = datetime.fromisoformat(given["since"])
    rows = sorted((row for row in world.latest_prediction() if row["last_modified"] > since), key=by_key)
    rows = first(given, newest(rows, "last_modified"))
    return picked(rows, "bucket", "object_key", "last_modified", "label", "score")


@answers
def state_of_the_buckets(world: World, given: Given) -> Answer:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for found in world.existing():
        best = world.best(found.image)
        counts[found.image.bucket][2 if best is None else 1 if best.label is None else 0] += 1
    rows = [(bucket, sum(parts), *parts, percent(parts[0], sum(parts))) for bucket, parts in counts.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0].encode()))


@answers
def close_calls(world: World, given: Given) -> Answer:
    found = [
        (row["top_scores"][0] - row["top_scores"][1], by_key(row), row)
        for row in world.latest_prediction()
        if row["top_scores"][0] - row["top_scores"][1] < float(given["margin"])
    ]
    found.sort(key=lambda one: one[:2])
    return [(r["bucket"], r["object_key"], r["label"], r["top_labels"][1], m) for m, _, r in first(given, found)]


@answers
def classes_of_one_name(world: World, given: Given) -> Answer:
    classes = Counter((row["label"], row["label_id"]) for row in world.latest_prediction())
    names = Counter(label for label, _ in classes)
    rows = [(label, label_id, images) for (label, label_id), images in classes.items() if names[label] > 1]
    return sorted(rows, key=lambda row: bytewise(*row[:2]))


@answers
def sample_of_each_label(world: World, given: Given) -> Answer:
    groups: dict[str, list[tuple[str, bytes, Row]]] = defaultdict(list)
    for row in world.latest_prediction():
        shuffled = hashlib.md5(f"{row['bucket']}/{row['object_key']}".encode(), usedforsecurity=False).hexdigest()
        groups[row["label"]].append((shuffled, row["object_key"].encode(), row))
    return [
        (label, row["bucket"], row["object_key"], row["score"])
        for label in sorted(groups, key=str.encode)
        for _, _, row in sorted(groups[label], key=lambda one: one[:2])[: int(given["each"])]
    ]


# ML engineers.


def changes(world: World, given: Given) -> list[Row]:
    return [
        row
        for row in world.label_change()
        if model_of(row, "from_") == given["from_model"] and model_of(row, "to_") == given["to_model"]
    ]


@answers
def confusion_of_models(world: World, given: Given) -> Answer:
    pairs = Counter((row["from_label"], row["to_label"]) for row in changes(world, given))
    ranked = sorted(pairs.items(), key=lambda one: (-one[1], bytewise(*one[0])))
    return first(given, [(*labels, images) for labels, images in ranked])


@answers
def changed_labels(world: World, given: Given) -> Answer:
    rows = changes(world, given)
    rows.sort(key=lambda row: (-min(row["from_score"], row["to_score"]), by_key(row)))
    return picked(first(given, rows), "bucket", "object_key", "from_label", "from_score", "to_label", "to_score")


@answers
def agreement_of_models(world: World, given: Given) -> Answer:
    labels: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for row in world.object_outcome():
        if row["label"] is not None:
            labels[model_of(row)][row["bucket"], row["object_key"]] = row["label_id"]
    one, two = labels[given["from_model"]], labels[given["to_model"]]
    same = sum(one[key] == two[key] for key in one.keys() & two.keys())
    both = len(one.keys() & two.keys())
    return [(both, same, percent(same, both) if both else None)]


@answers
def images_to_review(world: World, given: Given) -> Answer:
    rows = [row for row in world.review_queue() if row["score"] < float(given["below"])]
    rows.sort(key=lambda row: (row["score"], by_key(row)))
    return [
        (r["bucket"], r["object_key"], r["label"], r["score"], r["top_labels"][1], r["top_scores"][1])
        for r in first(given, rows)
    ]


@answers
def right_by_reviews(world: World, given: Given) -> Answer:
    seen: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in world.image_review():
        if row["superseded_at"] is None:
            seen[model_of(row), row["seen_label"]].append(row)
    rows: Answer = []
    for (model, label), found in seen.items():
        wrong = Counter(row["label"] for row in found if not row["is_model_right"])
        mostly = min(wrong, key=lambda one: (-wrong[one], one.encode())) if wrong else ""
        if len(found) >= int(given["least"]):
            rows.append((model, label, len(found), percent(len(found) - wrong.total(), len(found)), mostly))
    return sorted(rows, key=lambda row: (-row[2], *bytewise(row[0], row[1])))


# Operators.


@answers
def runs_that_moved(world: World, given: Given) -> Answer:
    rows = [row for row in first(given, newest(world.run_drift()), "runs") if row["verdict"] == "moved"]
    return [
        (
            row["started_at"], model_of(row), row["images"], ", ".join(row["moved"]),
            ", ".join(
                f"{label} {percent_of(before)} -> {percent_of(now)}"
                for label, before, now in zip(row["moved_labels"], row["shares_before"], row["shares_now"], strict=True)
            ),
        )
        for row in rows
    ]  # fmt: skip


@answers
def quality_of_runs(world: World, given: Given) -> Answer:
    return [
        (
            row["started_at"], row["verdict"], row["images"], row["mean_score"],
            None if row["low_score_share"] is None else percent_of(row["low_score_share"]),
            None if row["dead_ratio"] is None else percent_of(row["dead_ratio"]), row["js_distance"],
        )
        for row in first(given, newest(world.run_drift()), "runs")
    ]  # fmt: skip


@answers
def books_of_last_nights(world: World, given: Given) -> Answer:
    parts = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
    return [
        (*(row[name] for name in ("started_at", "dag_id", "state", "discovered", *parts)), True)
        for row in first(given, newest(world.run_summary()), "runs")
    ]


@answers
def dead_letters_by_reason(world: World, given: Given) -> Answer:
    groups: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in world.dead_letter_open():
        groups[row["error_code"], row["stage"], row["permanent"]].append(row)
    rows = []
    for reason, letters in groups.items():
        last = max(row["failed_at"] for row in letters)
        example = min((row for row in letters if row["failed_at"] == last), key=by_key)
        rows.append((*reason, len(letters), last, example["object_key"]))
    return sorted(rows, key=lambda row: (-row[3], row[:3]))


@answers
def dead_letters_for_a_person(world: World, given: Given) -> Answer:
    rows = newest(sorted((row for row in world.dead_letter_open() if row["permanent"]), key=by_key), "failed_at")
    return picked(first(given, rows), "bucket", "object_key", "error_code", "message", "attempts", "failed_at")


@answers
def retry_schedule(world: World, given: Given) -> Answer:
    days: dict[tuple[date, str], list[datetime]] = defaultdict(list)
    for row in world.dead_letter_open():
        if row["retry_after"] is not None:
            days[utc_day(row["retry_after"]), row["error_code"]].append(row["retry_after"])
    return [(*day, len(moments), min(moments)) for day, moments in sorted(days.items())]


def worked(world: World, given: Given, name: str) -> list[Row]:
    rows = [row for row in world.run_cost() if row["finished_at"] is not None and row[name] > 0]
    return first(given, newest(rows), "runs")


@answers
def throughput_of_runs(world: World, given: Given) -> Answer:
    rows = worked(world, given, "images")
    speeds = [row["images_per_second"] for row in rows]
    of_former = [of_real(100 * now / before, 0) for now, before in pairwise(speeds)]
    return [
        (row["started_at"], model_of(row), row["images"], row["images_per_second"], share)
        for row, share in zip(rows, [*of_former, None], strict=True)
    ]


@answers
def slowest_stage(world: World, given: Given) -> Answer:
    rows = []
    for row in worked(world, given, "worker_s"):
        stage = min(STAGES, key=lambda stage: (-row[f"{stage}_s"], stage))
        seconds = row[f"{stage}_s"]
        rows.append(
            (row["started_at"], stage, seconds, rounded(Fraction(seconds) * 100 / Fraction(row["worker_s"]), 1))
        )
    return rows


@answers
def cost_per_1000(world: World, given: Given) -> Answer:
    start, end = span(given)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in world.run_cost():
        if row["images"] > 0 and start <= utc_day(row["started_at"]) <= end:
            groups[model_of(row)].append(row)
    rows = []
    for model, runs in groups.items():
        images = sum(row["images"] for row in runs)
        seconds = sum(Fraction(row["worker_s"]) for row in runs) * 1000 / images
        cost = seconds / 3600 * Fraction(given["price_per_hour"])
        copied = sum(row["copied"] for row in runs)
        rows.append((model, len(runs), images, copied, rounded(seconds, 1), rounded(cost, 4)))
    return sorted(rows, key=lambda row: (-row[2], row[0]))


@answers
def waiting_images(world: World, given: Given) -> Answer:
    places: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in world.never_labelled():
        places[row["bucket"], prefix_of(row["object_key"])].append(row)
    rows = [
        (*place, len(found), sum(row["size_bytes"] for row in found), min(row["first_seen_at"] for row in found))
        for place, found in places.items()
    ]
    return sorted(rows, key=lambda row: (row[4], bytewise(*row[:2])))


@answers
def unfinished_runs(world: World, given: Given) -> Answer:
    rows = [row for row in world.run_summary() if row["unfinished"] > 0 or row["finished_at"] is None]
    names = ("run_id", "started_at", "dag_id", "state", "unfinished", "discovered")
    return picked(first(given, newest(rows)), *names)


@answers
def dead_share_of_runs(world: World, given: Given) -> Answer:
    rows = []
    for row in first(given, newest(world.run_summary()), "runs"):
        images = row["labelled"] + row["dead"]
        if images and Fraction(100 * row["dead"], images) > Fraction(given["above"]):
            rows.append((row["started_at"], row["dag_id"], images, row["dead"], percent(row["dead"], images)))
    return rows


@answers
def days_without_labels(world: World, given: Given) -> Answer:
    start, end = span(given)
    labelled = {utc_day(outcome.recorded_at) for outcome in world.outcomes.values() if outcome.label is not None}
    runs = Counter(utc_day(run.started_at) for run in world.runs)
    days = [start + timedelta(days=after) for after in range((end - start).days + 1)]
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return [(day, runs[day], names[day.weekday()]) for day in days if day not in labelled]


@answers
def copied_share(world: World, given: Given) -> Answer:
    start, end = span(given)
    days: dict[date, list[int]] = defaultdict(lambda: [0, 0])
    for row in world.run_summary():
        day = utc_day(row["started_at"])
        if row["labelled"] > 0 and start <= day <= end:
            days[day][0] += row["labelled"]
            days[day][1] += row["copied"]
    return [(day, *days[day], percent(days[day][1], days[day][0])) for day in sorted(days, reverse=True)]


# Data engineers.


@answers
def history_of_an_object(world: World, given: Given) -> Answer:
    object_ = given["bucket"], given["object_key"]
    shown = {(row["bucket"], row["object_key"]): model_of(row) for row in world.latest_prediction()}
    rows = [row for row in world.object_outcome() if (row["bucket"], row["object_key"]) == object_]
    rows.sort(key=lambda row: (row["recorded_at"], model_of(row)))
    names = ("label", "score", "error_code", "is_copied", "attempts", "run_id")
    return [
        (row["recorded_at"], model_of(row), *(row[name] for name in names), shown.get(object_) == model_of(row))
        for row in rows
    ]


@answers
def share_of_models(world: World, given: Given) -> Answer:
    counts = Counter((model_of(row), row["engine"]) for row in world.latest_prediction())
    rows = [(*by, images, percent(images, counts.total())) for by, images in counts.items()]
    return sorted(rows, key=lambda row: (-row[2], row[:2]))


@answers
def backlog_after_promotion(world: World, given: Given) -> Answer:
    nightly = [row for row in world.run_summary() if row["dag_id"] == "classify_images"]
    present = given["model"] or model_of(newest(nightly)[0])
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in world.latest_prediction():
        if model_of(row) != present:
            groups[row["bucket"], model_of(row)].append(row)
    rows = [
        (*by, len(found), sum(row["size_bytes"] for row in found), min(row["predicted_at"] for row in found))
        for by, found in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row[2], row[:2]))


@answers
def history_of_production(world: World, given: Given) -> Answer:
    rows = []
    for span in newest([row for row in world.model_alias_history() if row["alias"] == given["alias"]], "valid_from"):
        runs = [
            run
            for run in world.run_summary()
            if model_of(run) == model_of(span)
            and span["valid_from"] <= run["started_at"]
            and (span["valid_to"] is None or run["started_at"] < span["valid_to"])
        ]
        facts = picked([span], "valid_from", "valid_to", "changed_by", "reason", "is_forced")[0]
        rows.append((model_of(span), *facts, len(runs), sum(run["labelled"] for run in runs)))
    return rows


@answers
def shadow_agreement(world: World, given: Given) -> Answer:
    start, end = span(given)
    rows = [
        (
            row["day"], model_of(row), model_of(row, "shadow_"), row["images"],
            percent(row["same"], row["images"]) if row["images"] else None,
            row["shadow_mean_score"] - row["mean_score"] if row["images"] else None,
            row["shadow_dead"],
        )
        for row in world.shadow_daily()
        if start <= row["day"] <= end
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row[:3])


# The tests.


def examples(query: Query, world: World) -> list[Given]:
    """What each question is asked with: its example, and a wider and a narrower form of it."""
    given = query.defaults | query.example
    forms = [given]
    for name, value in given.items():
        others = {
            "limit": ("1", "1000"),
            "alias": ("candidate",),
            "days": ("1", "4", "14"),
            "until": ("2026-11-12", "2026-11-18", "2026-11-23"),
            "day": ("", "2026-11-02"),
            "label": ("jack-o'-lantern", '12" ruler', "😺 smiling cat", "100% wool: {grey}", "no such label"),
            "labels": ("crane", "100% wool: {grey}|😺 smiling cat"),
            "below": ("0.6", "0.5"),
            "least": ("0.25", "0") if query.name == "might_be" else ("2",),
            "margin": ("0.3", "0.25"),
            "weeks": ("1", "2"),
            "top": ("2",),
            "depth": ("1", "5"),
            "bucket": ("scans", "nowhere"),
            "since": ("2026-11-10T00:00:00+03:00",),
            "each": ("2",),
            "runs": ("1", "100"),
            "above": ("0",),
            "price_per_hour": ("1.25",),
            "model": ("", "tiny@1", "candidate@1"),
            "from_model": ("tiny@2", "candidate@1"),
            "to_model": ("candidate@1", "tiny@2", "tiny@1"),
            "object_key": tuple(sorted({found.image.key for found in world.existing()})[::6]),
        }[name]
        forms += [given | {name: other} for other in others if other != value]
    return forms


def nearly(rows: Answer) -> Answer:
    """Equal to numbers of single precision."""
    return [
        tuple(pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value for value in row)
        for row in rows
    ]


def asked(here: Known, query: Query, given: Given) -> tuple[list[tuple[str, str]], Answer]:
    with psycopg.connect(here.url) as connection:
        connection.execute("SET ROLE nightlabel_reader")
        return ask(connection, query, dict(given))


def test_there_are_enough_questions_and_each_has_its_answer_here():
    assert set(ANSWERS) == set(QUESTIONS)
    assert len(QUESTIONS) >= 24


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_answer_is_what_plain_python_works_out(
    known: Callable[[int], Known], pytestconfig: pytest.Config, name: str
):
    for seed in (EXAMPLE_SEED, OTHER_SEED, pytestconfig.getoption("--seed")):
        here = known(seed)
        for given in examples(QUESTIONS[name], here.world):
            assert asked(here, QUESTIONS[name], given)[1] == nearly(ANSWERS[name](here.world, given)), (seed, given)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_example_has_an_answer_which_other_data_change(known: Callable[[int], Known], name: str):
    query, (here, there) = QUESTIONS[name], (known(EXAMPLE_SEED), known(OTHER_SEED))
    given = query.defaults | query.example
    _, rows = asked(here, query, given)

    assert rows, "the known data have to show what the question is about"
    assert rows != asked(there, query, given)[1]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_columns_are_those_of_the_header(known: Callable[[int], Known], name: str):
    kinds, _ = asked(known(EXAMPLE_SEED), QUESTIONS[name], QUESTIONS[name].example)
    assert kinds == [(column, kind) for column, kind, _ in QUESTIONS[name].columns]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_example_of_the_header_is_the_answer(known: Callable[[int], Known], name: str):
    query = QUESTIONS[name]
    with psycopg.connect(known(EXAMPLE_SEED).url) as connection:
        assert query.path.read_text(encoding="utf-8") == with_answer(query, answer(connection, query)), (
            "run `make sql-docs` and look at what changed"
        )


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_parameter_can_be_left_out_and_is_cast_to_its_type(known: Callable[[int], Known], name: str):
    query = QUESTIONS[name]
    asked(known(EXAMPLE_SEED), query, {})
    for parameter in query.parameters:
        use = rf"CAST\(:'{parameter.name}' AS (\w+)\)"
        kinds = set(re.findall(use, query.sql))
        assert query.sql.count(f":'{parameter.name}'") == len(re.findall(use, query.sql))
        assert kinds <= {parameter.kind, "text"}


@pytest.mark.parametrize("name", QUESTIONS)
def test_only_public_views_are_read_and_they_are_named_in_full(name: str):
    used = re.findall(r"\b(?:FROM|JOIN) (\w+(?:\.\w+)?)", re.sub(r"extract\(epoch FROM", "", QUESTIONS[name].sql))
    own = {"unnest", "generate_series", "LATERAL"}
    assert {relation for relation in used if relation not in own and not relation.startswith("nightlabel.")} == set()


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_session_time_zone_changes_no_answer(known: Callable[[int], Known], name: str):
    here, query = known(EXAMPLE_SEED), QUESTIONS[name]
    found = []
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        with psycopg.connect(here.url) as connection:
            connection.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            found.append(ask(connection, query, dict(query.example))[1])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", [name for name in QUESTIONS if "until" in QUESTIONS[name].defaults])
def test_without_a_day_it_is_the_present_utc_day(known: Callable[[int], Known], name: str):
    here, query = known(EXAMPLE_SEED), QUESTIONS[name]
    long_ago = {"days": "40000"} if "days" in query.defaults else {"weeks": "5000"}
    while True:
        today = datetime.now(tz=UTC).date()
        without = asked(here, query, query.example | long_ago | {"until": ""})
        said = asked(here, query, query.example | long_ago | {"until": today.isoformat()})
        if datetime.now(tz=UTC).date() == today:
            break
    assert without == said


def psql(here: Known, query: Query, *arguments: str) -> list[list[str]]:
    done = subprocess.run(
        [program("psql"), "-X", "-v", "ON_ERROR_STOP=1", "--csv", here.url, *arguments, "-f", str(query.path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PGTZ": "UTC", "PGCLIENTENCODING": "UTF8"},
    )
    assert (done.returncode, done.stderr) == (0, ""), query.name
    return list(csv.reader(io.StringIO(done.stdout)))


def test_every_file_works_in_psql_as_it_is_and_with_what_it_is_given(known: Callable[[int], Known]):
    here = known(EXAMPLE_SEED)
    for query in QUESTIONS.values():
        assert psql(here, query)[0] == [column for column, _, _ in query.columns]
        given = [part for name, value in query.example.items() for part in ("-v", f"{name}={value}")]
        rows = psql(here, query, *given)[1:]
        expected = asked(here, query, query.example)[1]
        assert len(rows) == len(expected)
        for shown, row in zip(rows, expected, strict=True):
            texts = [(text, value) for text, value in zip(shown, row, strict=True) if isinstance(value, str)]
            assert texts == [(value, value) for _, value in texts]


def test_every_file_works_in_sqlalchemy_with_parameters_of_python(known: Callable[[int], Known]):
    here = known(EXAMPLE_SEED)
    engine = sqlalchemy.create_engine(here.url.replace("postgresql://", "postgresql+psycopg://", 1))
    native: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "bigint": int,
        "real": float,
        "numeric": Decimal,
        "date": date.fromisoformat,
        "timestamptz": datetime.fromisoformat,
        "text": str,
    }
    with engine.connect() as connection:
        for query in QUESTIONS.values():
            given = query.defaults | query.example
            kinds = {parameter.name: parameter.kind for parameter in query.parameters}
            values = {name: native[kinds[name]](value) if value else None for name, value in given.items()}
            statement = sqlalchemy.text(re.sub(r":'(\w+)'", r":\1", query.sql))
            rows = [tuple(row) for row in connection.execute(statement, values)]
            assert rows == asked(here, query, given)[1], query.name
    engine.dispose()


def test_a_label_or_key_with_quotes_cannot_break_out_of_a_question(known: Callable[[int], Known]):
    here = known(EXAMPLE_SEED)
    evil = "x' OR true; --"
    assert asked(here, QUESTIONS["newest_of_a_label"], {"label": evil})[1] == []
    assert psql(here, QUESTIONS["newest_of_a_label"], "-v", f"label={evil}")[1:] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("-- A title\nSELECT 1;\n", "has not the form that a question has"),
        (
            "-- T\n-- For: x\n-- Reads: y\n-- Parameters: none\n-- Columns:\n--   a  text  b\n"
            "-- Example:\nSELECT :'c';\n",
            "uses",
        ),
    ],
)
def test_a_file_that_is_documented_wrongly_is_refused(tmp_path, wrong: str, message: str):
    path = tmp_path / "wrong.sql"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_query(path)


def test_the_nights_of_the_known_data_end_where_the_examples_say():
    assert date(2026, 11, 2) + timedelta(days=NIGHTS - 1) == date(2026, 11, 22)
