"""The gate with real models on real photos: an equal one passes, and each kind of worse one is stopped.

The golden set is of seeded transformations of photos from wheels, each with the label that the bundled model gives the
photo as it was. Models that are worse in the manifest go through registry and store; models that answer worse are the
bundled one with something wrong around it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import boto3
import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

from inference import promoting, wiring
from inference.__main__ import main
from inference.decoding import decode_image
from inference.gate import checking
from inference.gate.answering import answer, with_speed
from inference.gate.checking import Gate
from inference.gate.figures import CheckRequest, ModelCheck
from inference.models import registry
from inference.models.agreement import installed_photos
from inference.models.bundled import BUNDLED_MODEL
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.ports import ModelHandle
from inference.predicting import predict_batch
from inference.settings import Settings, read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.stores.s3 import S3Store
from inference.types import DecodedImage, ImageRef, LabelMap, ModelId, PixelBatch, RunRequest, Scores
from local_stack.object_store import EmbeddedObjectStore
from tests.golden import golden_photos

pytestmark = pytest.mark.integration

GOLDEN, RECENT = 160, 60
SEED = 1


class Around:
    """The bundled model with something around it: another name, and what a subclass does to its answers."""

    def __init__(self, handle: ModelHandle, name: str) -> None:
        self._handle = handle
        self.model_id = ModelId(BUNDLED_MODEL.name, name)
        self.labels: LabelMap = handle.labels
        self.preprocessing = handle.preprocessing
        self.engine = handle.engine
        self.best_batch_size = handle.best_batch_size
        self.parallel_calls = handle.parallel_calls

    def predict(self, pixels: PixelBatch) -> Scores:
        return self._handle.predict(pixels)


class Remembered(Around):
    """The bundled model, which is asked about the same pixels once: the tests ask often."""

    known: ClassVar[dict[bytes, Scores]] = {}

    def predict(self, pixels: PixelBatch) -> Scores:
        keys = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
        new = [place for place, key in enumerate(keys) if key not in self.known]
        if new:
            self.known.update(zip([keys[place] for place in new], self._handle.predict(pixels[new]), strict=True))
        return np.stack([self.known[key] for key in keys])


class ThreePointsWorse(Around):
    """Puts the second best label first for a share of images that the pixels choose."""

    def predict(self, pixels: PixelBatch) -> Scores:
        scores = self._handle.predict(pixels).copy()
        for row, image in zip(scores, pixels, strict=True):
            if int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:2], "big") < 0.045 * 2**16:
                second, first = np.argsort(row)[-2:]
                row[[first, second]] = row[[second, first]]
        return scores


class BlueForRed(Around):
    """Reads the channels in the wrong order."""

    def predict(self, pixels: PixelBatch) -> Scores:
        return self._handle.predict(np.ascontiguousarray(pixels[:, :, :, ::-1]))


class ScaledTwice(Around):
    """Has the pixels divided before the model divides them."""

    def predict(self, pixels: PixelBatch) -> Scores:
        return self._handle.predict((pixels // 2 + 64).astype(np.uint8))


@dataclass(frozen=True)
class House:
    """Production with a golden set, and nights that it labelled."""

    settings: Settings
    sink: PostgresSink
    images: S3Store
    bucket: str
    golden_csv: Path
    environment: dict[str, str]

    @property
    def models(self) -> ModelStore:
        return ModelStore(self.settings.model_store)

    def register(self, version: str, **changes: Any) -> ModelId:
        """Register the bundled model once more, with changes of its manifest."""
        bundled = self.models.read_manifest(BUNDLED_MODEL)
        made = bundled.model_copy(update={"version": version, **changes})
        with self.models.workspace() as folder:
            for name in bundled.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.models.folder_of(BUNDLED_MODEL) / name, folder / name)
            self.models.add(folder, made)
        with self.sink.asking() as connection:
            registry.register(connection, made)
        return made.model_id

    def load(self, model: ModelId) -> ModelHandle:
        return wiring.load_model(model, self.sink, self.settings, device="cpu")

    def check(
        self, candidate: ModelId, around: Callable[[ModelHandle, str], ModelHandle] | None = None, **request: Any
    ) -> ModelCheck:
        """Check a model; or the bundled one with something around it, under the candidate's name."""

        def load(model: ModelId) -> ModelHandle:
            loaded = self.load(model)
            handle = Remembered(loaded, model.version)
            return around(handle, model.version) if around is not None and model == candidate else handle

        gate = Gate(
            asking=self.sink.asking,
            store=self.images,
            objects=wiring.reader_of(self.images),
            load=load,
            settings=self.settings,
            clock=wiring.SystemClock(),
            speed_s=0.05,
        )
        return gate.check(candidate, CheckRequest(str(candidate), **request))

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.required_database_url(), row_factory=dict_row) as connection:
            return connection.execute(sql, values).fetchall()


