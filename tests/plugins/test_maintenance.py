"""What the maintenance's tasks ask for, hand on and skip; that they do it is seen on real databases."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from nightlabel_airflow import connections, maintenance

import inference.wiring
from inference.errors import SettingsError
from inference.types import MaintenanceReport, MaintenanceRequest, MaintenanceStep

PARAMS = {
    "dry_run": True, "time_budget_minutes": 30.0, "keep_manifest_days": None, "keep_run_days": 60.0,
    "keep_outcome_days": 400, "drop_models": ["tiny@1", "tiny@2"],
}  # fmt: skip
STEPS = (MaintenanceStep("models", 0, True, 0.1), MaintenanceStep("outcomes", 1_234_567, False, 12.34))


@pytest.fixture
def asked(monkeypatch):
    """Answer in the library's place; returns what was asked for."""
    requests = []

    def maintain(settings, request):
        requests.append((settings, request))
        return MaintenanceReport(STEPS, request.dry_run)

    monkeypatch.setattr(inference.wiring, "maintain", maintain)
    monkeypatch.setattr(connections, "open_owner_settings", lambda: "as owner")
    return requests


def run(params, run_type, conf=None):
    """Execute ``count`` as the first of two tasks; returns its XComs. Airflow merges the configuration into params."""
    from airflow.sdk import DAG

    with DAG("maintain_results", schedule=None, params=PARAMS) as dag:
        count = maintenance.CountSuperfluousOperator(task_id="count")
        count >> maintenance.MaintainOperator(task_id="maintain")
    pushed = {}
    dag_run = SimpleNamespace(conf=conf, run_type=run_type)
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    context = {"params": params | (conf or {}), "dag": dag, "dag_run": dag_run, "ti": ti}
    pushed["return_value"] = count.execute(context)
    return pushed


def test_the_form_becomes_a_request():
    assert maintenance.request_from(PARAMS, dry_run=False) == MaintenanceRequest(
        keep_manifest_days=None,
        keep_run_days=60,
        keep_outcome_days=400,
        drop_models=("tiny@1", "tiny@2"),
        time_budget_minutes=30,
    )


@pytest.mark.parametrize(
    ("dry_run", "run_type", "skipped"),
    [
        (True, "manual", True),
        (True, "backfill", True),
        (False, "manual", False),
        (True, "scheduled", False),
    ],
)
def test_only_a_dry_run_by_hand_ends_after_counting(asked, dry_run, run_type, skipped):
    pushed = run(PARAMS | {"dry_run": dry_run}, run_type)

    assert [(settings, request.dry_run) for settings, request in asked] == [("as owner", True)]
    assert pushed["return_value"] == {"models": 0, "outcomes": 1_234_567}
    assert [value["skipped"] for key, value in pushed.items() if key != "return_value"] == [["maintain"]] * skipped
    assert len(json.dumps(pushed)) < 1000


@pytest.mark.parametrize(
    ("dry_run", "run_type", "removes"),
    [
        (True, "manual", False),
        (True, "backfill", False),
        (False, "manual", True),
        (True, "scheduled", True),
    ],
)
def test_a_dry_run_removes_nothing_even_if_its_first_task_was_marked_as_done_by_hand(asked, dry_run, run_type, removes):
    operator = maintenance.MaintainOperator(task_id="maintain")
    context = {
        "params": PARAMS | {"dry_run": dry_run},
        "dag": SimpleNamespace(params=PARAMS),
        "dag_run": SimpleNamespace(conf={"dry_run": dry_run}, run_type=run_type),
    }

    if removes:
        assert operator.execute(context) == {"models": 0, "outcomes": 1_234_567}
    else:
        with pytest.raises(AirflowSkipException, match="this is a dry run; trigger it with dry_run unticked"):
            operator.execute(context)
    assert [request for _, request in asked] == [maintenance.request_from(PARAMS, dry_run=False)] * removes


def test_a_configuration_that_names_no_parameter_is_refused(asked):
    with pytest.raises(SettingsError, match="'keep_days', which is no parameter of this Dag"):
        run(PARAMS, "manual", conf={"keep_days": 3})
    context = {
        "params": PARAMS | {"dry_run": False},
        "dag": SimpleNamespace(params=PARAMS),
        "dag_run": SimpleNamespace(conf={"keep_days": 3}, run_type="manual"),
    }
    with pytest.raises(SettingsError, match="'keep_days', which is no parameter of this Dag"):
        maintenance.MaintainOperator(task_id="maintain").execute(context)
    assert asked == []


def test_the_log_says_what_was_done_and_what_is_left():
    text = maintenance.report_text(MaintenanceReport(STEPS, dry_run=False))

    assert text.splitlines()[0] == "Removed or put in order"
    assert "1,234,567  in 12.3 s, and not all: the time was up" in text
    assert maintenance.report_text(MaintenanceReport(STEPS, dry_run=True)).startswith("A dry run found")


def test_every_step_has_its_words(asked):
    from inference.sinks.maintaining import STEPS

    assert tuple(maintenance.WORDS) == STEPS


def test_the_owners_connection_is_asked_for_by_its_name(monkeypatch):
    seen = []

    def get_connection(conn_id, *, kind, purpose):
        seen.append((conn_id, kind, purpose))
        raise SettingsError("none")

    monkeypatch.setattr(connections, "get_connection", get_connection)
    with pytest.raises(SettingsError):
        connections.open_owner_settings()
    assert seen == [("results_db_owner", "postgres", "the results database, with a login in nightlabel_owner")]
