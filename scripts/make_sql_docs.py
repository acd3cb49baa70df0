"""Write what is said of the schema from the schema: `docs/sql.md`, the dbt sources, the examples of the cookbook.

A database is made by the migrations and filled with the known data of the tests. From its catalogue come the columns
with their comments and the picture of the tables; from running `sql/queries` come the example answers.

    python -m scripts.make_sql_docs
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

ROOT = Path(__file__).resolve().parents[1]
QUERIES = ROOT / "sql" / "queries"
SOURCES = ROOT / "sql" / "dbt" / "sources.yml"
PAGE = ROOT / "docs" / "sql.md"
TEMPLATE = ROOT / "docs" / "sql.md.in"

FOR_WHOM = {
    "analysts": "Questions of analysts",
    "operators": "Questions of operators",
    "data engineers": "Questions of data engineers",
    "ML engineers": "Questions of ML engineers",
}
"""The first reader that a question names decides where it stands."""

SHORT_TYPES = {
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
}
"""Types of one word, for the picture."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a question asks its reader for."""

    name: str
    kind: str
    meaning: str
    default: str


@dataclass(frozen=True, slots=True)
class Query:
    """A file of `sql/queries`, taken apart."""

    path: Path
    title: str
    readers: tuple[str, ...]
    cost: str
    """What has to be read for the answer, in words."""
    parameters: tuple[Parameter, ...]
    columns: tuple[tuple[str, str, str], ...]
    """Name, type and meaning of each."""
    example: dict[str, str]
    """Parameters of the example answer; the others have their defaults."""
    answer: str
    """The example answer as the header has it."""
    sql: str
    """The statement, with parameters as psql writes them."""

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.path.stem

    @property
    def defaults(self) -> dict[str, str]:
        """Value of each parameter that is not given."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    def for_psycopg(self) -> str:
        """Return the statement with parameters as psycopg writes them."""
        return re.sub(r":'(\w+)'", r"%(\1)s", self.sql)

    def filled(self) -> str:
        """Return the statement with the defaults in the place of the parameters, to be pasted anywhere."""
        filled = re.sub(r":'(\w+)'", lambda found: quoted(self.defaults[found[1]]), self.sql)
        filled = re.sub(r"CAST\('(\d+)' AS (?:integer|bigint)\)", r"\1", filled)
        return re.sub(r"CAST\(('(?:[^']|'')*') AS text\)", r"\1", filled)


def quoted(value: str) -> str:
    """Return a value as SQL and psql both write it."""
    return "'" + value.replace("'", "''") + "'"


def unquoted(text: str) -> str:
    """Return what psql makes of a value: without its quotes, if it has any."""
    return text[1:-1].replace("''", "'") if text.startswith("'") else text


def read_query(path: Path) -> Query:
    """Take a question apart.

    Raises:
        ValueError: the header is not of the form that all of them have; says what is wrong.
    """
    text = path.read_text(encoding="utf-8")
    form = re.fullmatch(
        r"-- (?P<title>.+)\n-- For: (?P<readers>.+)\n-- Reads: (?P<cost>.+)\n"
        r"-- Parameters:(?P<none> none)?\n(?P<parameters>(?:--   .+\n)*)-- Columns:\n(?P<columns>(?:--   .+\n)+)"
        r"-- Example:(?P<example>.*)\n(?P<answer>(?:--   .*\n)*)(?P<sets>(?:\\if .+\n)*)(?P<sql>[^\\]*;)\n",
        text,
    )
    if form is None:
        raise ValueError(
            f"{path.name} has not the form that a question has: title, For, Reads, Parameters, Columns, Example, the "
            "defaults in psql's lines, one statement; compare it with another one of sql/queries"
        )
    sets = dict(re.findall(r"^\\if :\{\?(\w+)\} \\else \\set \1 ('(?:[^']|'')*'|[\w.]+) \\endif$", form["sets"], re.M))
    rows = [re.split(r" {2,}", line[5:].strip(), maxsplit=2) for line in form["parameters"].splitlines()]
    documented = [row[0] for row in rows]
    used = list(dict.fromkeys(re.findall(r":'(\w+)'", form["sql"])))
    if documented != list(sets) or sorted(documented) != sorted(used) or bool(documented) == bool(form["none"]):
        raise ValueError(f"{path.name} documents {documented}, has defaults for {list(sets)} and uses {used}")
    given = [part.strip() for part in form["example"].split(";") if part.strip()]
    return Query(
        path=path,
        title=form["title"],
        readers=tuple(form["readers"].split(", ")),
        cost=form["cost"],
        parameters=tuple(Parameter(name, kind, meaning, unquoted(sets[name])) for name, kind, meaning in rows),
        columns=tuple(
            (name, kind, meaning)
            for name, kind, meaning in (
                re.split(r" {2,}", line[5:].strip(), maxsplit=2) for line in form["columns"].splitlines()
            )
        ),
        example={name: value for name, _, value in (part.partition("=") for part in given)},
        answer="\n".join(line[5:] for line in form["answer"].splitlines()),
        sql=form["sql"],
    )


def queries() -> list[Query]:
    """Return the questions, in the order of their files."""
    return [read_query(path) for path in sorted(QUERIES.glob("*.sql"))]


def ask(connection: Connection[Any], query: Query, values: dict[str, Any]) -> tuple[list[tuple[str, str]], list[Any]]:
    """Ask a question.

    Args:
        connection: To a migrated database.
        query: The question.
        values: Parameters that are not to have their defaults.

    Returns:
        Names and types of the columns, and the rows.
    """
    cursor = connection.execute(query.for_psycopg().encode(), query.defaults | values)
    kinds = [
        (column.name, connection.execute("SELECT format_type(%s, NULL)", [column.type_code]).fetchone()[0])  # type: ignore[index]
        for column in cursor.description or ()
    ]
    return kinds, cursor.fetchall()


def shown(value: object) -> str:
    """Return how a value of an answer is written here: on one line, times in UTC."""
    from datetime import UTC, datetime

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list):
        return "{" + ", ".join(shown(part) for part in value) + "}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an answer as text."""
    cells = [list(names), *([shown(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def answer(connection: Connection[Any], query: Query) -> str:
    """Return the example answer of a question, on the known data."""
    kinds, rows = ask(connection, query, dict(query.example))
    return table([name for name, _ in kinds], rows)


def with_answer(query: Query, text: str) -> str:
    """Return the file of a question with another example answer."""
    head, rest = re.split(r"(?<=\n)(?=-- Example:)", query.path.read_text(encoding="utf-8"), maxsplit=1)
    line, after = rest.split("\n", 1)
    after = re.sub(r"\A(?:--   .*\n)*", "", after)
    return head + line + "\n" + "".join(f"--   {row}\n" for row in text.splitlines()) + after


# The catalogue.


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or view."""

    name: str
    kind: str
    comment: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view."""

    name: str
    comment: str
    is_view: bool
    is_public: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]


def relations(connection: Connection[Any]) -> list[Relation]:
    """Return the tables and views of the schema, by name. Partitions are part of their table."""
    found = connection.execute("""
        SELECT c.oid, c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''), c.relkind = 'v',
            has_table_privilege('nightlabel_reader', c.oid, 'SELECT'),
            ARRAY(
                SELECT a.attname::text
                FROM pg_index AS x CROSS JOIN unnest(x.indkey) WITH ORDINALITY AS k (attnum, place)
                JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
                WHERE x.indrelid = c.oid AND x.indisprimary ORDER BY k.place
            )
        FROM pg_class AS c
        WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
        ORDER BY c.relname
    """).fetchall()
    return [
        Relation(
            name, comment, is_view, is_public,
            tuple(
                Column(*row)
                for row in connection.execute(
                    "SELECT attname, format_type(atttypid, atttypmod), coalesce(col_description(attrelid, attnum), '') "
                    "FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                    [oid],
                )
            ),
            tuple(key),
        )
        for oid, name, comment, is_view, is_public, key in found
    ]  # fmt: skip


def foreign_keys(connection: Connection[Any]) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return the references that the database enforces: from, to, columns."""
    return {
        (of, to, tuple(columns))
        for of, to, columns in connection.execute("""
            SELECT f.relname, t.relname, ARRAY(
                SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS c (attnum, place)
                JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = c.attnum ORDER BY c.place
            )
            FROM pg_constraint AS k
            JOIN pg_class AS f ON f.oid = k.conrelid
            JOIN pg_class AS t ON t.oid = k.confrelid
            WHERE k.contype = 'f' AND k.connamespace = 'nightlabel'::regnamespace AND k.conparentid = 0
                AND NOT f.relispartition
        """)
    }


def unenforced_keys(tables: Sequence[Relation], enforced: set[tuple[str, str, tuple[str, ...]]]) -> set[Any]:
    """Return the references that hold by name alone: a table has all columns of another one's key, of the same types.

    What follows from a longer one is left out: a table that refers to a shard refers to the shard's run through it.
    """
    found = set()
    for of in tables:
        kinds = {column.name: column.kind for column in of.columns}
        for to in tables:
            key = {column.name: column.kind for column in to.columns if column.name in to.key}
            if of is not to and key and key.items() <= kinds.items() and (of.name, to.name, to.key) not in enforced:
                found.add((of.name, to.name, to.key))
    return {
        (of, to, key)
        for of, to, key in found
        if not any(other_of == of and set(key) < set(other) for other_of, _, other in found | enforced)
    }


def picture(connection: Connection[Any]) -> str:
    """Return the tables and their references as a Mermaid diagram."""
    tables = [one for one in relations(connection) if not one.is_view and one.name != "alembic_version"]
    enforced = foreign_keys(connection)
    by_name = unenforced_keys(tables, enforced)
    lines = ["erDiagram"]
    for line, references in (("--", enforced), ("..", by_name)):
        for of, to, columns in sorted(references):
            key = next(one.key for one in tables if one.name == of)
            # One row at most refers to a row when the columns are the whole of the referring table's own key.
            many = "o|" if set(key) == set(columns) else "o{"
            lines.append(f'    {to} ||{line}{many} {of} : "{", ".join(columns)}"')
    for one in tables:
        lines.append(f"    {one.name} {{")
        referring = {column for of, _, columns in enforced | by_name if of == one.name for column in columns}
        for column in one.columns:
            marks = ["PK"] * (column.name in one.key) + ["FK"] * (column.name in referring)
            element = column.kind.removesuffix("[]")
            kind = SHORT_TYPES.get(element, element).replace(" ", "_") + column.kind[len(element) :]
            lines.append(f"        {kind} {column.name} {', '.join(marks)}".rstrip())
        lines.append("    }")
    return "\n".join(lines)


# The pages.


def columns_of(view: Relation) -> str:
    """Return the table of a view's columns."""
    rows = [f"| `{column.name}` | {column.kind} | {cell(column.comment)} |" for column in view.columns]
    return "\n".join(["| column | type | |", "| --- | --- | --- |", *rows])


def cell(text: str) -> str:
    """Return a comment as the cell of a table: no full stop after a single sentence, pages as links."""
    text = text.removesuffix(".") if ". " not in text else text
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    return (text[:1].lower() + text[1:] if text[1:2].islower() else text).replace("|", "\\|")


def question(query: Query) -> str:
    """Return the section of a question."""
    parts = [f"### {query.title}", "", f"[`{query.path.name}`](../sql/queries/{query.path.name}); reads {query.cost}."]
    if query.parameters:
        parts[-1] += " Parameters:"
        parts.append("")
        parts += [
            f"- `{one.name}` ({one.kind}{f', `{one.default}` unless given' if one.default else ''}): {one.meaning}"
            for one in query.parameters
        ]
    parts += ["", "```sql", query.filled(), "```", ""]
    given = ", ".join(f"`{name}` = `{value}`" for name, value in query.example.items())
    parts += [f"An answer{f' for {given}' if given else ''}:", "", "```text", query.answer, "```", ""]
    parts += ["| column | type | |", "| --- | --- | --- |"]
    parts += [f"| {name} | {kind} | {meaning} |" for name, kind, meaning in query.columns]
    return "\n".join(parts)


def questions(found: Sequence[Query]) -> str:
    """Return the chapters of the cookbook."""
    chapters = []
    for reader, heading in FOR_WHOM.items():
        of_reader = [query for query in found if query.readers[0] == reader]
        chapters += [f"## {heading}", *(question(query) for query in of_reader)]
    return "\n\n".join(chapters)


def index(found: Sequence[Query]) -> str:
    """Return the list of all questions."""
    return "\n".join(
        f"- [{query.title}](#{re.sub(r'[^a-z0-9 -]', '', query.title.lower()).replace(' ', '-')})"
        for reader in FOR_WHOM
        for query in found
        if query.readers[0] == reader
    )


def page(connection: Connection[Any], found: Sequence[Query]) -> str:
    """Return `docs/sql.md`: the template with what the schema and the questions say of themselves."""
    views = {one.name: one for one in relations(connection) if one.is_public}
    fillings: dict[str, Callable[[str], str]] = {
        "columns": lambda name: columns_of(views[name]),
        "picture": lambda _: f"```mermaid\n{picture(connection)}\n```",
        "index": lambda _: index(found),
        "questions": lambda _: questions(found),
        "count": lambda _: str(len(found)),
        "views": lambda _: "\n".join(f"- [`{one.name}`](#{one.name}): {cell(one.comment)}" for one in views.values()),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"<!-- (\w+)(?: (\w+))? -->", lambda mark: fillings[mark[1]](mark[2] or ""), text)


def sources(connection: Connection[Any]) -> str:
    """Return the dbt file that declares the public views as a source; its strings are JSON, which YAML is as well."""
    lines = [
        "# The public views as a source of a dbt project: copy this file below its `models` folder.",
        "# Made from the schema's comments by `make sql-docs`.",
        "version: 2",
        "",
        "sources:",
        "  - name: nightlabel",
        '    description: "Labels of images, one outcome per image version and model version."',
        "    schema: nightlabel",
        "    tables:",
    ]
    for view in relations(connection):
        if view.is_public:
            lines += [f"      - name: {view.name}", f"        description: {as_json(view.comment)}", "        columns:"]
            for column in view.columns:
                lines += [
                    f"          - name: {column.name}",
                    f"            data_type: {as_json(column.kind)}",
                    f"            description: {as_json(column.comment)}",
                ]
    return "\n".join(lines) + "\n"


def as_json(text: str) -> str:
    """Return a string in quotes."""
    return json.dumps(text, ensure_ascii=False)


def main() -> None:
    """Write all of it."""
    import psycopg

    from inference.settings import read_settings
    from inference.sinks.migrating import migrate
    from local_stack.postgres import EmbeddedPostgres
    from local_stack.processes import free_ports
    from tests import known_data

    with (
        tempfile.TemporaryDirectory(prefix="nightlabel-docs-", ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder), free_ports(1)[0], is_durable=False) as server,
    ):
        server.create_database("docs")
        url = server.url("docs")
        migrate(read_settings(database_url=url))
        known_data.load(known_data.world(known_data.EXAMPLE_SEED), url)
        with psycopg.connect(url) as connection:
            for query in queries():
                query.path.write_text(with_answer(query, answer(connection, query)), encoding="utf-8")
            SOURCES.parent.mkdir(exist_ok=True)
            SOURCES.write_text(sources(connection), encoding="utf-8")
            PAGE.write_text(page(connection, queries()), encoding="utf-8")


if __name__ == "__main__":
    main()
