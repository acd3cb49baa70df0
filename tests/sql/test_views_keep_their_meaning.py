"""latest_prediction and dead_letter_open, however they are written, show what their first definitions showed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from inference.types import image_id
from tests.ledger import Ledger

pytestmark = pytest.mark.integration

FORMER_VIEWS = Path(__file__).parent / "former_views"


def first_definitions() -> str:
    """As they were first: each object's outcomes looked up and ranked one by one. Slow, and plain to read."""
    texts = [
        (FORMER_VIEWS / name).read_text("utf-8") for name in ("20_latest_prediction.sql", "30_dead_letter_open.sql")
    ]
    views = "".join(text.partition("COMMENT ON")[0] for text in texts)
    return views.replace("CREATE OR REPLACE VIEW nightlabel.", "CREATE TEMPORARY VIEW first_")


LABELS = ("cat", "dog", 'it\'s "odd" 🐈', "%")
MODELS = 5
KEYS = tuple(f"in/{number}" for number in range(12))
LEDGERS = 40


def make_ledger(connection: psycopg.Connection[Any], draw: random.Random) -> None:
    """Any history of the alias, any versions of any keys, any outcomes of theirs by any of the models."""
    models = [key for [key] in connection.execute("SELECT model_id FROM nightlabel.model").fetchall()]
    connection.execute("DELETE FROM nightlabel.model_alias")
    promoted = [draw.choice(models) for _ in range(draw.randrange(5))]
    for step, model in enumerate(promoted):
        is_last = step == len(promoted) - 1
        connection.execute(
            "INSERT INTO nightlabel.model_alias (alias, model_id, valid_from, valid_to, reason) "
            "VALUES ('production', %s, '2026-01-01'::date + %s::integer, '2026-01-01'::date + %s::integer, 'a test')",
            [model, step, None if is_last and draw.random() < 0.9 else step + 1],
        )
    connection.execute(
        "INSERT INTO nightlabel.model_alias (alias, model_id, reason) VALUES ('candidate', %s, 'a test')",
        [draw.choice(models)],
    )
    for key in KEYS:
        versions = [f"e{number}" for number in range(draw.randrange(1, 4))]
        for etag in versions:
            image = image_id("photos", key, etag)
            connection.execute(
                "INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified) "
                "VALUES (%s, 'photos', %s, %s, %s, '2026-01-01')",
                [image, key, etag, draw.randrange(1000)],
            )
            for model in models:
                if draw.random() < 0.6:
                    record(connection, draw, image, model)
        if draw.random() < 0.9:
            connection.execute(
                "INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at, gone_at) "
                "VALUES ('photos', %s, %s, '2026-01-02', '2026-01-03', %s)",
                [key, image_id("photos", key, draw.choice(versions)), "2026-01-04" if draw.random() < 0.15 else None],
            )


def record(connection: psycopg.Connection[Any], draw: random.Random, image: Any, model: int) -> None:
    recorded_at = f"2026-02-{draw.randrange(1, 10):02} 12:00+00"  # often equal
    if draw.random() < 0.6:
        label = draw.choice(LABELS)
        connection.execute(
            "INSERT INTO nightlabel.outcome (image_id, model_id, label, label_id, score, top_labels, top_scores, "
            "engine, run_id, recorded_at) "
            "VALUES (%s, %s, %s, 'n1', %s, ARRAY[%s], '{0.5}', 'litert', gen_random_uuid(), %s)",
            [image, model, label, draw.random(), label, recorded_at],
        )
    else:
        connection.execute(
            "INSERT INTO nightlabel.outcome (image_id, model_id, stage, error_code, message, attempts, retry_after, "
            "run_id, recorded_at) VALUES (%s, %s, 'decode', %s, 'broken', %s, %s, gen_random_uuid(), %s)",
            [
                image, model, draw.choice(["undecodable", "decoder_timeout"]), draw.randrange(1, 4),
                draw.choice([None, "2026-03-01"]), recorded_at,
            ],
        )  # fmt: skip


def same(connection: psycopg.Connection[Any], view: str, where: str = "", *values: object) -> int:
    """Both definitions give the same rows; returns how many."""
    ours = connection.execute(f"SELECT * FROM nightlabel.{view} {where}", values).fetchall()
    first = connection.execute(f"SELECT * FROM first_{view} {where}", values).fetchall()
    assert Counter(map(repr, ours)) == Counter(map(repr, first))
    return len(ours)


def test_any_ledger_looks_the_same_by_both_definitions(ledger: Ledger, seed: int):
    for version in range(2, MODELS + 1):
        ledger.register("tiny", str(version))
    draw = random.Random(seed)  # noqa: S311
    shown: Counter[str] = Counter()
    with psycopg.connect(ledger.url) as connection:
        connection.execute(first_definitions())
        connection.commit()
        for _ in range(LEDGERS):
            make_ledger(connection, draw)
            for view in ("latest_prediction", "dead_letter_open"):
                shown[view] += same(connection, view)
                for key in KEYS:
                    shown[f"{view} by key"] += same(
                        connection, view, "WHERE bucket = 'photos' AND object_key = %s", key
                    )
                    assert shown[f"{view} by key"] <= shown[view]
            for label in LABELS:
                newest = "WHERE label = %s ORDER BY predicted_at DESC, object_key LIMIT 3"
                shown["newest"] += same(connection, "latest_prediction", newest, label)
            connection.rollback()
    assert shown["latest_prediction by key"] == shown["latest_prediction"] > 3 * LEDGERS
    assert shown["dead_letter_open by key"] == shown["dead_letter_open"] > LEDGERS
    assert shown["newest"] > 3 * LEDGERS


@pytest.mark.parametrize("setting", ["enable_nestloop", "enable_hashjoin", "enable_indexscan"])
def test_the_rows_do_not_hang_on_the_plan(ledger: Ledger, seed: int, setting: str):
    for version in range(2, MODELS + 1):
        ledger.register("tiny", str(version))
    draw = random.Random(seed)  # noqa: S311
    with psycopg.connect(ledger.url) as connection:
        connection.execute(first_definitions())
        connection.execute("SELECT set_config(%s, 'off', false)", [setting])
        connection.commit()
        for _ in range(5):
            make_ledger(connection, draw)
            same(connection, "latest_prediction")
            same(connection, "dead_letter_open")
            connection.rollback()
