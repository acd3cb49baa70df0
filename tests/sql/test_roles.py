"""What each role is refused: tried on every table, view and function that the schema has, so on a new one too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from inference.sinks.statements import sql_folder
from tests.ledger import Ledger, listed

pytestmark = pytest.mark.integration

PUBLIC_VIEWS = {"latest_prediction", "dead_letter_open", "run_summary", "label_daily"}
"""The least that readers may read; further views are found in the grants."""

REFUSED = (
    psycopg.errors.InsufficientPrivilege,
    # A view that cannot be written to at all is refused before anybody's rights are looked at.
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.WrongObjectType,
)


@pytest.fixture
def worked(ledger: Ledger) -> Ledger:
    """A schema in use: a partition that a writer had made among the tables."""
    ledger.work(ledger.plan(listed("a")))
    return ledger


@pytest.fixture
def admin(worked: Ledger) -> Iterator[psycopg.Connection]:
    with psycopg.connect(worked.url) as connection:
        yield connection


def relations(admin: psycopg.Connection) -> dict[str, str]:
    """Every table, partition and view -> its kind."""
    query = "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'nightlabel'::regnamespace"
    return {name: kind for name, kind in admin.execute(query).fetchall() if kind in "rpvmf"}


def functions(admin: psycopg.Connection) -> dict[int, str]:
    query = "SELECT oid, proname FROM pg_proc WHERE pronamespace = 'nightlabel'::regnamespace"
    return dict(admin.execute(query).fetchall())


def granted_to_readers() -> set[str]:
    """What sql/grants.sql lets readers read."""
    found = set()
    for names in re.findall(r"GRANT SELECT ON\s([\w\s.,]+?)\sTO nightlabel_reader", grants()):
        found |= set(re.findall(r"nightlabel\.(\w+)", names))
    return found


def grants() -> str:
    return (sql_folder() / "grants.sql").read_text(encoding="utf-8")


def is_refused(admin: psycopg.Connection, role: str, statement: str, *names: str) -> bool:
    """Try a statement as a member of a role; whatever it did is undone."""
    filled = sql.SQL(statement).format(*(sql.Identifier("nightlabel", name) for name in names))
    try:
        with admin.transaction(force_rollback=True):
            admin.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            admin.execute(filled)
    except REFUSED:
        return True
    return False


def one_column(admin: psycopg.Connection, name: str) -> str:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum = 1"
    return admin.execute(query, [f"nightlabel.{name}"]).fetchone()[0]


def rights_of(admin: psycopg.Connection, role: str, name: str) -> set[str]:
    query = "SELECT has_table_privilege(%s, %s, %s)"
    every = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    return {right for right in every if admin.execute(query, [role, f"nightlabel.{name}", right]).fetchone() == (True,)}


WRITES = (
    "INSERT INTO {0} DEFAULT VALUES",
    "DELETE FROM {0} WHERE false",
    "TRUNCATE {0}",
)
CHANGES = (
    "DROP TABLE {0}",
    "ALTER TABLE {0} ADD COLUMN a integer",
    "ALTER TABLE {0} RENAME TO renamed",
    "ALTER TABLE {0} DISABLE TRIGGER ALL",
    "CREATE INDEX ON {0} ((1))",
    "COMMENT ON TABLE {0} IS 'mine'",
)


def test_every_table_view_and_function_is_decided_about_in_the_grants(admin: psycopg.Connection):
    partitions = {
        name
        for [name] in admin.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'").fetchall()
    }
    named = set(re.findall(r"nightlabel\.(\w+)", grants()))

    assert (set(relations(admin)) - partitions) - named == set(), "say in sql/grants.sql who may do what with it"
    assert set(functions(admin).values()) - named == set(), "say in sql/grants.sql who may call it"
    assert partitions


def test_a_reader_is_refused_every_table_and_every_private_view(admin: psycopg.Connection):
    views = granted_to_readers()
    assert views >= PUBLIC_VIEWS
    for name, kind in relations(admin).items():
        assert is_refused(admin, "nightlabel_reader", "SELECT FROM {0} LIMIT 0", name) is (name not in views), name
        assert name not in views or kind in "vm", f"{name} is no view"
        for statement in WRITES:
            assert is_refused(admin, "nightlabel_reader", statement, name), (statement, name)
        changing = f"UPDATE {{0}} SET {one_column(admin, name)} = DEFAULT WHERE false"
        assert is_refused(admin, "nightlabel_reader", changing, name), name


def test_a_writer_deletes_nothing_and_changes_no_table(admin: psycopg.Connection):
    for name, kind in relations(admin).items():
        for statement in (WRITES[1:] + CHANGES) if kind in "rp" else WRITES[1:2]:
            assert is_refused(admin, "nightlabel_writer", statement, name), (statement, name)
    assert is_refused(admin, "nightlabel_writer", "CREATE TABLE nightlabel.mine ()")
    assert is_refused(admin, "nightlabel_writer", "CREATE FUNCTION nightlabel.mine() RETURNS integer RETURN 1")
    assert is_refused(admin, "nightlabel_writer", "DROP SCHEMA nightlabel CASCADE")


def test_a_writer_writes_what_is_its_work_and_nothing_else(admin: psycopg.Connection):
    """By name, so that another right for workers is somebody's decision and not a slip."""
    rights = {name: rights_of(admin, "nightlabel_writer", name) - {"SELECT"} for name in relations(admin)}
    both = {"INSERT", "UPDATE"}
    assert rights["outcome"] == rights["image"] == rights["object"] == rights["run"] == rights["shard"] == both
    assert rights["model"] == rights["manifest_chunk"] == {"INSERT"}
    assert rights["alembic_version"] == rights["forgetting"] == set()
    assert {right for found in rights.values() for right in found} == both


