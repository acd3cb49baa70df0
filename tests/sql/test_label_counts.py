"""label_daily is the count over the ledger at every moment, whoever writes, folds, or dies meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import psycopg
import pytest

from inference.errors import StaleAttemptError
from inference.models import registry
from inference.settings import read_settings
from inference.sinks import postgres
from inference.sinks.migrating import migrate, run_alone
from inference.sinks.migration_files import statements_of
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import migrations, newest_revision, revision_of
from inference.types import CopiedPrediction, ImageRef, ModelId
from tests.ledger import LABELS, Ledger, dead_letter, listed, manifest, prediction

pytestmark = pytest.mark.integration

BY_COUNTING = """
    SELECT (o.recorded_at AT TIME ZONE 'UTC')::date AS day, m.name AS model_name, m.version AS model_version, o.label,
        count(*) AS images, avg(o.score)::real AS mean_score
    FROM nightlabel.outcome AS o JOIN nightlabel.model AS m ON m.model_id = o.model_id
    WHERE o.label IS NOT NULL
    GROUP BY 1, 2, 3, 4
"""

# In one statement, so that both sides see the same moment.
DIFFERENCES = f"""
    SELECT *
    FROM nightlabel.label_daily AS kept
    FULL JOIN ({BY_COUNTING}) AS counted USING (day, model_name, model_version, label)
    WHERE kept.images IS DISTINCT FROM counted.images
        OR abs(kept.mean_score - counted.mean_score) > 0.000001
        OR (kept.mean_score IS NULL) <> (counted.mean_score IS NULL)
"""

INSERT = """
    INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, engine, run_id)
    SELECT gen_random_uuid(), %(model)s, label, 'n1', %(score)s, ARRAY[label], '{0.5}', 'litert', gen_random_uuid()
    FROM unnest(%(labels)s::text[]) AS label
