"""Every public view shows what plain Python works out from the same values, and reads no more than it must."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from inference.types import ContentDigest, ImageRef, Label, Prediction, ScoredLabel
from tests import known_data
from tests.known_data import EXAMPLE_SEED, VIEWS
from tests.ledger import Ledger, dead_letter, listed
from tests.sql.conftest import Known

pytestmark = pytest.mark.integration

SEEDS = (EXAMPLE_SEED, 1, 2)
OF_THE_CLOCK = ("images_per_second", "run_s")
"""Of a run that has not ended these are the clock's affair."""


def settled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in one order, without what is the clock's."""
    kept = [
        {
            name: value
            for name, value in row.items()
            if name not in OF_THE_CLOCK or row.get("finished_at", row) is not None
        }
        for row in rows
    ]
    return sorted(kept, key=lambda row: repr([value for value in row.values() if not isinstance(value, float)]))


def about(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, equal to numbers of single precision."""
    return [
        {name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for name, value in row.items()}
        for row in settled(rows)
    ]


@pytest.mark.parametrize("seed_of_world", [*SEEDS, None])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_is_worked_out_by_hand(
    known: Callable[[int], Known], pytestconfig: pytest.Config, view: str, seed_of_world: int | None
):
    of_world = pytestconfig.getoption("--seed") if seed_of_world is None else seed_of_world
    here = known(of_world)
    expected = about(getattr(here.world, view)())

    assert settled(here.ask(f"SELECT * FROM {view}")) == expected
    assert expected or seed_of_world is None, "a world without rows shows nothing"


def test_every_existing_object_is_labelled_or_dead_or_never_looked_at(known: Callable[[int], Known]):
    for of_world in SEEDS:
        here = known(of_world)
        shown = [
            (row["bucket"], row["object_key"])
            for view in ("latest_prediction", "dead_letter_open", "never_labelled")
            for row in here.ask(f"SELECT bucket, object_key FROM {view}")
        ]
        assert sorted(shown) == sorted((found.image.bucket, found.image.key) for found in here.world.existing())


def test_the_prefixes_of_a_day_add_up_to_label_daily(known: Callable[[int], Known]):
    here = known(EXAMPLE_SEED)
    columns = "day, model_name, model_version, label"
    added_up = here.ask(f"SELECT {columns}, sum(images)::bigint AS images FROM label_by_prefix GROUP BY {columns}")
    assert settled(added_up) == settled(here.ask(f"SELECT {columns}, images FROM label_daily"))


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu"])
def test_a_day_is_the_utc_day_whatever_the_time_zone_of_the_session(known: Callable[[int], Known], zone: str):
    here = known(EXAMPLE_SEED)
    with psycopg.connect(here.url) as connection:
        connection.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        for view in ("label_daily", "label_by_prefix"):
            days = connection.execute(f"SELECT day, sum(images) FROM {view} GROUP BY day").fetchall()
            expected: dict[date, int] = {}
            for row in here.world.label_daily():
                expected[row["day"]] = expected.get(row["day"], 0) + row["images"]
            assert dict(days) == expected


def test_the_last_moment_of_a_day_and_the_first_of_the_next_are_two_days(ledger: Ledger):
    ledger.work(ledger.plan(listed("in/a"), listed("in/b")))
    late = datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC)
    for key, moment in (("in/a", late), ("in/b", late + timedelta(microseconds=1))):
        ledger.execute(
            "UPDATE nightlabel.outcome SET recorded_at = %s "
            "WHERE image_id = (SELECT image_id FROM nightlabel.image WHERE object_key = %s)",
            moment,
            key,
        )
    rows = ledger.rows("SELECT day, prefix, images FROM nightlabel.label_by_prefix ORDER BY day")
    assert rows == [
        {"day": date(2026, 3, 1), "prefix": "in/", "images": 1},
        {"day": date(2026, 3, 2), "prefix": "in/", "images": 1},
    ]


def test_a_worker_whose_clock_is_wrong_does_not_change_the_day(ledger: Ledger):
    """The day is that of the database's clock; what the store says of an object has no part in it."""
    ledger.work(ledger.plan(listed("a", minute=-60 * 24 * 4000), listed("b", minute=60 * 24 * 4000)))
    [row] = ledger.rows(
        "SELECT (now() AT TIME ZONE 'UTC')::date - day IN (0, 1) AS is_today, images FROM nightlabel.label_by_prefix"
    )
    assert row == {"is_today": True, "images": 2}


def test_what_the_writer_recorded_is_counted_at_once(ledger: Ledger):
    plan = ledger.plan(listed("in/a"), listed("in/b"), listed("c"))
    assert [row["object_key"] for row in ledger.rows("SELECT * FROM nightlabel.never_labelled ORDER BY 2")] == [
        "c",
        "in/a",
        "in/b",
    ]
    ledger.work(plan, {"in/b": lambda ref: dead_letter(ref, "decoder_timeout", is_retryable=True)})

    assert ledger.rows("SELECT * FROM nightlabel.never_labelled") == []
    [reason] = ledger.rows("SELECT * FROM nightlabel.dead_letter_reason")
    assert (reason["error_code"], reason["objects"], reason["permanent"]) == ("decoder_timeout", 1, False)
    assert (reason["example_key"], reason["example_message"]) == ("in/b", "in/b is broken")
    prefixes = ledger.rows("SELECT prefix, images FROM nightlabel.label_by_prefix ORDER BY prefix")
    assert prefixes == [{"prefix": "", "images": 1}, {"prefix": "in/", "images": 1}]
    [cost] = ledger.rows("SELECT * FROM nightlabel.run_cost")
    assert (cost["images"], cost["seconds_per_1000"], cost["fetch_share"]) == (3, 0.0, None)
    ledger.plan(listed("in/a", etag="e2"), listed("in/b"), listed("c"))
    assert [row["object_key"] for row in ledger.rows("SELECT * FROM nightlabel.never_labelled")] == ["in/a"]


def test_labels_and_keys_of_any_characters_come_back_as_the_writer_was_given_them(ledger: Ledger):
    labels = ("jack-o'-lantern", '12" ruler', "😺", "a\\b {c, d} 100%:x", "line\nbreak\tand\x01")
    keys = ("it's.jpg", 'in/"quoted".jpg', "😀/a|b.jpg", "line\nbreak/x.jpg", "tab\t\x01\x7f.jpg")

    def named(label: str) -> Callable[[ImageRef], Prediction]:
        top = (ScoredLabel(Label(label, f"id of {label}"), 0.75), ScoredLabel(Label("other", "n0"), 0.25))
        return lambda ref: Prediction(ref=ref, top=top, content=ContentDigest(b"\x01" * 32))

    ledger.work(
        ledger.plan(*(listed(key) for key in keys)),
        {key: named(label) for key, label in zip(keys, labels, strict=True)},
    )

    assert ledger.latest() == dict(zip(keys, labels, strict=True))
    outcomes = ledger.rows("SELECT object_key, label, label_id FROM nightlabel.object_outcome")
    assert {row["object_key"]: (row["label"], row["label_id"]) for row in outcomes} == {
        key: (label, f"id of {label}") for key, label in zip(keys, labels, strict=True)
    }
    [duplicate] = ledger.rows("SELECT object_keys, labels FROM nightlabel.duplicate_content")
    assert duplicate == {"object_keys": sorted(keys, key=str.encode), "labels": sorted(labels, key=str.encode)}
    prefixes = {row["prefix"] for row in ledger.rows("SELECT prefix FROM nightlabel.label_by_prefix")}
    assert prefixes == {"", "in/", "😀/", "line\nbreak/"}


def test_a_model_that_is_registered_later_has_the_index_that_finds_its_days(ledger: Ledger):
    ledger.register("later", "1")
    indexes = ledger.rows(
        "SELECT x.inhrelid::regclass::text AS name, c.reloptions FROM pg_inherits AS x "
        "JOIN pg_class AS c ON c.oid = x.inhrelid WHERE x.inhparent = 'nightlabel.outcome_day'::regclass"
    )
    partitions = ledger.rows("SELECT FROM pg_inherits WHERE inhparent = 'nightlabel.outcome'::regclass")
    assert [index["reloptions"] for index in indexes] == [["autosummarize=on"]] * len(partitions)
    assert len(partitions) >= 2


FILTERED = {
    "object_outcome": "bucket = 'photos' AND object_key = 'in/5000.jpg'",
    "label_change": "bucket = 'photos' AND object_key = 'in/5000.jpg'",
    "never_labelled": "bucket = 'photos' AND object_key = 'in/5000.jpg'",
    "run_cost": "run_id = '00000000-0000-0000-0000-000000000005'",
    "label_by_prefix": "day = '2026-05-09'",
    "label_by_prefix of one prefix": "day BETWEEN '2026-05-09' AND '2026-05-10' AND prefix = 'in/'",
}


@pytest.fixture(scope="module")
def large(known: Callable[[int], Known]) -> Known:
    """Enough rows for the planner to mind: 60,000 objects of 30 days, two models, 3,000 runs."""
    here = known(-1)
    with psycopg.connect(here.url, autocommit=True) as connection:
        connection.execute(LARGE)
        connection.execute("VACUUM (ANALYZE)")
    return here


LARGE = """
    CREATE TABLE public.numbered AS
        SELECT n, md5(n::text)::uuid AS image_id, 'in/' || n || '.jpg' AS object_key,
            timestamptz '2026-05-01 00:00+00' + n * interval '43.2 seconds' AS moment
        FROM generate_series(1, 60000) AS n;
    INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified)
        SELECT image_id, 'photos', object_key, 'e', 1, moment FROM public.numbered;
    INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at)
        SELECT 'photos', object_key, image_id, moment, moment FROM public.numbered;
    INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, engine, run_id,
                                    recorded_at)
        SELECT image_id, model_id, 'cat', 'n' || model_id, 0.5, '{cat}', '{0.5}', 'litert', gen_random_uuid(), moment
        FROM public.numbered CROSS JOIN nightlabel.model WHERE name = 'tiny' ORDER BY n;
    INSERT INTO nightlabel.run (run_id, dag_id, airflow_run_id, bucket, prefix, parameters, model_id, state,
                                max_dead_ratio, min_images_for_ratio, discovered, already_done, deferred)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'large', n, 'photos', '', '{}', min(model_id), 'succeeded', 1, 1, 0, 0, 0
        FROM generate_series(100, 3000) AS n CROSS JOIN nightlabel.model GROUP BY n;
    INSERT INTO nightlabel.shard (run_id, plan_number, shard_number, device, state, images)
        SELECT run_id, 1, s, 'cpu', 'done', 1 FROM nightlabel.run CROSS JOIN generate_series(10, 19) AS s
        WHERE dag_id = 'large';
"""


def rows_read(plan: dict[str, Any], of: str = "") -> int:
    """Rows that the leaves of an executed plan have looked at, kept or not, in tables whose names begin so."""
    children = plan.get("Plans", [])
    if "Relation Name" not in plan:
        return sum(rows_read(child, of) for child in children)
    parts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    looked_at = sum(plan.get(name, 0) for name in parts) * plan["Actual Loops"]
    return int(looked_at) if plan["Relation Name"].startswith(of) else 0


def explained(large: Known, view: str, condition: str) -> dict[str, Any]:
    with psycopg.connect(large.url) as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0")
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) SELECT * FROM {view} WHERE {condition}"
        [[[answer]]] = connection.execute(sql).fetchall()
    return answer["Plan"]


