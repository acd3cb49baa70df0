"""From every earlier revision to the newest, with data in it, interrupted anywhere, and while others read and write."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from inference.errors import SinkUnavailableError
from inference.settings import read_settings
from inference.sinks import migrating
from inference.sinks.migrating import LOCK_TIMEOUT_S, migrate, run_alone
from inference.sinks.migration_files import Statement, is_in_one_transaction
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import migrations, newest_revision, revision_of
from local_stack.processes import wait_until
from tests.fakes import FakeStore
from tests.faults.old_application.worker import OldWorker, migrate_to, plan_as_then
from tests.ledger import Ledger, listed

pytestmark = pytest.mark.integration

REVISIONS = [revision_of(path) for path in migrations()]
FORMER_VIEWS = Path(__file__).parent / "former_views"
FORMER_VIEWS_OF = "0005"
"""The last revision that had these views."""

LONGEST_WAIT_S = 3 * LOCK_TIMEOUT_S + 1
"""The most that anybody may wait for a lock: a migration holds what it got while it waits for the next, and none
changes more than three tables."""


def old_ledger(url: str, revision: str) -> Ledger:
    """A database as an earlier version left it, with a model, its views and nothing to open it with."""
    migrate_to(url, revision)
    ledger = Ledger(url, read_settings(database_url=url), None)  # type: ignore[arg-type]  # the new code refuses it
    if revision <= FORMER_VIEWS_OF:
        with psycopg.connect(url) as connection:
            connection.execute("SET ROLE nightlabel_owner")
            for path in sorted(FORMER_VIEWS.glob("*.sql")):
                if revision >= "0004" or "run_summary" not in path.name:  # which had a column less
                    connection.execute(path.read_bytes())
    ledger.execute(
        "INSERT INTO nightlabel.model (name, version, source, licence, files, label_map, preprocessing, artefacts) "
        "VALUES ('tiny', '1', 'a test', 'none', '{}', '[]', '{}', '{}')"
    )
    ledger.execute("SELECT nightlabel.add_outcome_partition(1)")
    ledger.execute("INSERT INTO nightlabel.model_alias (alias, model_id, reason) VALUES ('production', 1, 'a test')")
    return ledger


def bucket_of(images: int) -> FakeStore:
    return FakeStore({f"k{number:02}": b"image" for number in range(images)})


def outcomes(refs: Any) -> list[dict[str, Any]]:
    """What an old worker made of images: every fifth is dead."""
    return [OldWorker.outcome(ref, "cat" if int(ref.key[1:]) % 5 else "not_an_image") for ref in refs]


def with_data(url: str, revision: str) -> Ledger:
    """An earlier database in which a run was recorded to its end, by the statements of the first version."""
    ledger = old_ledger(url, revision)
    run_id = plan_as_then(url, bucket_of(20), shard_size=10)
    with OldWorker(url, outcomes) as old:
        assert [old.run(run_id, shard) for shard in (0, 1)] == ["done", "done"]
    ledger.execute("UPDATE nightlabel.run SET state = 'succeeded', finished_at = now()")
    return ledger


def rows(ledger: Ledger, columns: dict[str, list[str]]) -> dict[str, list[Any]]:
    """Every row of the tables, in these columns only."""
    found = {}
    for table, names in columns.items():
        sql = f"SELECT ROW({', '.join(names)})::text AS row FROM nightlabel.{table} ORDER BY 1"
        found[table] = [row["row"] for row in ledger.rows(sql)]
    return found


def columns_of(ledger: Ledger) -> dict[str, list[str]]:
    """The tables of the schema with their columns, but for what migrations say of themselves."""
    found: dict[str, list[str]] = {}
    for row in ledger.rows(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
        "AND NOT a.attisdropped WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p') "
        "AND NOT c.relispartition AND c.relname NOT IN ('alembic_version', 'schema_compatibility', 'view_file') "
        "ORDER BY c.relname, a.attnum"
    ):
        found.setdefault(row["relname"], []).append(f'"{row["attname"]}"')
    return found


def check_views(ledger: Ledger, images: int = 20) -> None:
    """The views show what was recorded by the first version's statements."""
    dead = {f"k{number:02}": "not_an_image" for number in range(0, images, 5)}
    labelled = {f"k{number:02}": "cat" for number in range(images) if number % 5}
    assert (ledger.latest(), ledger.open_dead_letters()) == (labelled, dead)
    [run] = ledger.rows("SELECT run_id FROM nightlabel.run")
    summary = ledger.summary(run["run_id"])
    assert (summary["labelled"], summary["dead"], summary["unfinished"]) == (len(labelled), len(dead), 0)
    daily = ledger.rows("SELECT label, sum(images)::int AS images FROM nightlabel.label_daily GROUP BY label")
    assert daily == [{"label": "cat", "images": len(labelled)}]


