"""Reviews: what waits for one, a label that is recorded with its history, and the golden set that grows by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from inference import wiring
from inference.errors import ReviewError, SettingsError, ShardError, SinkCredentialsError
from inference.settings import Settings
from inference.sinks.migrating import run_alone
from inference.sinks.migration_files import statements_of
from inference.sinks.statements import migrations, revision_of
from inference.types import ReviewRequest
from tests.ledger import BUCKET, Ledger, dead_letter, listed, prediction

pytestmark = pytest.mark.integration


def scored(label: int, score: float) -> Callable[[Any], Any]:
    return lambda ref: prediction(ref, label, score)


@pytest.fixture
def unsure(ledger: Ledger) -> Ledger:
    """Labels of every score; key -> score of those that wait: a .0625, b .25, c .4375."""
    made = {"a": scored(0, 0.0625), "b": scored(1, 0.25), "c": scored(0, 0.4375), "sure": scored(0, 0.9375)}
    ledger.work(
        ledger.plan(*(listed(key) for key in (*made, "half", "dead"))),
        made | {"half": scored(1, 0.5), "dead": dead_letter},
    )
    return ledger


def queue(ledger: Ledger, *, below: float = 0.5, **choice: Any) -> list[str]:
    return [image.object_key for image in wiring.list_review_queue(ledger.settings, below=below, **choice)]


def record(ledger: Ledger, key: str, label: str, **more: Any) -> int:
    request = ReviewRequest(**{"bucket": BUCKET, "key": key, "label": label, "reviewer": "ana", **more})
    return wiring.record_review(ledger.settings, request)


def reviews(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Key, label id, reviewer, and whether it holds, in their order."""
    rows = ledger.rows("SELECT * FROM nightlabel.image_review ORDER BY reviewed_at")
    return [(row["object_key"], row["label_id"], row["reviewer"], row["superseded_at"] is None) for row in rows]


def golden(ledger: Ledger) -> dict[tuple[str, str], tuple[str, str, str]]:
    rows = ledger.rows("SELECT * FROM nightlabel.golden_image")
    return {(row["golden_set"], row["object_key"]): (row["etag"], row["label_id"], row["origin"]) for row in rows}


def test_what_the_model_is_unsure_of_waits_the_lowest_score_first(unsure: Ledger):
    assert queue(unsure) == ["a", "b", "c"]
    assert queue(unsure, below=0.25) == ["a"]
    with pytest.raises(SettingsError, match=r"below is 0\.6, and review_queue holds scores below 0\.5"):
        queue(unsure, below=0.6)
    assert queue(unsure, limit=2) == ["a", "b"]
    assert queue(unsure, prefix="b") == ["b"]
    assert queue(unsure, bucket="elsewhere") == []
    assert queue(unsure, model="tiny@1") == ["a", "b", "c"]
    assert queue(unsure, model="tiny@2") == []


def test_a_queued_image_shows_what_a_reviewer_needs(unsure: Ledger):
    [first, *_] = wiring.list_review_queue(unsure.settings, below=0.1)
    assert (first.bucket, first.object_key, first.etag, first.label, first.score) == (BUCKET, "a", "e1", "cat", 0.0625)
    assert (first.top_labels, first.top_scores) == (["cat", "dog"], [0.0625, 0.9375])
    assert (first.model_name, first.model_version) == ("tiny", "1")


def test_only_what_is_there_now_waits_and_by_the_label_that_is_shown(unsure: Ledger):
    second = unsure.register("second", "1", "production")
    again = unsure.plan(
        *(listed(key) for key in ("a", "b", "c", "sure", "half", "dead")), model=str(second), scope="not_by_this_model"
    )
    unsure.work(again, {"a": scored(0, 0.9375), "sure": scored(1, 0.125)})
    assert queue(unsure) == ["sure"], "latest_prediction has the newer model's labels, and the others are sure"
    unsure.plan(listed("b"), listed("c"))  # the others are gone
    assert queue(unsure) == []


def test_a_model_that_was_never_in_production_asks_nobody(unsure: Ledger):
    candidate = unsure.register("candidate", "1", "candidate")
    plan = unsure.plan(listed("sure"), model=str(candidate), scope="not_by_this_model", prefix="sure")
    unsure.work(plan, {"sure": scored(1, 0.125)})
    assert queue(unsure) == ["a", "b", "c"]


