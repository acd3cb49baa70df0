"""A discovery that is overtaken, cut off at its commit, or left behind by a process that was killed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from inference.errors import SinkUnavailableError, StaleAttemptError
from inference.settings import read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import DeadLetterFilter, ListedObject, RunRequest, StageSeconds
from tests.ledger import BUCKET, Ledger, Pages, listed

pytestmark = pytest.mark.integration

NIGHT = {"dag_id": "classify_images", "airflow_run_id": "night"}
TABLES = ("image", "object", "listing", "run", "shard", "manifest_chunk")


def everything(ledger: Ledger) -> dict[str, list[dict[str, object]]]:
    """What discovery may write, as it stands."""
    return {table: ledger.rows(f"SELECT * FROM nightlabel.{table} ORDER BY 1, 2") for table in TABLES}


def test_an_older_try_that_comes_back_after_a_newer_one_writes_nothing(ledger: Ledger):
    kept: list[object] = []

    def zombie() -> Iterator[Sequence[ListedObject]]:
        with PostgresSink(ledger.settings) as other:
            newer = other.plan_run(RunRequest(BUCKET, **NIGHT, plan_attempt=2), Pages([[listed("a"), listed("b")]]))
            other.claim_shard(newer.run_id, 0)
        kept.append(everything(ledger))
        yield [listed("a"), listed("stranger")]

    with pytest.raises(StaleAttemptError, match="a newer try has planned the run night of classify_images"):
        ledger.sink.plan_run(RunRequest(BUCKET, **NIGHT, plan_attempt=1), Pages(zombie()))

    assert kept == [everything(ledger)]
    assert ledger.rows("SELECT attempt, state FROM nightlabel.shard") == [{"attempt": 1, "state": "running"}]


def test_a_newer_try_and_a_cleared_task_plan_anew(ledger: Ledger):
    plans = [ledger.plan(listed("a"), **NIGHT, plan_attempt=attempt) for attempt in (1, 2, 2, 5)]
    assert len({plan.run_id for plan in plans}) == 1
    assert [plan.plan_number for plan in plans] == [1, 2, 3, 4]
    assert ledger.rows("SELECT plan_attempt FROM nightlabel.run") == [{"plan_attempt": 5}]


def test_a_connection_that_is_lost_before_the_commit_leaves_no_run_behind(ledger: Ledger):
    ledger.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    ledger.execute(
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON nightlabel.run DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION cut()"
    )
    with pytest.raises(SinkUnavailableError):
        ledger.plan(listed("a"))
    assert {table: rows for table, rows in everything(ledger).items() if rows} == {}

    ledger.execute("DROP TRIGGER cut ON nightlabel.run")
    assert ledger.plan(listed("a")).to_classify == 1


class Relay:
    """Passes bytes between clients and the database, until it cuts a connection or a client falls silent.

    It cuts where the answer to a commit passes, ``cuts_left`` times; a client whose statement holds ``last_words`` is
    not heard any more, as if its machine were gone.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts_left = 0
        self.last_words: bytes | None = None
        self._ends: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._ends += [client, server]
                self._start(self._pass, client, server, False)
                self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self.cuts_left and b"COMMIT\x00" in data:
                    self.cuts_left -= 1
                    break
                if not is_answer and self.last_words is not None and self.last_words in data:
                    source.recv(1, socket.MSG_PEEK | socket.MSG_WAITALL)  # until somebody closes it
                    continue
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(ledger: Ledger) -> Iterator[Relay]:
    parts = urlsplit(ledger.url)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 5432)
    yield relay
    relay.close()


def through(relay: Relay, ledger: Ledger) -> PostgresSink:
    """A sink whose connections go through the relay."""
    parts = urlsplit(ledger.url)
    address = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{relay.port}"
    return PostgresSink(read_settings(database_url=parts._replace(netloc=address).geturl()))


@pytest.mark.parametrize("dead_letters", [None, DeadLetterFilter()], ids=["listing", "dead letters"])
def test_a_plan_whose_commit_was_not_answered_is_found_and_worked_on(ledger: Ledger, relay: Relay, dead_letters):
    listing = Pages([[listed("a"), listed("b")]]) if dead_letters is None else None
    with through(relay, ledger) as sink:
        relay.cuts_left = 1
        plan = sink.plan_run(RunRequest(BUCKET, dead_letters=dead_letters), listing)

    assert relay.cuts_left == 0
    assert ledger.rows("SELECT run_id, plan_number FROM nightlabel.run") == [{"run_id": plan.run_id, "plan_number": 1}]
    ledger.work(plan)
    assert ledger.summary(plan.run_id)["state"] == "succeeded"


