"""Migrations, roles and the checks of the schema, on real databases."""

from __future__ import annotations

import threading
import uuid

import psycopg
import pytest

from inference.errors import (
    SchemaMissingError,
    SchemaNewerError,
    SchemaOutdatedError,
    SinkCredentialsError,
    SinkUnavailableError,
)
from inference.settings import Settings, read_settings
from inference.sinks.connecting import plain_url
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink, check_revision
from inference.sinks.statements import migrations, newest_revision, revision_of
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import free_ports
from tests.ledger import Ledger, listed
from tests.sql.logins import PASSWORD, as_user

pytestmark = pytest.mark.integration


def ask(settings: Settings, sql: str) -> list:
    with psycopg.connect(settings.required_database_url()) as connection:
        return connection.execute(sql).fetchall()


def test_migrating_twice_changes_nothing_the_second_time(database: str):
    settings = read_settings(database_url=database)
    assert migrate(settings) == (None, newest_revision())
    assert migrate(settings) == (newest_revision(), newest_revision())


def test_several_migrations_at_once_end_with_one_schema(database: str):
    results: list[object] = []

    def one() -> None:
        try:
            results.append(migrate(read_settings(database_url=database))[1])
        except Exception as error:  # noqa: BLE001  # whatever it is, the assertion below shows it
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [newest_revision()] * 4


def test_bare_names_of_the_public_views_are_found(ledger: Ledger):
    for view in ("latest_prediction", "dead_letter_open", "run_summary", "label_daily"):
        assert ledger.rows(f"SELECT * FROM {view}") == []


def test_a_database_that_was_never_migrated_is_named_with_what_to_do(database: str):
    with pytest.raises(SchemaMissingError, match=r"has no Nightlabel tables; run `python -m inference migrate`"):
        PostgresSink(read_settings(database_url=database))