def check_works(ledger: Ledger) -> None:
    """The present code goes on from there: it labels what is new, and nothing again."""
    with PostgresSink(ledger.settings) as sink:
        present = Ledger(ledger.url, ledger.settings, sink)
        [etag] = {row["etag"] for row in ledger.rows("SELECT etag FROM nightlabel.image")}
        entries = [entry for page in bucket_of(20).list_pages("photos", "") for entry in page]
        assert {entry.etag for entry in entries} == {etag}
        [bucket] = {row["bucket"] for row in ledger.rows("SELECT bucket::text FROM nightlabel.object")}
        plan = present.plan(*entries, bucket=bucket)
        assert (plan.already_done, plan.to_classify) == (20, 0)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_every_earlier_revision_is_brought_to_the_newest_with_what_is_in_it(database: str, revision: str):
    ledger = with_data(database, revision)
    columns = columns_of(ledger)
    before = rows(ledger, columns)

    assert migrate(ledger.settings) == (revision, newest_revision())
    assert rows(ledger, columns) == before
    check_views(ledger)
    assert migrate(ledger.settings) == (newest_revision(), newest_revision())
    assert rows(ledger, columns) == before
    check_views(ledger)
    check_works(ledger)


def test_a_view_of_the_former_version_keeps_its_columns_in_their_order(database: str):
    ledger = with_data(database, FORMER_VIEWS_OF)
    names = [path.stem.partition("_")[2] for path in FORMER_VIEWS.glob("*.sql")]

    def columns(view: str) -> list[str]:
        sql = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
        return [row["attname"] for row in ledger.rows(sql, f"nightlabel.{view}")]

    before = {name: columns(name) for name in names}
    migrate(ledger.settings)
    assert {name: columns(name)[: len(before[name])] for name in names} == before


# Interrupted


