"""What analysts ask, and what workers write, against a ledger of a million and one of ten: right answers, and how fast.

`make test` runs it small and without a clock. `make test-scale` makes both ledgers (ten minutes in all, 12 GB), holds
each figure to its limit, prints them, and leaves them in build/sql-at-scale.md.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import statement
from inference.types import (
    ContentDigest,
    ImageRef,
    Label,
    ListedObject,
    Prediction,
    RunRequest,
    ScoredLabel,
    StageSeconds,
)
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import free_ports
from tests.ledger import Ledger, Pages
from tests.scale.filling import fill_history, in_parallel

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

REPORT = Path(__file__).parents[2] / "build" / "sql-at-scale.md"
BUCKET = "history"
DAY = date(2026, 10, 20)
FREQUENT, MIDDLING, RARE, UNKNOWN = "label 1", "label 300", "rare", "of no image"
LISTED = 100_000
BATCH = 16
WRITERS = 4
MOST_SLOWER = 1.5
NOISE_MS = 0.5
"""By so much any figure may differ; what is slower by less than that is not slower."""

Rows = list[tuple[Any, ...]]

IN_LINE = "('1', '2', '3')"

BY_COUNTING = """
    SELECT (o.recorded_at AT TIME ZONE 'UTC')::date AS day, m.version AS model_version, o.label,
        count(*) AS images, avg(o.score)::real AS mean_score
    FROM nightlabel.outcome AS o JOIN nightlabel.model AS m ON m.model_id = o.model_id
    WHERE o.label IS NOT NULL
    GROUP BY 1, 2, 3
