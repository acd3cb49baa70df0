"""Labelling again and shadow runs by the command line: real Postgres, real store, the bundled model as two versions."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference import wiring
from inference.models import registry
from inference.models.bundled import BUNDLED_MODEL
from inference.models.manifest import MANIFEST_NAME
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.supervising import ShardWorker
from inference.types import LabelFilter, ModelId, RunRequest
from local_stack.processes import wait_until
from local_stack.samples import PHOTOS, photo_bytes
from tests.conftest import Bucket
from tests.integration.test_command_line import COUNTS, CommandLine

pytestmark = pytest.mark.integration

NEWER = ModelId(BUNDLED_MODEL.name, "2")


@pytest.fixture(scope="session")
def two_models(default_model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with the bundled model as it is, and once more as the version 2."""
    store = ModelStore(tmp_path_factory.mktemp("two-models") / "models")
    shutil.copytree(default_model_store.folder_of(BUNDLED_MODEL), store.folder_of(BUNDLED_MODEL), symlinks=True)
    newer = store.folder_of(NEWER)
    shutil.copytree(default_model_store.folder_of(BUNDLED_MODEL), newer, symlinks=True)
    path = newer / MANIFEST_NAME
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.chmod(0o600)
    path.write_text(json.dumps({**manifest, "version": NEWER.version}), encoding="utf-8")
    return store


@pytest.fixture
def cli(database: str, bucket: Bucket, two_models: ModelStore) -> CommandLine:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    settings = {"NIGHTLABEL_DATABASE_URL": database, "NIGHTLABEL_MODEL_STORE": str(two_models.root)}
    wiring.migrate(read_settings(database_url=database, model_store=two_models.root))
    return CommandLine({**inherited, **bucket.environment, **settings}, database)


def name_alias(cli: CommandLine, store: ModelStore, alias: str) -> None:
    """Register the newer version and let an alias name it."""
    with wiring.open_sink(read_settings(database_url=cli.url)) as sink, sink.asking() as connection:
        registry.register(connection, store.read_manifest(NEWER))
        registry.name_alias(connection, alias, NEWER, reason="a test")


def fill(bucket: Bucket, images: int) -> None:
    """Different images, of the smallest photos that there are: what is no part of a picture makes each its own."""
    bodies = sorted((photo_bytes(photo) for photo in PHOTOS), key=len)[:4]
    for number in range(images):
        bucket.put(f"in/{number:03}", bodies[number % len(bodies)] + number.to_bytes(2, "big"))