@pytest.mark.parametrize("question", FILTERED)
def test_a_key_a_run_or_a_day_is_found_without_reading_everything(large: Known, question: str):
    view = question.split()[0]
    plan = explained(large, view, FILTERED[question])

    if view == "label_by_prefix":
        # Two days of two models are 8,000 of 120,000 outcomes. Their images are looked up one by one where the ledger
        # is large; these few are read whole.
        assert 2_000 < rows_read(plan, "outcome") < 40_000
    else:
        assert 0 < rows_read(plan) < 100


def test_a_plan_that_reads_everything_would_be_seen(large: Known):
    assert rows_read(explained(large, "label_by_prefix", "images = 5000"), "outcome") > 120_000
    assert rows_read(explained(large, "never_labelled", "size_bytes = 5000")) > 60_000


def test_the_known_data_are_what_the_ledger_could_hold(known: Callable[[int], Known]):
    for of_world in SEEDS:
        here = known(of_world)
        for row in here.ask("SELECT * FROM run_summary"):
            parts = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
            assert row["discovered"] == sum(row[part] for part in parts), row
        keys = "".join(row["object_key"] for row in here.ask("SELECT object_key FROM object_outcome"))
        assert all(odd in keys for odd in "\n\t\x01'\"%\\|😀")
        assert set(known_data.LABELS) == {
            (row["label"], row["label_id"]) for row in here.ask("SELECT label, label_id FROM latest_prediction")
        }