"""


def check(ledger: Ledger, images: int | None = None) -> None:
    """The view says what counting says; and how many there are, so that nothing is not taken for right."""
    assert ledger.rows(DIFFERENCES) == []
    if images is not None:
        [row] = ledger.rows("SELECT coalesce(sum(images), 0)::integer AS images FROM nightlabel.label_daily")
        assert row["images"] == images


def deltas(ledger: Ledger) -> int:
    [row] = ledger.rows("SELECT count(*) FROM nightlabel.label_count_delta")
    return int(row["count"])


def fold(ledger: Ledger) -> int:
    with psycopg.connect(ledger.url) as connection:
        [folded] = connection.execute("SELECT nightlabel.fold_label_counts()").fetchone() or [0]
    return int(folded)


def model_key(ledger: Ledger) -> int:
    return int(ledger.rows("SELECT model_id FROM nightlabel.model WHERE name = 'tiny'")[0]["model_id"])


@contextmanager
def in_threads(*work: Callable[[], None]) -> Iterator[None]:
    """Run functions again and again beside the block; what one of them raises fails the test."""
    is_over, errors = threading.Event(), []

    def repeat(one: Callable[[], None]) -> None:
        try:
            while not is_over.is_set():
                one()
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert errors == []


def test_recorded_and_copied_labels_are_counted_and_dead_letters_are_not(ledger: Ledger):
    plan = ledger.plan(*(listed(key) for key in "abcd"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    a, b, c, d = ledger.refs(shard)
    check(ledger, 0)
    ledger.record(shard, 1, [prediction(a, 0, 0.25), dead_letter(b)])
    check(ledger, 1)
    ledger.record(shard, 2, [CopiedPrediction(c, LABELS[0], 0.75, ("cat",), (0.75,), "litert"), prediction(d, 1)])
    check(ledger, 3)

    today = ledger.rows("SELECT (now() AT TIME ZONE 'UTC')::date AS day")[0]["day"]
    tiny = {"day": today, "model_name": "tiny", "model_version": "1"}
    assert ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label") == [
        {**tiny, "label": "cat", "images": 2, "mean_score": 0.5},
        {**tiny, "label": "dog", "images": 1, "mean_score": 0.75},
    ]


def test_a_batch_that_is_sent_twice_is_counted_once_and_one_of_a_stale_attempt_never(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    old = ledger.sink.claim_shard(plan.run_id, 0)
    a, b = ledger.refs(old)
    for _ in range(3):
        ledger.record(old, 1, [prediction(a)])
    check(ledger, 1)
    new = ledger.sink.claim_shard(plan.run_id, 0)
    with pytest.raises(StaleAttemptError):
        ledger.record(old, 2, [prediction(b)])
    check(ledger, 1)
    ledger.record(new, 1, [prediction(b)])
    check(ledger, 2)


def test_a_dead_letter_counts_when_it_becomes_a_label_on_that_day(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")), {"a": lambda ref: dead_letter(ref, is_retryable=True)})
    check(ledger, 1)
    ledger.execute(
        "UPDATE nightlabel.outcome SET retry_after = now() - interval '1 s', recorded_at = '2026-01-01' "
        "WHERE label IS NULL"
    )
    check(ledger, 1)
    ledger.work(ledger.plan(listed("a"), listed("b")), {"a": lambda ref: prediction(ref, 1)})
    check(ledger, 2)
    assert ledger.rows("SELECT label FROM nightlabel.label_daily WHERE day = '2026-01-01'") == []


def test_a_run_that_is_planned_again_counts_nothing_again(ledger: Ledger):
    request = {"dag_id": "classify_images", "airflow_run_id": "night"}
    first = ledger.plan(*(listed(key) for key in "abc"), **request)
    shard = ledger.sink.claim_shard(first.run_id, 0)
    ledger.record(shard, 1, [prediction(ref) for ref in ledger.refs(shard)[:2]])
    check(ledger, 2)
    ledger.work(ledger.plan(*(listed(key) for key in "abc"), **request))
    check(ledger, 3)


def test_two_runs_that_hold_the_same_image_count_it_once(ledger: Ledger):
    one, two = ledger.plan(listed("a")), ledger.plan(listed("a"))
    ledger.work(one)
    ledger.work(two, {"a": lambda ref: prediction(ref, 2)})
    check(ledger, 1)


def test_the_day_is_that_of_utc_whatever_the_session_says(ledger: Ledger):
    model = model_key(ledger)
    with psycopg.connect(ledger.url, options="-c timezone=Pacific/Auckland") as connection:
        connection.execute(INSERT, {"model": model, "labels": ["cat"] * 3, "score": 0.5})
        for number, moment in enumerate(
            ("2026-02-28 23:59:59.999999+00", "2026-03-01 00:00+00", "2026-03-01 12:00+13")
        ):
            connection.execute(
                "UPDATE nightlabel.outcome SET recorded_at = %s WHERE image_id = ("
                "SELECT image_id FROM nightlabel.outcome ORDER BY image_id OFFSET %s LIMIT 1)",
                [moment, number],
            )
    check(ledger, 3)
    with psycopg.connect(ledger.url, options="-c timezone=Pacific/Auckland") as connection:
        days = connection.execute("SELECT day, images FROM nightlabel.label_daily ORDER BY day").fetchall()
    assert days == [(date(2026, 2, 28), 2), (date(2026, 3, 1), 1)]


def test_labels_of_any_characters_are_counted_as_they_are(ledger: Ledger):
    labels = ["cat's", 'a "quote"', "{a,b}", "NULL", "back\\slash", "crane 🏗️", "", " ", "a,b", "%s", "line\nbreak"]
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT, {"model": model_key(ledger), "labels": labels * 2, "score": 0.5})
    check(ledger, 2 * len(labels))
    assert fold(ledger) == 1
    check(ledger, 2 * len(labels))
    rows = ledger.rows("SELECT label, images FROM nightlabel.label_daily")
    assert {row["label"]: row["images"] for row in rows} == dict.fromkeys(labels, 2)


def test_folding_changes_nothing_that_a_reader_sees(ledger: Ledger):
    with psycopg.connect(ledger.url) as connection:
        for number in range(7):
            labels = [f"label {number % 3}", "cat"]
            connection.execute(INSERT, {"model": model_key(ledger), "labels": labels, "score": number / 7})
            connection.commit()
    before = ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label")
    assert (fold(ledger), fold(ledger), deltas(ledger)) == (7, 0, 0)
    assert ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label") == before
    check(ledger, 14)


def test_a_folding_that_is_killed_has_done_nothing_and_keeps_nobody_waiting(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT, {"model": model_key(ledger), "labels": ["cat", "dog"], "score": 0.5})
    left = deltas(ledger)
    assert left == 1

    doomed = psycopg.connect(ledger.url)
    assert doomed.execute("SELECT nightlabel.fold_label_counts()").fetchone() == (left,)
    check(ledger, 4)
    assert fold(ledger) == 0, "another one is at it"
    ledger.work(ledger.plan(listed("a"), listed("b"), listed("c")))  # folds at its end, and is not held up
    check(ledger, 5)
    ledger.rows("SELECT pg_terminate_backend(%s)", doomed.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        doomed.execute("SELECT")

    check(ledger, 5)
    assert fold(ledger) == left + 1
    check(ledger, 5)


def test_two_workers_and_two_foldings_at_once_leave_the_count_exact_at_every_moment(ledger: Ledger, seed: int):
    draw = random.Random(seed)  # noqa: S311
    keys = [f"{number:03}" for number in range(240)]
    plan = ledger.plan(*(listed(key) for key in keys), shard_size=120)
    kinds = {key: draw.choice([0, 1, 2, 3, None]) for key in keys}

    def outcome(ref: ImageRef) -> Any:
        kind = kinds[ref.key]
        return dead_letter(ref) if kind is None else prediction(ref, kind, draw.random())

    def write(number: int) -> None:
        with PostgresSink(ledger.settings) as sink:
            mine = Ledger(ledger.url, ledger.settings, sink)
            shard = sink.claim_shard(plan.run_id, number)
            refs = mine.refs(shard)
            for batch in range(len(refs) // 4):
                mine.record(shard, batch + 1, [outcome(ref) for ref in refs[4 * batch : 4 * batch + 4]])

    writers = [threading.Thread(target=write, args=(number,)) for number in plan.shards]
    with in_threads(lambda: check(ledger), lambda: fold(ledger), lambda: fold(ledger)):
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    check(ledger, sum(kind is not None for kind in kinds.values()))


def test_workers_fold_as_they_go_and_the_end_of_a_run_folds_the_rest(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres, "BATCHES_BEFORE_FOLDING", 3)
    plan = ledger.plan(*(listed(key) for key in "abcdefg"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    left = []
    for batch, ref in enumerate(ledger.refs(shard), start=1):
        ledger.record(shard, batch, [prediction(ref)])
        left.append(deltas(ledger))
    assert left == [1, 2, 0, 1, 2, 0, 1]
    ledger.sink.finish_run(plan.run_id)
    assert deltas(ledger) == 0
    check(ledger, 7)


def test_a_folding_that_fails_fails_no_batch_and_no_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(postgres, "BATCHES_BEFORE_FOLDING", 1)
    ledger.execute("ALTER FUNCTION nightlabel.fold_label_counts() RENAME TO away")
    plan = ledger.plan(listed("a"))
    ledger.work(plan)
    assert ledger.summary(plan.run_id)["state"] == "succeeded"
    assert "The batch is recorded, but not everything could be tidied up" in caplog.text
    assert "The run is closed, but not everything could be tidied up" in caplog.text
    check(ledger, 1)


def test_a_run_that_has_much_to_tidy_up_keeps_its_connection(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog):
    """However long it takes in all: what is waited for is each of its statements."""
    monkeypatch.setattr(postgres, "SILENCE_S", 0.1)
    monkeypatch.setattr(postgres, "MOST_FOLDED_AT_ONCE", 1)
    ledger.execute("CREATE SEQUENCE public.calls")
    for function in ("drop_old_manifests(older_than interval)", "fold_label_counts()"):
        ledger.execute(
            f"CREATE OR REPLACE FUNCTION nightlabel.{function} RETURNS bigint LANGUAGE sql AS "
            "$$ SELECT pg_sleep(0.13); SELECT (nextval('public.calls') %% 8 > 0)::integer::bigint $$"
        )
    run_id = ledger.plan().run_id

    with PostgresSink(ledger.settings.model_copy(update={"database_statement_timeout_s": 0.4})) as sink:
        sink.finish_run(run_id)

    assert ledger.rows("SELECT last_value FROM public.calls") == [{"last_value": 16}]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("table", ["nightlabel.outcome", "nightlabel.outcome_model_{}"])
def test_whatever_is_written_is_counted_by_whatever_code(ledger: Ledger, table: str):
    model = model_key(ledger)
    table = table.format(model)
    values = {"model": model, "labels": ["cat", "cat", "dog"], "score": 0.5}
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT.replace("nightlabel.outcome", table), values)
    check(ledger, 3)
    ledger.execute(f"UPDATE {table} SET label = 'crane', score = 0.125 WHERE label = 'dog'")
    check(ledger, 3)
    fold(ledger)
    ledger.execute(f"UPDATE {table} SET recorded_at = '2026-01-01' WHERE label = 'cat'")
    check(ledger, 3)
    ledger.execute(f"DELETE FROM {table} WHERE label = 'cat'")
    check(ledger, 1)
    fold(ledger)
    check(ledger, 1)
    ledger.execute(f"DELETE FROM {table}")
    check(ledger, 0)
    assert ledger.rows("SELECT * FROM nightlabel.label_daily") == []


def test_history_is_kept_of_outcomes_that_went_for_their_age_or_with_their_model(ledger: Ledger):
    model = model_key(ledger)
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT, {"model": model, "labels": ["cat", "cat", "dog"], "score": 0.5})
    before = ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label")
    with psycopg.connect(ledger.url) as connection:
        connection.execute("SET LOCAL nightlabel.keep_label_counts = 'on'")
        connection.execute("DELETE FROM nightlabel.outcome WHERE label = 'cat'")
    assert ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label") == before
    ledger.execute(f"DROP TABLE nightlabel.outcome_model_{model}")
    assert ledger.rows("SELECT * FROM nightlabel.label_daily ORDER BY label") == before


def as_of_0005(url: str) -> Ledger:
    """A database as the code before the counts left it, with one model and some outcomes in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA nightlabel")
        for path in migrations():
            if revision_of(path) <= "0005":
                connection.execute(path.read_text(encoding="utf-8").encode())
        connection.execute("CREATE TABLE nightlabel.alembic_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO nightlabel.alembic_version VALUES ('0005')")
        connection.execute(
            "INSERT INTO nightlabel.model (name, version, source, licence, files, label_map, preprocessing, artefacts) "
            "SELECT 'tiny', version, '', '', '{}', '[]', '{}', '{}' FROM unnest('{1,2}'::text[]) AS version"
        )
        connection.execute("SELECT nightlabel.add_outcome_partition(model_id) FROM nightlabel.model")
        for model in (1, 2):
            for day in range(3):
                values = {"model": model, "labels": ["cat", "cat", "dog"], "score": 0.25 + day / 8}
                connection.execute(INSERT, values)
                connection.execute(
                    "UPDATE nightlabel.outcome SET recorded_at = timestamptz '2026-01-01 12:00+00' "
                    "+ %s * interval '1 d' WHERE recorded_at > '2026-02-01'",
                    [day],
                )
    return Ledger(url, read_settings(database_url=url), None)  # type: ignore[arg-type]