def reclassified(cli: CommandLine, bucket: Bucket, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Label again and return the last line; a run's books have to balance."""
    ended = cli("reclassify", "--bucket", bucket.name, *arguments, "--json", status=status)
    said = json.loads(ended.stdout.splitlines()[-1])
    if "state" in said:
        assert said["discovered"] == sum(said[part] for part in COUNTS)
    return said


def versions(cli: CommandLine) -> dict[str, int]:
    """How many objects have the label of which version."""
    rows = cli.rows("SELECT model_version, count(*) AS images FROM latest_prediction GROUP BY 1")
    return {row["model_version"]: row["images"] for row in rows}


def test_everything_that_the_former_model_labelled_is_labelled_again(
    cli: CommandLine, bucket: Bucket, two_models: ModelStore
):
    fill(bucket, 12)
    cli.classify("--bucket", bucket.name)
    before = cli.labels()
    name_alias(cli, two_models, "production")

    plan = reclassified(cli, bucket, "--dry-run", "--images-per-second", "30")
    assert (plan["dry_run"], plan["model"], plan["to_classify"]) == (True, str(NEWER), 12)
    assert (plan["max_images_per_second"], plan["is_speed_of_model"]) == (30.0, False)
    assert plan["expected_s"] >= 12 / 30
    line = cli("reclassify", "--bucket", bucket.name, "--prefix", "in/00", "--dry-run").stdout
    assert f"dry run with {NEWER}: discovered 10, already_done 0, deferred 0, to_classify 10," in line
    assert "images/s that runs of other models, as there were none of this one, did of late" in line
    assert versions(cli) == {"1": 12}

    summary = reclassified(cli, bucket, "--labelled-by", str(BUNDLED_MODEL), "--images-per-second", "30")
    assert (summary["state"], summary["labelled"], summary["max_images_per_second"]) == ("succeeded", 12, 30.0)
    assert summary["expected_s"] == pytest.approx(plan["expected_s"], rel=0.01)
    assert versions(cli) == {"2": 12}
    assert cli.labels() == before, "it is the same network"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--label", "cat", "--label-id", "n1"), "not allowed with argument"),
        (("--images-per-second", "0"), "'0' is not a number of images a second, above 0"),
        (("--images-per-second", "0.001"), "images_per_second is 0.001; it is from 0.01 to 100000"),
        (("--since", "today"), "--since is 'today'; give a date or time such as"),
        (("--label", "cat", "--dead-letters-too"), "leave out dead_letters_too"),
        (("--labelled-by", "lite0@"), "give an alias such as production, or NAME@VERSION"),
    ],
)
def test_a_choice_that_cannot_be_is_wrong_usage(arguments, sentence):
    ended = subprocess.run(
        [sys.executable, "-m", "inference", "reclassify", "--bucket", "b", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, sentence in ended.stderr) == (2, True), ended.stderr


@contextmanager
def started(cli: CommandLine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    run = subprocess.Popen(
        [sys.executable, "-m", "inference", *arguments], env=cli.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


def recorded(cli: CommandLine, model: ModelId) -> int:
    sql = "SELECT count(*) AS n FROM nightlabel.outcome JOIN nightlabel.model USING (model_id) WHERE version = %s"
    return cli.rows(sql, [model.version])[0]["n"]


def worker_of(run: subprocess.Popen[str]) -> int:
    """The process that works on the shards."""
    for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii").split():
        if b"inference.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no worker is there")


@pytest.mark.parametrize("killed", ["the command", pytest.param("the worker", marks=pytest.mark.full)])
def test_after_a_kill_nothing_that_was_recorded_is_computed_again(
    cli: CommandLine, bucket: Bucket, two_models: ModelStore, killed: str
):
    images = 60
    fill(bucket, images)
    cli.classify("--bucket", bucket.name)
    name_alias(cli, two_models, "production")
    arguments = ("reclassify", "--bucket", bucket.name, "--labelled-by", str(BUNDLED_MODEL), "--json")
    with started(cli, *arguments, "--images-per-second", "20") as run:
        wait_until(lambda: recorded(cli, NEWER) >= 8, timeout_s=60)
        worker = worker_of(run)
        os.kill(worker if killed == "the worker" else run.pid, signal.SIGKILL)
        if killed == "the worker":
            assert run.wait(60) == 0, "the command starts the next attempt by itself"
        else:
            run.wait(10)
            wait_until(lambda: not Path(f"/proc/{worker}").exists(), timeout_s=30)
    before = recorded(cli, NEWER)
    runs = "SELECT run_id, labelled FROM run_summary WHERE model_version = '2' ORDER BY started_at"
    first = cli.rows(runs)[0]
    assert first["labelled"] == before, "the books have what was recorded, and each image once"
    if killed == "the command":
        assert 8 <= before < images

    second = json.loads(cli(*arguments).stdout.splitlines()[-1])

    assert (second["discovered"], second["already_done"], second["labelled"]) == (images, before, images - before)
    assert recorded(cli, NEWER) == images
    assert versions(cli) == {"2": images}
    by_run = cli.rows(
        "SELECT o.run_id, count(*) AS n FROM nightlabel.outcome o JOIN nightlabel.model USING (model_id) "
        "WHERE version = '2' GROUP BY 1"
    )
    assert sum(row["n"] for row in by_run) == images
    assert {row["run_id"]: row["n"] for row in by_run}[first["run_id"]] == before


@pytest.mark.full
@pytest.mark.parametrize(("rate", "workers"), [(4.0, 1), (12.0, 1), (12.0, 3)])
def test_the_workers_of_a_run_keep_its_rate_within_a_tenth(
    cli: CommandLine,
    bucket: Bucket,
    two_models: ModelStore,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
    workers: int,
):
    """Measured from the first batch that was recorded to the last one; two cores do several times as many."""
    images = round(rate * 30)
    fill(bucket, images)
    cli.classify("--bucket", bucket.name)
    name_alias(cli, two_models, "production")
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(database_url=cli.url, model_store=two_models.root, engine_threads=1)
    request = RunRequest(bucket.name, labelled=LabelFilter(), images_per_second=rate, shard_size=math.ceil(images / 3))
    with wiring.open_sink(settings) as sink:
        plan = sink.plan_run(request, None)
        assert len(plan.shards) == 3

        def work(numbers: Sequence[int]) -> None:
            with ShardWorker(settings) as worker:
                for number in numbers:
                    worker.run(plan.run_id, number, lambda _images: None)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, [plan.shards[place::workers] for place in range(workers)]))
        assert sink.finish_run(plan.run_id).labelled == images
    rows = cli.rows(
        "SELECT recorded_at, count(*) AS images FROM nightlabel.outcome WHERE run_id = %s GROUP BY 1 ORDER BY 1",
        [plan.run_id],
    )
    measured = (images - rows[0]["images"]) / (rows[-1]["recorded_at"] - rows[0]["recorded_at"]).total_seconds()
    print(f"{measured:.2f} images/s at a rate of {rate:g}, {workers} workers")  # noqa: T201 - seen with -rP
    assert measured == pytest.approx(rate, rel=0.1), rows


