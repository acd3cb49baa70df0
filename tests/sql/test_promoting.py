"""Aliases: who may move them, on what, and what a promotion does to runs and labels. On real databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inference import promoting, wiring
from inference.errors import (
    AliasMovedError,
    InferenceError,
    ModelFilesError,
    ModelInUseError,
    ModelUnknownError,
    PromotionRefusedError,
    SettingsError,
    SinkCredentialsError,
)
from inference.gate import tables
from inference.gate.checking import find_check, require_passing_check
from inference.gate.figures import Comparison, GoldenFigures, GoldenImage, Reason, RecentFigures, Rightness
from inference.models import registry
from inference.models.bundled import BUNDLED_MODEL
from inference.models.manifest import Manifest
from inference.models.registry import Seen
from inference.models.store import ModelStore, hash_files
from inference.promoting import PromotionRequest
from inference.settings import Settings, read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import ModelId
from tests.ledger import BUCKET, Ledger, listed, manifest

pytestmark = pytest.mark.integration

TINY, NEXT, OTHER = ModelId("tiny", "1"), ModelId("next", "1"), ModelId("other", "1")
STOPPED = Reason("max_loss", is_warning=False, message="it may be 5.0 points worse")
WARNED = Reason("max_slowdown", is_warning=True, message="it is slower")


@dataclass(frozen=True)
class House:
    """A ledger, and a model store that holds what is registered in it."""

    ledger: Ledger
    settings: Settings

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.settings.model_store)

    def add(self, model: ModelId) -> None:
        with self.store.workspace() as folder:
            (folder / "model.tflite").write_bytes(str(model).encode())
            made = manifest(model).model_copy(update={"files": hash_files(folder)})
            self.store.add(folder, made)
        with self.ledger.sink.asking() as connection:
            registry.register(connection, made)

    def check(self, model: ModelId, *reasons: Reason, production: ModelId | None = TINY) -> int:
        """Record a check that found these reasons."""
        with self.ledger.sink.asking() as connection:
            thresholds = tables.read_thresholds(connection, model.name)
            return tables.record_check(
                connection,
                comparison(model, production),
                reasons,
                thresholds=thresholds,
                golden_set=tables.read_golden_set(connection, thresholds.golden_set),
                model_sha256=tables.model_digest(connection, model),
            ).check_id

    def promote(self, model: ModelId | str, reason: str = "it is better", **request: Any) -> promoting.Promotion:
        return promoting.promote_model(PromotionRequest(str(model), reason, **request), settings=self.settings)

    def promote_unseen(self, model: ModelId) -> None:
        with self.ledger.sink.asking() as connection:
            registry.name_alias(connection, "production", model, reason="a test")

    def named(self, alias: str = "production") -> ModelId | None:
        with self.ledger.sink.asking() as connection:
            return registry.find_alias(connection, alias)


def comparison(candidate: ModelId, production: ModelId | None) -> Comparison:
    rightness = Rightness(top1=0.8, top5=0.95, right_score=0.7)
    return Comparison(
        candidate=candidate,
        production=production,
        golden=GoldenFigures(200, 0, candidate=rightness, production=rightness if production else None),
        recent=RecentFigures(7, 100, 0, 0.9),
        score_shift=0.0,
        engine="litert",
        images_per_second=100.0,
        production_images_per_second=100.0,
        label_shifts=(),
        flips=(),
        flipped=0,
    )


@pytest.fixture
def house(ledger: Ledger, tmp_path: Path) -> House:
    """``tiny@1`` is production; ``next@1`` and ``other@1`` wait. The store holds the two."""
    made = House(ledger, read_settings(database_url=ledger.url, model_store=tmp_path))
    made.add(NEXT)
    made.add(OTHER)
    return made


# The gate in front of production.


def test_a_model_that_was_never_checked_is_refused(house: House):
    with pytest.raises(PromotionRefusedError, match=r"next@1 was never checked; check it first with .* check next@1"):
        house.promote(NEXT)
    assert house.named() == TINY


def test_a_model_whose_check_failed_is_refused_with_its_reasons(house: House):
    house.check(NEXT, STOPPED, WARNED)
    with pytest.raises(PromotionRefusedError, match=r"stopped it: it may be 5\.0 points worse\. Promote another"):
        house.promote(NEXT)
    assert house.named() == TINY


def test_a_model_that_passed_is_promoted_and_its_history_says_by_which_check(house: House):
    number = house.check(NEXT, WARNED)
    done = house.promote(NEXT)

    assert (done.before, done.is_moved, done.is_forced, done.check_id) == (TINY, True, False, number)
    assert house.named() == NEXT
    new, old = promoting.model_history(house.settings)
    assert (new.model, new.reason, new.check_id, new.is_forced, new.valid_to) == (
        NEXT, "it is better", number, False, None,
    )  # fmt: skip
    assert (old.model, old.ended_reason, old.ended_by) == (TINY, "it is better", new.changed_by)
    assert old.valid_to is not None
    assert house.promote(NEXT).is_moved is False, "it is production already"
    assert len(promoting.model_history(house.settings)) == 2


def test_the_last_check_counts_and_not_one_that_passed_before(house: House):
    house.check(NEXT)
    house.check(NEXT, STOPPED)
    with pytest.raises(PromotionRefusedError, match="stopped it"):
        house.promote(NEXT)


def load_golden(house: House) -> None:
    with house.ledger.sink.asking() as connection:
        image = GoldenImage(BUCKET, "a.jpg", "e1", "n1")
        tables.write_golden_images(connection, "default", [image], origin="csv", replace=False)


def promote_other(house: House) -> None:
    house.promote(OTHER, force=True)


def change_thresholds(house: House) -> None:
    promoting.set_thresholds(house.settings, {"min_top1": 0.1}, reason="a test")


def change_registration(house: House) -> None:
    house.ledger.execute("UPDATE nightlabel.model SET artefacts = '{\"litert\": \"other.tflite\"}' WHERE name = 'next'")


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        (load_golden, "was on another golden set 'default' than there is now"),
        (promote_other, "was beside tiny@1, and production is other@1"),
        (change_thresholds, "was by other thresholds than hold now"),
        (change_registration, "was of another registration of it"),
    ],
)
def test_a_check_is_one_of_the_past_once_what_it_was_about_has_changed(
    house: House, meanwhile: Callable[[House], None], message: str
):
    house.check(NEXT)
    production = house.named()
    assert production is not None
    with house.ledger.sink.asking() as connection:
        require_passing_check(connection, NEXT, production, find_check(connection, NEXT))
    meanwhile(house)
    present = house.named()
    assert present is not None
    with (
        house.ledger.sink.asking() as connection,
        pytest.raises(PromotionRefusedError, match=f"the last check of next@1, .* {message}; check it first"),
    ):
        require_passing_check(connection, NEXT, present, find_check(connection, NEXT))


def test_a_review_that_is_made_while_somebody_waits_for_a_yes_leaves_the_check_as_it_was(house: House):
    load_golden(house)
    house.check(NEXT)
    with house.ledger.sink.asking() as connection:
        image = GoldenImage(BUCKET, "reviewed.jpg", "e1", "n2")
        tables.write_golden_images(connection, "default", [image], origin="review", replace=False)
    assert not house.promote(NEXT).is_forced


def test_force_is_recorded_with_its_reason_and_only_where_the_gate_refused(house: House):
    number = house.check(NEXT, STOPPED)
    assert house.promote(NEXT, "the golden set is wrong, see ticket 4", force=True).is_forced
    house.check(OTHER, production=NEXT)
    assert not house.promote(OTHER, force=True).is_forced

    rows = house.ledger.rows("SELECT * FROM nightlabel.model_alias_history ORDER BY valid_from")
    assert [(row["model_name"], row["is_forced"]) for row in rows] == [
        ("tiny", False),
        ("next", True),
        ("other", False),
    ]
    assert (rows[1]["reason"], rows[1]["check_id"]) == ("the golden set is wrong, see ticket 4", number)


@pytest.mark.parametrize("force", [False, True])
def test_the_check_that_was_approved_is_the_one_that_counts_even_by_force(house: House, force: bool):
    approved = house.check(NEXT)
    later = house.check(NEXT)
    with pytest.raises(
        PromotionRefusedError, match=rf"check {approved} of next@1 was approved, and its last one is {later} of"
    ):
        house.promote(NEXT, check_id=approved, force=force)
    with pytest.raises(PromotionRefusedError, match=r"check 7 of other@1 was approved, and its last one is none"):
        house.promote(OTHER, check_id=7, force=force)
    assert house.named() == TINY
    assert house.promote(NEXT, check_id=later, force=force).check_id == later


def test_force_is_about_the_verdict_and_not_about_which_model_was_checked(house: House):
    house.check(NEXT)
    change_registration(house)
    with house.ledger.sink.asking() as connection, pytest.raises(PromotionRefusedError, match="another registration"):
        find_check(connection, NEXT)


def test_what_was_approved_for_no_production_is_looked_at_where_there_is_none(house: House):
    house.ledger.execute("DELETE FROM nightlabel.model_alias")
    number = house.check(NEXT, STOPPED, production=None)
    with pytest.raises(PromotionRefusedError, match="stopped it"):
        house.promote(NEXT, check_id=number)
    done = house.promote(NEXT, check_id=number, force=True)
    assert (done.is_forced, done.check_id) == (True, number)


def test_where_nothing_is_in_production_the_first_needs_no_check(house: House):
    house.ledger.execute("DELETE FROM nightlabel.model_alias")
    done = house.promote(NEXT)
    assert (done.before, done.is_moved, done.is_forced, done.check_id) == (None, True, False, None)


def test_a_promotion_without_a_reason_that_can_be_kept_is_refused(house: House):
    for reason in ("", "  \n", "x" * 2_001, "a\x00b"):
        with pytest.raises(SettingsError, match="reason"):
            house.promote(NEXT, reason, force=True)


def test_what_the_store_does_not_hold_as_it_was_registered_is_refused_even_by_force(house: House):
    house.check(NEXT)
    path = house.store.folder_of(NEXT) / "model.tflite"
    whole = path.read_bytes()
    path.write_bytes(b"altered")
    with pytest.raises(ModelFilesError, match="has SHA-256"):
        house.promote(NEXT, force=True)
    path.write_bytes(whole)
    with pytest.raises(ModelUnknownError, match="no model 'none@1' is registered"):
        house.promote("none@1", force=True)
    assert house.named() == TINY


def test_a_model_that_is_being_dropped_gets_no_alias(house: House):
    house.ledger.execute(
        "INSERT INTO nightlabel.dropped_model (model_id, outcomes, partition) "
        "SELECT model_id, 0, 0 FROM nightlabel.model WHERE name = 'next'"
    )
    with pytest.raises(ModelInUseError, match="is being dropped"):
        house.promote(NEXT, alias="shadow")


# The other aliases, and two people at once.


def test_candidate_and_shadow_need_no_check_and_can_be_taken_away(house: House):
    house.promote(NEXT, alias="candidate")
    house.promote("candidate", alias="shadow")
    assert (house.named("candidate"), house.named("shadow"), house.named()) == (NEXT, NEXT, TINY)

    assert promoting.remove_alias("shadow", reason="too slow", settings=house.settings) == NEXT
    assert promoting.remove_alias("shadow", reason="again", settings=house.settings) is None
    assert (house.named("candidate"), house.named("shadow")) == (NEXT, None)
    [span] = promoting.model_history(house.settings, alias="shadow")
    assert (span.ended_reason, span.valid_to is None) == ("too slow", False)
    with pytest.raises(SettingsError, match="production cannot be taken away"):
        promoting.remove_alias("production", reason="x", settings=house.settings)
    with pytest.raises(SettingsError, match="there is no alias 'staging'; there are production, candidate, shadow"):
        house.promote(NEXT, alias="staging")
    house.promote(OTHER, alias="shadow")
    assert house.named("shadow") == OTHER, "it can be given again"


def test_the_second_of_two_who_decide_on_what_they_saw_is_refused_in_a_sentence(house: House):
    house.promote(NEXT, "ticket 1", alias="candidate", expected=None)
    with pytest.raises(
        AliasMovedError,
        match=r"candidate names next@1 and not none, as this was decided on: it changed at .* by \w+ \(ticket 1\)",
    ):
        house.promote(OTHER, "ticket 2", alias="candidate", expected=None)
    with pytest.raises(AliasMovedError, match="candidate names next@1 and not tiny@1"):
        promoting.remove_alias("candidate", reason="x", settings=house.settings, expected=TINY)
    promoting.remove_alias("candidate", reason="ticket 3", settings=house.settings, expected=NEXT)
    with pytest.raises(AliasMovedError, match=r"candidate names no model and not next@1.* \(ticket 3\)"):
        house.promote(OTHER, alias="candidate", expected=NEXT)
    with pytest.raises(AliasMovedError, match=r"shadow names no model and not next@1.* it never named any"):
        house.promote(OTHER, alias="shadow", expected=NEXT)
    house.check(NEXT)
    house.promote(OTHER, "ticket 5", force=True)
    with pytest.raises(AliasMovedError, match=r"production names other@1 and not tiny@1.*\(ticket 5\)"):
        house.promote(NEXT, expected=TINY)


def test_of_many_at_once_one_has_his_way(house: House):
    models = [ModelId("many", str(number)) for number in range(6)]
    for model in models:
        house.ledger.register(model.name, model.version)
    start, ended = threading.Barrier(len(models)), dict[ModelId, object]()

    def move(model: ModelId) -> None:
        with PostgresSink(house.ledger.settings) as sink, sink.asking() as connection:
            start.wait()
            try:
                ended[model] = registry.name_alias(connection, "shadow", model, reason=str(model), expected=None)
            except InferenceError as error:
                ended[model] = type(error)

    threads = [threading.Thread(target=move, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [winner] = [model for model, outcome in ended.items() if outcome is True]
    assert [outcome for model, outcome in ended.items() if model != winner] == [AliasMovedError] * 5
    assert house.named("shadow") == winner
    assert len(promoting.model_history(house.settings, alias="shadow")) == 1


def test_an_alias_that_moves_while_a_promotion_is_under_way_is_noticed(house: House, monkeypatch: pytest.MonkeyPatch):
    """By default what the alias names when the command begins is what it was decided on."""
    check_files = ModelStore.check_files

    def meanwhile(store: ModelStore, *arguments: Any) -> Path:
        monkeypatch.undo()
        house.promote(OTHER, "faster", alias="candidate")
        return check_files(store, *arguments)

    monkeypatch.setattr(ModelStore, "check_files", meanwhile)
    with pytest.raises(AliasMovedError, match=r"candidate names other@1 and not none.*\(faster\)"):
        house.promote(NEXT, alias="candidate")
    assert house.named("candidate") == OTHER


def test_the_library_moves_an_alias_without_a_look_where_nobody_has_looked(house: House):
    with house.ledger.sink.asking() as connection:
        assert registry.name_alias(connection, "shadow", NEXT, reason="a", expected=Seen.WHATEVER)
        assert registry.name_alias(connection, "shadow", OTHER, reason="b")
        assert not registry.name_alias(connection, "shadow", OTHER, reason="c")


@pytest.mark.parametrize("before", [None, BUNDLED_MODEL])
def test_a_migration_leaves_what_was_promoted_while_it_built_the_bundled_model(
    house: House, monkeypatch: pytest.MonkeyPatch, before: ModelId | None
):
    house.ledger.execute("DELETE FROM nightlabel.model_alias")
    bundled = manifest(BUNDLED_MODEL)
    if before is not None:
        house.ledger.register(before.name, before.version)
        house.promote_unseen(before)

    def build(_store: ModelStore) -> Manifest:
        house.promote_unseen(NEXT)
        return bundled

    monkeypatch.setattr("inference.models.bundled.ensure_default_model", build)
    assert wiring.migrate(house.settings)[2] == NEXT
    assert house.named() == NEXT


def test_a_migration_gives_the_bundled_model_the_alias_where_no_model_holds_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.ledger.execute("DELETE FROM nightlabel.model_alias")
    monkeypatch.setattr("inference.models.bundled.ensure_default_model", lambda _store: manifest(BUNDLED_MODEL))
    assert wiring.migrate(house.settings)[2] == BUNDLED_MODEL
    assert house.named() == BUNDLED_MODEL


# Rights.


def test_a_worker_moves_no_alias_and_an_owner_does_under_his_own_name(
    house: House, login: Callable[[str | None], Settings]
):
    house.check(NEXT)
    worker = replace(house, settings=login("nightlabel_writer").model_copy(update={"model_store": house.store.root}))
    with pytest.raises(SinkCredentialsError, match="nightlabel_owner to migrate, maintain, forget or promote"):
        worker.promote(NEXT)
    with pytest.raises(SinkCredentialsError):
        promoting.set_thresholds(worker.settings, {"min_top1": 0.0}, reason="x")
    with pytest.raises(SinkCredentialsError):
        promoting.remove_golden_images(worker.settings, name="default")
    owner = replace(house, settings=login("nightlabel_owner").model_copy(update={"model_store": house.store.root}))
    owner.promote(NEXT, approved_by="the person who said yes")

    span = promoting.model_history(owner.settings, limit=1)[0]
    assert span.changed_by.startswith("u1_")
    assert span.approved_by == "the person who said yes"


def test_a_worker_records_a_check_and_a_reader_reads_it(house: House, login: Callable[[str | None], Settings]):
    with PostgresSink(login("nightlabel_writer")) as sink:
        number = House(replace(house.ledger, sink=sink), house.settings).check(NEXT, STOPPED, WARNED)

    [row] = house.ledger.rows("SELECT * FROM nightlabel.model_check")
    assert (row["check_id"], row["model_name"], row["production_name"]) == (number, "next", "tiny")
    assert (row["verdict"], row["stopped_by"]) == ("failed", ["max_loss"])
    assert row["messages"] == ["it may be 5.0 points worse", "it is slower"]
    assert (row["top1"], row["production_top5"], row["recent_agreement"]) == (0.8, 0.95, 0.9)
    assert row["thresholds"]["max_loss"] == 0.02
    assert row["checked_by"].startswith("u0_")
    assert (datetime.now(UTC) - row["checked_at"]).total_seconds() < 60


# What a promotion does to the nights.


def test_a_promotion_during_a_run_changes_the_next_one(house: House):
    running = house.ledger.plan(listed("a"), listed("b"))
    house.check(NEXT)
    house.promote(NEXT)

    assert house.ledger.sink.claim_shard(running.run_id, running.shards[0]).model == TINY
    house.ledger.work(running)
    assert house.ledger.summary(running.run_id)["model_name"] == "tiny"
    following = house.ledger.plan(listed("a"), listed("b"), listed("c"))
    assert (following.model, following.already_done, following.to_classify) == (NEXT, 2, 1)


def test_a_promotion_labels_nothing_again_by_itself(house: House):
    house.ledger.work(house.ledger.plan(*(listed(f"{number}") for number in range(10))))
    before = house.ledger.rows("SELECT * FROM nightlabel.latest_prediction ORDER BY object_key")
    house.check(NEXT)
    house.promote(NEXT)

    following = house.ledger.plan(*(listed(f"{number}") for number in range(10)))
    house.ledger.work(following)
    assert (following.model, following.already_done, following.to_classify) == (NEXT, 10, 0)
    assert house.ledger.rows("SELECT * FROM nightlabel.latest_prediction ORDER BY object_key") == before
    assert {row["model_name"] for row in before} == {"tiny"}


@pytest.mark.parametrize("alias", ["candidate", "shadow"])
def test_what_a_candidate_or_shadow_labelled_is_still_new_and_shows_nowhere(house: House, alias: str):
    house.promote(NEXT, alias=alias)
    house.ledger.work(house.ledger.plan(listed("a"), model=alias, scope="not_by_this_model"))

    assert house.ledger.latest() == {}
    assert [row["object_key"] for row in house.ledger.rows("SELECT object_key FROM nightlabel.never_labelled")] == ["a"]
    assert house.ledger.plan(listed("a")).to_classify == 1
