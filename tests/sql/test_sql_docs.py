"""What is said of the schema outside of it is what the schema says of itself, and the examples of the page run."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from local_stack.postgres import program
from scripts.make_sql_docs import PAGE, ROOT, SOURCES, page, picture, queries, relations, sources
from tests.known_data import EXAMPLE_SEED
from tests.ledger import Ledger
from tests.sql.conftest import Known

pytestmark = pytest.mark.integration

REMAKE = "run `make sql-docs` and look at what changed"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_page_is_what_the_schema_and_the_questions_say(known: Callable[[int], Known]):
    with psycopg.connect(known(EXAMPLE_SEED).url) as connection:
        assert page(connection, queries()) == PAGE.read_text(encoding="utf-8"), REMAKE


def test_the_dbt_sources_are_the_public_views(known: Callable[[int], Known]):
    with psycopg.connect(known(EXAMPLE_SEED).url) as connection:
        text = sources(connection)
        public = [view for view in relations(connection) if view.is_public]
    assert text == SOURCES.read_text(encoding="utf-8"), REMAKE

    [source] = yaml.safe_load(text)["sources"]
    assert (source["name"], source["schema"]) == ("nightlabel", "nightlabel")
    found = {
        one["name"]: [(column["name"], column["data_type"], column["description"]) for column in one["columns"]]
        for one in source["tables"]
    }
    assert found == {
        view.name: [(column.name, column.kind, column.comment) for column in view.columns] for view in public
    }
    assert {one["name"]: one["description"] for one in source["tables"]} == {view.name: view.comment for view in public}


def test_every_question_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for query in queries():
        assert f"\n### {query.title}\n" in text
        assert f"(../sql/queries/{query.path.name})" in text


def test_the_sql_on_the_page_is_the_question_with_its_defaults(known: Callable[[int], Known]):
    with psycopg.connect(known(EXAMPLE_SEED).url) as connection:
        for query in queries():
            assert query.filled() in blocks("sql") or query.filled() + "\n" in blocks("sql")
            parameterised = connection.execute(query.for_psycopg().encode(), query.defaults).fetchall()
            assert connection.execute(query.filled().encode()).fetchall() == parameterised, query.name


def test_the_picture_has_every_table_with_its_columns_and_what_the_database_enforces(known: Callable[[int], Known]):
    with psycopg.connect(known(EXAMPLE_SEED).url) as connection:
        drawn = picture(connection)
        tables = [one for one in relations(connection) if not one.is_view and one.name != "alembic_version"]
        [[enforced]] = connection.execute(
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'nightlabel'::regnamespace"
        ).fetchall()
    [shown] = blocks("mermaid")
    assert shown == drawn + "\n"
    for table in tables:
        [box] = re.findall(rf"^    {table.name} {{\n(.*?)^    }}", drawn, re.M | re.S)
        assert [line.split()[1] for line in box.splitlines()] == [column.name for column in table.columns]
    assert len(re.findall(r"\|\|--", drawn)) == enforced
    assert '    image ||..o{ outcome : "image_id"' in drawn.splitlines()
    assert '    shard ||..o{ manifest_chunk : "run_id, plan_number, shard_number"' in drawn.splitlines()
    # Of the form that Mermaid reads: a type of one word, a name, keys.
    lines = [line for line in drawn.splitlines() if line.startswith("        ")]
    assert [line for line in lines if not re.fullmatch(r" {8}[a-z]\w*(\[\])? \w+( PK| FK| PK, FK)?", line)] == []


def test_the_picture_is_of_the_live_schema(ledger: Ledger):
    ledger.execute("CREATE TABLE nightlabel.note (image_id uuid PRIMARY KEY, run_id uuid REFERENCES nightlabel.run)")
    with psycopg.connect(ledger.url) as connection:
        drawn = picture(connection).splitlines()
    assert '    run ||--o{ note : "run_id"' in drawn
    assert '    image ||..o| note : "image_id"' in drawn
    assert "        uuid image_id PK, FK" in drawn


@pytest.fixture
def run_examples(known: Callable[[int], Known], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Run Python of the page, one block after the other, where a reader would."""
    monkeypatch.chdir(ROOT)
    url = known(EXAMPLE_SEED).url
    monkeypatch.setenv("RESULTS_URL", url.replace("postgresql://", "postgresql+psycopg://", 1))
    names: dict[str, Any] = {}
    yield lambda code: exec(code, names)  # noqa: S102 - the page's own code
    names["engine"].dispose()


def test_the_example_in_sqlalchemy_runs(run_examples: Callable[[str], None], capsys: pytest.CaptureFixture[str]):
    example, _ = blocks("python")
    assert '"until": None' in example  # today, when the known data may be long past
    run_examples(example.replace('"until": None', '"until": "2026-11-22"'))
    assert "crane" in capsys.readouterr().out


def test_the_example_in_pandas_runs(run_examples: Callable[[str], None], capsys: pytest.CaptureFixture[str]):
    first, example = blocks("python")
    run_examples(first)
    run_examples(example)
    assert "photos" in capsys.readouterr().out


def test_the_examples_in_psql_run(known: Callable[[int], Known]):
    [block] = blocks("sh")
    url = known(EXAMPLE_SEED).url
    answers = []
    for line in block.splitlines():
        command = [part.replace("$RESULTS_URL", url) for part in shlex.split(line)]
        assert command[0] == "psql"
        done = subprocess.run(
            [program("psql"), "-X", "-v", "ON_ERROR_STOP=1", *command[1:]],
            cwd=ROOT, capture_output=True, text=True, check=False, env={"PGCLIENTENCODING": "UTF8"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        answers.append(done.stdout)
    assert "percent" in answers[0]
    assert "crane" in answers[1]
    assert "photos" in answers[2]


def test_every_further_page_that_the_page_links_to_is_there():
    linked = re.findall(r"^- \[[^]]*\]\((\w[\w-]*\.md)\)", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(linked) >= 4
    assert [name for name in linked if not (PAGE.parent / name).exists()] == []


def test_the_sources_and_queries_are_where_the_page_says():
    links = re.findall(r"\]\((\.\./sql/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert [link for link in links if not Path(PAGE.parent, link).exists()] == []