def test_what_was_recorded_before_the_counts_is_counted_by_the_migration_once(database: str):
    old = as_of_0005(database)
    before = old.rows(BY_COUNTING + " ORDER BY 1, 2, 3, 4")
    assert migrate(old.settings) == ("0005", newest_revision())
    assert old.rows("SELECT * FROM nightlabel.label_daily ORDER BY 1, 2, 3, 4") == before
    check(old, 18)

    # As an interrupted migration is: run again from its beginning.
    [path] = (path for path in migrations() if revision_of(path) == "0006")
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements_of(path.read_text(encoding="utf-8")):
            run_alone(connection, statement)
    check(old, 18)


def test_what_is_recorded_while_it_is_migrated_is_counted_too(database: str):
    old = as_of_0005(database)
    written = [0, 0]

    def keep_writing(model: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            values = {"model": model, "labels": [f"label {written[model - 1] % 5}", "cat"], "score": 0.5}
            connection.execute(INSERT, values)
            written[model - 1] += 2

    with in_threads(lambda: keep_writing(1), lambda: keep_writing(2)):
        migrate(old.settings)
        with in_threads(lambda: check(old), lambda: fold(old)):
            deadline = time.monotonic() + 30
            while sum(written) < 40 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert all(written)
    check(old, 18 + sum(written))


def test_statistics_of_the_whole_ledger_are_gathered_when_it_has_grown(ledger: Ledger):
    def gathered() -> list[bool]:
        with psycopg.connect(ledger.url) as connection:
            return [connection.execute("SELECT nightlabel.analyze_ledger()").fetchone() == (True,) for _ in range(2)]

    assert gathered() == [False, False], "there is nothing yet"
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT, {"model": model_key(ledger), "labels": ["cat"] * 3_000, "score": 0.5})
    assert gathered() == [True, False]
    with psycopg.connect(ledger.url) as connection:
        connection.execute(INSERT, {"model": model_key(ledger), "labels": ["cat"] * 3_000, "score": 0.5})
    assert gathered() == [True, False]
    with psycopg.connect(ledger.url) as other, psycopg.connect(ledger.url) as connection:
        connection.execute("DELETE FROM nightlabel.outcome")
        connection.execute(INSERT, {"model": model_key(ledger), "labels": ["cat"] * 9_000, "score": 0.5})
        connection.commit()
        other.execute("LOCK TABLE nightlabel.outcome IN SHARE UPDATE EXCLUSIVE MODE")
        assert gathered() == [False, False], "nobody is waited for"


