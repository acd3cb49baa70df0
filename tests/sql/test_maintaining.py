"""Maintenance removes what nobody sees: views, books and the next plan are what they were, whatever it removes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from inference.errors import (
    ModelInUseError,
    ModelUnknownError,
    SchemaNewerError,
    SettingsError,
    SinkCredentialsError,
    SinkUnavailableError,
)
from inference.sinks import maintaining
from inference.sinks.maintaining import LOCK_KEY, Pace, maintain
from inference.types import ListedObject, MaintenanceReport, MaintenanceRequest, ModelId, Plan, RunRequest
from tests.ledger import BUCKET, Ledger, Pages, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

EVERYTHING = MaintenanceRequest(keep_manifest_days=5, keep_run_days=5, keep_outcome_days=5)
TABLES = (
    "image", "object", "outcome", "run", "shard", "manifest_chunk", "model_alias", "maintenance_position",
    "dropped_model",
)  # fmt: skip

STAY = ("latest_prediction", "dead_letter_open", "never_labelled", "dead_letter_reason", "duplicate_content")
OF_RUNS = ("run_summary", "run_cost")
OF_EVERY_MODEL = ("object_outcome", "label_change")
"""They stay as well, unless a model is dropped."""


class Ticks:
    """A clock that goes on by a second each time somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def tidy(ledger: Ledger, request: MaintenanceRequest = EVERYTHING, **how: Any) -> dict[str, int]:
    """Run maintenance to its end; returns the rows of each step."""
    report = maintain(ledger.settings, request, **{"blocks_a_batch": 1, **how})
    assert report.is_complete
    return rows_of(report)


def rows_of(report: MaintenanceReport) -> dict[str, int]:
    return {step.name: step.rows for step in report.steps}


def shown(ledger: Ledger, *more: str) -> dict[str, list[Any]]:
    """What the public sees of the views that stay as they are, each value as its text."""
    ended = "WHERE finished_at IS NOT NULL"  # the speed of others depends on the time
    views = {
        name: ledger.rows(f"SELECT v::text FROM nightlabel.{name} AS v {ended * (name in OF_RUNS)} ORDER BY 1")
        for name in (*STAY, *OF_RUNS, *more)
    }
    assert views["latest_prediction"]
    columns = "day, model_name, model_version, label, images, round(mean_score::numeric, 4)"
    views["label_daily"] = ledger.rows(f"SELECT {columns} FROM nightlabel.label_daily ORDER BY 1, 2, 3, 4")
    return views


def everything(ledger: Ledger) -> dict[str, list[Any]]:
    """Every row of every table."""
    return {name: ledger.rows(f"SELECT t::text FROM nightlabel.{name} AS t ORDER BY 1") for name in TABLES}


def planned(ledger: Ledger, objects: list[ListedObject]) -> tuple[int, int, int]:
    """What the next run of these objects would do; sizes are powers of two, so that their sum says which ones."""
    plan = ledger.plan(*objects, dry_run=True)
    return plan.already_done, plan.to_classify, plan.to_classify_bytes


def age(ledger: Ledger, days: int) -> None:
    """Let everything be so many days older."""
    step = f"interval '{days} days'"
    for table, columns in {
        "outcome": ("recorded_at", "retry_after"),
        "object": ("changed_at", "gone_at"),
        "listing": ("listed_at",),
        "run": ("started_at", "finished_at"),
        "shard": ("heartbeat_at", "started_at", "finished_at"),
        "model_alias": ("valid_from", "valid_to"),
        "image": ("first_seen_at",),
    }.items():
        ledger.execute(f"UPDATE nightlabel.{table} SET " + ", ".join(f"{name} = {name} - {step}" for name in columns))


