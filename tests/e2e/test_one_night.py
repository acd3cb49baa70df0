"""Whole nights through the real scheduler, triggered over REST, on a real store and database; read as a reader."""

from __future__ import annotations

import re
import time
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local_stack.processes import StackError
from local_stack.samples import truncated_jpeg
from tests.e2e.loaded import heavy_packages_loaded
from tests.e2e.nights import DAG, RETRY_DAG, Night, photo
from tests.e2e.stacks import RunningStack
from tests.ledger import NIGHTS_LIKE_IT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat", "lynx"}
XCOM_LIMIT_BYTES = 48 * 1024


def test_a_night_labels_what_is_new_and_the_next_one_what_changed(running: RunningStack):
    bucket = running.new_bucket()
    for number in range(25):
        running.put(bucket, f"in/{number:02}.png", photo("cat") + bytes(number))
    running.put(bucket, "in/rocket.jpg", photo("rocket"))
    running.put(bucket, "in/cut.jpg", truncated_jpeg())

    first = Night(running, bucket=bucket, prefix="in/", shard_size=10)

    assert first.state == "success", first.states()
    assert first.states() == {
        "discover": {"success"},
        "classify_on_cpu": {"success"},
        "classify_on_gpu": {"skipped"},
        "report": {"success"},
        "shadow": {"skipped"},
    }
    assert sorted(task["map_index"] for task in first.tasks() if task["task_id"] == "classify_on_cpu") == [0, 1, 2]
    summary = first.summary()
    assert (summary["state"], summary["discovered"], summary["labelled"], summary["dead"]) == ("succeeded", 27, 26, 1)
    labels = running.labels(bucket)
    assert {labels[f"in/{number:02}.png"] for number in range(25)} <= CATS
    assert labels["in/rocket.jpg"] in {"missile", "projectile", "space shuttle"}
    [dead] = running.rows("SELECT * FROM dead_letter_open WHERE bucket = %s", bucket)
    assert (dead["object_key"], dead["error_code"], dead["permanent"]) == ("in/cut.jpg", "truncated", True)
    assert max(first.xcom_sizes().values()) < XCOM_LIMIT_BYTES
    assert first.xcom_sizes(), "shard numbers and counts travel by XCom"

    second = Night(running, bucket=bucket, prefix="in/")
    assert second.state == "success"
    assert second.states()["classify_on_cpu"] == {"skipped"}
    assert (second.summary()["already_done"], second.summary()["labelled"]) == (27, 0)

    running.put(bucket, "in/rocket.jpg", photo("cat"))
    running.put(bucket, "in/cut.jpg", photo("coffee"))
    running.client.delete_object(Bucket=bucket, Key="in/00.png")
    third = Night(running, bucket=bucket, prefix="in/")
    assert (third.summary()["already_done"], third.summary()["labelled"]) == (24, 2)
    labels = running.labels(bucket)
    assert labels["in/rocket.jpg"] in CATS
    assert labels["in/cut.jpg"] in {"espresso", "cup", "coffee mug"}
    assert "in/00.png" not in labels
    assert running.rows("SELECT * FROM dead_letter_open WHERE bucket = %s", bucket) == []


def test_the_form_as_it_stands_runs_on_the_stacks_own_bucket(running: RunningStack):
    night = Night(running)
    assert night.state == "success"
    assert night.summary()["state"] == "succeeded"


def test_an_empty_prefix_is_a_success_with_zero_counts(running: RunningStack):
    night = Night(running, bucket=running.new_bucket(), prefix="nothing/")
    assert night.state == "success"
    assert (night.summary()["state"], night.summary()["discovered"]) == ("succeeded", 0)


def test_a_dry_run_plans_and_stores_nothing(running: RunningStack):
    bucket = running.new_bucket()
    running.put(bucket, "a.png", photo("cat"))
    night = Night(running, bucket=bucket, dry_run=True)
    assert night.state == "success"
    assert running.rows("SELECT * FROM run_summary WHERE airflow_run_id = %s", night.run_id) == []
    assert running.labels(bucket) == {}


def test_too_many_dead_letters_fail_the_run_after_everything_is_recorded(running: RunningStack):
    bucket = running.new_bucket()
    running.put(bucket, "a.png", photo("cat"))
    running.put(bucket, "b.png", b"no image")
    night = Night(running, bucket=bucket, max_dead_ratio=0.4, min_images_for_ratio=1)
    assert night.state == "failed"
    assert (night.summary()["state"], night.summary()["labelled"], night.summary()["dead"]) == ("failed", 1, 1)
    assert "max_dead_ratio is 0.4; see dead_letter_open; most often not_an_image (1)" in night.log("report")