def test_a_reader_calls_no_function_and_a_writer_those_that_are_its_own(admin: psycopg.Connection):
    may = {
        role: {
            name
            for oid, name in functions(admin).items()
            if admin.execute("SELECT has_function_privilege(%s, %s::oid, 'EXECUTE')", [role, oid]).fetchone() == (True,)
        }
        for role in ("nightlabel_reader", "nightlabel_writer", "public")
    }
    its_own = " ".join(re.findall(r"GRANT EXECUTE ON FUNCTION\s([\w\s.,()]+?)\sTO nightlabel_writer", grants()))
    assert may["nightlabel_reader"] == may["public"] == set()
    assert may["nightlabel_writer"] == set(re.findall(r"nightlabel\.(\w+)", its_own))
    assert is_refused(admin, "nightlabel_reader", "SELECT nightlabel.add_outcome_partition(1)")
    assert is_refused(admin, "nightlabel_reader", "SELECT nightlabel.drop_old_manifests('1 day')")


def test_everybody_has_no_right_at_all(admin: psycopg.Connection):
    assert {name for name in relations(admin) if rights_of(admin, "public", name)} == set()
    for right in ("USAGE", "CREATE"):
        query = "SELECT has_schema_privilege('public', 'nightlabel', %s)"
        assert admin.execute(query, [right]).fetchone() == (False,)


def test_everything_belongs_to_the_owner_and_its_functions_trust_no_search_path(admin: psycopg.Connection):
    owners = admin.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'nightlabel'::regnamespace "
        "UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'nightlabel'::regnamespace"
    ).fetchall()
    assert owners == [("nightlabel_owner",)]
    careless = admin.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'nightlabel'::regnamespace AND prosecdef "
        "AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=nightlabel, pg_temp']"
    ).fetchall()
    assert careless == []


def test_a_table_without_a_decision_would_be_found(admin: psycopg.Connection):
    """The tests above look at what is there, not at a list of names."""
    admin.execute("SET ROLE nightlabel_owner")
    admin.execute("CREATE TABLE nightlabel.undecided (a integer)")
    admin.execute("CREATE FUNCTION nightlabel.undecided() RETURNS integer RETURN 1")
    admin.execute("RESET ROLE")
    for check in (
        test_every_table_view_and_function_is_decided_about_in_the_grants,
        test_a_reader_calls_no_function_and_a_writer_those_that_are_its_own,
    ):
        with pytest.raises(AssertionError):
            check(admin)
    admin.execute("GRANT SELECT, DELETE ON nightlabel.undecided TO PUBLIC")
    for check in (
        test_a_reader_is_refused_every_table_and_every_private_view,
        test_a_writer_deletes_nothing_and_changes_no_table,
        test_everybody_has_no_right_at_all,
    ):
        with pytest.raises(AssertionError):
            check(admin)