def test_nobody_but_the_ledger_itself_writes_counts(ledger: Ledger):
    for role, refused in {
        "nightlabel_writer": (
            "INSERT INTO nightlabel.label_count VALUES ('2026-01-01', 1, 'cat', 1, 1)",
            "DELETE FROM nightlabel.label_count_delta",
            "SELECT nightlabel.count_labels_of('nightlabel.outcome')",
        ),
        "nightlabel_reader": (
            "SELECT * FROM nightlabel.label_count",
            "SELECT * FROM nightlabel.label_count_delta",
            "SELECT nightlabel.fold_label_counts()",
            "SELECT nightlabel.analyze_ledger()",
        ),
    }.items():
        for sql in refused:
            with psycopg.connect(ledger.url) as connection:
                connection.execute("SELECT set_config('role', %s, false)", [role])
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(sql.encode())
                connection.rollback()


def test_a_later_partition_has_the_indexes_and_the_triggers_of_the_first(ledger: Ledger):
    ledger.register("later", "1")
    first, later = (row["model_id"] for row in ledger.rows("SELECT model_id FROM nightlabel.model ORDER BY model_id"))

    def made(model: int) -> list[str]:
        table = f"outcome_model_{model}"
        rows = ledger.rows(
            "SELECT indexdef AS made FROM pg_indexes WHERE schemaname = 'nightlabel' AND tablename = %s UNION ALL "
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = ('nightlabel.' || %s)::regclass ORDER BY 1",
            table,
            table,
        )
        return sorted(row["made"].replace(table, "partition") for row in rows)

    assert made(later) == made(first)
    assert len(made(later)) == 8