@pytest.mark.full
def test_labels_that_moved_fail_the_report_if_they_are_to_and_never_the_run(running: RunningStack):
    bucket = running.new_bucket()
    quality = {"quality_action": "fail", "quality_min_images": 30}

    def put(night: str, *photos: str) -> None:
        for name in photos:
            for number in range(18):
                running.put(bucket, f"{night}/{name}-{number}", photo(name) + f"{night} {number}".encode())

    put("1", "cat", "coffee")
    first = Night(running, bucket=bucket, **quality)
    assert first.state == "success", "there is nothing yet to compare with"
    assert "Labels not judged: the nights before hold 0 labels of this model" in first.log("report")
    running.owner_rows(NIGHTS_LIKE_IT, 6, first.summary()["run_id"])

    put("2", "cat", "coffee", "rocket")
    second = Night(running, bucket=bucket, **quality)
    rocket = running.labels(bucket)["2/rocket-0"]
    assert second.states()["report"] == {"failed"}
    assert (second.summary()["state"], second.summary()["labelled"]) == ("succeeded", 54)
    assert f"[labels_moved] the labels of run {second.summary()['run_id']}" in second.log("report")
    assert f"{rocket}: 0.0% before, 33.3% now" in second.log("report")
    assert f"{rocket} 0.0% -> 33.3%" in second.row()["note"]
    [row] = running.rows("SELECT * FROM run_drift WHERE run_id = %s", second.summary()["run_id"])
    assert (row["verdict"], row["moved_labels"][0]) == ("moved", rocket)


def test_dead_letters_are_closed_by_an_overwritten_object_or_tried_again_by_hand(running: RunningStack):
    running.unpause("retry_dead_letters")
    bucket = running.new_bucket()
    for key in ("overwritten.jpg", "stays.jpg"):
        running.put(bucket, key, truncated_jpeg())
    running.put(bucket, "text.jpg", b"no image")
    Night(running, bucket=bucket)
    by_key = "SELECT object_key, error_code, attempts FROM dead_letter_open WHERE bucket = %s ORDER BY object_key"
    assert [row["object_key"] for row in running.rows(by_key, bucket)] == ["overwritten.jpg", "stays.jpg", "text.jpg"]

    running.put(bucket, "overwritten.jpg", photo("cat"))
    assert Night(running, bucket=bucket).state == "success"
    assert running.labels(bucket)["overwritten.jpg"] in CATS

    retry = Night(running, dag=RETRY_DAG, bucket=bucket, codes=["truncated"])
    assert (retry.state, retry.states()["classify_on_gpu"]) == ("success", {"skipped"})
    summary = retry.summary()
    assert (summary["dag_id"], summary["discovered"], summary["dead"]) == ("retry_dead_letters", 1, 1)
    assert "Planned to try 1 dead letters again" in retry.log("discover")
    assert [tuple(row.values()) for row in running.rows(by_key, bucket)] == [
        ("stays.jpg", "truncated", 2),
        ("text.jpg", "not_an_image", 1),
    ]


def test_a_missing_bucket_fails_at_once_and_says_so(running: RunningStack):
    night = Night(running, bucket="no-such-bucket-anywhere")
    assert night.state == "failed"
    assert re.search(r"\[bucket_missing\] [^\n]*no-such-bucket-anywhere", night.log("discover"))
    assert [task["try_number"] for task in night.tasks() if task["task_id"] == "discover"] == [1]
    assert "Nothing was planned" in night.log("report")


def test_an_unknown_model_fails_at_once_and_names_those_there_are(running: RunningStack):
    night = Night(running, bucket=running.new_bucket(), model="resnet@9")
    assert night.state == "failed"
    assert "registered are: efficientnet-lite0@1, production" in night.log("discover")


def test_a_missing_pool_is_one_clear_sentence(running: RunningStack):
    running.delete_pool("classify_cpu")
    try:
        night = Night(running, bucket=running.new_bucket())
        assert night.state == "failed"
        assert "classify_cpu" in night.log("discover")
    finally:
        running.restore_pools()


def test_a_pool_of_another_size_is_corrected_at_the_next_start(running: RunningStack):
    """As on a machine that was given other cores."""
    before = running.api.get("/api/v2/pools/classify_cpu")
    try:
        running.api.set_pools({"classify_cpu": before["slots"] + 3})
        changed = running.api.get("/api/v2/pools/classify_cpu")
        assert (changed["slots"], changed["description"]) == (before["slots"] + 3, before["description"])
    finally:
        running.restore_pools()
    assert running.api.get("/api/v2/pools/classify_cpu")["slots"] == before["slots"]


@pytest.mark.parametrize("conf", [{"max_dead_ratio": 2}, {"device": "tpu"}, {"shard_size": 0}, {"max_images": "many"}])
def test_a_parameter_out_of_bounds_is_refused_before_anything_runs(running: RunningStack, conf: dict[str, Any]):
    with pytest.raises(StackError, match="400"):
        running.api.post(f"{DAG}/dagRuns", {"logical_date": None, "conf": conf})


def test_no_part_of_airflow_holds_what_only_workers_need(running: RunningStack):
    parts = running.airflow_processes()
    assert set(parts) == {"api-server", "scheduler", "dag-processor", "triggerer"}
    for name, pids in parts.items():
        assert pids, name
        for pid in pids:
            assert heavy_packages_loaded(pid) == set(), name


def test_the_readers_login_reads_the_views_and_nothing_else(running: RunningStack):
    with (
        psycopg.connect(running.reader_url, row_factory=dict_row) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT * FROM nightlabel.outcome")


def test_nothing_was_started_by_unpausing(running: RunningStack):
    for is_paused in (True, False):
        running.api.patch(f"{DAG}?update_mask=is_paused", {"is_paused": is_paused})
    time.sleep(3)  # several turns of the scheduler
    runs = running.api.get(f"{DAG}/dagRuns?limit=500")["dag_runs"]
    assert {run["run_type"] for run in runs} == {"manual"}
