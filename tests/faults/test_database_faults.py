"""Shards against a real Postgres that is cut, restarted, full or migrated meanwhile; then the books are checked.

A trigger in the test's database writes down every time that the ledger takes an outcome, in the same transaction: what
was recorded once was written down once.
"""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from PIL import Image

from inference.errors import SinkUnavailableError, StaleAttemptError
from inference.runner import ShardRunner
from inference.settings import Settings, read_settings
from inference.sinks import postgres
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.types import ImageRef, ListedObject, PixelBatch, Plan, RunRequest, Scores, ShardStats, StageSeconds
from inference.wiring import SystemClock
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import free_ports, wait_until
from tests.fakes import FakeHandle, FakeStore
from tests.faults.database_proxy import DatabaseProxy
from tests.faults.old_application.worker import OldWorker, migrate_to_first_revision, plan_as_then
from tests.ledger import Ledger, Pages, listed, prediction

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

CLAIM, COUNT_AGAIN, READ = "s.attempt + 1", "WITH per_chunk", "array_agg(ref.object_key"
RECORD, FINISH, CLOSE = "INSERT INTO nightlabel.outcome", "SET state = 'done'", "drop_old_manifests"
"""What the SQL of a worker's statements holds."""

FENCE = "WITH fence"
"""The same of recording, within the first 1,024 characters that pg_stat_activity shows."""

WRITE_DOWN = """
CREATE TABLE public.written (image_id uuid, model_id integer, run_id uuid, what text);
CREATE FUNCTION public.write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.written VALUES (NEW.image_id, NEW.model_id, NEW.run_id, TG_OP);
    RETURN NULL;
END $$;
CREATE TRIGGER write_down AFTER INSERT OR UPDATE ON nightlabel.outcome
FOR EACH ROW EXECUTE FUNCTION public.write_down();
"""

RED, BLACK = (255, 0, 0), (0, 0, 0)


def png(color: tuple[int, int, int], note: str) -> bytes:
    """A small picture of one colour; red is a cat and black a dog to the fake model."""
    out = io.BytesIO()
    Image.new("RGB", (6, 6), color).save(out, "PNG")
    return out.getvalue() + note.encode()


def bucket_of(images: int) -> FakeStore:
    """A bucket in which every fifth object is no image."""
    kinds = [png(RED, ""), png(BLACK, ""), png(RED, ""), png(BLACK, ""), b"no image "]
    return FakeStore({f"{number:04}": kinds[number % 5] + str(number).encode() for number in range(images)})


def expected(store: FakeStore) -> dict[str, str]:
    """Key -> label, or the code of its error."""
    names = ("cat", "dog", "cat", "dog", "not_an_image")
    return {key: names[int(key) % 5] for key in store.objects}