def end_session(url: str, of: str) -> None:
    """End the sessions of an application, as a crash of the server or an administrator does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = %s",
            [of],
        )


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("revision", REVISIONS)
def test_a_migration_that_is_ended_at_any_boundary_goes_on_from_there(
    database: str, revision: str, moment: str, monkeypatch: pytest.MonkeyPatch
):
    """Before a file is run, and after it was run but before that is noted."""
    first = "0001" if revision > "0001" else None
    ledger = Ledger(database, read_settings(database_url=database), None)  # type: ignore[arg-type]
    if first is not None:
        ledger = with_data(database, first)
    run_file = migrating.run_file

    def ended(which: str) -> None:
        if which == revision and moment == "before":
            end_session(database, "nightlabel migrate")
        run_file(which)
        if which == revision:
            end_session(database, "nightlabel migrate")

    monkeypatch.setattr(migrating, "run_file", ended)
    with pytest.raises(SinkUnavailableError):
        migrate(ledger.settings)
    monkeypatch.undo()

    before = REVISIONS[REVISIONS.index(revision) - 1] if revision != "0001" else None
    assert migrate(ledger.settings) == (before, newest_revision())
    if first is not None:
        check_views(ledger)
        check_works(ledger)


BUILD = Statement("CREATE INDEX CONCURRENTLY IF NOT EXISTS image_etag ON nightlabel.image (etag)")


@contextmanager
def session(url: str, application: str = "nightlabel migrate") -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True, application_name=application) as connection:
        yield connection


def until(is_done: Callable[[], object]) -> None:
    assert wait_until(lambda: bool(is_done()), 30.0)


def is_building(ledger: Ledger) -> bool:
    """Whether an index is built and waits for others, with the index already there."""
    return bool(
        ledger.rows("SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%%' AND index_relid <> %s", 0)
    )


def validity(ledger: Ledger, index: str) -> list[bool]:
    sql = "SELECT indisvalid AND indisready AS ok FROM pg_index WHERE indexrelid = to_regclass(%s)"
    return [row["ok"] for row in ledger.rows(sql, f"nightlabel.{index}")]


def test_a_migration_that_is_ended_in_the_middle_of_an_index_leaves_no_broken_one(database: str):
    ledger = with_data(database, "0004")
    with ThreadPoolExecutor(1) as beside, psycopg.connect(database) as writer:
        writer.execute("UPDATE nightlabel.image SET etag = etag")  # the build waits for this transaction
        migration = beside.submit(migrate, ledger.settings)
        until(lambda: is_building(ledger))
        end_session(database, "nightlabel migrate")
        assert isinstance(migration.exception(30), SinkUnavailableError)
        assert validity(ledger, "image_etag_md5") == [False]
        writer.rollback()

    assert migrate(ledger.settings) == ("0004", newest_revision())
    assert validity(ledger, "image_etag_md5") == [True]
    check_views(ledger)


def test_a_migration_whose_process_is_killed_is_finished_by_the_server_and_the_next_one_waits_for_that(database: str):
    ledger = with_data(database, "0004")
    code = (
        "import sys\nfrom inference.settings import read_settings\nfrom inference.sinks.migrating import migrate\n"
        "migrate(read_settings(database_url=sys.argv[1]))"
    )
    with ThreadPoolExecutor(1) as beside, psycopg.connect(database) as writer:
        writer.execute("UPDATE nightlabel.image SET etag = etag")
        process = subprocess.Popen([sys.executable, "-c", code, database])
        until(lambda: is_building(ledger))
        process.kill()
        process.wait()
        with pytest.raises(SinkUnavailableError, match=r"another migration of the database at .* is still running"):
            migrate(ledger.settings, lock_tries=2)
        second = beside.submit(migrate, ledger.settings)
        writer.rollback()
        assert second.result(60) == ("0004", newest_revision())
    assert validity(ledger, "image_etag_md5") == [True]
    check_views(ledger)


def test_an_index_that_an_interrupted_build_left_is_built_anew_and_a_good_one_is_kept(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")))
    with psycopg.connect(ledger.url) as writer, session(ledger.url) as connection:
        writer.execute("UPDATE nightlabel.image SET etag = etag")
        connection.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(BUILD.sql)
    assert validity(ledger, "image_etag") == [False]

    def build() -> list[dict[str, Any]]:
        with session(ledger.url) as connection:
            run_alone(connection, BUILD)
        return ledger.rows("SELECT 'nightlabel.image_etag'::regclass::oid AS oid")

    built = build()
    assert validity(ledger, "image_etag") == [True]
    assert build() == built, "a good one is not built again"


def test_a_ledger_gets_an_index_partition_by_partition_beside_its_writers(ledger: Ledger):
    """As a migration does it that is run in pieces: the rows of a query are the statements."""
    ledger.register("other", "1")
    steps = [
        Statement("CREATE INDEX IF NOT EXISTS outcome_engine ON ONLY nightlabel.outcome (engine)"),
        Statement(
            "SELECT format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %s_engine ON nightlabel.%s (engine)', relname, "
            "relname) FROM pg_partition_tree('nightlabel.outcome') JOIN pg_class c ON c.oid = relid WHERE isleaf",
            gives_statements=True,
        ),
        Statement(
            "SELECT format('ALTER INDEX nightlabel.outcome_engine ATTACH PARTITION nightlabel.%s_engine', relname) "
            "FROM pg_partition_tree('nightlabel.outcome') JOIN pg_class c ON c.oid = relid WHERE isleaf",
            gives_statements=True,
        ),
    ]
    with session(ledger.url) as connection, ThreadPoolExecutor(1) as beside, psycopg.connect(ledger.url) as writer:
        run_alone(connection, steps[0])
        writer.execute("UPDATE nightlabel.outcome SET attempts = attempts")
        builds = beside.submit(run_alone, connection, steps[1])
        ledger.work(ledger.plan(listed("a")))  # nobody waits for the build
        writer.commit()
        builds.result(30)
        for step in [*steps[2:], *steps]:  # and once more from the beginning
            run_alone(connection, step)
    assert validity(ledger, "outcome_engine") == [True]


# Beside others


class Load:
    """Readers and a worker of the first version, each of whom is refused after waiting too long for a lock."""

    def __init__(self, ledger: Ledger, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._url = f"{ledger.url}?options=-c%20lock_timeout%3D{round(longest_wait_s * 1000)}"
        self._is_over = threading.Event()
        self.longest_s = dict.fromkeys(["write", "read"], 0.0)
        self.reads = 0
        self.written = 0

    def __str__(self) -> str:
        longest = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in self.longest_s.items())
        return f"{self.reads} reads and {self.written} outcomes; longest {longest}"

    def _timed(self, what: str, work: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        result = work()
        self.longest_s[what] = max(self.longest_s[what], time.monotonic() - begun)
        return result

    def read(self) -> None:
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row) as connection:
            while not self._is_over.is_set():
                found = self._timed("read", connection.execute("SELECT * FROM nightlabel.latest_prediction").fetchall)
                assert len({row["object_key"] for row in found}) == len(found)
                self.reads += 1

    def write(self) -> None:
        """Record one run after the other by the first version's statements, each to its end."""
        while not self._is_over.is_set():
            store = FakeStore({f"w{self.written + number}": b"image" for number in range(6)})
            run_id = plan_as_then(self._url, store, shard_size=6)
            with OldWorker(self._url, lambda refs: [OldWorker.outcome(ref, "cat") for ref in refs]) as old:
                assert self._timed("write", lambda: old.run(run_id, 0)) == "done"  # noqa: B023
            self.written += 6

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Let everybody read and write until the block ends, and see that none of them failed."""
        with ThreadPoolExecutor(3) as beside:
            tasks = [beside.submit(work) for work in (self.read, self.read, self.write)]
            try:
                until(lambda: (self.reads and self.written) or any(task.done() for task in tasks))
                yield
                done = self.reads, self.written
                until(lambda: (self.reads > done[0] and self.written > done[1]) or any(task.done() for task in tasks))
            finally:
                self._is_over.set()
            for task in tasks:
                task.result(60)


@pytest.mark.parametrize("revision", ["0001", FORMER_VIEWS_OF])
def test_readers_and_an_old_writer_go_on_while_the_schema_is_migrated(
    database: str, revision: str, capsys: pytest.CaptureFixture[str]
):
    ledger = with_data(database, revision)
    load = Load(ledger)

    with load.going_on():
        assert migrate(ledger.settings) == (revision, newest_revision())
        migrate(ledger.settings)

    with capsys.disabled():
        print(f"\nmigrated beside {load}", end=" ")  # noqa: T201 - what the bounds are far from
    labels = ledger.latest()
    assert {key for key in labels if key.startswith("w")} == {f"w{number}" for number in range(load.written)}
    with PostgresSink(ledger.settings) as sink:
        assert sink.resolve_model("production").name == "tiny"


def test_readers_and_an_old_writer_go_on_while_a_migration_waits_for_somebody_else(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An analyst's transaction stays open: the migration comes again and again, and nobody waits behind it for long."""
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT_S", 0.3)
    tries: list[int] = []

    def pauses(most: int) -> Iterator[float]:
        for number in range(most):
            tries.append(number)
            yield 0.01  # it comes again at once: the most that it can disturb

    monkeypatch.setattr(migrating, "_pauses", pauses)
    ledger = with_data(database, "0001")
    load = Load(ledger, longest_wait_s=3 * 0.3 + 1)

    with ThreadPoolExecutor(1) as beside, psycopg.connect(database) as analyst:
        analyst.execute("SELECT FROM nightlabel.outcome")
        with load.going_on():
            migration = beside.submit(migrate, ledger.settings)
            until(lambda: len(tries) >= 5)
            assert not migration.done()
            analyst.commit()
            assert migration.result(60) == ("0001", newest_revision())

    with capsys.disabled():
        print(f"\nwaited in {len(tries)} tries beside {load}", end=" ")  # noqa: T201 - what the bounds are far from


