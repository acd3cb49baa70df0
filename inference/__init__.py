"""Batch image classification as a library: list, plan, fetch, decode, batch, predict, write. No Airflow in here."""