class Pausing(FakeHandle):
    """Calls somebody at a batch."""

    def __init__(self, at: int, call: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.call = at, call

    def predict(self, pixels: PixelBatch) -> Scores:
        if len(self.batch_sizes) == self.at:
            self.call()
        return super().predict(pixels)


def runner(sink: PostgresSink, store: FakeStore, handle: FakeHandle | None = None) -> ShardRunner:
    return ShardRunner(
        store=store,
        handle=handle or FakeHandle(),
        sink=sink,
        clock=SystemClock(),
        batch_size=2,
        calls_a_batch=1,
        fetch_threads=3,
        decode_threads=2,
        window=8,
        max_object_bytes=100_000,
        max_pixels=10_000,
    )


@dataclass
class Night:
    """A migrated database with a planned run, reached by way of a proxy."""

    ledger: Ledger
    proxy: DatabaseProxy
    store: FakeStore
    run_id: UUID
    shards: Sequence[int]
    sinks: list[PostgresSink] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        """Settings of a worker that reaches the database by way of the proxy."""
        return read_settings(
            **{
                "database_url": self.proxy.url,
                "database_patience_s": 60.0,
                "database_statement_timeout_s": 20.0,
                **changes,
            }
        )

    def sink(self, **changes: Any) -> PostgresSink:
        """Open a worker's sink; closed after the test."""
        self.sinks.append(PostgresSink(self.settings(**changes)))
        return self.sinks[-1]

    def run(self, shard: int, sink: PostgresSink, handle: FakeHandle | None = None) -> ShardStats:
        """One attempt at a shard."""
        return runner(sink, self.store, handle).run(sink.claim_shard(self.run_id, shard))

    def close(self, sink: PostgresSink) -> None:
        """Close the run and check its books."""
        summary = sink.finish_run(self.run_id)
        assert (summary.state, summary.unfinished) == ("succeeded", 0)
        check_books(self.ledger, self.run_id, self.store)


def check_books(ledger: Ledger, run_id: UUID, store: FakeStore) -> None:
    """Every image has the one outcome that it has to have, it was recorded once, and all the counts say so."""
    outcomes = {
        row["object_key"]: row["label"] or row["error_code"]
        for row in ledger.rows("SELECT object_key, label, error_code FROM nightlabel.outcome JOIN nightlabel.image "
                               "USING (image_id) WHERE run_id = %s", run_id)
    }  # fmt: skip
    assert outcomes == expected(store)
    written = ledger.rows("SELECT image_id, count(*) FROM public.written GROUP BY image_id")
    assert Counter(row["count"] for row in written) == {1: len(store.objects)}, "each image is recorded once"
    assert ledger.rows("SELECT DISTINCT attempts FROM nightlabel.outcome") == [{"attempts": 1}]

    dead = sum(what == "not_an_image" for what in outcomes.values())
    summary = ledger.summary(run_id)
    counts = {name: summary[name] for name in ("discovered", "labelled", "dead", "gone", "done_elsewhere")}
    assert counts == {
        "discovered": len(outcomes),
        "labelled": len(outcomes) - dead,
        "dead": dead,
        "gone": 0,
        "done_elsewhere": 0,
    }
    of_shards = ledger.rows(
        "SELECT s.shard_number, s.state, s.labelled, s.dead, s.done_elsewhere, "
        "count(*) FILTER (WHERE o.label IS NOT NULL) AS real_labelled, "
        "count(*) FILTER (WHERE o.error_code IS NOT NULL) AS real_dead "
        "FROM nightlabel.shard s JOIN nightlabel.run r USING (run_id, plan_number) "
        "JOIN nightlabel.manifest_chunk c USING (run_id, plan_number, shard_number) "
        "CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id) "
        "LEFT JOIN nightlabel.outcome o ON o.image_id = ref.image_id AND o.model_id = r.model_id "
        "WHERE s.run_id = %s GROUP BY s.run_id, s.plan_number, s.shard_number",
        run_id,
    )
    for row in of_shards:
        assert row["state"] == "done"
        assert (row["labelled"], row["dead"], row["done_elsewhere"]) == (row["real_labelled"], row["real_dead"], 0)


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    """A migrated database that writes down what its ledger takes."""
    settings = read_settings(database_url=database)
    migrate(settings)
    with PostgresSink(settings) as sink:
        made = Ledger(database, settings, sink)
        made.register("tiny", "1", "production")
        made.execute(WRITE_DOWN)
        yield made


Plans = Callable[..., Night]


@pytest.fixture
def night(ledger: Ledger) -> Iterator[Plans]:
    """Makes a bucket, plans its run and puts a proxy in front of the database."""
    made: list[Night] = []

    def make(images: int = 30, **request: Any) -> Night:
        store = bucket_of(images)
        plan = ledger.sink.plan_run(RunRequest(store.bucket, **request), Pages(store.list_pages(store.bucket, "")))
        made.append(Night(ledger, DatabaseProxy(ledger.url), store, plan.run_id, plan.shards))
        return made[-1]

    yield make
    for one in made:
        for sink in one.sinks:
            sink.close()
        one.proxy.close()


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Do something beside what the block does; its error counts before one of the block, which may follow from it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            yield future
        except AssertionError:
            if future.done():
                future.result()
            raise


def until(is_done: Callable[[], object]) -> None:
    assert wait_until(lambda: bool(is_done()), 30.0)


def is_waiting_for_a_lock(ledger: Ledger, of: str) -> bool:
    """Whether a session that runs such a statement waits for a lock."""
    return bool(
        ledger.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND position(%s IN query) > 0 AND pid <> pg_backend_pid()",
            of,
        )
    )