def test_a_schema_that_is_newer_or_older_than_the_code_is_refused(ledger: Ledger):
    ledger.execute("UPDATE nightlabel.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaNewerError, match="revision 9999, and this code knows revisions up to"):
        PostgresSink(ledger.settings)
    with pytest.raises(SchemaNewerError):
        migrate(ledger.settings)
    ledger.execute("DELETE FROM nightlabel.alembic_version")
    with pytest.raises(SchemaMissingError):
        PostgresSink(ledger.settings)


def test_older_code_works_beside_a_newer_schema_that_is_made_for_it_and_never_migrates_it(ledger: Ledger):
    ledger.execute("UPDATE nightlabel.alembic_version SET version_num = '9999'")
    ledger.execute("INSERT INTO nightlabel.schema_compatibility VALUES ('9999', %s)", newest_revision())

    with PostgresSink(ledger.settings) as sink:
        worker = Ledger(ledger.url, ledger.settings, sink)
        worker.work(worker.plan(listed("a")))
    assert set(ledger.latest()) == {"a"}
    with pytest.raises(SchemaNewerError, match=f"at revision 9999, .* revisions up to {newest_revision()}"):
        migrate(ledger.settings)


@pytest.mark.parametrize("said_of", ["9998", "9999"])
def test_older_code_is_refused_where_the_newer_schema_is_not_made_for_it(ledger: Ledger, said_of: str):
    """What was said of another revision does not count, nor that some newer code than this one may work."""
    oldest_code = newest_revision() if said_of == "9998" else "9999"
    ledger.execute("UPDATE nightlabel.alembic_version SET version_num = '9999'")
    ledger.execute("INSERT INTO nightlabel.schema_compatibility VALUES (%s, %s)", said_of, oldest_code)

    with pytest.raises(SchemaNewerError, match=f"at revision 9999, .* revisions up to {newest_revision()}"):
        PostgresSink(ledger.settings)


def test_every_migration_says_which_code_may_work_beside_it(ledger: Ledger):
    said = {row["revision"]: row["oldest_code"] for row in ledger.rows("SELECT * FROM nightlabel.schema_compatibility")}
    revisions = [revision_of(path) for path in migrations()]

    assert list(said) == [revision for revision in revisions if revision >= "0009"]
    assert sorted(said.values()) == [said[revision] for revision in sorted(said)], "what was refused stays refused"


def test_a_schema_that_is_older_than_the_code_is_refused():
    check_revision("0002", ["0001", "0002"], "here")
    with pytest.raises(
        SchemaOutdatedError, match=r"at revision 0001, .* needs 0002; run `python -m inference migrate`"
    ):
        check_revision("0001", ["0001", "0002"], "here")


def test_both_forms_of_the_address_and_a_wrong_one(ledger: Ledger):
    for scheme in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgres"):
        url = ledger.url.replace("postgresql", scheme, 1)
        with PostgresSink(read_settings(database_url=url)) as sink:
            assert sink.resolve_model("production").name == "tiny"
    assert plain_url("postgresql+psycopg://a@b/c") == "postgresql://a@b/c"


def test_connection_trouble_is_one_sentence_without_the_password(ledger: Ledger):
    parts = psycopg.conninfo.conninfo_to_dict(ledger.url)
    where = f"{parts['host']}:{parts['port']}"
    wrong = ledger.url.replace(parts["password"], "wr0ng")
    with pytest.raises(SinkCredentialsError, match="refuses the user") as caught:
        PostgresSink(read_settings(database_url=wrong))
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(SchemaMissingError, match=f"{where}/nowhere does not exist; create it"):
        PostgresSink(read_settings(database_url=ledger.url.replace(parts["dbname"], "nowhere")))
    closed = ledger.url.replace(f":{parts['port']}/", f":{free_ports(1)[0]}/")
    with pytest.raises(SinkUnavailableError, match="does not answer"):
        PostgresSink(read_settings(database_url=closed))


def test_a_worker_can_do_its_work_with_the_writers_rights(ledger: Ledger, login):
    with PostgresSink(login("nightlabel_writer")) as sink:
        worker = Ledger(ledger.url, ledger.settings, sink)
        worker.work(worker.plan(listed("a"), listed("b")))
        worker.register("second")
    assert set(ledger.latest()) == {"a", "b"}


@pytest.mark.parametrize(
    "forbidden",
    [
        "DELETE FROM nightlabel.outcome",
        "TRUNCATE nightlabel.outcome",
        "DELETE FROM nightlabel.manifest_chunk",
        "DROP TABLE nightlabel.outcome",
        "CREATE TABLE nightlabel.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "ALTER TABLE nightlabel.outcome ADD COLUMN a int",
        "UPDATE nightlabel.model SET files = '{}'",
        "UPDATE nightlabel.model_alias SET model_id = model_id",
        "UPDATE nightlabel.alembic_version SET version_num = '9'",
        "SELECT * FROM pg_authid",
    ],
)
def test_a_writer_is_refused_what_is_not_its_work(login, forbidden: str):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(login("nightlabel_writer"), forbidden)


def test_a_reader_reads_the_public_views_and_nothing_else(ledger: Ledger, login):
    reader = login("nightlabel_reader")
    for view in ("latest_prediction", "dead_letter_open", "run_summary", "label_daily"):
        assert ask(reader, f"SELECT * FROM nightlabel.{view}") == []
    for table in ("outcome", "image", "object", "run", "shard", "model", "model_alias", "production_line"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(reader, f"SELECT * FROM nightlabel.{table}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(reader, "SELECT nightlabel.add_outcome_partition(1)")


def test_somebody_without_a_role_is_refused_and_told_which_one_to_ask_for(ledger: Ledger, login):
    with pytest.raises(SinkCredentialsError, match="nightlabel_writer"):
        PostgresSink(login(None))


def test_an_ordinary_owner_of_a_database_can_migrate_it_alone(postgres_server: EmbeddedPostgres):
    owner = f"owner_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(f"CREATE DATABASE {owner} OWNER {owner}")
        settings = read_settings(database_url=as_user(postgres_server.url(owner), owner))
        assert migrate(settings)[1] == newest_revision()
        with PostgresSink(settings) as sink:
            mine = Ledger(postgres_server.url(owner), settings, sink)
            mine.register("tiny", "1", "production")
            plan = mine.plan(listed("a"))
            mine.work(plan)
            assert mine.latest() == {"a": "cat"}
        admin.execute(f"DROP DATABASE {owner}")
        admin.execute(f"DROP ROLE {owner}")