def test_a_model_is_registered_beside_whoever_reads_the_ledger(ledger: Ledger):
    with psycopg.connect(ledger.url) as analyst:
        analyst.execute("SELECT count(*) FROM nightlabel.outcome")  # its lock is held until the transaction ends
        with ledger.sink.asking() as connection:
            connection.execute("SET lock_timeout = '2s'")
            registry.register(connection, manifest(ModelId("beside", "1")))

        [row] = ledger.rows("SELECT count(*) FROM pg_inherits WHERE inhparent = 'nightlabel.outcome'::regclass")
    assert row["count"] == 2


def test_a_model_that_is_registered_while_the_day_index_is_built_hinders_nothing(database: str):
    [path] = (path for path in migrations() if revision_of(path) == "0010")
    migrate(read_settings(database_url=database))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP INDEX nightlabel.outcome_day")
        first, *others = statements_of(path.read_text(encoding="utf-8"))
        run_alone(connection, first)
        connection.execute(
            "INSERT INTO nightlabel.model (name, version, source, licence, files, label_map, preprocessing, artefacts) "
            "VALUES ('m', '1', '', '', '{}', '[]', '{}', '{}')"
        )
        connection.execute("SELECT nightlabel.add_outcome_partition(model_id) FROM nightlabel.model")
        for statement in others:
            run_alone(connection, statement)
        sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'nightlabel.outcome_day'::regclass"
        assert connection.execute(sql).fetchone() == (True,)
        sql = "SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'outcome_model_%%' AND indexdef LIKE '%%brin%%'"
        assert connection.execute(sql, []).fetchone() == (1,)