"""


@dataclass(frozen=True)
class Size:
    outcomes: tuple[int, int]
    written: int
    """Outcomes that are recorded to see how fast that is."""
    repeats: int


@dataclass
class Figure:
    """One thing that is measured, at both sizes."""

    name: str
    limit: float | None
    unit: str = "ms"
    values: dict[int, float] = field(default_factory=dict)

    def is_within(self, outcomes: int) -> bool:
        if self.limit is None:
            return True
        return self.values[outcomes] >= self.limit if self.unit == "/s" else self.values[outcomes] < self.limit

    def is_not_slower(self, small: int, large: int) -> bool:
        if self.limit is None:
            return True
        before, after = self.values[small], self.values[large]
        if self.unit == "/s":
            return after * MOST_SLOWER >= before
        return after <= max(before * MOST_SLOWER, before + NOISE_MS)


@dataclass
class Bench:
    """Both ledgers, and what was measured on them."""

    size: Size
    ledgers: dict[int, Ledger]
    draw: random.Random
    is_timed: bool
    figures: dict[str, Figure] = field(default_factory=dict)

    def note(self, name: str, outcomes: int, value: float, *, limit: float | None, unit: str = "ms") -> None:
        self.figures.setdefault(name, Figure(name, limit, unit)).values[outcomes] = value

    def time(self, name: str, limit: float | None, ask: Callable[[Ledger], object], repeats: int | None = None) -> None:
        """Ask both ledgers in turn, so that what else the machine does hits both; note the medians."""
        taken: dict[int, list[float]] = {outcomes: [] for outcomes in self.ledgers}
        for _ in range(repeats or self.size.repeats):
            for outcomes, ledger in self.ledgers.items():
                began = time.perf_counter()
                ask(ledger)
                taken[outcomes].append((time.perf_counter() - began) * 1000)
        for outcomes, milliseconds in taken.items():
            self.note(name, outcomes, statistics.median(milliseconds), limit=limit)


@pytest.fixture(scope="module")
def size(is_scale: bool) -> Size:
    return Size((1_000_000, 10_000_000), 40_000, 15) if is_scale else Size((3_000, 9_000), 320, 2)


def made(server: EmbeddedPostgres, size: Size) -> dict[int, str]:
    urls = {}
    for outcomes in size.outcomes:
        name = f"test_{uuid.uuid4().hex}"
        server.create_database(name)
        settings = read_settings(database_url=server.url(name))
        migrate(settings)
        with PostgresSink(settings) as sink:
            began = time.monotonic()
            fill_history(Ledger(server.url(name), settings, sink), outcomes)
            print(f"{outcomes:,} outcomes were made in {time.monotonic() - began:.0f} s")  # noqa: T201
        urls[outcomes] = name
    return urls


@pytest.fixture(scope="module")
def bench(size: Size, is_scale: bool, server_folders: Path, pytestconfig: pytest.Config) -> Iterator[Bench]:
    folder, port = server_folders / "scale", free_ports(1)[0]
    with EmbeddedPostgres(folder, port, is_durable=False) as server:
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM SET max_wal_size = '4GB'")
            connection.execute("SELECT pg_reload_conf()")
            if is_scale:  # from the second start on: a quarter of a small server's memory, as is usual
                connection.execute("ALTER SYSTEM SET shared_buffers = '1GB'")
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            names = made(server, size)
    # Made without waiting for the disk, measured with it.
    with EmbeddedPostgres(folder, port, is_durable=is_scale) as server, ExitStack() as opened:
        ledgers = {}
        for outcomes, name in names.items():
            settings = read_settings(database_url=server.url(name))
            sink = opened.enter_context(PostgresSink(settings))
            ledgers[outcomes] = Ledger(server.url(name), settings, sink)
        yield Bench(size, ledgers, random.Random(pytestconfig.getoption("--seed")), is_scale)  # noqa: S311


class Reader:
    """Asks as a member of nightlabel_reader does, over one connection to each ledger."""

    def __init__(self, bench: Bench) -> None:
        self._connections = {
            ledger.url: psycopg.connect(ledger.url, autocommit=True, options="-c role=nightlabel_reader")
            for ledger in bench.ledgers.values()
        }

    def __call__(self, ledger: Ledger, sql: str, *values: object) -> Rows:
        # Never prepared: planning is part of what an analyst waits for.
        return self._connections[ledger.url].execute(sql.encode(), values, prepare=False).fetchall()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


@pytest.fixture(scope="module")
def ask(bench: Bench) -> Iterator[Reader]:
    reader = Reader(bench)
    yield reader
    reader.close()


def some_keys(ledger: Ledger, count: int) -> list[str]:
    """Keys from all over the bucket."""
    sql = "SELECT object_key FROM nightlabel.object TABLESAMPLE bernoulli (%s) LIMIT %s"
    [row] = ledger.rows("SELECT greatest(reltuples, 1) AS rows FROM pg_class WHERE oid = 'nightlabel.object'::regclass")
    return [row["object_key"] for row in ledger.rows(sql, min(100.0, 200 * count / row["rows"]), count)]


def truth(ledger: Ledger, keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Key -> what its object's current version has, by the rule in plain words, from the rows of the tables."""
    rows = ledger.rows(
        "SELECT o.object_key, i.etag, i.image_id, m.version, c.label, c.score, c.error_code, c.recorded_at "
        "FROM nightlabel.object AS o JOIN nightlabel.image AS i ON i.image_id = o.image_id "
        "JOIN nightlabel.outcome AS c ON c.image_id = o.image_id JOIN nightlabel.model AS m ON m.model_id = c.model_id "
        "WHERE o.bucket = %s AND o.object_key = ANY(%s) AND o.gone_at IS NULL",
        BUCKET,
        list(keys),
    )
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["label"] is None, -int(row["version"]))):  # 3 is in production
        if row["version"] != "4":  # a candidate, never in production
            best.setdefault(row["object_key"], row)
    return {
        key: (row["etag"], row["version"], row["label"], row["score"], row["error_code"], row["recorded_at"])
        for key, row in best.items()
    }