def test_a_review_takes_the_image_out_and_into_the_golden_set(unsure: Ledger):
    record(unsure, "a", "dog", note="its ears", etag="e1")

    assert queue(unsure) == ["b", "c"]
    assert reviews(unsure) == [("a", "n2", "ana", True)]
    assert golden(unsure) == {("review", "a"): ("e1", "n2", "review")}
    [row] = unsure.rows("SELECT * FROM nightlabel.image_review")
    assert (row["note"], row["recorded_by"], row["is_model_right"]) == ("its ears", "postgres", False)
    assert (row["seen_label"], row["seen_label_id"], row["seen_score"]) == ("cat", "n1", 0.0625)
    assert (row["model_name"], row["model_version"]) == ("tiny", "1")


def test_a_correction_holds_from_then_on_and_the_former_review_stays(unsure: Ledger):
    first = record(unsure, "a", "dog")
    second = record(unsure, "a", "n1", reviewer="ben")

    assert first < second
    assert reviews(unsure) == [("a", "n2", "ana", False), ("a", "n1", "ben", True)]
    assert golden(unsure) == {("review", "a"): ("e1", "n1", "review")}
    rows = unsure.rows("SELECT * FROM nightlabel.image_review ORDER BY reviewed_at")
    assert rows[0]["superseded_at"] <= rows[1]["reviewed_at"]
    assert [row["is_model_right"] for row in rows] == [False, True]


def test_a_sure_label_can_be_reviewed_as_well_and_another_golden_set_be_named(unsure: Ledger):
    record(unsure, "sure", "dog", golden_set="hard ones")
    assert golden(unsure) == {("hard ones", "sure"): ("e1", "n2", "review")}


def test_what_a_golden_set_has_from_a_csv_file_is_never_overwritten_by_a_review(unsure: Ledger):
    sql = "INSERT INTO nightlabel.golden_image (golden_set, bucket, object_key, etag, label_id, origin)"
    unsure.execute(f"{sql} VALUES ('default', 'photos', 'a', 'e1', 'n1', 'csv')")
    message = "the golden set 'default' has the object 'a' from a CSV file, which no review overwrites; name another"
    with pytest.raises(ReviewError, match=message):
        record(unsure, "a", "dog", golden_set="default")
    assert (reviews(unsure), golden(unsure)) == ([], {("default", "a"): ("e1", "n1", "csv")})

    record(unsure, "a", "dog")
    assert golden(unsure) == {("default", "a"): ("e1", "n1", "csv"), ("review", "a"): ("e1", "n2", "review")}


@pytest.mark.parametrize("name", [None, "", " "])
def test_in_sql_a_golden_set_without_a_name_is_refused(unsure: Ledger, name: str | None):
    call = "SELECT nightlabel.record_review('photos', 'b', 'cat', 'ana', into_golden_set => %s)"
    with pytest.raises(psycopg.errors.RaiseException, match="a review needs the name of the golden set"):
        unsure.execute(call, name)
    assert (reviews(unsure), golden(unsure)) == ([], {})


def test_another_version_of_the_object_is_another_image(unsure: Ledger):
    record(unsure, "a", "dog")
    unsure.work(unsure.plan(listed("a", "e2", minute=1), prefix="a"), {"a": scored(0, 0.125)})
    assert queue(unsure) == ["a", "b", "c"]

    with pytest.raises(
        ReviewError, match="was overwritten since it was looked at: its ETag is e2, and e1 was reviewed"
    ):
        record(unsure, "a", "dog", etag="e1")
    record(unsure, "a", "n1", etag="e2")
    assert reviews(unsure) == [("a", "n2", "ana", True), ("a", "n1", "ana", True)]
    assert golden(unsure) == {("review", "a"): ("e2", "n1", "review")}, "what is there now"


REFUSED = (
    ("a", "unicorn", "the model tiny@1 knows no label 'unicorn'; give the name or the id of one of its label map"),
    ("a", "crane", "tiny@1 has 2 classes of the name 'crane'; give the id of the one that is meant: n3, n4"),
    ("dead", "cat", "no object 'dead' of the bucket 'photos' has a label now"),
    ("nowhere", "cat", "no object 'nowhere' of the bucket 'photos' has a label now"),
    ("it's", "cat", "no object 'it''s' of"),
)