@pytest.fixture(scope="module")
def house(
    empty_databases: Callable[[], AbstractContextManager[str]],
    object_store_server: EmbeddedObjectStore,
    default_model_store: ModelStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("gate")
    bundled = default_model_store.read_manifest(BUNDLED_MODEL)
    target = folder / "models" / BUNDLED_MODEL.name / BUNDLED_MODEL.version
    shutil.copytree(default_model_store.folder_of(BUNDLED_MODEL), target)
    environment = object_store_server.environment()
    session = boto3.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment.get("AWS_REGION", "us-east-1"),
    )
    client, bucket = object_store_server.client(), f"gate-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    made = golden_photos(GOLDEN + RECENT, SEED)
    for number, (key, (_, body)) in enumerate(made.items()):
        client.put_object(Bucket=bucket, Key=key if number < GOLDEN else key.replace("golden", "recent"), Body=body)
    with empty_databases() as url:
        settings = read_settings(database_url=url, model_store=folder / "models", decode_threads=1)
        migrate(settings)
        with PostgresSink(settings) as sink:
            with sink.asking() as connection:
                registry.register(connection, bundled)
                registry.name_alias(connection, "production", BUNDLED_MODEL, reason="a test")
            images = wiring.open_store(settings, session=session, endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
            here = House(settings, sink, images, bucket, folder / "golden.csv", environment)
            write_golden_csv(here, list(made.items())[:GOLDEN])
            promoting.load_golden_set(str(here.golden_csv), settings=settings, bucket=bucket, store=images)
            plan = wiring.discover(RunRequest(bucket, prefix="recent/"), store=images, sink=sink)
            for number in plan.shards:
                wiring.run_shard(plan.run_id, number, store=images, sink=sink, settings=settings)
            wiring.finish_run(plan.run_id, sink=sink)
            yield here


def write_golden_csv(house: House, made: list[tuple[str, tuple[Path, bytes]]]) -> None:
    manifest = house.models.read_manifest(BUNDLED_MODEL)
    handle = load_handle(manifest, house.models.folder_of(BUNDLED_MODEL))
    photos = [
        DecodedImage(ImageRef("", str(path), "", 1), decode_image(path.read_bytes(), handle.preprocessing), bytes(32))
        for path in installed_photos()
    ]
    right = {found.ref.key: found.label.label_id for found in predict_batch(photos, handle)}
    with house.golden_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label_id"])
        writer.writerows([key, right[str(path)]] for key, (path, _) in made)


def stopped_by(check: ModelCheck) -> set[str]:
    return {reason.threshold for reason in check.reasons if not reason.is_warning}


def test_an_equal_model_passes_and_a_check_labels_nothing(house: House):
    ledger = "SELECT count(*) AS outcomes, max(recorded_at) AS newest FROM nightlabel.outcome"
    before, runs = house.rows(ledger), house.rows("SELECT * FROM nightlabel.run")
    check = house.check(house.register("equal"))

    assert (check.verdict, stopped_by(check)) == ("passed", set())
    golden, recent = check.comparison.golden, check.comparison.recent
    assert (golden.images, golden.unreadable, golden.loss, golden.agreement) == (GOLDEN, 0, 0.0, 1.0)
    assert (recent.images, recent.unreadable, recent.agreement) == (RECENT, 0, 1.0)
    assert golden.candidate is not None
    assert 0.6 < golden.candidate.top1 < 0.9, "hard enough that a worse model shows"
    assert golden.candidate.top1 < golden.candidate.top5
    assert check.comparison.images_per_second
    assert house.rows(ledger) == before
    assert house.rows("SELECT * FROM nightlabel.run") == runs


def test_the_gate_sees_what_the_night_recorded(house: House):
    """The same labels, and scores to the last digit that the ledger keeps: it is the same path."""
    shown = house.rows("SELECT * FROM nightlabel.latest_prediction WHERE bucket = %s", house.bucket)
    refs = [ImageRef(row["bucket"], row["object_key"], row["etag"], row["size_bytes"]) for row in shown]
    found = answer(
        house.load(BUNDLED_MODEL), {}, refs, store=house.images, settings=house.settings, clock=wiring.SystemClock()
    )

    assert len(refs) == RECENT
    assert [found.answers[ref.image_id].label.label_id for ref in refs] == [row["label_id"] for row in shown]
    assert [found.answers[ref.image_id].score for ref in refs] == pytest.approx(
        [row["score"] for row in shown], abs=1e-5
    )


def test_a_model_that_is_three_points_worse_is_stopped(house: House):
    check = house.check(house.register("worse"), ThreePointsWorse, days=0)

    assert stopped_by(check) == {"max_loss"}
    assert check.comparison.golden.loss is not None
    assert 0.02 <= check.comparison.golden.loss <= 0.04
    assert check.comparison.golden.agreement is not None
    assert check.comparison.golden.agreement > 0.9, "agreement alone would have let it through"


def test_permuted_labels_are_stopped_with_and_without_a_golden_set(house: House):
    labels = house.models.read_manifest(BUNDLED_MODEL).labels
    permuted = house.register("permuted", labels=labels[1:] + labels[:1])

    assert stopped_by(house.check(permuted)) == {"min_top1", "max_loss", "min_agreement"}
    with_none = {"golden_set": "none yet", "min_golden_images": 0}
    promoting.set_thresholds(house.settings, with_none, model_name=permuted.name, reason="a test")
    try:
        check = house.check(permuted)
    finally:
        house.rows("DELETE FROM nightlabel.gate_threshold WHERE model_name = %s RETURNING 1", permuted.name)
    assert stopped_by(check) == {"min_agreement"}
    assert (check.comparison.golden.images, check.comparison.recent.agreement) == (0, 0.0)


@pytest.mark.parametrize(
    ("crop_fraction", "resize_filter"), [(0.4, "bicubic"), pytest.param(1.0, "nearest", marks=pytest.mark.full)]
)
def test_wrong_preprocessing_is_stopped(house: House, crop_fraction: float, resize_filter: str):
    right = house.models.read_manifest(BUNDLED_MODEL).preprocessing
    wrong = replace(right, crop_fraction=crop_fraction, resize_filter=resize_filter)

    assert "max_loss" in stopped_by(house.check(house.register(f"crop-{crop_fraction}", preprocessing=wrong), days=0))


@pytest.mark.full
@pytest.mark.parametrize("around", [BlueForRed, ScaledTwice])
def test_pixels_that_reach_the_model_wrongly_are_stopped(house: House, around: type[Around]):
    check = house.check(house.register(around.__name__), around, days=0)

    assert "max_loss" in stopped_by(check)


def test_golden_images_that_changed_or_vanished_are_counted_and_cost_only_themselves(house: House):
    image = house.rows("SELECT * FROM nightlabel.golden_image ORDER BY object_key LIMIT 1")[0]
    house.rows(
        "INSERT INTO nightlabel.golden_image (golden_set, bucket, object_key, etag, label_id, origin) "
        "SELECT 'some bad', bucket, object_key, etag, label_id, origin FROM nightlabel.golden_image "
        "WHERE golden_set = 'default' RETURNING 1"
    )
    changed = "UPDATE nightlabel.golden_image SET {} WHERE golden_set = 'some bad' AND object_key ^@ %s RETURNING 1"
    house.rows(changed.format("etag = 'e0'"), image["object_key"])
    house.rows(changed.format("object_key = 'vanished'"), "golden/0001")
    house.rows(changed.format("origin = 'review'"), "golden/0002")
    model = house.register("some-bad")
    promoting.set_thresholds(house.settings, {"golden_set": "some bad"}, model_name=model.name, reason="a test")
    try:
        check = house.check(model, days=0)
    finally:
        house.rows("DELETE FROM nightlabel.gate_threshold WHERE model_name = %s RETURNING 1", model.name)

    assert (check.verdict, check.comparison.golden.images, check.comparison.golden.unreadable) == (
        "passed",
        GOLDEN - 3,
        2,
    )
    assert check.comparison.reviewed.images == 1
    assert check.comparison.reviewed.candidate_right == check.comparison.reviewed.production_right
    assert check.comparison.golden.why_unreadable == (("gone", 2),)


# The command line.


@pytest.fixture
def run(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command below ``models`` in this process; returns what it printed."""
    for name, value in house.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NIGHTLABEL_DATABASE_URL", house.settings.required_database_url())
    monkeypatch.setenv("NIGHTLABEL_MODEL_STORE", str(house.settings.model_store))
    monkeypatch.setattr(checking, "with_speed", lambda *parts, for_s: with_speed(*parts, for_s=0.05))
    before = signal.getsignal(signal.SIGTERM)

    def command(*words: str, status: int = 0) -> str:
        found = main(["models", *words])
        printed = capsys.readouterr()
        assert found == status, printed.err
        assert "Traceback" not in printed.err
        return printed.out if status == 0 else printed.out + printed.err

    yield command
    signal.signal(signal.SIGTERM, before)


def test_a_model_goes_from_golden_set_to_production_on_the_command_line(
    house: House, run: Callable[..., str], tmp_path: Path
):
    few = tmp_path / "few.csv"
    few.write_text("".join(house.golden_csv.read_text(encoding="utf-8").splitlines(keepends=True)[:21]), "utf-8")
    load = ("golden", "load", str(few), "--bucket", house.bucket, "--set", "cli", "--json")
    assert [json.loads(run(*load))["added_or_changed"] for _ in range(2)] == [20, 0]
    assert "cli\t20 images\t" in run("golden", "list")
    candidate = str(house.register("cli"))
    thresholds = (
        "--golden-set",
        "cli",
        "--min-golden-images",
        "20",
        "--max-loss",
        "0.2",
        "--min-compared-images",
        "30",
    )
    assert "max_loss            0.2" in run("thresholds", "set", *thresholds, "--why", "few images")
    assert json.loads(run("thresholds", "show", "--json"))[0]["golden_set"] == "cli"
    assert f"candidate is {candidate} now, and was no model" in run(
        "promote", candidate, "--alias", "candidate", "--why", "to be tried", "--expect", "none"
    )
    assert "error [promotion_refused]" in run("promote", "candidate", "--why", "too early", status=1)

    report = run("check", "candidate", "--images", "30")
    assert report.startswith(f"## {candidate}: passed")
    assert "Agreement: 100.0% of 20 golden images, 100.0% of 30 images of the last 7 days" in report
    done = json.loads(run("promote", "candidate", "--why", "equal, for a test", "--json"))
    assert (done["is_moved"], done["is_forced"], done["before"]["version"]) == (True, False, "1")

    [now, former] = json.loads(run("history", "--alias", "production", "--json"))
    assert (now["model"]["version"], now["reason"], now["valid_to"]) == ("cli", "equal, for a test", None)
    assert former["ended_reason"] == "equal, for a test"
    assert f"production\t{candidate}\t" in run("history", "--limit", "1")
    assert "the gate was overridden" in run("promote", str(BUNDLED_MODEL), "--force", "--why", "back again")
    compared = json.loads(run("compare", "production", candidate, "--images", "10", "--json"))
    assert (compared["candidate"]["version"], compared["production"]["version"]) == ("cli", "1")
    assert (compared["golden"]["images"], compared["recent"]["images"], compared["flipped"]) == (20, 10, 0)
    assert len(house.rows("SELECT FROM nightlabel.model_check WHERE model_version = 'cli'")) == 1
    assert "candidate is no model now" in run("remove-alias", "candidate", "--why", "done", "--expect", candidate)
    assert json.loads(run("list", "--json"))[0]["aliases"] == ["production"]
    run("golden", "remove", "--set", "cli")
    back = (
        "--golden-set",
        "default",
        "--min-golden-images",
        "150",
        "--max-loss",
        "0.02",
        "--min-compared-images",
        "50",
    )
    run("thresholds", "set", *back, "--why", "as it was")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("check", "none@1"), 1, "no model 'none@1' is registered"),
        (("check", "@1"), 2, "NAME@VERSION"),
        (("check", "production", "--days", "5000"), 2, "days is 5000; give a number from 0 to"),
        (("promote", "production", "--why", " "), 2, "no reason is given"),
        (
            ("promote", "production", "--why", "x", "--expect", "candidate"),
            2,
            "--expect is 'candidate'; give NAME@VERSION",
        ),
        (
            ("golden", "load", "/none.csv", "--bucket", "b"),
            1,
            "there is no /none.csv, which is given as the golden set",
        ),
        (("golden", "remove", "--set", "none"), 1, "the golden set 'none' holds no such image"),
        (("thresholds", "set", "--why", "x"), 2, "no threshold is named"),
        (
            ("thresholds", "set", "--max-loss", "2", "--why", "x"),
            2,
            "max_loss is 2.0; give a share from 0.0001 to 0.2",
        ),
        (("remove-alias", "shadow", "--why", "x", "--expect", "none@1"), 0, ""),
    ],
)
def test_what_is_wrong_is_one_sentence(run: Callable[..., str], words: tuple[str, ...], status: int, message: str):
    assert message in run(*words, status=status)