def test_one_objects_label_by_its_key(bench: Bench, ask: Reader):
    sql = "SELECT * FROM latest_prediction WHERE bucket = %s AND object_key = %s"
    keys = {ledger.url: some_keys(ledger, 2_000) for ledger in bench.ledgers.values()}
    chosen = {url: bench.draw.sample(found, 200) for url, found in keys.items()}
    for ledger in bench.ledgers.values():
        expected = truth(ledger, chosen[ledger.url])
        shown, dead = {}, {}
        for key in chosen[ledger.url]:
            columns = "etag, model_version, label, score, NULL, predicted_at"
            for row in ask(ledger, sql.replace("*", columns), BUCKET, key):
                shown[key] = row
            columns = "etag, model_version, NULL, NULL, error_code, failed_at"
            for row in ask(
                ledger, sql.replace("latest_prediction", "dead_letter_open").replace("*", columns), BUCKET, key
            ):
                dead[key] = row
        assert {**shown, **dead} == expected
        assert len(shown) + len(dead) == len(expected) > 100

    places = {url: iter(found * bench.size.repeats) for url, found in chosen.items()}
    bench.time(
        "one object's label by key", 2, lambda ledger: ask(ledger, sql, BUCKET, next(places[ledger.url])),
        repeats=10 * bench.size.repeats,
    )  # fmt: skip


def test_label_counts_of_a_day_and_of_a_month(bench: Bench, ask: Reader):
    day = "SELECT model_version, label, images, mean_score FROM label_daily WHERE day = %s"
    month = (
        "SELECT label, sum(images), sum(images * mean_score) / sum(images) FROM label_daily "
        "WHERE day > %s - 30 AND day <= %s GROUP BY label"
    )
    for ledger in bench.ledgers.values():
        counted = ledger.rows(BY_COUNTING)
        of_day = {(row["model_version"], row["label"]): row for row in counted if row["day"] == DAY}
        shown = {(version, label): (images, score) for version, label, images, score in ask(ledger, day, DAY)}
        assert {key: images for key, (images, _) in shown.items()} == {k: row["images"] for k, row in of_day.items()}
        assert {key: score for key, (_, score) in shown.items()} == pytest.approx(
            {key: row["mean_score"] for key, row in of_day.items()}, abs=1e-6
        )
        of_month: dict[str, int] = {}
        for row in counted:
            if 0 <= (DAY - row["day"]).days < 30:
                of_month[row["label"]] = of_month.get(row["label"], 0) + row["images"]
        assert {label: int(images) for label, images, _ in ask(ledger, month, DAY, DAY)} == of_month
        assert len(of_month) > 100

    bench.time("label counts of one day", 50, lambda ledger: ask(ledger, day, DAY))
    bench.time("label mix of 30 days", 200, lambda ledger: ask(ledger, month, DAY, DAY))


@pytest.mark.parametrize("label", [FREQUENT, MIDDLING, RARE, UNKNOWN])
def test_the_newest_hundred_of_a_label(bench: Bench, ask: Reader, label: str):
    sql = (
        "SELECT object_key, label, predicted_at FROM latest_prediction "
        "WHERE label = %s ORDER BY predicted_at DESC LIMIT 100"
    )
    for ledger in bench.ledgers.values():
        shown = ask(ledger, sql, label)
        newest = ledger.rows(
            "SELECT o.object_key, c.recorded_at FROM nightlabel.outcome AS c "
            "JOIN nightlabel.object AS o ON o.image_id = c.image_id WHERE c.label || '' = %s "
            "ORDER BY c.recorded_at DESC LIMIT 1000",
            label,
        )
        of_keys = truth(ledger, [row["object_key"] for row in newest])
        times = sorted(
            (found[-1] for found in of_keys.values() if found[2] == label), reverse=True,
        )[:100]  # fmt: skip
        assert [predicted_at for _, _, predicted_at in shown] == times
        assert all(of_keys[key][2] == label and of_keys[key][-1] == at for key, _, at in shown)
        assert len(shown) == (0 if label == UNKNOWN else min(100, len(times)))

    bench.time(f"newest 100 of {label!r}", 20, lambda ledger: ask(ledger, sql.replace("object_key, ", "*, ", 1), label))


