"""A night with a shadow, a promotion, and everything labelled again: by the real scheduler, on the sample photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from inference.models import registry
from inference.models.bundled import BUNDLED_MODEL
from inference.models.manifest import MANIFEST_NAME
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.types import ModelId
from inference.wiring import open_sink
from local_stack.processes import wait_until
from local_stack.samples import PHOTOS, photo_bytes
from tests.e2e.nights import AirflowRun, Night
from tests.e2e.stacks import RunningStack, stack_of_its_own

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(600)]

NEWER = ModelId(BUNDLED_MODEL.name, "2")
AGAIN, SHADOW = "/api/v2/dags/reclassify_images", "/api/v2/dags/shadow_images"


@pytest.fixture(scope="module")
def running(server_folders: Path) -> Iterator[RunningStack]:
    """A stack of its own, since its production model changes; the bundled model is there as two versions."""
    with stack_of_its_own(server_folders / "again-stack") as commands:
        running = RunningStack(commands)
        store = ModelStore(running.stack.settings.state / "models")
        shutil.copytree(store.folder_of(BUNDLED_MODEL), store.folder_of(NEWER))
        path = store.folder_of(NEWER) / MANIFEST_NAME
        path.chmod(0o600)
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "version": "2"}), encoding="utf-8")
        settings = read_settings(database_url=running.stack.login("nightlabel_owner").url())
        with open_sink(settings) as sink, sink.asking() as connection:
            registry.register(connection, store.read_manifest(NEWER))
            registry.name_alias(connection, registry.SHADOW, NEWER, reason="a test")
        for dag_id in ("reclassify_images", "shadow_images"):
            running.unpause(dag_id)
        yield running


def promote(running: RunningStack) -> None:
    settings = read_settings(database_url=running.stack.login("nightlabel_owner").url())
    with open_sink(settings) as sink, sink.asking() as connection:
        registry.name_alias(connection, registry.PRODUCTION, NEWER, reason="a test")


def versions(running: RunningStack, bucket: str) -> dict[str, int]:
    sql = "SELECT model_version, count(*) AS images FROM latest_prediction WHERE bucket = %s GROUP BY 1"
    return {row["model_version"]: row["images"] for row in running.rows(sql, bucket)}


def test_a_night_with_a_shadow_then_a_promotion_then_everything_labelled_again(running: RunningStack):
    bucket = running.new_bucket()
    running.put_all(bucket, {f"in/{photo.key}": photo_bytes(photo) for photo in PHOTOS})
    images = len(PHOTOS)

    night = Night(running, bucket=bucket, shadow_share=0.6)
    assert night.state == "success", night.states()
    assert night.states()["shadow"] == {"success"}
    shadow_run = quote(f"shadow_of__{night.run_id}", safe="")
    assert wait_until(
        lambda: running.api.get(f"{SHADOW}/dagRuns/{shadow_run}")["state"] == "success", 120, interval_s=0.5
    ), running.api.get(f"{SHADOW}/dagRuns/{shadow_run}")
    main = night.summary()
    [shadow] = running.rows("SELECT * FROM run_summary WHERE shadow_of = %s", main["run_id"])
    assert (shadow["dag_id"], shadow["state"], shadow["model_version"]) == ("shadow_images", "succeeded", "2")
    assert 0 < shadow["labelled"] == shadow["discovered"] < images
    assert versions(running, bucket) == {"1": images}, "the shadow shows nowhere"
    [row] = running.rows("SELECT * FROM shadow_daily")
    assert (row["images"], row["agreement"]) == (shadow["labelled"], 1.0)

    promote(running)
    assert Night(running, bucket=bucket).summary()["already_done"] == images, "a promotion labels nothing again"

    dry = Night(running, dag=AGAIN, bucket=bucket, dry_run=True, images_per_second=10)
    assert dry.state == "success", dry.states()
    left = images - shadow["labelled"]
    note = dry.row()["note"]
    assert f"A dry run would label {left} images again with {NEWER}, which takes about" in note
    assert f"{images} match, of which it has done {shadow['labelled']} already" in note
    assert f"A dry run would label {left} images again" in dry.log("discover")

    again = Night(running, dag=AGAIN, bucket=bucket, labelled_by=str(BUNDLED_MODEL), images_per_second=10)
    assert again.state == "success", again.states()
    summary = again.summary()
    assert (summary["discovered"], summary["already_done"], summary["labelled"]) == (images, shadow["labelled"], left)
    assert (summary["max_images_per_second"], summary["dag_id"]) == (10.0, "reclassify_images")
    assert versions(running, bucket) == {"2": images}
    assert again.row()["note"].startswith(f"Planned to label {left} images again")


def test_a_shadow_that_fails_leaves_the_night_as_its_report_says(running: RunningStack):
    bucket = running.new_bucket()
    running.put(bucket, "a.png", photo_bytes(PHOTOS[0]))
    store = ModelStore(running.stack.settings.state / "models")
    hidden = store.root / ".hidden"
    promoted, other = NEWER, BUNDLED_MODEL
    settings = read_settings(database_url=running.stack.login("nightlabel_owner").url())
    with open_sink(settings) as sink, sink.asking() as connection:
        registry.name_alias(connection, registry.PRODUCTION, promoted, reason="a test")
        registry.name_alias(connection, registry.SHADOW, other, reason="a test")
    shutil.move(store.folder_of(other), hidden)
    try:
        night = Night(running, bucket=bucket, shadow_share=1)
        assert (night.state, night.summary()["state"]) == ("success", "succeeded")
        shadow_run = quote(f"shadow_of__{night.run_id}", safe="")
        assert wait_until(
            lambda: running.api.get(f"{SHADOW}/dagRuns/{shadow_run}")["state"] == "failed", 120, interval_s=0.5
        )
        assert night.row()["state"] == "success"
    finally:
        shutil.move(hidden, store.folder_of(other))


def test_shadows_do_not_pile_up_while_their_dag_is_paused(running: RunningStack):
    bucket = running.new_bucket()
    running.put(bucket, "b.png", photo_bytes(PHOTOS[0]))
    settings = read_settings(database_url=running.stack.login("nightlabel_owner").url())
    with open_sink(settings) as sink, sink.asking() as connection:
        registry.name_alias(connection, registry.PRODUCTION, NEWER, reason="a test")
        registry.name_alias(connection, registry.SHADOW, BUNDLED_MODEL, reason="a test")
    running.api.patch(f"{SHADOW}?update_mask=is_paused", {"is_paused": True})
    try:
        night = Night(running, bucket=bucket, shadow_share=1)
        assert (night.state, night.states()["shadow"]) == ("success", {"skipped"})
        assert "the Dag shadow_images is paused" in night.log("shadow")
    finally:
        running.api.patch(f"{SHADOW}?update_mask=is_paused", {"is_paused": False})

    run_id = str(night.summary()["run_id"])
    sql = "UPDATE nightlabel.run SET finished_at = finished_at - interval '25 hours' WHERE run_id = %s"
    with psycopg.connect(running.stack.login("nightlabel_owner").url()) as connection:
        connection.execute(sql, [run_id])
    conf = {"bucket": bucket, "run_id": run_id, "share": 1}
    running.api.post(f"{SHADOW}/dagRuns", {"logical_date": None, "conf": conf, "dag_run_id": "shadow_of__waited"})
    waited = AirflowRun(running, "shadow_of__waited", dag=SHADOW)
    waited.wait()
    assert (set.union(*waited.states().values()), waited.row()["state"]) == ({"skipped"}, "success")
    asked = AirflowRun.trigger(running, dag=SHADOW, **conf)
    assert (asked.wait(), asked.states()["report"]) == ("success", {"success"}), "somebody wants it all the same"
