"""When the nightly run starts. Pure, but for the clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk.timezone import coerce_datetime, utcnow
from airflow.timetables.base import DagRunInfo
from airflow.timetables.trigger import CronTriggerTimetable

if TYPE_CHECKING:
    from airflow.models.dag import DagModel
    from airflow.timetables.base import DataInterval, TimeRestriction
    from pendulum import DateTime

DEFAULT_SCHEDULE = "0 2 * * *"
SCHEDULE_VARIABLE = "NIGHTLABEL_SCHEDULE"

MAINTENANCE_SCHEDULE = "30 5 * * *"
"""After the night: most of what it removes became superfluous by then, and nothing waits for it."""
MAINTENANCE_SCHEDULE_VARIABLE = "NIGHTLABEL_MAINTENANCE_SCHEDULE"

GRACE = timedelta(minutes=5)
"""How late a run may still start. It has to cover a slow or restarting scheduler, and nothing more."""


class StartMissedError(Exception):
    """A due start was not taken in time; the run waits for the next one."""


class NightlyTimetable(CronTriggerTimetable):
    """A cron schedule whose runs start on time or not at all.

    Airflow's own cron timetables start the latest past run as soon as a Dag is unpaused, or a scheduler comes back
    after an outage. Here a start that was missed by more than five minutes is left out: the bucket says what exists
    and the database what is done, so the next run finds everything that the missed one would have. For Dags with
    ``catchup=False``; backfills work as with any cron timetable.
    """

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Return the next start: the present one within its grace, else the first in the future."""
        if restriction.catchup:
            return super().next_dagrun_info(
                last_automated_data_interval=last_automated_data_interval, restriction=restriction
            )
        candidates = [self._on_time(self._now())]
        if last_automated_data_interval is not None:
            candidates.append(self._get_next(last_automated_data_interval.end))
        if restriction.earliest is not None:
            candidates.append(self._align_to_next(restriction.earliest))
        start = max(candidates)
        if restriction.latest is not None and restriction.latest < start:
            return None
        return DagRunInfo.interval(coerce_datetime(start - self._interval), start)

    def next_run_info_from_dag_model(self, *, dag_model: DagModel) -> DagRunInfo | None:
        """Return the start that the scheduler is about to take, as the metadata database holds it.

        A scheduler that comes back after an outage reads a start that is long past before the dag processor has
        parsed the Dag again. This is the one place where it asks, and refusing is all that it understands: it logs
        the error and goes on. The row gets the next start, so that it asks once.

        Raises:
            StartMissedError: the start is older than the grace.
        """
        info = super().next_run_info_from_dag_model(dag_model=dag_model)
        now = self._now()
        if info is None or now - info.run_after <= GRACE:
            return info
        upcoming = self._get_next(now)
        dag_model.next_dagrun = dag_model.next_dagrun_create_after = upcoming
        dag_model.next_dagrun_data_interval = DagRunInfo.interval(
            coerce_datetime(upcoming - self._interval), upcoming
        ).data_interval
        raise StartMissedError(
            f"The run of {info.run_after:%Y-%m-%d %H:%M} UTC was not started in time and is left out; "
            f"the next one is {upcoming:%Y-%m-%d %H:%M} UTC and labels what this one would have"
        )

    def _on_time(self, now: DateTime) -> DateTime:
        """Return the latest start if it is not older than the grace, else the next one."""
        latest = self._align_to_prev(now)
        return latest if now - latest <= GRACE else self._get_next(now)

    def _now(self) -> DateTime:
        return coerce_datetime(utcnow())


def schedule_from(
    environment: Mapping[str, str], variable: str = SCHEDULE_VARIABLE, default: str = DEFAULT_SCHEDULE
) -> NightlyTimetable | None:
    """Return the schedule that a variable sets.

    Args:
        environment: Environment variables; a cron expression in UTC, or ``none`` (or nothing) for runs by hand only.
        variable: Its name.
        default: The schedule without it.
    """
    expression = environment.get(variable, default).strip()
    if expression.lower() in ("", "none"):
        return None
    return NightlyTimetable(expression, timezone="UTC")


def maintenance_schedule_from(environment: Mapping[str, str]) -> NightlyTimetable | None:
    """Return the schedule of the maintenance: 05:30 unless ``NIGHTLABEL_MAINTENANCE_SCHEDULE`` says otherwise."""
    return schedule_from(environment, MAINTENANCE_SCHEDULE_VARIABLE, MAINTENANCE_SCHEDULE)
