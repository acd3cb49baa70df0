"""Golden sets, thresholds and samples in the database: what is kept, what counts as the same, and who may change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from inference import promoting
from inference.errors import GoldenSetError, SettingsError
from inference.gate import tables
from inference.gate.figures import GoldenImage
from inference.settings import Settings
from inference.sinks.postgres import PostgresSink
from inference.types import CopiedPrediction, ImageRef, ModelId
from tests.ledger import BUCKET, LABELS, Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration

TINY = ModelId("tiny", "1")
ODD = b"odd\xff\n.jpg".decode("utf-8", "surrogateescape")
A, B = GoldenImage(BUCKET, "a.jpg", "e1", "n1"), GoldenImage(BUCKET, ODD, "e2", "n2")


def write(ledger: Ledger, *images: GoldenImage, name: str = "default", replace: bool = False) -> tuple[int, int]:
    with ledger.sink.asking() as connection:
        return tables.write_golden_images(connection, name, images, origin="csv", replace=replace)


def read(ledger: Ledger, name: str = "default") -> Any:
    with ledger.sink.asking() as connection:
        return tables.read_golden_set(connection, name)


def test_a_set_is_what_was_written_whatever_the_keys_are(ledger: Ledger):
    assert write(ledger, B, A) == (2, 0)

    assert read(ledger).images == (A, B)
    assert read(ledger, "another").images == ()


def test_writing_the_same_again_changes_nothing(ledger: Ledger):
    write(ledger, A, B)
    before, rows = read(ledger), ledger.rows("SELECT * FROM nightlabel.golden_image ORDER BY object_key")

    assert write(ledger, A, B) == (0, 0)
    assert write(ledger, A, B, replace=True) == (0, 0)
    assert read(ledger) == before
    assert ledger.rows("SELECT * FROM nightlabel.golden_image ORDER BY object_key") == rows


def test_a_set_is_extended_corrected_and_replaced(ledger: Ledger):
    write(ledger, A)
    digests = [read(ledger).sha256]
    corrected = replace(A, label_id="n3")
    for images, wanted, count in (((B,), (A, B), (1, 0)), ((corrected,), (corrected, B), (1, 0))):
        assert write(ledger, *images) == count
        assert read(ledger).images == wanted
        digests.append(read(ledger).sha256)
    assert write(ledger, corrected, replace=True) == (0, 1)
    digests.append(read(ledger).sha256)
    assert read(ledger).images == (corrected,)
    assert write(ledger, replace(A, etag="e9")) == (1, 0)
    digests.append(read(ledger).sha256)
    assert len(set(digests)) == len(digests), "each is another set"
    write(ledger, A, replace=True)
    assert read(ledger).sha256 == digests[0], "and the same images are the same set"


def test_reviewed_images_stand_apart_until_a_file_names_them(ledger: Ledger):
    write(ledger, A)
    before = read(ledger)
    with ledger.sink.asking() as connection:
        tables.write_golden_images(connection, "default", [B], origin="review", replace=False)
    assert read(ledger) == replace(before, reviewed=(B,)), "the same digest, too"
    assert write(ledger, B) == (1, 0)
    assert (read(ledger).images, read(ledger).reviewed) == ((A, B), ())


def test_sets_are_listed_and_removed_whole_or_in_part(ledger: Ledger):
    write(ledger, A, B)
    write(ledger, replace(A, bucket="scans"), name="scans")
    with ledger.sink.asking() as connection:
        tables.write_golden_images(
            connection, "scans", [GoldenImage("scans", "c", "e", "n1")], origin="review", replace=False
        )

    found = promoting.list_golden_sets(ledger.settings)
    assert [(one.name, one.images, one.labels, one.from_review) for one in found] == [
        ("default", 2, 2, 0), ("scans", 2, 1, 1),
    ]  # fmt: skip
    assert promoting.remove_golden_images(ledger.settings, name="default", prefix="odd") == 1
    assert read(ledger).images == (A,)
    with pytest.raises(
        GoldenSetError, match="'default' holds no such image; the golden sets there are: default, scans"
    ):
        promoting.remove_golden_images(ledger.settings, name="default", bucket="scans")
    assert promoting.remove_golden_images(ledger.settings, name="scans") == 2
    assert [one.name for one in promoting.list_golden_sets(ledger.settings)] == ["default"]


def test_a_worker_extends_a_set_and_only_an_owner_takes_images_out(
    ledger: Ledger, login: Callable[[str | None], Settings]
):
    with PostgresSink(login("nightlabel_writer")) as sink:
        worker = replace(ledger, sink=sink)
        assert write(worker, A) == (1, 0)
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            psycopg.connect(worker.sink._settings.required_database_url()) as connection,
        ):
            connection.execute("DELETE FROM nightlabel.golden_image")


# Thresholds.


def test_a_model_has_its_own_thresholds_or_those_of_every_model(ledger: Ledger):
    [every] = promoting.list_thresholds(ledger.settings)
    assert (every.model_name, every.max_loss, every.min_golden_images) == ("*", 0.02, 150)

    changed = promoting.set_thresholds(ledger.settings, {"max_loss": 0.01}, model_name="tiny", reason="a test")
    assert changed == replace(every, model_name="tiny", max_loss=0.01)
    promoting.set_thresholds(ledger.settings, {"min_top1": 0.7, "golden_set": "hard"}, reason="another")
    with ledger.sink.asking() as connection:
        assert tables.read_thresholds(connection, "tiny") == changed, "its own stay"
        assert tables.read_thresholds(connection, "next") == replace(every, min_top1=0.7, golden_set="hard")
    [row] = ledger.rows("SELECT reason, changed_by FROM nightlabel.gate_threshold WHERE model_name = 'tiny'")
    assert row["reason"] == "a test"


def test_a_threshold_that_could_never_be_missed_or_met_is_refused_by_code_and_database_alike(ledger: Ledger):
    [delivered] = promoting.list_thresholds(ledger.settings)
    for name, (least, most, _) in promoting.RANGES.items():
        kind = type(getattr(delivered, name))
        for value in (kind(least), kind(most)):
            changed = promoting.set_thresholds(ledger.settings, {name: value}, reason="a test")
            assert getattr(changed, name) == value
        with pytest.raises(SettingsError, match=name):
            promoting.set_thresholds(ledger.settings, {name: kind(-1)}, reason="a test")
        with pytest.raises(psycopg.errors.CheckViolation):
            ledger.execute(f"UPDATE nightlabel.gate_threshold SET {name} = -1")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_loss": 0.21},
        {"confidence": 0.79},
        {"min_compared_images": 29},
        {"min_golden_images": 99, "min_agreement": 0.49},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_thresholds_that_nothing_would_miss_are_refused_by_code_and_database_alike(
    ledger: Ledger, changes: dict[str, Any]
):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        promoting.set_thresholds(ledger.settings, changes, reason="a test")
    columns = ", ".join(f"{name} = {value}" for name, value in changes.items())
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.execute(f"UPDATE nightlabel.gate_threshold SET {columns}")


def test_a_small_golden_set_is_enough_where_agreement_guards(ledger: Ledger):
    promoting.set_thresholds(ledger.settings, {"min_golden_images": 0, "min_agreement": 0.5}, reason="a test")
    promoting.set_thresholds(ledger.settings, {"min_golden_images": 100, "min_agreement": 0.0}, reason="a test")


def test_thresholds_that_cannot_mean_anything_are_refused(ledger: Ledger):
    wrong: list[tuple[dict[str, Any], str, str, str]] = [
        ({}, "*", "x", "no threshold is named"),
        ({"min_top1": 0.1}, "*", " ", "no reason is given"),
        ({"min_top1": 0.1}, "tiny@1", "x", "give the name of a model without a version"),
        ({"golden_set": " "}, "*", "x", "the golden set is called ' '"),
        ({"min_top1": float("nan")}, "*", "x", "min_top1 is nan"),
    ]
    for changes, model, reason, message in wrong:
        with pytest.raises(SettingsError, match=message):
            promoting.set_thresholds(ledger.settings, changes, model_name=model, reason=reason)


# Samples of what production labelled.


def sample(ledger: Ledger, model: ModelId = TINY, **how: Any) -> tuple[ImageRef, ...]:
    with ledger.sink.asking() as connection:
        return tables.sample_recent(connection, model, **{"days": 7, "images": 100, "seed": 0, **how})


def copied(ref: ImageRef) -> CopiedPrediction:
    return CopiedPrediction(ref, LABELS[0], 0.75, ("cat", "dog"), (0.75, 0.25), "litert")


def test_a_sample_is_of_what_the_model_labelled_and_the_keys_still_hold(ledger: Ledger):
    first = [listed(key) for key in ("a", "b", "dead", "copy", "overwritten", "deleted", ODD)]
    ledger.work(ledger.plan(*first), {"dead": dead_letter, "copy": copied})
    now = [*first[:4], listed("overwritten", "e2"), first[6]]
    ledger.work(ledger.plan(*now), {"overwritten": dead_letter})
    other = ledger.register("other")
    ledger.work(ledger.plan(*now, listed("c"), model=str(other), scope="not_by_this_model"))

    assert {ref.key for ref in sample(ledger)} == {"a", "b", ODD}
    [ref] = [ref for ref in sample(ledger) if ref.key == "a"]
    assert ref == ImageRef(BUCKET, "a", "e1", 100)


def test_a_model_that_was_promoted_just_now_has_a_sample_of_what_its_predecessors_labelled(ledger: Ledger):
    ledger.work(ledger.plan(listed("a"), listed("b")))
    following = ledger.register("following", "1", "production")
    assert sorted(ref.key for ref in sample(ledger, following)) == ["a", "b"]
    again = ledger.plan(listed("a"), listed("b"), listed("c"), model=str(following), scope="not_by_this_model")
    ledger.work(again, {"a": dead_letter})

    drawn = [ref.key for ref in sample(ledger, following)]
    assert sorted(drawn) == ["a", "b", "c"], "each once"


def test_a_sample_is_of_the_last_days_bounded_and_drawn_by_its_seed(ledger: Ledger):
    ledger.work(ledger.plan(*(listed(f"{number:02}") for number in range(40))), {"39": lambda ref: prediction(ref, 1)})
    ledger.execute(
        "UPDATE nightlabel.outcome SET recorded_at = now() - interval '7 days 1 minute' WHERE image_id IN "
        "(SELECT image_id FROM nightlabel.image WHERE object_key < '10')"
    )

    drawn = [ref.key for ref in sample(ledger, images=12)]
    assert len(drawn) == 12
    assert min(drawn) >= "10"
    assert drawn == [ref.key for ref in sample(ledger, images=12)], "the same seed draws the same"
    assert drawn != [ref.key for ref in sample(ledger, images=12, seed=1)]
    assert len(sample(ledger)) == 30
    assert len(sample(ledger, days=8)) == 40
    assert sample(ledger, images=0) == ()
