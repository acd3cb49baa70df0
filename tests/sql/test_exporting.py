"""Exports of the public views: equal to the view in every format, whole or not at all, with a reader's rights."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest

from inference import wiring
from inference.errors import SchemaMissingError, SettingsError, SinkCredentialsError
from inference.exporting import ExportRequest
from inference.settings import Settings, read_settings
from inference.sinks.views import TIMES, ViewExport
from inference.sources.manifest import ManifestSource
from inference.types import Label, RunRequest, ScoredLabel, ShadowSample
from tests.fakes import FakeObjects
from tests.ledger import BUCKET, Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "export-and-forget.md"
GRANTS = ROOT / "sql" / "grants.sql"
GRANTED = re.search(r"GRANT SELECT ON([^;]*?)TO nightlabel_reader;", GRANTS.read_text(encoding="utf-8"))
VIEWS = re.findall(r"nightlabel\.(\w+)", GRANTED[1]) if GRANTED else []
"""What is public, as the grants say."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")
ODD = (
    "quotes \"double\" and 'single'.png",
    "comma, semicolon; tab\t.png",
    "line\nbreak\r\nand back\\slash \\N \\. .png",
    "emoji 🌙 and é.png",
    "\x01\x02 control \x7f.png",
    " spaces ",
    "=formula()",
    "\\.",
    "NULL",
)


def with_label(ref, text: str):
    """A prediction whose labels are no ordinary words."""
    made = prediction(ref)
    top = tuple(
        ScoredLabel(Label(f"{text} {place}", f"n{place}"), scored.score) for place, scored in enumerate(made.top)
    )
    return replace(made, top=top)


UNSURE = "UPDATE nightlabel.outcome SET score = 0.25 WHERE label IS NOT NULL"
JUDGED = """
    INSERT INTO nightlabel.run_quality (
        run_id, model_id, is_history, verdict, reason, images, dead, score_sum, score_square_sum, low_score, low_scores,
        nights, images_before, psi, moved, moved_labels, shares_before, shares_now, thresholds
    )
    SELECT run_id, model_id, true, 'moved', 'psi 0.5 "quoted"', 8, 1, 4.5, 3.25, 0.3, 2, 28, 800, 0.5, '{psi}',
        '{"label, with a comma",other}', '{0.25,0}', '{0,0.5}', '{"js": 0.1}'
    FROM nightlabel.run
"""
CHECKED = """
    INSERT INTO nightlabel.gate_check (
        model_id, verdict, reasons, thresholds, model_sha256, golden_set, golden_sha256, golden_images,
        golden_unreadable, top1, recent_days, recent_images, recent_unreadable, engine, label_shifts, flips
    )
    SELECT model_id, 'failed', '[{"threshold": "min_top1", "is_warning": false, "message": "too few, 0.25"}]',
        '{"min_top1": 0.5}', 'ab', 'default', 'cd', 100, 2, 0.25, 14, 50, 0, 'litert', '[]',
        (SELECT jsonb_agg(jsonb_build_object(
            'bucket', bucket, 'object_key', object_key, 'etag', etag, 'is_golden', true, 'right_label_id', 'n1',
            'from_label', 'cat', 'from_label_id', 'n1', 'from_score', 0.5,
            'to_label', 'dog', 'to_label_id', 'n2', 'to_score', 0.75
        )) FROM nightlabel.image)
    FROM nightlabel.model
"""
REVIEWED = """
    INSERT INTO nightlabel.review (
        image_id, bucket, object_key, etag, label, label_id, reviewer, note, model_id, seen_label, seen_label_id,
        seen_score
    )
    SELECT image_id, bucket, object_key, etag, 'cat', 'n1', 'ana', object_key, 1, 'dog', 'n2', 0.25
    FROM nightlabel.image WHERE object_key ^@ 'odd/'
"""
"""What no run leaves: labels of a low score, a verdict on each run, a check of each model, and reviews."""


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """Labels and dead letters under odd keys, with odd labels; and one object without anything odd."""
    keys = [*(f"odd/{key}" for key in ODD), *(f"dead/{key}" for key in ODD), "plain"]
    plan = ledger.plan(*(listed(key, size_bytes=100 + place) for place, key in enumerate(keys)))
    outcomes: dict[str, Any] = {
        f"odd/{key}": lambda ref, key=key: with_label(ref, key) for key in ODD if "\x01" not in key
    }
    outcomes |= {
        f"dead/{key}": lambda ref, place=place: dead_letter(ref, is_retryable=place % 2 == 0)
        for place, key in enumerate(ODD)
    }
    ledger.work(plan, outcomes)
    return ledger