def test_what_cannot_be_right_is_refused_in_a_sentence_and_nothing_is_recorded(unsure: Ledger):
    for key, label, message in REFUSED:
        with pytest.raises(ReviewError, match=message):
            record(unsure, key, label)
    for more, name in (({"reviewer": " "}, "reviewer"), ({"note": "a\x00"}, "note")):
        with pytest.raises(SettingsError, match=name):
            record(unsure, "a", "dog", **more)
    assert (reviews(unsure), golden(unsure)) == ([], {})


def test_one_of_two_classes_of_a_name_is_given_by_its_id(unsure: Ledger):
    record(unsure, "a", "n4")
    [row] = unsure.rows("SELECT label, label_id FROM nightlabel.image_review")
    assert row == {"label": "crane", "label_id": "n4"}


def test_two_reviewers_at_once_leave_one_label_that_holds(unsure: Ledger):
    errors: list[BaseException] = []

    def review(number: int) -> None:
        try:
            record(unsure, "a", ("n1", "n2", "n3", "n4")[number], reviewer=f"reviewer {number}")
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    threads = [threading.Thread(target=review, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    found = reviews(unsure)
    [held] = [label for _, label, _, holds in found if holds]
    assert len(found) == 4
    assert golden(unsure)["review", "a"][1] == held


def test_a_review_and_its_golden_image_are_recorded_together_or_not_at_all(unsure: Ledger):
    unsure.execute("ALTER TABLE nightlabel.golden_image ADD CHECK (label_id <> 'n2')")
    with pytest.raises(ShardError, match="refuses a row"):
        record(unsure, "a", "dog")
    assert (reviews(unsure), queue(unsure)) == ([], ["a", "b", "c"])


def test_a_reader_looks_and_may_not_record_and_a_login_of_its_own_can_be_let(
    unsure: Ledger, login: Callable[[str | None], Settings]
):
    reader, writer = login("nightlabel_reader"), login("nightlabel_writer")
    assert len(wiring.list_review_queue(reader, below=0.5)) == 3
    request = ReviewRequest(BUCKET, "a", "dog", "ana")
    with pytest.raises(SinkCredentialsError):
        wiring.record_review(reader, request)
    with (
        psycopg.connect(writer.required_database_url()) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("UPDATE nightlabel.review SET reviewer = 'somebody else'")

    wiring.record_review(writer, request)
    [row] = unsure.rows("SELECT recorded_by FROM nightlabel.image_review")
    assert row["recorded_by"].startswith("u1_"), "the login, whoever the function acts as"

    user = psycopg.conninfo.conninfo_to_dict(reader.required_database_url())["user"]
    unsure.execute(f"GRANT EXECUTE ON FUNCTION nightlabel.record_review TO {user}")
    wiring.record_review(reader, ReviewRequest(BUCKET, "b", "cat", "ben"))
    assert len(reviews(unsure)) == 2


def test_in_sql_it_is_one_call(unsure: Ledger):
    unsure.execute("SELECT nightlabel.record_review('photos', 'b', 'cat', 'ana')")
    assert reviews(unsure) == [("b", "n1", "ana", True)]


def test_partitions_that_were_there_before_get_the_index_by_the_upgrade_which_may_be_repeated(unsure: Ledger):
    [path] = (path for path in migrations() if revision_of(path) == "0013")
    record(unsure, "a", "dog")
    before = (reviews(unsure), golden(unsure))
    with psycopg.connect(unsure.url, autocommit=True) as connection:
        connection.execute("DROP INDEX nightlabel.outcome_low_score")
        for statement in statements_of(path.read_text(encoding="utf-8")):
            run_alone(connection, statement)
        sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'nightlabel.outcome_low_score'::regclass"
        assert connection.execute(sql).fetchone() == (True,)
    assert (reviews(unsure), golden(unsure)) == before


def test_the_queue_is_read_from_its_lowest_score_on(unsure: Ledger):
    """However many labels there are: the index of low scores gives them in their order."""
    with psycopg.connect(unsure.url) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_sort = off")
        explained = connection.execute(
            "EXPLAIN SELECT * FROM nightlabel.review_queue WHERE score < 0.3 ORDER BY score LIMIT 5"
        )
        assert "score_idx" in str(explained.fetchall())