def test_a_worker_of_this_version_records_on_while_the_schema_is_migrated_again(ledger: Ledger):
    """As when two hosts are upgraded one after the other."""
    is_over = threading.Event()
    recorded: list[str] = []

    def record() -> None:
        while not is_over.is_set():
            key = f"k{len(recorded)}"
            ledger.work(ledger.plan(listed(key), prefix=key))
            recorded.append(key)

    with ThreadPoolExecutor(3) as beside:
        writer = beside.submit(record)
        try:
            again = [beside.submit(migrate, ledger.settings) for _ in range(2)]
            assert [one.result(60) for one in again] == [(newest_revision(), newest_revision())] * 2
        finally:
            is_over.set()
        writer.result(60)
    assert set(ledger.latest()) == set(recorded)


def test_two_migrations_at_once_of_a_database_with_data_end_with_one_schema(database: str):
    """One of them builds an index, which waits for every session that waits inside a statement."""
    ledger = with_data(database, "0001")
    with ThreadPoolExecutor(3) as beside:
        done = [future.result(60) for future in [beside.submit(migrate, ledger.settings) for _ in range(3)]]
    assert sorted(done) == [("0001", newest_revision()), *[(newest_revision(), newest_revision())] * 2]
    check_views(ledger)
    check_works(ledger)