# Cut at a named moment


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_connection_that_is_cut_at_any_statement_or_before_its_answer_costs_nothing(night: Plans, moment: str):
    made = night(20)
    sink = made.sink()
    cut = made.proxy.cut_before if moment == "before" else made.proxy.cut_after
    statements = (CLAIM, COUNT_AGAIN, "COMMIT", READ, RECORD, FINISH, CLOSE)
    faults = [*(cut(statement) for statement in statements), cut(RECORD, nth=7)]
    handle = FakeHandle()
    stats = made.run(0, sink, handle)
    made.close(sink)

    assert [fault.struck.is_set() for fault in faults] == [True] * len(faults)
    assert made.proxy.counts[moment] == len(faults)
    assert made.proxy.counts["connections"] == 1 + len(faults)
    assert (stats.labelled, stats.dead) == (16, 4)
    assert sum(handle.batch_sizes) == 16, "nothing is computed twice"
    assert Counter(made.store.fetched) == Counter(made.store.objects.keys()), "nor fetched twice"
    [shard] = made.ledger.rows("SELECT attempt, batches FROM nightlabel.shard")
    assert shard["attempt"] == (2 if moment == "after" else 1), "a claim that is lost in its middle is none"
    sent_again = 2 if moment == "after" else 0
    assert shard["batches"] + sent_again == sum(RECORD.encode() in text for text in made.proxy.texts)


def test_a_close_whose_answer_is_lost_adds_its_seconds_once(night: Plans):
    made = night(20)
    sink = made.sink()
    shard = sink.claim_shard(made.run_id, 0)
    fault = made.proxy.cut_after(FINISH)
    seconds = StageSeconds(1.0, 2.0, 3.0, 4.0)
    assert sink.finish_shard(shard, seconds).seconds == seconds
    assert fault.struck.is_set()


class Storm:
    """Faults one after the other: the next is set when the last has struck."""

    def __init__(self, proxy: DatabaseProxy, seed: int, *, outages: int, cuts: int) -> None:
        self.proxy = proxy
        self.random = random.Random(seed)  # noqa: S311 - to be repeated
        self.left = ["outage"] * outages + [self.random.choice(["before", "after", "bytes"]) for _ in range(cuts)]
        self.random.shuffle(self.left)
        self.struck: Counter[str] = Counter()
        self.timers: list[threading.Timer] = []
        self.next()

    def next(self) -> None:
        if not self.left:
            return
        kind = self.left.pop()
        nth = self.random.randint(1, 6)

        def struck() -> None:
            self.struck[kind] += 1
            if kind == "outage":
                self.proxy.go_down()
                self.later(self.random.uniform(0.05, 1.0), self.proxy.come_back)
            self.next()

        if kind == "bytes":
            self.proxy.cut_in(self.random.randint(1, 6_000), then=struck)
        elif kind == "before":
            self.proxy.cut_before(nth=nth, then=struck)
        else:
            self.proxy.cut_after(nth=nth, then=struck)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, call)
        self.timers.append(timer)
        timer.start()

    def is_over(self) -> None:
        for timer in self.timers:
            timer.join()


def test_cuts_and_outages_at_random_moments_cost_nothing(
    night: Plans, seed: int, capsys: pytest.CaptureFixture[str], *, is_full: bool
):
    outages, cuts = (25, 25) if is_full else (1, 2)
    faults = outages + cuts
    made = night(120 * faults // 3, shard_size=60 * faults // 3)
    assert len(made.shards) == 2
    sinks = [made.sink(), made.sink()]
    storm = Storm(made.proxy, seed, outages=outages, cuts=cuts)
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(made.run, number, sink) for number, sink in zip(made.shards, sinks, strict=True)]
        for one in work:
            one.result()
    storm.is_over()
    with capsys.disabled():
        print(f"\ndatabase: {dict(storm.struck)}, seed {seed}")  # noqa: T201 - what struck is worth a look
    assert sum(storm.struck.values()) == faults
    assert storm.struck["outage"] == outages
    made.close(sinks[0])


