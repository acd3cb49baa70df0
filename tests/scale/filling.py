"""Ledgers of any size, made by the database itself in minutes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from inference.planning import decoder_version
from tests.ledger import Ledger

HISTORY = (Path(__file__).parent / "history.sql").read_text(encoding="utf-8")
MODELS = ("1", "2", "3", "4")
"""Versions of one model: the first three were in production one after the other, the last is a candidate."""

OUTCOMES_AN_IMAGE = 1.19
IMAGES_AT_ONCE = 100_000

BIG_TABLES = "('nightlabel.image'::regclass, 'nightlabel.object'::regclass, 'nightlabel.outcome'::regclass)"


@contextmanager
def without_indexes(url: str) -> Iterator[None]:
    """Take the large tables' indexes away, and make them again at the end, which takes a third of the time.

    Args:
        url: Of the database; its superuser.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        keys = connection.execute(
            "SELECT conrelid::regclass::text, "
            "format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname), "
            "format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) "
            f"FROM pg_constraint WHERE contype = 'p' AND conrelid IN {BIG_TABLES}"
        ).fetchall()
        others = connection.execute(
            "SELECT indrelid::regclass::text, format('DROP INDEX %s', indexrelid::regclass), "
            "replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index "
            f"WHERE NOT indisprimary AND indrelid IN {BIG_TABLES}"
        ).fetchall()
        for _, drop, _ in (*keys, *others):
            connection.execute(drop)
    yield
    makes = [(table, make) for table, _, make in (*keys, *others)]
    of_ledger = [make for table, make in makes if table.endswith("outcome")]
    in_parallel(
        lambda: _make(url, of_ledger),
        lambda: _make(url, [make for _, make in makes if make not in of_ledger]),
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _make(url: str, statements: Sequence[str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '512MB'")
        for statement in statements:
            connection.execute(statement.encode())


def in_parallel(*work: object) -> None:
    """Run functions in threads of their own; the first error of any is raised."""
    errors: list[Exception] = []

    def run(one: object) -> None:
        try:
            one()  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def fill_history(ledger: Ledger, outcomes: int) -> None:
    """Make what two months leave behind in an empty ledger; ``history.sql`` says what.

    Args:
        ledger: Migrated, without models.
        outcomes: How many, about.
    """
    for version in MODELS:
        ledger.register("history", version, *(["production"] if version != MODELS[-1] else ["candidate"]))
    keys = [row["model_id"] for row in ledger.rows("SELECT model_id FROM nightlabel.model ORDER BY model_id")]
    images = round(outcomes / OUTCOMES_AN_IMAGE)
    firsts = iter(range(0, images, IMAGES_AT_ONCE))
    lock = threading.Lock()

    def fill() -> None:
        with psycopg.connect(ledger.url, autocommit=True) as connection:
            while True:
                with lock:
                    first = next(firsts, None)
                if first is None:
                    return
                last = min(first + IMAGES_AT_ONCE, images) - 1
                values = {"model_key": keys, "images": images, "decoder": decoder_version()}
                connection.execute(HISTORY, {"first": first, "last": last, **values})

    with without_indexes(ledger.url):
        in_parallel(fill, fill)
    with psycopg.connect(ledger.url, autocommit=True) as connection:
        connection.execute("SELECT nightlabel.fold_label_counts()")
        connection.execute("VACUUM ANALYZE nightlabel.label_count, nightlabel.label_count_delta")