def test_a_lock_that_is_not_got_is_let_go_of_and_told_in_a_sentence(database: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT_S", 0.3)
    ledger = with_data(database, "0001")
    with psycopg.connect(database) as analyst:
        analyst.execute("SELECT FROM nightlabel.outcome")  # and goes home, with the transaction open
        with pytest.raises(SinkUnavailableError) as caught:
            migrate(ledger.settings, lock_tries=1)
        message = str(caught.value)
        assert "did not get its lock" in message
        assert "the schema is whole at revision 0001, and `python -m inference migrate` goes on from there" in message
        with psycopg.connect(f"{database}?options=-c%20lock_timeout%3D1") as other:  # nobody is queueing any more
            assert other.execute("SELECT count(*) FROM nightlabel.outcome").fetchone() == (20,)

    assert migrate(ledger.settings) == ("0001", newest_revision())
    check_views(ledger)


def test_migrating_again_waits_for_nobody_who_reads_a_view_for_long(ledger: Ledger):
    """As an export of everything does; a view that is not as it should be is made again all the same."""
    with psycopg.connect(ledger.url) as export:
        export.execute("SELECT FROM nightlabel.latest_prediction")
        assert migrate(ledger.settings, lock_tries=1) == (newest_revision(), newest_revision())
    ledger.execute("DROP VIEW nightlabel.label_daily")
    ledger.execute("CREATE OR REPLACE VIEW nightlabel.production_line AS SELECT 1 AS model_id, 7::bigint AS rank")
    ledger.execute("UPDATE nightlabel.view_file SET sha256 = 'another' WHERE name = 'production_line'")

    migrate(ledger.settings, lock_tries=1)

    assert ledger.rows("SELECT * FROM nightlabel.label_daily") == []
    assert ledger.rows("SELECT rank FROM nightlabel.production_line") == [{"rank": 1}]


def test_an_empty_database_has_its_schema_without_waiting_for_any_lock(database: str):
    assert any(not is_in_one_transaction(path.read_text(encoding="utf-8")) for path in migrations())
    assert migrate(read_settings(database_url=database), lock_tries=1) == (None, newest_revision())