def test_what_reads_the_whole_ledger(bench: Bench, ask: Reader):
    """No limit: what takes seconds is said, so that nobody puts it on a dashboard."""
    labels = "SELECT label, count(*) FROM latest_prediction GROUP BY label"
    reasons = "SELECT error_code, count(*) FROM dead_letter_open GROUP BY error_code"
    for ledger in bench.ledgers.values():
        labelled = sum(count for _, count in ask(ledger, labels))
        dead = sum(count for _, count in ask(ledger, reasons))
        [row] = ledger.rows(
            "SELECT count(*) FROM nightlabel.object AS o WHERE o.gone_at IS NULL AND EXISTS (SELECT "
            "FROM nightlabel.outcome AS c JOIN nightlabel.model AS m ON m.model_id = c.model_id "
            f"WHERE c.image_id = o.image_id AND m.version IN {IN_LINE})"
        )
        assert labelled + dead == row["count"]
        assert dead > 0
    bench.time("labels of everything, counted (latest_prediction)", None, lambda ledger: ask(ledger, labels), repeats=2)
    bench.time("open dead letters by reason", None, lambda ledger: ask(ledger, reasons), repeats=3)
    newest = "SELECT * FROM dead_letter_open ORDER BY failed_at DESC LIMIT 100"
    bench.time("newest 100 open dead letters", None, lambda ledger: ask(ledger, newest))


FURTHER = {
    "labels of a day by prefix (label_by_prefix)": (
        "SELECT prefix, label, images FROM label_by_prefix WHERE day = %s", [DAY], 10,
    ),
    "what every model said of one key (object_outcome)": (
        "SELECT * FROM object_outcome WHERE bucket = %s AND object_key ^@ 'cam-0000/' LIMIT 10", [BUCKET], 10,
    ),
    "changed labels of one folder (label_change)": (
        "SELECT count(*) FROM label_change WHERE bucket = %s AND object_key ^@ 'cam-0001/'", [BUCKET], 3,
    ),
    "never labelled, all (never_labelled)": ("SELECT count(*) FROM never_labelled", [], 2),
    "equal content, all (duplicate_content)": ("SELECT count(*) FROM duplicate_content", [], 2),
    "reasons of dead letters, all (dead_letter_reason)": ("SELECT * FROM dead_letter_reason", [], 2),
    "cost of the newest runs (run_cost)": ("SELECT * FROM run_cost ORDER BY started_at DESC LIMIT 10", [], 10),
}  # fmt: skip
"""Question -> SQL, values, repeats."""


@pytest.mark.parametrize("question", FURTHER)
def test_the_further_views(bench: Bench, ask: Reader, question: str):
    """No limit, likewise."""
    sql, values, repeats = FURTHER[question]
    for ledger in bench.ledgers.values():
        assert ask(ledger, sql, *values) or "run" in question  # the generated ledger has no runs' books
    bench.time(question, None, lambda ledger: ask(ledger, sql, *values), repeats=repeats)


def test_the_lowest_scores_that_wait_for_a_review(bench: Bench, ask: Reader):
    sql = "SELECT object_key, score FROM review_queue WHERE score < 0.4 ORDER BY score LIMIT 100"
    for ledger in bench.ledgers.values():
        lowest = ledger.rows(
            "SELECT score FROM nightlabel.latest_prediction WHERE score < 0.4 ORDER BY score LIMIT 100"
        )
        assert [score for _, score in ask(ledger, sql)] == [row["score"] for row in lowest]
        assert len(lowest) == 100
    bench.time("lowest 100 scores to review (review_queue)", 20, lambda ledger: ask(ledger, sql))


def test_the_labels_of_a_run_are_counted_out_of_its_days(bench: Bench):
    """As the end of each run counts them; a run of one day here, a sixtieth of the ledger."""
    day = (DAY - date(2026, 9, 1)).days
    run_id = uuid.UUID(bytes=hashlib.sha256(day.to_bytes(4, "big")).digest()[:16])
    what = {"run_id": run_id, "low_score": 0.4, "first_day": DAY, "last_day": DAY}

    def count(ledger: Ledger) -> Rows:
        with psycopg.connect(ledger.url) as connection:
            sql = "SELECT model_id FROM nightlabel.model WHERE version = '3'"
            [model_id] = connection.execute(sql).fetchone() or (0,)
            found = connection.execute(statement("quality_labels"), {**what, "model_id": model_id}, prepare=False)
            return found.fetchall()

    for ledger in bench.ledgers.values():
        [whole] = ledger.rows(
            "SELECT count(c.label) AS images, sum(c.score)::real AS score_sum FROM nightlabel.outcome AS c "
            "JOIN nightlabel.model AS m ON m.model_id = c.model_id WHERE c.run_id = %s AND m.version = '3'",
            run_id,
        )
        rows = count(ledger)
        assert sum(row[1] for row in rows) == whole["images"] > 0
        assert sum(row[2] for row in rows) == pytest.approx(whole["score_sum"], rel=1e-4)
    bench.time("labels of a run of one day, counted", None, count)