@pytest.fixture
def shown(filled: Ledger) -> Ledger:
    """The same, with something in every public view: labels of another model and of a shadow, and an object without."""
    candidate = str(filled.register("candidate"))
    keys = [*(f"{prefix}/{key}" for prefix in ("odd", "dead") for key in ODD), "plain"]
    plan = filled.plan(*map(listed, keys), model=candidate, scope="not_by_this_model")
    filled.work(plan, {key: lambda ref: prediction(ref, 2) for key in keys})
    newest = filled.plan(listed("new/1"), listed("new/2"), prefix="new/", max_images=1)
    filled.work(newest)
    shadow = RunRequest(BUCKET, model=candidate, shadow=ShadowSample(newest.run_id, 1.0))
    filled.work(filled.sink.plan_run(shadow, None))
    for statement in (UNSURE, JUDGED, CHECKED, REVIEWED):
        filled.execute(statement)
    return filled


def export(ledger: Ledger | Settings, output: Path | str, **request: Any) -> int:
    settings = ledger if isinstance(ledger, Settings) else ledger.settings
    return wiring.export(ExportRequest(output=str(output), **request), settings=settings)


def wanted(ledger: Ledger, view: str) -> list[dict[str, Any]]:
    """The rows of a view as the driver reads them."""
    return ledger.rows(f"SELECT * FROM nightlabel.{view}")


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what JSON cannot say in the form that an export gives it."""

    def one(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return value if value is None or isinstance(value, str | int | float | list | dict) else str(value)

    return [{name: one(value) for name, value in row.items()} for row in rows]


@pytest.fixture
def column_kinds(ledger: Ledger) -> Callable[[str], dict[str, str]]:
    def kinds(view: str) -> dict[str, str]:
        sql = (
            "SELECT attname, format_type(atttypid, NULL) AS kind FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0"
        )
        return {row["attname"]: row["kind"] for row in ledger.rows(sql, f"nightlabel.{view}")}

    return kinds


def from_csv(text: str, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Read a CSV as an analyst's program would. Python's reader does not tell null and empty apart: both are null."""

    def one(text: str, kind: str) -> Any:
        if text == "" and kind != "text":
            return None
        if kind.endswith("[]") or kind == "jsonb":
            return json.loads(text)
        if kind in {"bigint", "integer"}:
            return int(text)
        if kind == "boolean":
            return text == "t"
        return float(text) if kind in {"real", "double precision"} else text or None

    return [
        {name: one(text, kinds[name]) for name, text in row.items()}
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def test_csv_holds_what_each_view_holds(shown: Ledger, tmp_path: Path, column_kinds):
    for view in VIEWS:
        kinds, expected = column_kinds(view), plain(wanted(shown, view))
        assert export(shown, tmp_path / "x.csv", view=view) == len(expected) > 0, view

        text = (tmp_path / "x.csv").read_bytes().decode()
        assert text.split("\n", 1)[0].split(",") == list(kinds)
        without_empty = [{name: None if value == "" else value for name, value in row.items()} for row in expected]
        assert close(from_csv(text, kinds)) == close(without_empty), view


def test_csv_tells_an_empty_text_from_a_null(ledger: Ledger, tmp_path: Path):
    ledger.execute("CREATE VIEW nightlabel.gaps AS SELECT '' AS empty, NULL::text AS missing, 'x' AS last")
    ledger.execute("GRANT SELECT ON nightlabel.gaps TO nightlabel_reader")
    export(ledger, tmp_path / "x.csv", view="gaps")
    assert (tmp_path / "x.csv").read_bytes() == b'empty,missing,last\n"",,x\n'


def test_json_lines_hold_what_each_view_holds(shown: Ledger, tmp_path: Path):
    for view in VIEWS:
        export(shown, tmp_path / "x.jsonl", view=view)

        lines = (tmp_path / "x.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
        assert close([json.loads(line) for line in lines]) == close(plain(wanted(shown, view))), view


def test_parquet_holds_what_each_view_holds_in_types_of_its_own(shown: Ledger, tmp_path: Path, column_kinds):
    words = {
        "text": "string",
        "uuid": "string",
        "bigint": "int64",
        "integer": "int32",
        "real": "float",
        "double precision": "double",
        "jsonb": "string",
        "boolean": "bool",
        "date": "date32[day]",
        "timestamp with time zone": "timestamp[us, tz=UTC]",
        "text[]": "list<element: string>",
        "real[]": "list<element: float>",
    }
    for view in VIEWS:
        export(shown, tmp_path / "x.parquet", view=view)

        table = pq.read_table(tmp_path / "x.parquet")
        kinds, rows = column_kinds(view), wanted(shown, view)
        as_text = {name for name, kind in kinds.items() if kind == "jsonb"}
        expected = [
            {
                name: json.dumps(v) if name in as_text else str(v) if isinstance(v, UUID) else v
                for name, v in row.items()
            }
            for row in rows
        ]
        assert close(table.to_pylist()) == close(expected), view
        written = {field.name: str(field.type) for field in table.schema}
        assert written == {name: words[kind] for name, kind in kinds.items()}, view


def close(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that compare however they were read, in an order of their own; an export has none.

    A ``real`` compares as the number of four bytes that it is, written as a double or shortest, and a moment whether or
    not it is written with a zero at its end.
    """

    def one(value: Any) -> Any:
        if isinstance(value, float):
            number = float(np.float32(value))
            return int(number) if number.is_integer() else number
        if isinstance(value, str) and TIME.fullmatch(value):
            return datetime.fromisoformat(value)
        return [one(part) for part in value] if isinstance(value, list) else value

    made = [{name: one(value) for name, value in row.items()} for row in rows]
    return sorted(made, key=lambda row: json.dumps(row, default=str))


@pytest.mark.parametrize("ending", ["csv", "jsonl.gz", "parquet"])
def test_an_export_is_a_manifest_of_the_same_objects(ledger: Ledger, tmp_path: Path, ending: str):
    shown = [listed(key, f"e{place}", minute=place) for place, key in enumerate((*ODD, "nul\x00", "caf\udce9"))]
    ledger.work(ledger.plan(*shown))
    export(ledger, tmp_path / f"x.{ending}")

    pages = ManifestSource(str(tmp_path / f"x.{ending}"), FakeObjects()).list_pages("photos", "")
    found = {entry.key: (entry.etag, entry.size_bytes, entry.last_modified) for page in pages for entry in page}
    assert found == {entry.key: (entry.etag, entry.size_bytes, entry.last_modified) for entry in shown}


def test_times_are_iso_8601_in_utc_whatever_the_database_prefers(filled: Ledger, tmp_path: Path):
    name = psycopg.conninfo.conninfo_to_dict(filled.url)["dbname"]
    filled.execute(f"ALTER DATABASE {name} SET datestyle = 'German'")
    filled.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    export(filled, tmp_path / "x.csv", bucket="photos", prefix="plain")
    export(filled, tmp_path / "x.jsonl", bucket="photos", prefix="plain")
    export(filled, tmp_path / "days.csv", view="label_daily", label="cat")

    [row] = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert (
        row["last_modified"]
        == json.loads((tmp_path / "x.jsonl").read_text())["last_modified"]
        == "2026-01-01T00:00:00+00:00"
    )
    [day] = csv.DictReader((tmp_path / "days.csv").read_text().splitlines())
    assert day["day"] == f"{filled.rows('SELECT day FROM nightlabel.label_daily')[0]['day']:%Y-%m-%d}"


def test_filters_choose_by_bucket_prefix_label_and_time(filled: Ledger, tmp_path: Path):
    filled.execute("UPDATE nightlabel.outcome SET recorded_at = '2026-03-01T12:00Z' WHERE label = 'cat'")

    def keys(**filters: Any) -> set[str]:
        export(filled, tmp_path / "x.jsonl", **filters)
        return {json.loads(line)["object_key"] for line in (tmp_path / "x.jsonl").read_text().splitlines()}

    cats = {"plain", f"odd/{ODD[4]}"}
    everything = {f"odd/{key}" for key in ODD} | {"plain"}
    assert keys() == keys(bucket="photos") == everything
    assert keys(bucket="Photos") == keys(bucket="photo") == set()
    assert keys(prefix="odd/") == everything - {"plain"}
    assert keys(prefix='odd/quotes "') == {f"odd/{ODD[0]}"}
    assert keys(prefix="odd/%") == keys(prefix="odd/_") == set()
    assert keys(label="cat") == cats
    assert keys(label="comma, semicolon; tab\t.png 0") == {f"odd/{ODD[1]}"}
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert keys(since=noon, until=noon + timedelta(seconds=1)) == cats
    assert keys(until=noon) == set()
    assert keys(since=noon + timedelta(microseconds=1)) == everything - cats


def test_a_day_is_within_a_time_when_it_begins_there(filled: Ledger, tmp_path: Path):
    filled.execute("UPDATE nightlabel.outcome SET recorded_at = '2026-03-01T12:00Z' WHERE label IS NOT NULL")
    first, later = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    for filters, is_shown in (
        ({"since": first}, True),
        ({"since": later}, False),
        ({"until": first}, False),
        ({"until": later}, True),
    ):
        assert bool(export(filled, tmp_path / "x.csv", view="label_daily", **filters)) is is_shown, filters


def test_help_and_page_name_the_times_that_rows_are_chosen_by_and_each_is_in_a_view(ledger: Ledger, column_kinds):
    columns = {name for view in VIEWS for name in column_kinds(view)}
    assert set(TIMES) <= columns
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `--since T`"))
    assert tuple(re.findall(r"`(\w+)`", row.split("|")[3])) == TIMES
    said = subprocess.run(**command(ledger.settings, "--help"), capture_output=True, text=True, check=True).stdout
    assert f"{', '.join(TIMES[:-1])} or {TIMES[-1]}" in " ".join(said.split())


def test_a_login_that_may_only_read_the_views_can_export_each_of_them(shown: Ledger, login, tmp_path: Path):
    granted = "SELECT relname AS name FROM pg_class WHERE relkind = 'v' AND has_table_privilege(%s, oid, 'SELECT')"
    of_ours = f"{granted} AND relnamespace = 'nightlabel'::regnamespace"
    assert {row["name"] for row in shown.rows(of_ours, "nightlabel_reader")} == set(VIEWS)
    reader = login("nightlabel_reader")
    with (
        psycopg.connect(reader.required_database_url()) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT * FROM nightlabel.alembic_version")
    for view in VIEWS:
        for ending in ("csv", "jsonl", "parquet"):
            assert export(reader, tmp_path / f"x.{ending}", view=view) == len(wanted(shown, view)) > 0


def test_only_public_views_are_exported_whoever_asks(filled: Ledger, login, tmp_path: Path):
    for user in (filled.settings, login("nightlabel_writer"), login("nightlabel_reader")):
        for private in ("production_line", "outcome", "no_such", 'x"; DROP TABLE nightlabel.run; --'):
            with pytest.raises(SettingsError, match=r"there is no public view .*; there are: dead_letter_open"):
                export(user, tmp_path / "x.csv", view=private)
    assert list(tmp_path.iterdir()) == []


def test_somebody_without_a_role_is_told_which_one_to_ask_for(filled: Ledger, login, tmp_path: Path):
    nobody = login(None)
    with pytest.raises(SinkCredentialsError, match="nightlabel_reader to export"):
        export(nobody, tmp_path / "x.csv")
    parts = psycopg.conninfo.conninfo_to_dict(nobody.required_database_url())
    filled.execute(f"GRANT CONNECT ON DATABASE {parts['dbname']} TO {parts['user']}")
    with pytest.raises(SinkCredentialsError, match="may not read latest_prediction; make it a member of nightlabel_re"):
        export(nobody, tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_was_never_migrated_is_said_in_a_sentence(database: str, tmp_path: Path):
    with pytest.raises(SchemaMissingError, match="has no views of Nightlabel; run `python -m inference migrate`"):
        export(read_settings(database_url=database), tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"output": "x.txt"}, "whose ending names no format; end it in .csv, .jsonl or .parquet"),
        ({"output": "nowhere/x.csv"}, "the folder 'nowhere' is not there"),
        ({"output": "/dev/null", "format": "csv"}, "which is no file"),
        ({"output": "s3://bucket/x.csv"}, "pipe it, such as"),
        ({"output": "-", "format": "parquet"}, "cannot be written to the standard output"),
        ({"output": "x.parquet.gz"}, "compressed by itself"),
        ({"output": "x.csv", "prefix": "a\x00"}, "has to be text in UTF-8, without a NUL"),
        ({"output": "x.csv", "view": "run_summary", "label": "cat"}, "run_summary has no column label, which --label"),
        ({"output": "x.csv", "view": "run_summary", "bucket": "b"}, "run_summary has no column bucket, which --bucket"),
        ({"output": "x.csv", "view": "label_daily", "prefix": "b"}, "has no column object_key, which --prefix"),
        (
            {"output": "x.csv", "since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
            "nothing can match",
        ),
    ],
)
def test_an_export_that_cannot_mean_anything_is_refused(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_, sentence: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=sentence.replace("(", r"\(")):
        export(ledger, **request_)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_is_said_before_anything_begins(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(SettingsError, match=r"install nightlabel\[parquet\], or write CSV"):
        export(ledger, tmp_path / "x.parquet")
    assert export(ledger, tmp_path / "x.csv") == 0


def test_an_export_shows_one_moment_whatever_is_written_meanwhile(filled: Ledger, tmp_path: Path):
    before = {form: wanted(filled, "latest_prediction") for form in ("csv", "jsonl", "parquet")}
    for form, expected in before.items():
        with ViewExport(filled.settings, ExportRequest()) as view, (tmp_path / form).open("wb") as file:
            filled.work(filled.plan(*(listed(key) for key in ("plain", form))))
            assert view.write(file, form) == len(expected)
        before |= dict.fromkeys(before, wanted(filled, "latest_prediction"))


def test_a_file_that_is_there_is_replaced_whole_and_a_link_goes_on_to_lead_there(filled: Ledger, tmp_path: Path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("of yesterday")
    link.symlink_to(target)
    umask = os.umask(0o027)
    try:
        export(filled, link)
    finally:
        os.umask(umask)

    assert link.is_symlink()
    assert target.read_text().startswith("bucket,object_key,")
    assert target.stat().st_mode & 0o777 == 0o640
    assert set(tmp_path.iterdir()) == {target, link}


def test_a_packed_file_holds_the_same(filled: Ledger, tmp_path: Path):
    def records(text: str, ending: str) -> list[Any]:
        if ending == "csv":
            head, *rows = csv.reader(io.StringIO(text, newline=""))
            return [head, *sorted(rows)]
        return sorted(text.removesuffix("\n").split("\n"))

    for ending in ("csv", "jsonl"):
        export(filled, tmp_path / f"x.{ending}", bucket="photos")
        export(filled, tmp_path / f"x.{ending}.gz", bucket="photos")
        packed = gzip.decompress((tmp_path / f"x.{ending}.gz").read_bytes()).decode()
        assert records(packed, ending) == records((tmp_path / f"x.{ending}").read_bytes().decode(), ending)
        assert len(records(packed, ending)) == len(ODD) + 1 + (ending == "csv")


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "parquet"])
def test_what_fails_in_the_middle_leaves_what_was_there(filled: Ledger, tmp_path: Path, form: str):
    target = tmp_path / f"x.{form}"
    target.write_text("of yesterday")

    def fail(_rows: int) -> None:
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt

    filled.execute("CREATE VIEW nightlabel.many AS SELECT n AS number FROM generate_series(1, 20000) AS n")
    filled.execute("GRANT SELECT ON nightlabel.many TO nightlabel_reader")
    with pytest.raises(KeyboardInterrupt):
        wiring.export(ExportRequest("many", str(target)), settings=filled.settings, progress=fail)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]


# As a command, in a process of its own


def command(settings: Settings, *arguments: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTLABEL_")}
    return {
        "args": [sys.executable, "-m", "inference", "export", *arguments],
        "env": {**kept, "NIGHTLABEL_DATABASE_URL": settings.required_database_url()},
    }


@pytest.fixture
def endless(filled: Ledger) -> str:
    """A public view that takes a minute to read."""
    filled.execute(
        "CREATE VIEW nightlabel.endless AS "
        "SELECT n AS number, repeat('x', 1000) AS filler, pg_sleep(0.01)::text AS nap "
        "FROM generate_series(1, 6000) AS n"
    )
    filled.execute("GRANT SELECT ON nightlabel.endless TO nightlabel_reader")
    return "endless"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_export_that_is_ended_leaves_nothing_under_its_name(
    filled: Ledger, endless: str, tmp_path: Path, end: signal.Signals
):
    target = tmp_path / "x.csv"
    ours = command(filled.settings, "--view", endless, "-o", str(target))
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    ours["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(**ours, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(end)
        _, said = process.communicate(timeout=30)

    assert not target.exists()
    if end is signal.SIGKILL:
        assert [path.name.endswith(".partial") for path in tmp_path.iterdir()] == [True]
    else:
        assert (process.returncode, said) == (130, "interrupted; nothing is left half done\n")
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_is_said_in_a_sentence(filled: Ledger, tmp_path: Path):
    filled.execute(
        "CREATE VIEW nightlabel.large AS "
        "SELECT sha512(n::text::bytea)::text AS filler FROM generate_series(1, 5000) AS n"
    )
    filled.execute("GRANT SELECT ON nightlabel.large TO nightlabel_reader")
    for ending in ("csv", "parquet"):
        ours = command(filled.settings, "--view", "large", "-o", str(tmp_path / f"x.{ending}"))
        ended = subprocess.run(
            **ours,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("error [output_failed]: ")
        assert "nothing of it is left" in ended.stderr
        assert list(tmp_path.iterdir()) == []


def test_the_standard_output_gets_the_data_and_nothing_else(filled: Ledger, tmp_path: Path):
    export(filled, tmp_path / "x.csv")
    ended = subprocess.run(**command(filled.settings), capture_output=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == (tmp_path / "x.csv").read_bytes()
    lines = subprocess.run(**command(filled.settings, "--format", "jsonl"), capture_output=True, check=False).stdout
    assert len([json.loads(line) for line in lines.splitlines()]) == len(wanted(filled, "latest_prediction"))


def test_a_reader_of_the_standard_output_that_has_gone_ends_it_with_a_sentence(filled: Ledger, endless: str):
    ours = command(filled.settings, "--view", endless)
    with subprocess.Popen(**ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "number,filler,nap\n"
        process.stdout.close()
        assert process.stderr
        said = process.stderr.read()

    assert process.returncode == 1
    assert said.startswith("error [output_failed]: whoever read the standard output has gone")
    assert len(said.splitlines()) == 1


def test_the_command_says_what_it_wrote(filled: Ledger, tmp_path: Path):
    target = tmp_path / "x.parquet"
    ours = command(filled.settings, "--view", "dead_letter_open", "-o", str(target), "--json")
    ended = subprocess.run(**ours, capture_output=True, text=True, check=False)
    assert json.loads(ended.stdout) == {
        "view": "dead_letter_open",
        "output": str(target),
        "rows": len(ODD),
        "size_bytes": target.stat().st_size,
    }
    for wrong in (("--since", "yesterday", "-o", str(target)), ("--json",), ("--view", "nope"), ("-o", "x.doc")):
        ended = subprocess.run(**command(filled.settings, *wrong), capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr[:21]) == (2, "error [bad_setting]: "), ended.stderr


def test_a_bar_on_a_terminal_counts_rows(filled: Ledger, tmp_path: Path):
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with open(parent, "rb", buffering=0) as terminal:
        process = subprocess.Popen(**command(filled.settings, "-o", str(tmp_path / "x.parquet")), stderr=child)
        os.close(child)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal's reader gets when the last writer is gone
            while piece := terminal.read(4096):
                shown += piece
    assert process.wait(60) == 0
    assert b" rows" in shown


MEASURED = """
import json, sys
from inference.__main__ import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(line.split()[1], file=sys.stderr)
"""
"""Exports one thing after the other and prints the peak so far in KiB, which is of this process alone: that of
``getrusage`` is at least the one of the process that started it."""


def test_memory_does_not_grow_with_the_rows(ledger: Ledger, tmp_path: Path):
    few, many = 1_000, 60_000
    ledger.execute(
        f"""
        CREATE VIEW nightlabel.many AS
        SELECT 'photos' AS bucket, n || '/' || repeat('x', 1000) AS object_key, md5(n::text) AS etag,
            n::bigint AS size_bytes, timestamptz '2026-01-01Z' AS last_modified, 'cat' AS label, 'n1' AS label_id,
            0.5::real AS score, ARRAY['cat', 'dog', 'crane', 'bird', 'cup ' || n] AS top_labels,
            ARRAY[0.5, 0.2, 0.1, 0.1, 0.1]::real[] AS top_scores, gen_random_uuid() AS run_id
        FROM generate_series(1, {many}) AS n
        """
    )
    ledger.execute(f"CREATE VIEW nightlabel.few AS SELECT * FROM nightlabel.many LIMIT {few}")
    ledger.execute("GRANT SELECT ON nightlabel.many, nightlabel.few TO nightlabel_reader")
    forms = ("csv", "jsonl", "parquet")
    exports = [
        ["export", "--view", view, "-o", str(tmp_path / f"x.{form}"), "--json"]
        for form in forms
        for view in ("few", "many")
    ]
    ours = command(ledger.settings)
    ours["args"][1:] = ["-c", MEASURED, json.dumps(exports)]
    ended = subprocess.run(**ours, capture_output=True, text=True, check=True)

    assert [json.loads(line)["rows"] for line in ended.stdout.splitlines()] == [few, many] * len(forms)
    peaks = [int(line) / 1024 for line in ended.stderr.splitlines()]
    grown = {form: peaks[2 * place + 1] - peaks[2 * place] for place, form in enumerate(forms)}
    # All rows at once would be 90 MiB more as text, in one group of Parquet 140, and 380 as Python has them.
    assert grown["csv"] < 15, peaks
    assert grown["jsonl"] < 15, peaks
    assert grown["parquet"] < 110, peaks