def test_a_discovery_whose_machine_is_gone_keeps_the_next_one_waiting_for_a_while_only(
    ledger: Ledger, relay: Relay, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("inference.sinks.postgres.IDLE_IN_TRANSACTION_S", 1)
    relay.last_words = b"INSERT INTO pending"
    with through(relay, ledger) as sink:
        failed: list[Exception] = []

        def discover() -> None:
            try:
                sink.plan_run(RunRequest(BUCKET), Pages([[listed("a")]]))
            except SinkUnavailableError as error:
                failed.append(error)

        gone = threading.Thread(target=discover)
        gone.start()
        while not ledger.rows(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM "
            "pg_database WHERE datname = current_database())"
        ):
            assert gone.is_alive()
        assert ledger.plan(listed("a"), listed("b")).to_classify == 2
        relay.last_words = None
        relay.close()
        gone.join(60)
    assert len(failed) == 1
    assert len(ledger.rows("SELECT FROM nightlabel.run")) == 1


def test_whether_a_plan_stands_is_asked_only_when_its_transaction_has_ended(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    with PostgresSink(ledger.settings) as slow, slow.asking() as connection:
        with connection.transaction():
            slow._lock_bucket(connection.cursor(), BUCKET)
            found: list[bool] = []
            asking = threading.Thread(target=lambda: found.append(ledger.sink._is_planned(plan, BUCKET)))
            asking.start()
            asking.join(0.5)
            assert found == [], "that transaction might still be committing"
        asking.join(60)
    assert found == [True]


DAYS_AGO = "UPDATE nightlabel.run SET started_at = now() - interval '2 days'"


def test_a_run_without_any_sign_of_life_for_a_day_is_closed_by_the_next_discovery(ledger: Ledger):
    never_begun = ledger.plan(listed("a"))
    killed = ledger.plan(listed("a"))
    shard = ledger.sink.claim_shard(killed.run_id, 0)
    ledger.execute(DAYS_AGO)
    ledger.execute("UPDATE nightlabel.shard SET heartbeat_at = now() - interval '25 hours' WHERE attempt > 0")
    ended = ledger.plan(listed("a"))
    ledger.work(ended)

    for run_id in (never_begun.run_id, killed.run_id):
        assert ledger.summary(run_id)["state"] == "failed"
        assert (ledger.sink.read_message(run_id) or "").startswith("abandoned: no sign of life since 20")
    [row] = ledger.rows(
        "SELECT r.finished_at = s.heartbeat_at AS is_last_sign "
        "FROM nightlabel.run r JOIN nightlabel.shard s USING (run_id) WHERE run_id = %s",
        killed.run_id,
    )
    assert row["is_last_sign"]
    assert ledger.summary(ended.run_id)["state"] == "succeeded"

    ledger.sink.claim_shard(killed.run_id, 0)
    assert ledger.summary(killed.run_id)["state"] == "running", "a claim brings it back to life"
    with pytest.raises(StaleAttemptError):
        ledger.sink.finish_shard(shard, StageSeconds())


def test_runs_that_live_or_have_ended_are_left_as_they_are(ledger: Ledger):
    done = ledger.plan(listed("a"))
    ledger.work(done)
    working = ledger.plan(listed("b"))
    shard = ledger.sink.claim_shard(working.run_id, 0)
    ledger.execute(DAYS_AGO)
    ledger.record(shard, 1, [])
    young = ledger.plan(listed("b"))

    ledger.plan()
    found = {run.run_id: ledger.summary(run.run_id)["state"] for run in (done, working, young)}
    assert found == {done.run_id: "succeeded", working.run_id: "running", young.run_id: "planned"}


def test_a_run_that_a_worker_holds_right_now_keeps_no_discovery_waiting(ledger: Ledger):
    plan = ledger.plan(listed("a"))
    ledger.execute(DAYS_AGO)
    with PostgresSink(ledger.settings) as worker, worker.asking() as connection, connection.transaction():
        connection.execute("SELECT FROM nightlabel.run FOR UPDATE")
        assert ledger.plan(listed("a")).to_classify == 1
    assert ledger.summary(plan.run_id)["state"] == "planned"


def test_a_run_that_is_planned_anew_after_days_is_not_taken_for_abandoned(ledger: Ledger):
    ledger.plan(listed("a"), **NIGHT)
    ledger.execute(DAYS_AGO)
    again = ledger.plan(listed("a"), **NIGHT)
    assert ledger.summary(again.run_id)["state"] == "planned"
