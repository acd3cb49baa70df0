"""When runs start, asked of the real timetable at given times."""

from datetime import UTC, datetime, timedelta

import pendulum
import pytest
from airflow.models.dag import DagModel
from airflow.timetables.base import DataInterval, TimeRestriction
from nightlabel_airflow.timetables import GRACE, NightlyTimetable, StartMissedError, schedule_from

NIGHTLY = TimeRestriction(earliest=None, latest=None, catchup=False)


def at(moment: str, expression: str = "0 2 * * *") -> NightlyTimetable:
    """Return the timetable as it answers at a moment, UTC."""

    class Frozen(NightlyTimetable):
        def _now(self) -> pendulum.DateTime:
            return pendulum.parse(moment)

    return Frozen(expression, timezone="UTC")


def next_start(timetable, last: str | None = None, restriction: TimeRestriction = NIGHTLY) -> str | None:
    interval = None if last is None else DataInterval.exact(pendulum.parse(last))
    info = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
    return None if info is None else f"{info.run_after:%Y-%m-%d %H:%M}"


@pytest.mark.parametrize("moment", ["2026-11-22T02:05:01Z", "2026-11-22T09:00:00Z", "2026-11-23T01:59:59Z"])
def test_a_dag_that_is_new_waits_for_the_next_night(moment):
    assert next_start(at(moment)) == "2026-11-23 02:00"


def test_unpausing_after_days_does_not_start_the_night_that_was_missed():
    assert next_start(at("2026-11-22T09:00:00Z"), last="2026-11-15T02:00:00Z") == "2026-11-23 02:00"


def test_a_past_start_date_changes_nothing():
    restriction = TimeRestriction(earliest=pendulum.datetime(2026, 1, 1), latest=None, catchup=False)

    assert next_start(at("2026-11-22T09:00:00Z"), restriction=restriction) == "2026-11-23 02:00"


def test_a_start_date_in_the_future_is_kept():
    restriction = TimeRestriction(earliest=pendulum.datetime(2026, 12, 1), latest=None, catchup=False)

    assert next_start(at("2026-11-22T09:00:00Z"), restriction=restriction) == "2026-12-01 02:00"


def test_there_is_no_run_after_the_end_date():
    restriction = TimeRestriction(earliest=None, latest=pendulum.datetime(2026, 11, 22, 12), catchup=False)

    assert next_start(at("2026-11-22T09:00:00Z"), restriction=restriction) is None


@pytest.mark.parametrize("moment", ["2026-11-22T02:00:00Z", "2026-11-22T02:00:01Z", "2026-11-22T02:04:59Z"])
def test_a_scheduler_that_is_a_little_late_still_starts_the_night(moment):
    assert next_start(at(moment), last="2026-11-21T02:00:00Z") == "2026-11-22 02:00"


def test_a_night_is_started_once():
    assert next_start(at("2026-11-22T02:00:30Z"), last="2026-11-22T02:00:00Z") == "2026-11-23 02:00"


def test_airflows_own_cron_timetable_does_start_a_missed_night_which_is_why_there_is_ours():
    from airflow.timetables.trigger import CronTriggerTimetable

    now = datetime.now(UTC) - timedelta(hours=1)
    hour_ago = f"{now.minute} {now.hour} * * *"

    theirs = CronTriggerTimetable(hour_ago, timezone="UTC", run_immediately=timedelta(0))
    ours = NightlyTimetable(hour_ago, timezone="UTC")

    last_week = f"{now - timedelta(days=7):%Y-%m-%dT%H:%M:00Z}"
    assert next_start(theirs, last=last_week) < f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    assert next_start(ours, last=last_week) > f"{datetime.now(UTC):%Y-%m-%d %H:%M}"


def dag_model(next_start: str) -> DagModel:
    """Return the row that a scheduler reads, with a start that was stored before it stopped."""
    row = DagModel(dag_id="classify_images")
    row.next_dagrun = row.next_dagrun_create_after = pendulum.parse(next_start)
    row.next_dagrun_data_interval = DataInterval.exact(pendulum.parse(next_start))
    return row


def test_a_scheduler_that_comes_back_after_an_outage_leaves_the_missed_start_out_and_asks_once():
    row = dag_model("2026-11-21T02:00:00Z")

    with pytest.raises(StartMissedError, match=r"The run of 2026-11-21 02:00 UTC .* next one is 2026-11-23 02:00 UTC"):
        at("2026-11-22T09:00:00Z").next_run_info_from_dag_model(dag_model=row)

    assert row.next_dagrun_create_after == row.next_dagrun == pendulum.datetime(2026, 11, 23, 2)
    assert row.next_dagrun_data_interval == DataInterval.exact(pendulum.datetime(2026, 11, 23, 2))


def test_a_start_within_its_grace_is_taken():
    row = dag_model("2026-11-22T02:00:00Z")

    info = at("2026-11-22T02:04:00Z").next_run_info_from_dag_model(dag_model=row)

    assert info.run_after == pendulum.datetime(2026, 11, 22, 2)


def test_a_backfill_still_gets_every_night():
    everything = TimeRestriction(earliest=pendulum.datetime(2026, 11, 1), latest=None, catchup=True)

    assert next_start(at("2026-11-22T09:00:00Z"), restriction=everything) == "2026-11-01 02:00"
    assert next_start(at("2026-11-22T09:00:00Z"), "2026-11-01T02:00:00Z", everything) == "2026-11-02 02:00"


@pytest.mark.parametrize(
    ("environment", "expression"),
    [
        ({}, "0 2 * * *"),
        ({"NIGHTLABEL_SCHEDULE": "30 3 * * 1-5"}, "30 3 * * 1-5"),
        ({"NIGHTLABEL_SCHEDULE": " @daily "}, "0 0 * * *"),
        ({"NIGHTLABEL_SCHEDULE": "none"}, None),
        ({"NIGHTLABEL_SCHEDULE": ""}, None),
    ],
)
def test_the_schedule_is_a_setting(environment, expression):
    timetable = schedule_from(environment)

    assert (timetable and timetable.serialize()["expression"]) == expression


def test_a_schedule_that_is_no_cron_expression_is_refused_when_the_dag_is_parsed():
    from airflow.exceptions import AirflowTimetableInvalid

    with pytest.raises(AirflowTimetableInvalid):
        schedule_from({"NIGHTLABEL_SCHEDULE": "at night"}).validate()


def test_the_timetable_survives_the_database():
    timetable = NightlyTimetable("15 4 * * *", timezone="UTC")

    again = NightlyTimetable.deserialize(timetable.serialize())

    assert (type(again), again.serialize()) == (NightlyTimetable, timetable.serialize())


def test_the_grace_is_far_shorter_than_a_night():
    assert timedelta(minutes=1) <= GRACE <= timedelta(minutes=10)