# The shadow


def test_a_shadow_looks_at_a_share_of_what_a_run_has_labelled_and_changes_nothing(
    cli: CommandLine, bucket: Bucket, two_models: ModelStore
):
    name_alias(cli, two_models, "shadow")
    fill(bucket, 24)
    ended = cli("classify", "--bucket", bucket.name, "--json", "--shadow-share", "0.5")

    main = json.loads(ended.stdout.splitlines()[-1])
    assert (main["state"], main["labelled"], main["model_version"]) == ("succeeded", 24, "1")
    [shadow] = cli.rows("SELECT * FROM run_summary WHERE shadow_of IS NOT NULL")
    assert (str(shadow["shadow_of"]), shadow["model_version"], shadow["state"]) == (main["run_id"], "2", "succeeded")
    assert 0 < shadow["labelled"] == shadow["discovered"] < 24
    assert f"shadow run {shadow['run_id']} succeeded with {NEWER}" in ended.stderr
    assert versions(cli) == {"1": 24}
    [row] = cli.rows("SELECT * FROM shadow_daily")
    assert (row["images"], row["agreement"]) == (shadow["labelled"], 1.0), "it is the same network"
    again = cli("classify", "--bucket", bucket.name, "--json", NIGHTLABEL_SHADOW_SHARE="1")
    assert json.loads(again.stdout)["already_done"] == 24
    assert len(cli.rows("SELECT * FROM run_summary WHERE shadow_of IS NOT NULL")) == 1, "nothing was labelled"


def test_a_shadow_that_fails_fails_nothing_else(cli: CommandLine, bucket: Bucket, two_models: ModelStore, tmp_path):
    name_alias(cli, two_models, "shadow")
    fill(bucket, 4)
    without_newer = tmp_path / "models"
    shutil.copytree(two_models.folder_of(BUNDLED_MODEL), without_newer / BUNDLED_MODEL.name / BUNDLED_MODEL.version)

    ended = cli(
        "classify", "--bucket", bucket.name, "--json", "--shadow-share", "1", NIGHTLABEL_MODEL_STORE=str(without_newer)
    )

    assert json.loads(ended.stdout.splitlines()[-1])["state"] == "succeeded"
    assert "[model_unknown]" in ended.stderr
    [shadow] = cli.rows("SELECT state, unfinished FROM run_summary WHERE shadow_of IS NOT NULL")
    assert (shadow["state"], shadow["unfinished"]) == ("failed", 4)