class Nights:
    """A random history: objects come, change and go, some are dead, models are promoted; then the present listing."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._random = random.Random(seed)  # noqa: S311 - to be repeated by its seed
        self._etag = 0
        self._number = 0
        self.there: dict[int, ListedObject] = {}
        self.models = [ModelId("tiny", "1")]

    def live(self, nights: int) -> None:
        """Live through some nights, each a few days after the other."""
        for _ in range(nights):
            self._change()
            if self._random.random() < 0.25:
                self.models.append(
                    self._ledger.register("tiny", str(len(self.models) + 1), "production"),
                )
            scope = self._random.choice(["unlabelled", "unlabelled", "not_by_this_model"])
            plan = self._ledger.plan(*self.there.values(), scope=scope, shard_size=self._random.choice([2, 7, 1000]))
            if self._random.random() < 0.4:
                plan = self._plan_anew(scope)
            fates = {item.key: self._fate() for item in self.there.values()}
            self._ledger.work(plan, fates)
            age(self._ledger, self._random.randrange(4))
        self._change()
        self._ledger.plan(*self.there.values())  # noted, and not begun: what maintenance knows is what there is
        self._ledger.execute(
            "UPDATE nightlabel.shard SET copied = labelled / 2, "
            "fetch_s = random() * 1e3, decode_s = random(), predict_s = 0.1, write_s = 1e9"
        )

    def _plan_anew(self, scope: str) -> Plan:
        """Plan a run, work on a shard of it, and plan it again, as when its discovery is cleared."""
        self._number += 1
        about = {"dag_id": "classify_images", "airflow_run_id": f"run {self._number}", "scope": scope, "shard_size": 3}
        first = self._ledger.plan(*self.there.values(), **about)
        for number in first.shards[:2]:
            shard = self._ledger.sink.claim_shard(first.run_id, number)
            self._ledger.record(shard, 1, [prediction(ref) for ref in self._ledger.refs(shard)[:2]])
        self._change()
        return self._ledger.plan(*self.there.values(), **about)

    def _change(self) -> None:
        for place in range(40):
            what = self._random.random()
            if what < 0.15:
                self.there.pop(place, None)
            elif what < 0.35 or (place not in self.there and what < 0.5):
                self._etag = self._random.choice([self._etag + 1, max(self._etag - 3, 0)])  # now and then a former one
                self.there[place] = listed(f"k{place}", f"e{self._etag}", size_bytes=1 << place)

    def _fate(self) -> Callable[[Any], Any]:
        draw = self._random.random()
        if draw < 0.1:
            return lambda ref: dead_letter(ref, "decoder_timeout", is_retryable=True)
        return dead_letter if draw < 0.25 else prediction


@pytest.mark.parametrize("number", range(2))
def test_nothing_that_is_shown_changes_and_nothing_is_labelled_again(ledger: Ledger, seed: int, number: int):
    nights = Nights(ledger, seed)
    nights.live(8)
    present = list(nights.there.values())
    before, plan = shown(ledger, *OF_EVERY_MODEL), planned(ledger, present)

    kept = everything(ledger)
    foreseen = tidy(ledger, replace(EVERYTHING, dry_run=True))
    assert everything(ledger) == kept, "a dry run changes nothing"

    done = tidy(ledger)

    assert done == foreseen
    assert sum(done[name] for name in ("outcomes", "manifests", "images", "shards")) > 0
    assert shown(ledger, *OF_EVERY_MODEL) == before
    assert planned(ledger, present) == plan
    again = tidy(ledger)
    assert {name: rows for name, rows in again.items() if rows} == {"vacuum": again["vacuum"]}


def test_what_was_cut_short_anywhere_goes_on_and_ends_the_same(ledger: Ledger, seed: int):
    nights = Nights(ledger, seed)
    nights.live(6)
    before, plan = shown(ledger), planned(ledger, list(nights.there.values()))
    foreseen = tidy(ledger, replace(EVERYTHING, dry_run=True))

    reports = []
    while not reports or not reports[-1].is_complete:
        # A second for each look at the clock: a few batches, and the vacuum once there is nothing else.
        pace = Pace(18.0 + 4 * len(reports), clock=Ticks(), sleep=lambda _: None)
        reports.append(maintain(ledger.settings, EVERYTHING, pace=pace, blocks_a_batch=1))
        assert shown(ledger) == before

    assert len(reports) > 2
    total = {name: sum(rows_of(report)[name] for report in reports) for name in foreseen}
    assert total | {"vacuum": 0} == foreseen | {"vacuum": 0}
    assert planned(ledger, list(nights.there.values())) == plan


def test_no_batch_begins_after_the_time_is_up(ledger: Ledger):
    Nights(ledger, 1).live(3)
    kept = everything(ledger)

    report = maintain(ledger.settings, EVERYTHING, pace=Pace(0.5, clock=Ticks()))

    assert not report.is_complete
    assert rows_of(report) == dict.fromkeys(rows_of(report), 0)
    assert everything(ledger) == kept


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("look", [2, 9, 20])
def test_what_was_killed_in_the_middle_is_harmless_to_repeat(ledger: Ledger, look: int):
    nights = Nights(ledger, 7)
    nights.live(5)
    before, plan = shown(ledger), planned(ledger, list(nights.there.values()))

    class Deadly(Ticks):
        def __call__(self) -> float:
            if self.now >= look:
                raise KilledError
            return super().__call__()

    with pytest.raises(KilledError):
        maintain(ledger.settings, EVERYTHING, pace=Pace(1e6, clock=Deadly()), blocks_a_batch=1)
    assert shown(ledger) == before

    tidy(ledger)
    assert sum(tidy(ledger, replace(EVERYTHING, dry_run=True)).values()) == tidy(ledger)["vacuum"]
    assert shown(ledger) == before
    assert planned(ledger, list(nights.there.values())) == plan


@pytest.mark.parametrize("batch", [1, 7])
def test_a_session_that_ends_within_a_transaction_leaves_nothing_of_it(
    ledger: Ledger, batch: int, monkeypatch: pytest.MonkeyPatch
):
    nights = Nights(ledger, 11)
    nights.live(5)
    before, plan = shown(ledger), planned(ledger, list(nights.there.values()))
    foreseen = tidy(ledger, replace(EVERYTHING, dry_run=True))
    note, batches = maintaining._Maintenance._note_position, []

    def ended(self: Any, step: str, block: int) -> None:
        batches.append(step)
        if len(batches) == batch:
            ledger.rows(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = %s",
                "nightlabel maintain",
            )
        note(self, step, block)

    monkeypatch.setattr(maintaining._Maintenance, "_note_position", ended)
    with pytest.raises(SinkUnavailableError):
        maintain(ledger.settings, EVERYTHING, blocks_a_batch=1)
    assert shown(ledger) == before

    done = tidy(ledger)
    assert sum(done.values()) <= sum(foreseen.values())
    assert shown(ledger) == before
    assert planned(ledger, list(nights.there.values())) == plan


# Models


@pytest.fixture
def superseded(ledger: Ledger) -> Ledger:
    """Everything was labelled by tiny@1 and then, but for what a test leaves out, by tiny@2, the production model."""
    ledger.work(ledger.plan(listed("a"), listed("b"), listed("c")), {"c": dead_letter})
    ledger.register("tiny", "2", "production")
    return ledger


DROP = MaintenanceRequest(drop_models=("tiny@1",))


def drop_is_noted(ledger: Ledger) -> None:
    """As a maintenance notes it before it takes a partition out."""
    ledger.execute(
        "INSERT INTO nightlabel.dropped_model (model_id, outcomes, partition) "
        "VALUES (1, 3, 'nightlabel.outcome_model_1'::regclass)"
    )


def drops(ledger: Ledger) -> list[dict[str, Any]]:
    return ledger.rows("SELECT model_id, outcomes, ended_at IS NULL AS is_open FROM nightlabel.dropped_model")


def partitions(ledger: Ledger) -> list[str]:
    sql = "SELECT relname FROM pg_class WHERE relname ~ '^outcome_model_[0-9]+$' ORDER BY 1"
    return [row["relname"] for row in ledger.rows(sql)]


def test_a_superseded_model_goes_as_a_whole_and_can_be_used_again(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    before = shown(superseded)

    assert tidy(superseded, replace(DROP, dry_run=True))["models"] == 3
    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert tidy(superseded, DROP)["models"] == 3

    assert partitions(superseded) == ["outcome_model_2"]
    [drop] = superseded.rows("SELECT * FROM nightlabel.dropped_model")
    assert (drop["model_id"], drop["outcomes"], drop["ended_at"] is None) == (1, 3, False)
    assert shown(superseded) == before
    assert superseded.plan(listed("a"), listed("b"), listed("c")).shards == ()
    superseded.work(superseded.plan(*map(listed, "abc"), model="tiny@1", scope="not_by_this_model", max_images=1))
    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert shown(superseded)["latest_prediction"] == before["latest_prediction"]


def test_a_model_whose_labels_are_still_shown_is_kept_and_the_number_is_told(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model", max_images=1))
    kept = everything(superseded)

    for dry_run in (True, False):
        with pytest.raises(ModelInUseError, match=r"shows 1 of its labels, and beside 1 of its dead letters"):
            maintain(superseded.settings, replace(DROP, dry_run=dry_run))
    assert everything(superseded) == kept


@pytest.mark.parametrize("of_second", ["label", "dead letter", "nothing"])
def test_a_dead_letter_keeps_its_model_until_there_is_a_label(superseded: Ledger, of_second: str):
    """Also if another model has a dead letter as well: that one alone might be tried again by the next run."""
    outcomes = {"label": {}, "dead letter": {"c": dead_letter}, "nothing": {}}[of_second]
    some = 2 if of_second == "nothing" else 3
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model", max_images=some), outcomes)

    if of_second == "label":
        assert tidy(superseded, DROP)["models"] == 3
    else:
        with pytest.raises(ModelInUseError, match="shows 0 of its labels, and beside 1 of its dead letters"):
            maintain(superseded.settings, DROP)


def test_two_models_that_go_together_do_not_vouch_for_each_other(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    superseded.register("tiny", "3", "production")

    assert tidy(superseded, replace(DROP, dry_run=True))["models"] == 3, "tiny@2 has everything"
    for models in (("tiny@2", "tiny@1"), ("tiny@2",)):  # what is shown is the newest model's, though tiny@1 has one too
        with pytest.raises(ModelInUseError, match="tiny@2 are not dropped: latest_prediction shows 3"):
            maintain(superseded.settings, MaintenanceRequest(drop_models=models))


def test_a_model_that_an_alias_or_a_run_needs_is_kept(superseded: Ledger):
    with pytest.raises(ModelInUseError, match="the alias production names it; nothing was done"):
        maintain(superseded.settings, MaintenanceRequest(drop_models=("tiny@2",)))
    plan = superseded.plan(listed("z"), model="tiny@1")
    with pytest.raises(ModelInUseError, match=f"run {plan.run_id} with it is planned; nothing was done"):
        maintain(superseded.settings, DROP)
    with pytest.raises(ModelUnknownError, match="tiny@9 is not registered"):
        maintain(superseded.settings, MaintenanceRequest(drop_models=("tiny@9",)))
    with pytest.raises(SettingsError, match="give a version that cannot move"):
        maintain(superseded.settings, MaintenanceRequest(drop_models=("production",)))


def test_a_candidate_that_was_never_in_production_can_go_at_once(ledger: Ledger):
    ledger.register("other", "1")
    ledger.work(ledger.plan(listed("a")))
    ledger.work(ledger.plan(listed("a"), listed("b"), model="other@1", scope="not_by_this_model"))

    assert tidy(ledger, MaintenanceRequest(drop_models=("other@1",)))["models"] == 2
    assert ledger.latest() == {"a": "cat"}


@pytest.mark.parametrize("how_far", ["pending", "detached", "dropped"])
def test_a_drop_that_was_interrupted_is_brought_to_its_end_by_the_next_maintenance(superseded: Ledger, how_far: str):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    before = shown(superseded)
    drop_is_noted(superseded)
    with psycopg.connect(superseded.url, autocommit=True) as connection:
        detach = "ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_1 CONCURRENTLY"
        if how_far == "pending":
            with psycopg.connect(superseded.url) as reader:  # an analyst's transaction that does not end
                reader.execute("SELECT FROM nightlabel.outcome")
                connection.execute("SET statement_timeout = '200ms'")
                with pytest.raises(psycopg.errors.QueryCanceled):
                    connection.execute(detach)
        else:
            connection.execute(detach)
        if how_far == "dropped":
            connection.execute("DROP TABLE nightlabel.outcome_model_1")
    assert shown(superseded) == before

    tidy(superseded, MaintenanceRequest())

    assert partitions(superseded) == ["outcome_model_2"]
    assert shown(superseded) == before
    assert drops(superseded) == [{"model_id": 1, "outcomes": 3, "is_open": False}]


def test_a_drop_that_was_killed_before_it_began_has_to_be_asked_for_again(superseded: Ledger):
    drop_is_noted(superseded)

    tidy(superseded, MaintenanceRequest())

    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert drops(superseded) == []


def test_a_drop_that_was_not_noted_as_ended_stays_known_when_the_model_has_a_new_partition(superseded: Ledger):
    """The process died after its last DROP, and then the model was registered again."""
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    drop_is_noted(superseded)
    superseded.execute("DROP TABLE nightlabel.outcome_model_1")
    superseded.register("tiny", "1")

    tidy(superseded, MaintenanceRequest())

    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert drops(superseded) == [{"model_id": 1, "outcomes": 3, "is_open": False}]


def test_a_partition_that_somebody_else_took_out_is_his(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    superseded.execute("ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_1")

    tidy(superseded, MaintenanceRequest())
    for dry_run in (True, False):
        with pytest.raises(ModelInUseError, match="somebody else took its table"):
            maintain(superseded.settings, replace(DROP, dry_run=dry_run))

    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert superseded.rows("SELECT count(*) FROM nightlabel.outcome_model_1") == [{"count": 3}]
    assert drops(superseded) == []
    with pytest.raises(ModelInUseError, match="somebody else took its table"):
        superseded.plan(listed("a"), model="tiny@1")


def test_a_model_that_is_back_in_production_before_its_turn_is_kept(
    superseded: Ledger, monkeypatch: pytest.MonkeyPatch
):
    """Between the check of all models and the dropping of one may lie an hour."""
    superseded.register("other", "1")
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    check = maintaining._Maintenance._droppable

    def and_then(self: Any, models: list[ModelId]) -> Any:
        checked = check(self, models)
        superseded.register("tiny", "1", "production")
        return checked

    monkeypatch.setattr(maintaining._Maintenance, "_droppable", and_then)
    with pytest.raises(ModelInUseError, match="of tiny@1 are not dropped: the alias production names it; it was kept"):
        maintain(superseded.settings, MaintenanceRequest(drop_models=("other@1", "tiny@1")))

    assert partitions(superseded) == ["outcome_model_1", "outcome_model_2"]
    assert superseded.latest() == {"a": "cat", "b": "cat", "c": "cat"}
    assert [(drop["model_id"], drop["is_open"]) for drop in drops(superseded)] == [(3, False)]


def test_a_drop_and_a_discovery_or_a_promotion_take_turns(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    locks = [
        "hashtextextended('nightlabel.bucket photos', 0)",
        "hashtext('nightlabel.model_alias')",
        "hashtextextended('nightlabel.model 1', 0)",
    ]
    with psycopg.connect(superseded.url) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({locks.pop()})")

        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            assert (len(partitions(superseded)), drops(superseded)) == (2, [])
            other.commit()
            if locks:
                other.execute(f"SELECT pg_advisory_xact_lock({locks.pop()})")

        assert tidy(superseded, DROP, pace=Pace(60.0, sleep=sleep))["models"] == 3
    assert len(pauses) == 3
    assert partitions(superseded) == ["outcome_model_2"]


def test_a_model_that_is_being_dropped_is_refused_at_once(superseded: Ledger):
    drop_is_noted(superseded)
    sentence = "tiny@1 is being dropped; run `python -m inference maintain` to its end, then try this again"
    for use in (
        lambda: superseded.register("tiny", "1", "production"),
        lambda: superseded.register("tiny", "1", "candidate"),
        lambda: superseded.plan(listed("a"), model="tiny@1"),
        lambda: superseded.plan(listed("a"), model="tiny@1", dry_run=True),
    ):
        with pytest.raises(ModelInUseError, match=sentence):
            use()
    assert superseded.rows("SELECT FROM nightlabel.run WHERE model_id = 1 AND state = 'planned'") == []

    tidy(superseded, MaintenanceRequest())
    superseded.plan(listed("z"), model="tiny@1")


def test_a_run_that_failed_long_ago_does_not_go_on_with_a_model_that_is_dropped(superseded: Ledger):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    plan = superseded.plan(listed("new"), model="tiny@1")
    superseded.sink.finish_run(plan.run_id)

    drop_is_noted(superseded)
    with pytest.raises(ModelInUseError, match="tiny@1 is being dropped"):
        superseded.sink.claim_shard(plan.run_id, 0)
    assert superseded.summary(plan.run_id)["state"] == "failed"

    superseded.execute("DELETE FROM nightlabel.dropped_model")
    tidy(superseded, DROP)
    with pytest.raises(ModelInUseError, match="the outcomes of tiny@1 were dropped meanwhile; plan this anew"):
        superseded.sink.claim_shard(plan.run_id, 0)


def test_a_drop_that_cannot_begin_leaves_its_model_as_it_was(superseded: Ledger):
    """Postgres takes one partition out at a time."""
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    superseded.register("other", "1")
    with psycopg.connect(superseded.url) as reader, psycopg.connect(superseded.url, autocommit=True) as connection:
        reader.execute("SELECT FROM nightlabel.outcome")
        connection.execute("SET statement_timeout = '100ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(
                "ALTER TABLE nightlabel.outcome DETACH PARTITION nightlabel.outcome_model_3 CONCURRENTLY"
            )

    with pytest.raises(SinkUnavailableError, match="already pending detach"):
        maintain(superseded.settings, DROP)

    assert drops(superseded) == []
    superseded.plan(listed("z"), model="tiny@1")


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_run_whose_model_was_dropped_while_it_listed_is_not_planned(superseded: Ledger, is_ended: bool):
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))

    def pages() -> Iterator[list[ListedObject]]:
        if is_ended:
            tidy(superseded, DROP)
        else:
            drop_is_noted(superseded)
        yield [listed("new")]

    sentence = "were dropped meanwhile; plan this anew" if is_ended else "tiny@1 is being dropped"
    with pytest.raises(ModelInUseError, match=sentence):
        superseded.sink.plan_run(RunRequest(bucket=BUCKET, model="tiny@1"), Pages(pages()))
    assert superseded.rows("SELECT FROM nightlabel.run WHERE state = 'planned'") == []


def test_a_drop_waits_for_a_reader_no_longer_than_it_has_time_and_keeps_nobody_waiting(
    superseded: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maintaining, "LOCK_TIMEOUT_S", 0.3)
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    reports: list[MaintenanceReport] = []
    with psycopg.connect(superseded.url) as reader:
        reader.execute("SELECT FROM nightlabel.outcome")
        dropping = threading.Thread(
            target=lambda: reports.append(maintain(superseded.settings, DROP, pace=Pace(1.2, sleep=lambda _: None)))
        )
        dropping.start()
        while not superseded.rows(
            "SELECT FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%%DETACH%%' AND wait_event_type = 'Lock' AND %s",
            True,
        ):
            assert dropping.is_alive()
        with psycopg.connect(superseded.url, options="-c lock_timeout=1") as other:
            assert other.execute("SELECT count(*) FROM nightlabel.latest_prediction").fetchone() == (3,)
        superseded.work(superseded.plan(listed("new")))
        dropping.join()
    first = reports[0].steps[0]
    assert (first.name, first.rows, first.is_complete) == ("models", 0, False)

    tidy(superseded, MaintenanceRequest())
    assert partitions(superseded) == ["outcome_model_2"]


# Beside others


def test_a_discovery_and_a_removal_take_turns(ledger: Ledger):
    """What a discovery has just counted as done is not removed behind its back."""
    ledger.work(ledger.plan(listed("a", "e1")))
    ledger.work(ledger.plan(listed("a", "e2")))
    age(ledger, 30)
    pauses: list[float] = []

    def pages() -> Iterator[list[ListedObject]]:
        yield [listed("a", "e1")]  # the former version is there again

    with psycopg.connect(ledger.url) as discovery:
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || %s, 0))"
        discovery.execute(lock, [BUCKET])

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            assert ledger.rows("SELECT FROM nightlabel.outcome") == [{}, {}]
            discovery.execute(
                "UPDATE nightlabel.object SET image_id = image.image_id FROM nightlabel.image WHERE etag = 'e1'"
            )
            discovery.commit()

        tidy(ledger, pace=Pace(60.0, sleep=sleep))

    assert len(pauses) == 1
    assert [row["etag"] for row in ledger.rows("SELECT etag FROM nightlabel.latest_prediction")] == ["e1"]


def test_outcomes_of_a_run_that_is_not_over_are_kept_until_it_is(ledger: Ledger):
    plan = ledger.plan(listed("a"), listed("b"))
    shard = ledger.sink.claim_shard(plan.run_id, 0)
    first, second = ledger.refs(shard)
    ledger.record(shard, 1, [prediction(first)])
    age(ledger, 30)
    ledger.execute("UPDATE nightlabel.object SET gone_at = now() - interval '29 days'")
    ledger.execute("UPDATE nightlabel.run SET started_at = now()")

    assert tidy(ledger)["outcomes"] == 0
    ledger.record(shard, 2, [prediction(second)])
    ledger.execute("UPDATE nightlabel.outcome SET recorded_at = recorded_at - interval '30 days'")
    ledger.sink.finish_run(plan.run_id)
    assert tidy(ledger)["outcomes"] == 2


def test_a_run_that_goes_on_keeps_its_shards_and_an_old_shard_cannot_be_claimed(ledger: Ledger):
    old = ledger.plan(listed("a"), listed("b"), shard_size=1)
    ledger.work(old)
    open_run = ledger.plan(listed("c"), listed("d"), shard_size=1)
    age(ledger, 30)
    ledger.execute("UPDATE nightlabel.run SET started_at = now() WHERE run_id = %s", open_run.run_id)

    assert tidy(ledger)["shards"] == 1
    assert ledger.pending(open_run) == ["c", "d"]
    for number in (0, 1):
        with pytest.raises(Exception, match="has no shard"):
            ledger.sink.claim_shard(old.run_id, number)
    assert ledger.sink.finish_run(old.run_id).labelled == 2


def test_a_dry_run_counts_shards_without_locking_their_runs(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b"), shard_size=1))
    age(ledger, 30)
    with psycopg.connect(ledger.url) as other:
        other.execute("SELECT FROM nightlabel.run FOR UPDATE")
        assert tidy(ledger, replace(EVERYTHING, dry_run=True))["shards"] == 1
        assert tidy(ledger)["shards"] == 0, "the run is left to whoever has it"


def test_what_a_superseded_plan_cost_stays_known(ledger: Ledger):
    about = {"dag_id": "classify_images", "airflow_run_id": "manual", "shard_size": 1}
    first = ledger.plan(listed("a"), listed("b"), **about)
    for number in first.shards:
        shard = ledger.sink.claim_shard(first.run_id, number)
        ledger.record(shard, 1, [])
    ledger.work(ledger.plan(listed("a"), listed("b"), **about))
    ledger.execute("UPDATE nightlabel.shard SET fetch_s = plan_number * 100 + shard_number, write_s = 0.1")
    age(ledger, 30)
    cost = "SELECT fetch_s, cost::text FROM nightlabel.run_cost AS cost"
    before = ledger.rows(cost)
    assert before[0]["fetch_s"] == 602

    assert tidy(ledger)["shards"] == 2
    assert ledger.rows(cost) == before


def test_a_run_that_is_planned_anew_after_its_shards_became_one_has_books_that_balance(ledger: Ledger):
    airflow = {"dag_id": "classify_images", "airflow_run_id": "manual"}
    ledger.work(ledger.plan(listed("a"), listed("b"), shard_size=1, **airflow))
    age(ledger, 30)
    assert tidy(ledger)["shards"] == 1

    plan = ledger.plan(listed("a"), listed("b"), listed("c"), shard_size=1, **airflow)
    ledger.work(plan)

    summary = ledger.summary(plan.run_id)
    assert (summary["discovered"], summary["labelled"], summary["unfinished"]) == (3, 3, 0)


def test_one_maintenance_at_a_time(ledger: Ledger):
    with psycopg.connect(ledger.url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(SinkUnavailableError, match=r"another maintenance of the database at .* is at work"):
            maintain(ledger.settings, EVERYTHING)
        assert maintain(ledger.settings, replace(EVERYTHING, dry_run=True)).is_complete


def test_a_row_that_somebody_holds_is_waited_for_and_not_for_ever(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(maintaining, "LOCK_TIMEOUT_S", 0.2)
    ledger.work(ledger.plan(listed("a", "e1")))
    ledger.work(ledger.plan(listed("a", "e2")))
    age(ledger, 30)
    with psycopg.connect(ledger.url) as other:
        other.execute("SELECT FROM nightlabel.outcome FOR UPDATE")
        report = maintain(ledger.settings, EVERYTHING, pace=Pace(1.0, sleep=lambda _: None))
    assert not report.is_complete
    assert rows_of(report)["outcomes"] == 0
    assert tidy(ledger)["outcomes"] == 1


@pytest.mark.parametrize(
    ("table", "request_"),
    [("outcome", replace(DROP, dry_run=True)), ("manifest_chunk", MaintenanceRequest(dry_run=True))],
)
def test_what_reads_a_whole_table_has_all_the_time_that_is_left_and_no_more(
    superseded: Ledger, table: str, request_: MaintenanceRequest
):
    """A table that is locked stands for one that takes long to read: longer than a statement may take otherwise."""
    superseded.work(superseded.plan(*map(listed, "abc"), scope="not_by_this_model"))
    settings = superseded.settings.model_copy(update={"database_statement_timeout_s": 0.5})
    with ThreadPoolExecutor(1) as beside, psycopg.connect(superseded.url) as other:
        other.execute(f"LOCK TABLE nightlabel.{table}")
        assert not maintain(settings, request_, pace=Pace(1.0)).is_complete
        counting = beside.submit(maintain, settings, request_, pace=Pace(60.0))
        with pytest.raises(TimeoutError):
            counting.result(0.9)
        other.rollback()
        assert counting.result(30).is_complete


# What is asked for


def test_without_a_word_only_what_nobody_can_miss_goes(ledger: Ledger):
    ledger.work(ledger.plan(listed("a", "e1"), listed("gone"), shard_size=1))
    ledger.work(ledger.plan(listed("a", "e2")))
    age(ledger, 400)

    done = tidy(ledger, MaintenanceRequest())

    assert done == {
        "models": 0, "outcomes": 0, "objects": 0, "manifests": 3, "images": 0, "shards": 1, "label_counts": 2,
        "run_labels": 0, "vacuum": done["vacuum"],
    }  # fmt: skip
    assert done["vacuum"] > len(TABLES)


def test_a_key_that_is_gone_for_long_leaves_nothing_behind_and_may_come_back(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    ledger.plan(listed("b"))
    age(ledger, 30)

    done = tidy(ledger)

    assert (done["outcomes"], done["objects"], done["images"]) == (1, 1, 1)
    assert ledger.rows("SELECT object_key::text FROM nightlabel.image") == [{"object_key": "b"}]
    plan = ledger.plan(listed("a"), listed("b"))
    ledger.work(plan)
    assert ledger.latest() == {"a": "cat", "b": "cat"}


def test_a_key_that_is_gone_since_yesterday_is_kept_with_its_version(ledger: Ledger):
    for plan in (ledger.plan(listed("a"), listed("b")), ledger.plan(listed("b"))):
        ledger.sink.finish_run(plan.run_id)
    age(ledger, 30)
    ledger.execute("UPDATE nightlabel.object SET gone_at = now() WHERE gone_at IS NOT NULL")

    done = tidy(ledger)

    assert (done["manifests"], done["objects"], done["images"]) == (2, 0, 0)


def test_a_version_that_a_manifest_names_since_the_removal_began_is_kept(ledger: Ledger):
    """Only the manifest names it: the object has another version by the time when its image would go."""
    ledger.sink.finish_run(ledger.plan(listed("a", "e1")).run_id)
    ledger.execute("DELETE FROM nightlabel.manifest_chunk")
    ledger.sink.finish_run(ledger.plan(listed("a", "e2")).run_id)
    about = {"dag_id": "classify_images", "airflow_run_id": "manual"}
    before = ledger.plan(listed("z"), **about)
    pauses: list[float] = []

    with psycopg.connect(ledger.url) as discovery:
        discovery.execute("SELECT pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || %s, 0))", [BUCKET])

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            discovery.rollback()
            # A run of its own, and the next plan of one that was there; the version is overwritten again at once.
            ledger.plan(listed("a", "e1"))
            ledger.plan(listed("a", "e1"), listed("b"), **about)
            ledger.execute(
                "UPDATE nightlabel.object SET image_id = i.image_id FROM nightlabel.image AS i "
                "WHERE object.object_key = 'a' AND i.etag = 'e2'"
            )

        assert tidy(ledger, MaintenanceRequest(), pace=Pace(60.0, sleep=sleep))["images"] == 0

    assert len(pauses) == 1
    assert {row["etag"] for row in ledger.rows("SELECT etag FROM nightlabel.image WHERE object_key = 'a'")} == {
        "e1",
        "e2",
    }
    assert ledger.rows("SELECT plan_number FROM nightlabel.run WHERE run_id = %s", before.run_id) == [
        {"plan_number": 2}
    ]


def test_a_version_that_a_manifest_still_names_is_kept(ledger: Ledger):
    first, second = ledger.plan(listed("a", "e1")), ledger.plan(listed("a", "e2"))
    age(ledger, 30)
    assert tidy(ledger)["images"] == 0, "however old: the run is not over"

    for plan in (first, second):
        ledger.sink.finish_run(plan.run_id)
    assert tidy(ledger)["images"] == 0
    age(ledger, 30)
    done = tidy(ledger)
    assert (done["manifests"], done["images"]) == (2, 1)
    assert [row["etag"] for row in ledger.rows("SELECT etag FROM nightlabel.image")] == ["e2"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (MaintenanceRequest(keep_run_days=3), "keep_run_days is 3 and keep_manifest_days 7"),
        (MaintenanceRequest(keep_outcome_days=6), "keep_outcome_days is 6 and keep_manifest_days 7"),
        (MaintenanceRequest(time_budget_minutes=0), "time_budget_minutes is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(ledger: Ledger, request_: MaintenanceRequest, sentence: str):
    with pytest.raises(SettingsError, match=sentence):
        maintain(ledger.settings, request_)


def test_only_an_owner_may_and_only_of_the_schema_that_the_code_knows(ledger: Ledger):
    ledger.work(ledger.plan(listed("a")))
    user = f"w_{psycopg.conninfo.conninfo_to_dict(ledger.url)['dbname']}"
    ledger.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'for-this-test-only' IN ROLE nightlabel_writer")
    try:
        parts = psycopg.conninfo.conninfo_to_dict(ledger.url)
        url = f"postgresql://{user}:for-this-test-only@{parts['host']}:{parts['port']}/{parts['dbname']}"
        with pytest.raises(SinkCredentialsError, match="nightlabel_owner"):
            maintain(
                ledger.settings.model_copy(update={"database_url": type(ledger.settings.database_url)(url)}), EVERYTHING
            )
    finally:
        ledger.execute(f"DROP OWNED BY {user}")
        ledger.execute(f"DROP ROLE {user}")
    ledger.execute("UPDATE nightlabel.alembic_version SET version_num = '9999'")
    ledger.execute("INSERT INTO nightlabel.schema_compatibility VALUES ('9999', '0001')")
    with pytest.raises(SchemaNewerError):
        maintain(ledger.settings, EVERYTHING)


# From the command line


def command(ledger: Ledger, *arguments: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTLABEL_")}
    return subprocess.run(
        [sys.executable, "-m", "inference", "maintain", *arguments],
        env={**others, "NIGHTLABEL_DATABASE_URL": ledger.url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_line_counts_first_and_then_removes(ledger: Ledger):
    ledger.work(ledger.plan(listed("a", "e1"), listed("b"), shard_size=1))
    ledger.work(ledger.plan(listed("a", "e2"), listed("b")))
    age(ledger, 100)
    counts = "models 0, outcomes 1, objects 0, manifests 3, images 1, shards 1, label_counts "

    dry = command(ledger, "--keep-outcome-days", "30", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith(f"a dry run found: {counts}")
    done = command(ledger, "--keep-outcome-days", "30", "--json")
    steps = {step["name"]: step["rows"] for step in json.loads(done.stdout)["steps"]}
    assert ", ".join(f"{name} {rows}" for name, rows in steps.items()).startswith(counts)
    assert command(ledger).stdout.startswith(
        "maintenance is done: models 0, outcomes 0, objects 0, manifests 0, images 0"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--drop-model", "tiny@1"], 1, "error [model_in_use]: the outcomes of tiny@1 are not dropped"),
        (["--drop-model", "production"], 2, "error [bad_setting]: drop_models names 'production'"),
        (["--keep-run-days", "0"], 2, "'0' is not a whole number of at least 1"),
    ],
)
def test_what_is_refused_is_one_sentence(ledger: Ledger, arguments: list[str], status: int, sentence: str):
    ended = command(ledger, *arguments)

    assert ended.returncode == status
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