def test_a_hundred_thousand_listed_keys_are_compared_with_the_ledger(bench: Bench):
    listings = {}
    for ledger in bench.ledgers.values():
        rows = ledger.rows(
            "SELECT o.object_key, i.etag, i.size_bytes, o.last_modified, EXISTS ("
            "SELECT FROM nightlabel.outcome AS c JOIN nightlabel.model AS m ON m.model_id = c.model_id "
            f"WHERE c.image_id = o.image_id AND m.version IN {IN_LINE}) AS is_done "
            "FROM nightlabel.object AS o JOIN nightlabel.image AS i ON i.image_id = o.image_id "
            "WHERE o.bucket = %s AND o.object_key ^@ 'cam-0000/' AND o.gone_at IS NULL ORDER BY o.object_key LIMIT %s",
            BUCKET,
            LISTED * 9 // 10,
        )
        old = [
            ListedObject(BUCKET, row["object_key"], row["etag"], row["size_bytes"], row["last_modified"])
            for row in rows
        ]
        assert all(row["is_done"] for row in rows)
        new = [
            ListedObject(BUCKET, f"cam-0000/new/{number:06}", f"{number:032x}", 1, datetime(2026, 11, 1, tzinfo=UTC))
            for number in range(min(LISTED, len(old) * 10 // 9) - len(old))
        ]
        listings[ledger.url] = (old, new)

    def plan(ledger: Ledger) -> None:
        old, new = listings[ledger.url]
        every = [*old, *new]
        pages = [every[first : first + 1000] for first in range(0, len(every), 1000)]
        # Not as a complete listing: what is not listed here is not to vanish.
        request = RunRequest(bucket=BUCKET, prefix="cam-0000/", max_images=1, dry_run=True)
        found = ledger.sink.plan_run(request, Pages(pages))
        assert (found.discovered, found.already_done) == (len(every), len(old))

    bench.time("anti-join of 100,000 listed keys (all of planning)", 2000, plan, repeats=min(5, bench.size.repeats))


def test_outcomes_are_written_by_the_writers_own_path_and_counted(bench: Bench):
    for outcomes, ledger in bench.ledgers.items():
        before = ledger.rows("SELECT coalesce(sum(images), 0)::bigint AS images FROM nightlabel.label_daily")[0][
            "images"
        ]
        rates = [write(ledger, bench, turn) for turn in range(3 if bench.is_timed else 1)]
        bench.note(
            f"outcomes written, by {WRITERS} connections", outcomes, statistics.median(rates), limit=5000, unit="/s"
        )
        after = ledger.rows("SELECT coalesce(sum(images), 0)::bigint AS images FROM nightlabel.label_daily")[0][
            "images"
        ]
        assert after - before == len(rates) * bench.size.written
        differing = ledger.rows(
            f"SELECT * FROM nightlabel.label_daily AS kept FULL JOIN ({BY_COUNTING}) AS counted "
            "USING (day, model_version, label) WHERE kept.images IS DISTINCT FROM counted.images "
            "OR abs(kept.mean_score - counted.mean_score) > 0.000001"
        )
        assert differing == []


def write(ledger: Ledger, bench: Bench, turn: int) -> float:
    """Record outcomes in batches as the runner does, over some connections; returns how many a second."""
    prefix = f"written/{turn}/"
    objects = [
        ListedObject(BUCKET, f"{prefix}{number:07}", hashlib.md5(f"{turn} {number}".encode()).hexdigest(), 1000,  # noqa: S324
                     datetime(2026, 11, 20, tzinfo=UTC))
        for number in range(bench.size.written)
    ]  # fmt: skip
    request = RunRequest(bucket=BUCKET, prefix=prefix, shard_size=bench.size.written // WRITERS)
    plan = ledger.sink.plan_run(request, Pages([objects]))
    sinks = [PostgresSink(ledger.settings) for _ in range(WRITERS)]
    work = []
    for sink, number in zip(sinks, plan.shards, strict=True):
        shard = sink.claim_shard(plan.run_id, number)
        found = [labelled(ref, bench.draw) for chunk in sink.read_manifest(shard) for ref in chunk.refs]
        work.append((sink, shard, [found[first : first + BATCH] for first in range(0, len(found), BATCH)]))

    def record(sink: PostgresSink, shard: Any, batches: list[list[Prediction]]) -> None:
        for number, batch in enumerate(batches, start=1):
            sink.record_batch(shard, number, batch, engine="litert", seconds=StageSeconds())

    began = time.perf_counter()
    in_parallel(*[lambda parts=parts: record(*parts) for parts in work])
    seconds = time.perf_counter() - began
    for sink in sinks:
        sink.close()
    assert ledger.sink.finish_run(plan.run_id).labelled == bench.size.written
    return bench.size.written / seconds


def labelled(ref: ImageRef, draw: random.Random) -> Prediction:
    names = draw.sample(range(1000), 4)
    best = int(1000 ** draw.random())
    scores = (0.5, 0.2, 0.1, 0.05, 0.02)
    top = tuple(
        ScoredLabel(Label(f"label {number}", f"n{number:08}"), score)
        for number, score in zip([best, *names], scores, strict=True)
    )
    return Prediction(ref=ref, top=top, content=ContentDigest(hashlib.sha256(ref.key.encode()).digest(), True))


def sizes(ledger: Ledger) -> dict[str, int]:
    """Bytes by table and by index; a ledger's partitions together."""
    rows = ledger.rows(
        "SELECT regexp_replace(c.relname, '_model_[0-9]+', '') AS name, sum(pg_relation_size(c.oid))::bigint AS bytes "
        "FROM pg_class AS c WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'i') "
        "GROUP BY 1 ORDER BY 2 DESC"
    )
    return {row["name"]: row["bytes"] for row in rows}


def test_the_figures_are_reached_and_hold_from_the_small_to_the_large_ledger(
    bench: Bench, capsys: pytest.CaptureFixture
):
    small, large = bench.ledgers
    lines = [
        f"| | limit | {small:,} outcomes | {large:,} outcomes | factor |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for figure in bench.figures.values():
        before, after = figure.values[small], figure.values[large]
        digits = 0 if figure.unit == "/s" or after >= 100 else 1
        limit = "" if figure.limit is None else f"{figure.limit:,.0f} {figure.unit}"
        lines.append(
            f"| {figure.name} | {limit} | {before:,.{digits}f} {figure.unit} | {after:,.{digits}f} {figure.unit} "
            f"| {before / after if figure.unit == '/s' else after / before:.2f} |"
        )
    lines += ["", f"| bytes an outcome | {small:,} outcomes | {large:,} outcomes | GB at 100,000,000 |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    before, after = sizes(bench.ledgers[small]), sizes(bench.ledgers[large])
    for name, found in after.items():
        if found / large >= 1:
            at_hundred = found / large / 10
            lines.append(f"| `{name}` | {before.get(name, 0) / small:.0f} | {found / large:.0f} | {at_hundred:.1f} |")
    total = sum(after.values())
    lines.append(f"| all | {sum(before.values()) / small:.0f} | {total / large:.0f} | {total / large / 10:.1f} |")
    if not bench.is_timed:
        assert len(bench.figures) == 14 + len(FURTHER)
        return
    with capsys.disabled():
        print("\n" + "\n".join(lines))  # noqa: T201 - what the suite is run for
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    missed = [figure.name for figure in bench.figures.values() if not figure.is_within(large)]
    slower = [figure.name for figure in bench.figures.values() if not figure.is_not_slower(small, large)]
    assert (missed, slower) == ([], []), "missed their limits; slower by more than 1.5 times"
