"""The embedded stack for the end-to-end tests: real Airflow, Postgres and object store, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stacks import Commands, RunningStack, stack_of_its_own


@pytest.fixture(scope="session")
def stack(server_folders: Path) -> Iterator[Commands]:
    """The whole stack, started once; the tests that kill it come last."""
    with stack_of_its_own(server_folders / "stack") as commands:
        yield commands


@pytest.fixture(scope="session")
def running(stack: Commands) -> RunningStack:
    """The same stack from inside."""
    return RunningStack(stack)
