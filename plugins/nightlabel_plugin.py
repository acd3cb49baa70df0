"""Registers with Airflow what the scheduler and the api-server must know by name. Registration only."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin
from nightlabel_airflow import pools
from nightlabel_airflow.timetables import NightlyTimetable


class NightlabelPlugin(AirflowPlugin):
    """The timetable that never starts late, and the listener that looks for missing pools."""

    name = "nightlabel"
    timetables = [NightlyTimetable]
    listeners = [pools]
