"""Logins that a test makes for itself."""

from __future__ import annotations

import psycopg

PASSWORD = "for-this-test-only"


def as_user(url: str, user: str) -> str:
    """The same database as another user."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    return f"postgresql://{user}:{PASSWORD}@{parts['host']}:{parts['port']}/{parts['dbname']}"
