"""Registers with Airflow what the scheduler and the api-server must know by name. Registration only."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin
from nightlabel_airflow import notes, pools
from nightlabel_airflow.timetables import NightlyTimetable


class NightlabelPlugin(AirflowPlugin):
    """The timetable that never starts late, and the listeners that look for missing pools and write notes."""

    name = "nightlabel"
    timetables = [NightlyTimetable]
    listeners = [pools, notes]