@pytest.mark.full
def test_a_login_that_is_refused_for_now_is_tried_again(night: Plans):
    made = night(20)
    sink = made.sink()
    name = made.ledger.url.rsplit("/", 1)[1]
    with psycopg.connect(made.ledger.url.replace(name, "postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        made.proxy.cut_after(RECORD)
        try:
            with in_thread(lambda: made.run(0, sink)) as work:
                until(lambda: made.proxy.counts["connections"] >= 3)
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
                assert work.result().labelled == 16
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    made.close(sink)


# Away


@pytest.mark.full
def test_a_database_that_is_down_for_long_is_waited_for_and_the_log_says_so_once_a_minute(
    night: Plans, caplog: pytest.LogCaptureFixture
):
    made = night(20)
    sink = made.sink(database_patience_s=300.0)
    back = threading.Timer(130.0, made.proxy.come_back)

    def go_down() -> None:
        made.proxy.go_down()
        back.start()

    made.proxy.cut_after(RECORD, nth=3, then=go_down)
    with caplog.at_level(logging.INFO, "inference.sinks"):
        made.run(0, sink)
    back.join()
    made.close(sink)
    assert made.proxy.counts["refused"] >= 2
    waiting = [text for text in caplog.messages if "trying again" in text]
    assert len(waiting) in {2, 3}
    assert "trying again for up to 300 s" in waiting[0]
    assert any("answers again, after" in text for text in caplog.messages)


def test_a_database_that_stays_away_longer_than_the_patience_fails_the_attempt_and_the_next_one_does_the_rest(
    night: Plans, caplog: pytest.LogCaptureFixture
):
    made = night(30)
    sink = made.sink(database_patience_s=1.0)
    made.proxy.cut_after(RECORD, nth=3, then=made.proxy.go_down)
    with pytest.raises(SinkUnavailableError, match="does not answer as it should"):
        made.run(0, sink)
    assert any("was waited for during 1 s; giving up" in text for text in caplog.messages)
    with pytest.raises(SinkUnavailableError):
        made.sink()  # who has no connection yet hears at once
    recorded = made.ledger.rows("SELECT image_id FROM nightlabel.outcome")
    assert 0 < len(recorded) < 30

    made.proxy.come_back()
    made.store.fetched.clear()
    made.run(0, made.sink())
    assert len(made.store.fetched) == 30 - len(recorded), "what was recorded is not computed again"
    made.close(sink)


@pytest.mark.full
def test_giving_up_ends_a_wait_for_a_database_that_is_away_at_once(night: Plans):
    made = night(20)
    sink = made.sink(database_patience_s=3_000.0)
    fault = made.proxy.cut_after(RECORD, nth=2, then=made.proxy.go_down)
    with in_thread(lambda: made.run(0, sink)) as work:
        assert fault.struck.wait(30)
        until(lambda: made.proxy.counts["refused"] >= 3)
        sink.give_up()
        with pytest.raises(SinkUnavailableError):
            work.result(10)
    made.proxy.come_back()
    made.run(0, made.sink())
    made.close(sink)


@pytest.mark.full
def test_a_database_that_stands_still_for_a_while_is_simply_slow(night: Plans):
    made = night(20)
    sink = made.sink()
    resume = threading.Timer(1.0, made.proxy.resume)

    def stall() -> None:
        made.proxy.stall()
        resume.start()

    fault = made.proxy.hold_after(RECORD, stall, nth=2)
    made.run(0, sink)
    assert fault.struck.is_set()
    assert made.proxy.counts["connections"] == 1
    made.close(sink)


@pytest.mark.full
def test_a_database_that_stands_still_for_ever_is_hung_up_on_when_we_give_up(night: Plans):
    made = night(20)
    sink = made.sink()
    fault = made.proxy.hold_after(CLAIM, made.proxy.stall)
    with in_thread(lambda: made.run(0, sink)) as work:
        assert fault.struck.wait(30)
        sink.give_up()
        with pytest.raises(SinkUnavailableError):
            work.result(30)
    made.proxy.resume()
    made.run(0, made.sink())
    made.close(sink)


@pytest.mark.full
def test_a_database_that_is_silent_long_after_its_own_bound_on_statements_is_hung_up_on(
    night: Plans, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres, "SILENCE_S", 0.5)
    made = night(20)
    sink = made.sink(database_statement_timeout_s=1.0, database_connect_timeout_s=2.0)
    fault = made.proxy.hold_after(RECORD, made.proxy.stall, nth=2)
    with in_thread(lambda: made.run(0, sink)) as work:
        assert fault.struck.wait(30)
        until(lambda: made.proxy.counts["connections"] >= 2)  # over the new connection it gets no answer either, yet
        made.proxy.resume()
        work.result()
    made.close(sink)


@pytest.fixture
def own_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres that the test may stop, and that keeps what it has committed when it crashes."""
    with EmbeddedPostgres(server_folder, free_ports(1)[0]) as server:
        yield server


def test_a_server_that_is_restarted_or_crashes_is_waited_for(
    own_server: EmbeddedPostgres, seed: int, is_full: bool, caplog: pytest.LogCaptureFixture
):
    own_server.create_database("results")
    settings = read_settings(database_url=own_server.url("results"))
    migrate(settings)
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    times = 8 if is_full else 2
    store = bucket_of(60 * times)

    def stop_and_start(at: int) -> None:
        pid = own_server.server.pid
        assert pid is not None
        if at % 2:
            own_server.stop()  # sessions are told: 57P01
        else:
            os.kill(pid, signal.SIGQUIT)  # without a checkpoint: the next start has to recover first
            until(lambda: not own_server.server.is_running)
            own_server.stop()
        time.sleep(chance.uniform(0.0, 1.0))
        own_server.start()

    with PostgresSink(settings) as sink:
        ledger = Ledger(own_server.url("results"), settings, sink)
        ledger.register("tiny", "1", "production")
        ledger.execute(WRITE_DOWN)
        plan = sink.plan_run(RunRequest(store.bucket), Pages(store.list_pages(store.bucket, "")))

        class Restarting(FakeHandle):
            """Restarts the server beside the work, at a moment of each stretch of batches."""

            def predict(self, pixels: PixelBatch) -> Scores:
                at, within = divmod(len(self.batch_sizes), 20)
                if within == moments[at % times] and at < times:
                    if restarts:
                        restarts[-1].result()
                    restarts.append(beside.submit(stop_and_start, at))
                return super().predict(pixels)

        moments, restarts = [chance.randrange(20) for _ in range(times)], []
        with ThreadPoolExecutor(1) as beside:
            runner(sink, store, Restarting()).run(sink.claim_shard(plan.run_id, 0))
            for restart in restarts:
                restart.result()
            assert len(restarts) == times
            assert sink.finish_run(plan.run_id).state == "succeeded"
            check_books(ledger, plan.run_id, store)  # a server ends with the thread that started it
    assert any("trying again for up to" in text for text in caplog.messages)


# Locks, limits and sessions that are ended


def backend_of(sink: PostgresSink) -> int:
    with sink.asking() as connection:
        return connection.info.backend_pid


def test_the_loser_of_a_deadlock_tries_again_over_the_same_connection(night: Plans, caplog: pytest.LogCaptureFixture):
    made = night(20)
    sink = made.sink()
    backend = backend_of(sink)
    with psycopg.connect(made.ledger.url) as other:
        other.execute("SET LOCAL deadlock_timeout = '60s'")  # so that the worker is the one who finds it, and loses
        other.execute("SELECT FROM nightlabel.image FOR UPDATE")
        with in_thread(lambda: made.run(0, sink)) as work:
            until(lambda: is_waiting_for_a_lock(made.ledger, FENCE))
            other.execute("SELECT FROM nightlabel.shard FOR UPDATE")
            other.commit()
            work.result()
    made.close(sink)
    assert any("deadlock detected" in text for text in caplog.messages)
    assert (backend_of(sink), made.proxy.counts["connections"]) == (backend, 1)


@pytest.mark.full
def test_two_workers_that_deadlock_both_end_well(night: Plans):
    made = night(20, shard_size=10)
    twin = made.ledger.sink.plan_run(
        RunRequest(made.store.bucket, shard_size=10), Pages(made.store.list_pages(made.store.bucket, ""))
    )
    # Each takes a lock that the other one's batch needs next, as rows in another order would.
    made.ledger.execute(
        "CREATE FUNCTION public.cross_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock(hashtext(NEW.run_id::text)); PERFORM pg_sleep(0.3); "
        "PERFORM pg_advisory_xact_lock(hashtext(r.run_id::text)) FROM nightlabel.run r; RETURN NEW; END $$"
    )
    made.ledger.execute(
        "CREATE TRIGGER cross_over BEFORE INSERT ON nightlabel.outcome "
        "FOR EACH ROW EXECUTE FUNCTION public.cross_over()"
    )
    sinks, runs = [made.sink(), made.sink()], [made.run_id, twin.run_id]
    shards = [sink.claim_shard(run, number) for number, (sink, run) in enumerate(zip(sinks, runs, strict=True))]
    refs = [made.ledger.refs(shard) for shard in shards]

    def record(which: int) -> None:
        sinks[which].record_batch(
            shards[which], 1, [prediction(refs[which][0])], engine="litert", seconds=StageSeconds()
        )

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(record, which) for which in (0, 1)]:
            done.result()
    made.ledger.execute("DROP TRIGGER cross_over ON nightlabel.outcome")
    assert made.proxy.counts["connections"] == 2
    assert sum(RECORD.encode() in text for text in made.proxy.texts) > 2, "one of them was sent again"
    for which, run in enumerate(runs):
        assert made.ledger.summary(run)["labelled"] == 1, which
    assert Counter(row["count"] for row in made.ledger.rows("SELECT count(*) FROM written GROUP BY image_id")) == {1: 2}


def test_a_batch_that_loses_a_race_under_stricter_isolation_is_sent_again(
    night: Plans, caplog: pytest.LogCaptureFixture
):
    made = night(20)
    name = made.ledger.url.rsplit("/", 1)[1]
    made.ledger.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    sink = made.sink()
    shard = sink.claim_shard(made.run_id, 0)
    with psycopg.connect(made.ledger.url) as other:
        other.execute("UPDATE nightlabel.shard SET heartbeat_at = now()")
        with in_thread(lambda: runner(sink, made.store).run(shard)) as work:
            until(lambda: is_waiting_for_a_lock(made.ledger, "nightlabel.shard"))
            other.commit()
            work.result()
    assert any("could not serialize access" in text for text in caplog.messages)
    assert made.proxy.counts["connections"] == 1
    made.close(sink)


def test_a_statement_that_runs_into_its_time_out_is_not_sent_again_and_the_next_attempt_does_the_rest(night: Plans):
    made = night(20)
    sink = made.sink(database_statement_timeout_s=1.0)
    with psycopg.connect(made.ledger.url) as other:
        other.execute("LOCK TABLE nightlabel.outcome IN SHARE MODE")
        shard = sink.claim_shard(made.run_id, 0)
        [chunk] = sink.read_manifest(shard)
        with pytest.raises(SinkUnavailableError, match="statement timeout"):
            sink.record_batch(shard, 1, [prediction(chunk.refs[0])], engine="litert", seconds=StageSeconds())
    assert sum(RECORD.encode() in text for text in made.proxy.texts) == 1
    made.run(0, sink)
    made.close(sink)


def test_a_full_disk_is_waited_out_over_the_same_connection(
    night: Plans, postgres_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
):
    made = night(20)
    sink = made.sink()
    [table] = made.ledger.rows("SELECT pg_relation_filepath(inhrelid::regclass) AS path FROM pg_inherits "
                               "WHERE inhparent = 'nightlabel.outcome'::regclass")  # fmt: skip
    path = postgres_server.data / table["path"]
    kept = path.with_name(path.name + ".kept")
    path.rename(kept)
    path.symlink_to("/dev/full")  # empty, and the kernel's answer to every write is that there is no space left
    release_files(postgres_server)
    with in_thread(lambda: made.run(0, sink)) as work:
        until(lambda: any("No space left on device" in text for text in caplog.messages))
        assert made.ledger.rows("SELECT * FROM public.written") == []
        path.unlink()
        kept.rename(path)
        release_files(postgres_server)
        work.result()
    made.close(sink)
    assert made.proxy.counts["connections"] == 1


def release_files(server: EmbeddedPostgres) -> None:
    """Let every session close the files that it has open: to drop a database makes them."""
    server.create_database("released")
    server.drop_database("released")


def test_a_session_that_is_ended_as_idle_between_the_statements_of_a_claim_claims_again(
    night: Plans, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("inference.sinks.postgres.IDLE_IN_TRANSACTION_S", 0.2)
    made = night(20)
    sink = made.sink()
    resume = threading.Timer(0.8, made.proxy.resume)

    def stall() -> None:
        made.proxy.stall()
        resume.start()

    fault = made.proxy.hold_after(CLAIM, stall)
    made.run(0, sink)
    resume.join()
    assert fault.struck.is_set()
    assert made.proxy.counts["connections"] == 2
    assert made.ledger.rows("SELECT attempt FROM nightlabel.shard") == [{"attempt": 1}], "the first one was undone"
    made.close(sink)


@pytest.mark.full
def test_sessions_that_are_ended_while_idle_are_opened_again(night: Plans):
    made = night(20)
    name = made.ledger.url.rsplit("/", 1)[1]
    made.ledger.execute(f"ALTER DATABASE \"{name}\" SET idle_session_timeout = '200ms'")
    sink = made.sink()
    slow = Pausing(3, lambda: time.sleep(0.6))
    made.run(0, sink, slow)
    time.sleep(0.4)
    assert sink.resolve_model("production").name == "tiny"
    time.sleep(0.4)
    with sink.asking() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    made.close(sink)
    assert made.proxy.counts["connections"] >= 4


def test_a_session_that_is_killed_while_it_records_does_so_once(night: Plans):
    made = night(20)
    sink = made.sink()
    with psycopg.connect(made.ledger.url) as other:
        other.execute("LOCK TABLE nightlabel.outcome IN SHARE MODE")
        with in_thread(lambda: made.run(0, sink)) as work:
            until(lambda: is_waiting_for_a_lock(made.ledger, FENCE))
            made.ledger.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock'"
            )
            until(lambda: made.proxy.counts["connections"] == 2 and is_waiting_for_a_lock(made.ledger, FENCE))
            other.rollback()
            work.result()
    made.close(sink)


class KillingPages(Pages):
    """A listing in whose middle the session that takes it is killed."""

    def __init__(self, ledger: Ledger, pages: Sequence[Sequence[ListedObject]]) -> None:
        super().__init__(pages)
        self.ledger = ledger

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        for number, page in enumerate(self.pages):
            if number == 1:
                self.ledger.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            yield page


def test_a_session_that_is_killed_while_it_plans_leaves_nothing_and_the_next_try_plans(ledger: Ledger):
    pages = [[listed(f"{page}/{number:04}") for number in range(1_000)] for page in range(4)]
    with pytest.raises(SinkUnavailableError):
        ledger.sink.plan_run(RunRequest("photos"), KillingPages(ledger, pages))
    for table in ("run", "shard", "manifest_chunk", "image", "object"):
        assert ledger.rows(f"SELECT 1 FROM nightlabel.{table}") == []
    assert ledger.sink.plan_run(RunRequest("photos"), Pages(pages)).to_classify == 4_000


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_plan_whose_commit_is_cut_is_there_once_or_not_at_all(night: Plans, moment: str):
    made = night(20)
    made.run(0, made.sink())
    made.store.put("0020", png(RED, "20"))
    sink = made.sink()
    fault = (made.proxy.cut_before if moment == "before" else made.proxy.cut_after)("COMMIT")
    request = RunRequest(made.store.bucket, dag_id="classify_images", airflow_run_id="tonight")
    plan: Plan | None = None
    for _ in range(3):  # the task discover is tried again when it fails
        try:
            plan = sink.plan_run(request, Pages(made.store.list_pages(made.store.bucket, "")))
            break
        except SinkUnavailableError:
            continue
    assert fault.struck.is_set()
    assert plan is not None
    assert (plan.discovered, plan.already_done, plan.to_classify) == (21, 20, 1)
    runner(sink, made.store).run(sink.claim_shard(plan.run_id, 0))
    summary = sink.finish_run(plan.run_id)
    assert (summary.state, summary.labelled, summary.already_done) == ("succeeded", 1, 20)
    assert len(made.ledger.rows("SELECT 1 FROM nightlabel.run WHERE airflow_run_id = 'tonight'")) == 1


# What must not reach the database, or not twice


def test_an_image_that_a_batch_holds_twice_is_recorded_once(night: Plans):
    made = night(20)
    made.ledger.execute(
        "UPDATE nightlabel.manifest_chunk SET image_id = image_id || image_id[1], etag = etag || etag[1], "
        "object_key = object_key || object_key[1], size_bytes = size_bytes || size_bytes[1], "
        "prior_attempts = prior_attempts || prior_attempts[1]"
    )
    made.ledger.execute("UPDATE nightlabel.shard SET images = 21")
    made.ledger.execute("UPDATE nightlabel.run SET discovered = 21")
    sink = made.sink()
    shard = sink.claim_shard(made.run_id, 0)
    refs = made.ledger.refs(shard)
    assert refs[0] == refs[-1]
    made.ledger.sink.record_batch(shard, 1, [prediction(ref) for ref in refs], engine="litert", seconds=StageSeconds())
    summary = made.ledger.summary(made.run_id)
    assert (summary["labelled"], summary["done_elsewhere"], summary["unfinished"]) == (20, 1, 0)
    assert len(made.ledger.rows("SELECT 1 FROM public.written")) == 20


def test_keys_that_postgres_cannot_hold_cost_only_themselves(ledger: Ledger, caplog: pytest.LogCaptureFixture):
    store = bucket_of(10)
    pages = [[*page] for page in store.list_pages(store.bucket, "")]
    pages[1][1:1] = [listed("half \ud800"), listed("neither \udbff")]
    plan = ledger.sink.plan_run(RunRequest(store.bucket), Pages(pages))
    runner(ledger.sink, store).run(ledger.sink.claim_shard(plan.run_id, 0))
    assert ledger.sink.finish_run(plan.run_id).state == "succeeded"
    check_books(ledger, plan.run_id, store)
    for named in ("half \\ud800", "neither \\udbff"):
        assert any(named in text for text in caplog.messages)


# Two versions of the application at once


@pytest.fixture
def old_ledger(database: str) -> Ledger:
    """A database as the first version left it, with a model and what writes down."""
    migrate_to_first_revision(database)
    settings = read_settings(database_url=database)
    made = Ledger(database, settings, None)  # type: ignore[arg-type]  # the new code refuses to open it
    made.execute(
        "INSERT INTO nightlabel.model (name, version, source, licence, files, label_map, preprocessing, artefacts) "
        "VALUES ('tiny', '1', 'a test', 'none', '{}', '[]', '{}', '{}')"
    )
    made.execute("SELECT nightlabel.add_outcome_partition(1)")
    made.execute("INSERT INTO nightlabel.model_alias (alias, model_id, reason) VALUES ('production', 1, 'a test')")
    made.execute(WRITE_DOWN)
    return made


def old_batches(store: FakeStore) -> Callable[[Sequence[ImageRef]], list[dict[str, Any]]]:
    """What an old worker makes of refs."""

    def outcomes(refs: Sequence[ImageRef]) -> list[dict[str, Any]]:
        found = expected(store)
        return [OldWorker.outcome(ref, found[ref.key]) for ref in refs]

    return outcomes


def test_an_old_worker_writes_on_while_the_schema_is_migrated_and_a_new_one_runs_beside_it(
    old_ledger: Ledger, database: str
):
    store = bucket_of(60)
    run_id = plan_as_then(database, store, shard_size=20)
    migrated: list[Future[Any]] = []
    with (
        OldWorker(database, old_batches(store)) as old,
        OldWorker(database, old_batches(store)) as late,
        ThreadPoolExecutor(2) as beside,
    ):

        def at(batch: int) -> None:
            if batch == 3:  # in the middle of a transaction, which the migration has to wait for
                migrated.append(beside.submit(migrate, old_ledger.settings))
                until(lambda: is_waiting_for_a_lock(old_ledger, "ALTER TABLE"))

        def after(batch: int) -> None:
            if batch == 9:  # each step of it gets its turn between two batches
                migrated[0].result()

        assert old.run(run_id, 0, within=at, between=after) == "done"
        with PostgresSink(old_ledger.settings) as sink:
            new = beside.submit(runner(sink, store).run, sink.claim_shard(run_id, 1))
            assert late.run(run_id, 2) == "done", "a process of the old version goes on to another shard"
            assert new.result().unfinished == 0
            assert sink.finish_run(run_id).state == "succeeded"
    check_books(old_ledger, run_id, store)


def test_an_old_attempt_is_taken_over_by_a_new_worker_and_the_other_way_round(old_ledger: Ledger, database: str):
    store = bucket_of(40)
    run_id = plan_as_then(database, store, shard_size=20)
    with OldWorker(database, old_batches(store)) as old, ThreadPoolExecutor(1) as beside:

        def take_over() -> None:
            migrate(old_ledger.settings)
            with PostgresSink(old_ledger.settings) as sink:
                runner(sink, store).run(sink.claim_shard(run_id, 0))

        def at(batch: int) -> None:
            if batch == 3:
                beside.submit(take_over).result()

        assert old.run(run_id, 0, between=at) == "stale"

        with PostgresSink(old_ledger.settings) as sink:
            shard = sink.claim_shard(run_id, 1)
            with pytest.raises(StaleAttemptError):
                runner(sink, store, Pausing(3, lambda: old.claim(run_id, 1))).run(shard)
            assert old.run(run_id, 1) == "done"
            assert sink.finish_run(run_id).state == "succeeded"
    check_books(old_ledger, run_id, store)
