"""What the tasks of register_model ask, skip and hand on. That they run is seen under the real scheduler."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from nightlabel_airflow import connections, promotion
from nightlabel_airflow.promotion import APPROVE_TASK, CHECK_KEY, CHECK_TASK, REGISTER_TASK, REPORT_KEY

import inference.promoting
import inference.wiring
from inference.errors import ModelSourceError, SettingsError
from inference.gate.figures import (
    CheckRequest,
    Comparison,
    GoldenFigures,
    ModelCheck,
    Reason,
    RecentFigures,
    Thresholds,
)
from inference.promoting import Promotion, PromotionRequest
from inference.types import ModelId, RegistrationRequest

LITE0, LITE2 = ModelId("lite0", "1"), ModelId("lite2", "1")
PARAMS = {
    "source": "", "name": "lite2", "version": "1", "labels": "", "licence": "", "sha256": "", "int8": False,
    "family": "", "input_height": None, "input_width": None, "crop_fraction": None, "resize_filter": "",
    "input_mean": None, "input_scale": None, "output": "", "background_columns": None, "days": 3, "images": 50.0,
    "seed": 1, "why": "ticket 4", "approval_hours": 2, "override_reason": "",
}  # fmt: skip
PASSED = {
    "check_id": 7, "model": "lite2@1", "production": "lite0@1", "verdict": "passed", "stopped_by": [],
    "warned_of": ["max_slowdown"], "golden_images": 300, "recent_images": 50,
}  # fmt: skip
STOPPED = PASSED | {"verdict": "failed", "stopped_by": ["max_loss"]}
YES = {"chosen_options": ["Approve"], "responded_by_user": {"id": "1", "name": "admin"}}
APPROVED = {CHECK_TASK: PASSED, APPROVE_TASK: YES, f"{APPROVE_TASK}_{CHECK_KEY}": 7}
NO = {"chosen_options": ["Reject"], "responded_by_user": None}


def context(params=None, **xcoms):
    """What an operator sees; XComs by the task that left them."""
    pushed = {}

    def pull(task_ids, key="return_value"):
        return xcoms.get(task_ids if key == "return_value" else f"{task_ids}_{key}")

    ti = SimpleNamespace(xcom_pull=pull, xcom_push=lambda key, value: pushed.update({key: value}))
    dag_run = SimpleNamespace(run_id="manual__1", dag_id="register_model", conf={})
    form = PARAMS | (params or {})
    return {"params": form, "dag": SimpleNamespace(params=form), "dag_run": dag_run, "ti": ti, "pushed": pushed}


def model_check(*reasons):
    comparison = Comparison(
        LITE2, LITE0, GoldenFigures(300, 0), RecentFigures(3, 50, 0), 0.0, "litert", 50.0, 100.0, (), (), 0
    )
    thresholds = Thresholds("*", "default", 150, 0.05, 0.5, 0.02, 0.95, 50, 0.6, 0.5)
    verdict = "passed" if all(reason.is_warning for reason in reasons) else "failed"
    return ModelCheck(7, datetime(2026, 11, 2, tzinfo=UTC), verdict, reasons, thresholds, comparison)


def test_the_check_asks_for_what_the_form_says_and_leaves_verdict_and_report(monkeypatch):
    asked = []

    def check_model(request, *, settings, store, models, progress):
        asked.append((request, settings, store, models))
        progress(10, 100)
        return model_check(Reason("max_loss", False, "too bad"), Reason("max_slowdown", True, "slow"))

    monkeypatch.setattr(inference.promoting, "check_model", check_model)
    monkeypatch.setattr(connections, "open_settings", lambda: "as writer")
    monkeypatch.setattr(connections, "open_store", lambda settings: f"store {settings}")
    monkeypatch.setattr(connections, "open_model_store", lambda settings: f"models {settings}")
    here = context(**{REGISTER_TASK: "lite2@1"})

    verdict = promotion.CheckModelOperator(task_id=CHECK_TASK).execute(here)

    assert asked == [
        (CheckRequest("lite2@1", days=3, images=50, seed=1), "as writer", "store as writer", "models as writer")
    ]
    assert verdict == STOPPED
    assert here["pushed"][REPORT_KEY].startswith("## lite2@1: failed")
    assert len(json.dumps(verdict)) < 500
    with pytest.raises(SettingsError, match="the task 'register' named no model"):
        promotion.CheckModelOperator(task_id=CHECK_TASK).execute(context())


def test_nobody_is_asked_about_a_model_that_the_gate_has_stopped():
    approve = promotion.ApprovePromotionOperator(task_id=APPROVE_TASK)
    with pytest.raises(AirflowSkipException, match=r"the gate has stopped lite2@1 \(max_loss\); nobody is asked"):
        approve.execute(context(**{CHECK_TASK: STOPPED}))
    with pytest.raises(SettingsError, match="the task 'check' left no verdict"):
        approve.execute(context())


@pytest.fixture
def waits(monkeypatch):
    """Stand in for the wait itself; returns how each was begun."""
    begun = []
    parent = promotion.ApprovalOperator
    monkeypatch.setattr(
        parent, "execute", lambda self, _: begun.append((self.subject, self.body, self.response_timeout))
    )
    return begun


def test_a_person_is_asked_for_as_long_as_the_form_says(waits):
    approve = promotion.ApprovePromotionOperator(task_id=APPROVE_TASK)
    here = context(**{CHECK_TASK: PASSED})
    approve.execute(here)

    assert here["pushed"] == {CHECK_KEY: 7}, "what the answer will be about"
    [(subject, body, timeout)] = waits
    assert timeout == timedelta(hours=2)
    assert not subject.startswith("OVERRIDE")
    assert REPORT_KEY in body
    assert approve.defaults == ["Reject"], "silence is a no"


def test_an_override_is_asked_about_under_its_own_title(waits):
    approve = promotion.ApprovePromotionOperator(task_id=APPROVE_TASK)
    approve.execute(context({"override_reason": "the set is wrong"}, **{CHECK_TASK: STOPPED}))

    [(subject, body, _)] = waits
    assert subject.startswith("OVERRIDE: ")
    assert body.startswith("**The gate has stopped lite2@1 (max_loss). The form overrides that.**")


@pytest.mark.parametrize(
    ("verdict", "params", "expected"),
    [
        (PASSED, {}, PromotionRequest("lite2@1", "ticket 4", expected=LITE0, approved_by="admin", check_id=7)),
        (
            PASSED,
            {"override_reason": "needless", "why": ""},
            PromotionRequest(
                "lite2@1",
                "approved in the run manual__1 of register_model",
                expected=LITE0,
                approved_by="admin",
                check_id=7,
            ),
        ),
        (
            STOPPED,
            {"override_reason": "the set is wrong"},
            PromotionRequest(
                "lite2@1", "the set is wrong", expected=LITE0, force=True, approved_by="admin", check_id=7
            ),
        ),
        (STOPPED, {}, PromotionRequest("lite2@1", "ticket 4", expected=LITE0, approved_by="admin", check_id=7)),
        (
            PASSED | {"production": None},
            {},
            PromotionRequest("lite2@1", "ticket 4", expected=None, approved_by="admin", check_id=7),
        ),
    ],
)
def test_a_yes_becomes_a_promotion_that_expects_what_the_check_was_beside(verdict, params, expected):
    assert promotion.promotion_from(context(params, **APPROVED | {CHECK_TASK: verdict})) == expected


@pytest.mark.parametrize("asked_about", [6, None])
def test_a_yes_to_another_check_than_this_runs_last_one_is_no_yes(asked_about):
    xcoms = APPROVED | {f"{APPROVE_TASK}_{CHECK_KEY}": asked_about}
    with pytest.raises(SettingsError, match=rf"approved is check {asked_about}, and the last one of this run is 7"):
        promotion.promotion_from(context(**xcoms))


@pytest.mark.parametrize("answer", [None, NO])
def test_marking_the_approval_as_done_by_hand_is_no_yes(answer):
    with pytest.raises(SettingsError, match="nobody has approved of lite2@1: the task 'approve' holds no answer"):
        promotion.PromoteModelOperator(task_id="promote").execute(context(**{CHECK_TASK: PASSED, APPROVE_TASK: answer}))


def test_the_promotion_is_the_owners_affair(monkeypatch):
    asked = []

    def promote_model(request, *, settings, models):
        asked.append((request, settings, models))
        return Promotion("production", LITE2, LITE0, is_moved=True, is_forced=False, check_id=7)

    monkeypatch.setattr(inference.promoting, "promote_model", promote_model)
    monkeypatch.setattr(connections, "open_owner_settings", lambda: "as owner")
    monkeypatch.setattr(connections, "open_model_store", lambda settings: f"models {settings}")

    done = promotion.PromoteModelOperator(task_id="promote").execute(context(**APPROVED))

    assert done == {"production": "lite2@1", "before": "lite0@1", "forced": False}
    assert [asked_with[1:] for asked_with in asked] == [("as owner", "models as owner")]


def test_without_a_source_the_registered_model_is_taken(monkeypatch):
    class Sink:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def resolve_model(self, text):
            return ModelId(*text.split("@"))

    monkeypatch.setattr(connections, "open_settings", lambda: "settings")
    monkeypatch.setattr(connections, "open_sink", lambda settings: Sink())

    register = promotion.RegisterModelOperator(task_id=REGISTER_TASK)
    assert register.execute(context()) == "lite2@1"
    with pytest.raises(SettingsError, match="fill in 'name' and 'version'"):
        register.execute(context({"version": " "}))
    here = context()
    here["dag_run"].conf = {"colour": 1}
    with pytest.raises(SettingsError, match="'colour', which is no parameter of this Dag"):
        register.execute(here)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((None, None), None), ((224.0, 260.0), (224, 260)), ((None, 260), "'a' and 'b'"), ((224, None), "'a' and 'b'")],
)
def test_what_belongs_together_is_given_together(values, expected):
    params = dict(zip("ab", values, strict=True))
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            promotion.pair(params, "a", "b", of=int)
    else:
        assert promotion.pair(params, "a", "b", of=int) == expected


@pytest.mark.parametrize(
    ("user", "name"),
    [(None, None), ({"id": "1", "name": "admin"}, "admin"), ({"id": "1", "name": None}, "1")],
)
def test_who_answered_is_named(user, name):
    assert promotion.name_of({"responded_by_user": user}) == name


SOURCE = {
    "source": " s3://models/resnet.tar.gz ", "name": "resnet", "version": "50", "labels": "imagenet", "licence": "MIT",
    "sha256": "0" * 64, "int8": True, "family": "resnet", "input_height": 224.0, "input_width": 224,
    "crop_fraction": 0.875, "resize_filter": "bilinear", "input_mean": 127, "input_scale": 128.0, "output": "logits",
    "background_columns": 1.0,
}  # fmt: skip


def test_the_form_says_everything_about_a_new_model():
    assert promotion.registration_from(PARAMS | SOURCE) == RegistrationRequest(
        source="s3://models/resnet.tar.gz",
        name="resnet",
        version="50",
        labels="imagenet",
        family="resnet",
        input_size=(224, 224),
        crop_fraction=0.875,
        resize_filter="bilinear",
        input_scale=(127.0, 128.0),
        output="logits",
        background_columns=1,
        licence="MIT",
        sha256="0" * 64,
        int8=True,
    )


def test_what_the_form_leaves_empty_is_left_to_the_family():
    form = PARAMS | {"source": "https://tfhub.dev/x/1", "family": "efficientnet-lite"}
    assert promotion.registration_from(form) == RegistrationRequest(
        "https://tfhub.dev/x/1", "lite2", "1", family="efficientnet-lite"
    )


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "models/cats",
        "~/cats.tflite",
        "file:///etc/passwd",
        "http://127.0.0.1/cats/1",
        "http://x.example/m",
    ],
)
def test_a_form_reads_no_file_of_the_worker_and_nothing_over_plain_http(source):
    with pytest.raises(ModelSourceError, match="put a file into a bucket"):
        promotion.registration_from(PARAMS | SOURCE | {"source": source})


@pytest.mark.parametrize("labels", ["/etc/passwd", "labels.txt", "https://x.example/labels.txt"])
def test_a_form_takes_labels_from_a_bucket_alone(labels):
    with pytest.raises(ModelSourceError, match="neither imagenet nor s3://bucket/key"):
        promotion.registration_from(PARAMS | SOURCE | {"labels": labels})


def test_a_short_kaggle_handle_never_means_a_folder_of_the_worker():
    handle = "google/mobilenet-v2/tensorFlow2/100-224/2"
    request = promotion.registration_from(PARAMS | SOURCE | {"source": handle})
    assert request.source == f"https://www.kaggle.com/models/{handle}"


def test_a_source_is_registered_by_the_library(monkeypatch):
    asked = []

    def register_model(settings, request, *, store, models, progress):
        asked.append((settings, request, store, models))
        progress("fetching")
        return SimpleNamespace(model_id=request.model_id)

    monkeypatch.setattr(inference.wiring, "register_model", register_model)
    monkeypatch.setattr(connections, "open_settings", lambda: "as writer")
    monkeypatch.setattr(connections, "open_store", lambda settings: f"store {settings}")
    monkeypatch.setattr(connections, "open_model_store", lambda settings: f"models {settings}")

    assert promotion.RegisterModelOperator(task_id=REGISTER_TASK).execute(context(SOURCE)) == "resnet@50"
    request = promotion.registration_from(PARAMS | SOURCE)
    assert asked == [("as writer", request, "store as writer", "models as writer")]
