"""A model's way into production through the real scheduler: checked, asked about over REST, promoted, or not."""

from __future__ import annotations

import csv
import io
import shutil
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from inference import promoting, wiring
from inference.models import registry
from inference.models.bundled import BUNDLED_MODEL
from inference.models.store import ModelStore
from inference.settings import Settings, read_settings
from inference.sinks.postgres import PostgresSink
from inference.types import ModelId
from local_stack.processes import wait_until
from tests.e2e.nights import AirflowRun, Night
from tests.e2e.stacks import RunningStack
from tests.golden import golden_photos

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(900)]

DAG = "/api/v2/dags/register_model"
GOLDEN = 160


class Gatehouse:
    """A running stack with a golden set, and models that wait in its store."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.store = ModelStore(stack.stack.settings.state / "models")
        self.settings: Settings = read_settings(
            database_url=stack.stack.login("nightlabel_owner").url(), model_store=self.store.root
        )
        self.bucket = stack.new_bucket()
        stack.unpause("register_model")

    def register(self, version: str, **changes: Any) -> ModelId:
        bundled = self.store.read_manifest(BUNDLED_MODEL)
        made = bundled.model_copy(update={"version": version, **changes})
        with self.store.workspace() as folder:
            for name in bundled.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.store.folder_of(BUNDLED_MODEL) / name, folder / name)
            self.store.add(folder, made)
        with PostgresSink(self.settings) as sink, sink.asking() as connection:
            registry.register(connection, made)
        return made.model_id

    def load_golden_set(self, folder: Path) -> None:
        """Photos with the label that the bundled model gives them: all that this is about is that they are judged."""
        objects = {key: body for key, (_, body) in golden_photos(GOLDEN, 1).items()}
        self.stack.put_all(self.bucket, objects)
        night = Night(self.stack, bucket=self.bucket)
        assert night.state == "success", night.states()
        rows = self.stack.rows(
            "SELECT object_key, etag, label_id FROM latest_prediction WHERE bucket = %s", self.bucket
        )
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["bucket", "object_key", "etag", "label_id"])
        writer.writerows([self.bucket, row["object_key"], row["etag"], row["label_id"]] for row in rows)
        path = folder / "golden.csv"
        path.write_text(text.getvalue(), encoding="utf-8")
        environment = self.stack.stack.store.environment()
        session = boto3.Session(
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
        )
        images = wiring.open_store(self.settings, session=session, endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
        assert promoting.load_golden_set(str(path), settings=self.settings, store=images)[0] == GOLDEN

    def production(self) -> str:
        [row] = self.stack.rows(
            "SELECT model_name || '@' || model_version AS model FROM model_alias_history "
            "WHERE alias = 'production' AND valid_to IS NULL"
        )
        return str(row["model"])

    def trigger(self, model: ModelId, **conf: Any) -> AirflowRun:
        conf = {"name": model.name, "version": model.version, "images": 20, **conf}
        return AirflowRun.trigger(self.stack, dag=DAG, **conf)

    def question(self, run: AirflowRun, limit_s: float = 180) -> dict[str, Any]:
        """Wait until somebody is asked, and return what they see."""
        deadline = time.monotonic() + limit_s
        while run.states().get("approve") != {"awaiting_input"}:
            assert time.monotonic() < deadline, run.states()
            assert run.row()["state"] in {"queued", "running"}, (run.states(), run.log("check"))
            time.sleep(0.5)
        return self.stack.api.get(f"{run.path}/taskInstances/approve/-1/hitlDetails")

    def answer(self, run: AirflowRun, option: str) -> None:
        """Answer as a person would, and not in the second in which the question appears.

        By then the process that asked has ended, and the scheduler has heard of it: it takes the news for that of the
        task's second half, which the answer starts, and has the task tried again.
        """
        [asked] = [task for task in run.tasks() if task["task_id"] == "approve"]
        assert wait_until(lambda: not Path(f"/proc/{asked['pid']}").exists(), 60)
        time.sleep(5)
        self.stack.api.patch(
            f"{run.path}/taskInstances/approve/-1/hitlDetails", {"chosen_options": [option], "params_input": {}}
        )


@pytest.fixture(scope="module")
def gatehouse(running: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Gatehouse:
    made = Gatehouse(running)
    made.load_golden_set(tmp_path_factory.mktemp("golden"))
    return made


def test_a_yes_over_rest_moves_production_and_the_next_night_takes_it(gatehouse: Gatehouse):
    model = gatehouse.register("2")
    run = gatehouse.trigger(model, why="ticket 7")
    question = gatehouse.question(run)

    assert question["subject"] == f"Is {model} to label the nights from now on?"
    assert question["body"].startswith(f"## {model}: passed")
    assert "| top-1 | 100.0% | 100.0% |" in question["body"]
    assert gatehouse.production() == str(BUNDLED_MODEL), "asking changes nothing"
    gatehouse.answer(run, "Approve")
    assert run.wait(180) == "success", run.states()

    assert gatehouse.production() == str(model)
    [row] = gatehouse.stack.rows("SELECT * FROM model_alias_history WHERE valid_to IS NULL AND alias = 'production'")
    assert (row["reason"], row["approved_by"], row["is_forced"]) == ("ticket 7", "admin", False)
    assert row["check_id"] is not None
    assert max(run.xcom_sizes().values()) < 48 * 1024
    night = Night(gatehouse.stack, bucket=gatehouse.bucket)
    assert (night.summary()["model_version"], night.counts()) == ("2", {"discovered": GOLDEN, "already_done": GOLDEN})


@pytest.mark.parametrize("answer", ["Reject", None], ids=["no", "silence"])
def test_a_no_and_silence_leave_production_where_it_is(gatehouse: Gatehouse, answer: str | None):
    before = gatehouse.production()
    model = gatehouse.register(f"refused-{answer}")
    run = gatehouse.trigger(model, approval_hours=1 if answer else 0.003)
    gatehouse.question(run)
    if answer:
        gatehouse.answer(run, answer)

    assert run.wait(180) == "success"
    assert run.states() == {
        "register": {"success"}, "check": {"success"}, "approve": {"success"}, "promote": {"skipped"},
    }  # fmt: skip
    assert gatehouse.production() == before


def test_nobody_is_asked_about_what_the_gate_stops_unless_it_is_overridden(gatehouse: Gatehouse):
    before = gatehouse.production()
    labels = gatehouse.store.read_manifest(BUNDLED_MODEL).labels
    model = gatehouse.register("permuted", labels=labels[1:] + labels[:1])
    run = gatehouse.trigger(model)

    assert run.wait(180) == "success"
    assert (run.states()["approve"], run.states()["promote"]) == ({"skipped"}, {"skipped"})
    assert "nobody is asked, and it is not promoted" in run.log("approve")
    assert gatehouse.production() == before

    overridden = gatehouse.trigger(model, override_reason="a test of the override")
    assert gatehouse.question(overridden)["subject"].startswith("OVERRIDE: ")
    gatehouse.answer(overridden, "Reject")
    assert overridden.wait(180) == "success"
    assert gatehouse.production() == before


def test_an_unknown_model_is_red_at_once(gatehouse: Gatehouse):
    run = gatehouse.trigger(ModelId("none", "1"))

    assert run.wait(180) == "failed"
    assert "no model 'none@1' is registered" in run.log("register")
