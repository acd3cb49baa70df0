"""Runs of our Dags on an embedded stack: trigger, watch, clear, read."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

from local_stack.samples import PHOTOS, photo_bytes
from tests.e2e.stacks import RunningStack

DAG = "/api/v2/dags/classify_images"
RETRY_DAG = "/api/v2/dags/retry_dead_letters"
PARTS = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")


class AirflowRun:
    """A Dag run that there is."""

    def __init__(self, stack: RunningStack, run_id: str, *, dag: str = DAG) -> None:
        self.stack, self.api, self.dag = stack, stack.api, dag
        self.run_id = run_id
        self.path = f"{dag}/dagRuns/{quote(run_id, safe='')}"

    @classmethod
    def trigger(cls, stack: RunningStack, *, dag: str = DAG, **conf: Any) -> AirflowRun:
        run = stack.api.post(f"{dag}/dagRuns", {"logical_date": None, "conf": conf})
        return cls(stack, run["dag_run_id"], dag=dag)

    def row(self) -> dict[str, Any]:
        return self.api.get(self.path)

    def wait(self, limit_s: float = 90) -> str:
        """Return the state in which it ends."""
        deadline = time.monotonic() + limit_s
        while (run := self.row())["state"] in {"queued", "running"}:
            assert time.monotonic() < deadline, (run, self.states())
            time.sleep(0.3)
        return run["state"]

    def tasks(self) -> list[dict[str, Any]]:
        return self.api.get(f"{self.path}/taskInstances?limit=500")["task_instances"]

    def shard_tasks(self) -> list[dict[str, Any]]:
        """The mapped tasks, by their index."""
        tasks = [task for task in self.tasks() if task["task_id"] == "classify_on_cpu" and task["map_index"] >= 0]
        return sorted(tasks, key=lambda task: task["map_index"])

    def mapped(self) -> int:
        """How many tasks the shards were mapped to."""
        return self.api.get(f"{self.path}/taskInstances/classify_on_cpu/listMapped?limit=1")["total_entries"]

    def tries(self) -> list[int]:
        """How often each shard's task was tried."""
        return [task["try_number"] for task in self.shard_tasks()]

    def states(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for task in self.tasks():
            found.setdefault(task["task_id"], set()).add(task["state"])
        return found

    def clear(self, *tasks: Any, downstream: bool = False) -> None:
        """Clear tasks by id, or id and index; Airflow runs them again."""
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": list(tasks), "only_failed": False}
        self.api.post(f"{self.dag}/clearTaskInstances", {**body, "include_downstream": downstream})

    def log(self, task_id: str) -> str:
        [task] = [task for task in self.tasks() if task["task_id"] == task_id]
        return json.dumps(
            self.api.get(f"{self.path}/taskInstances/{task_id}/logs/{task['try_number']}?full_content=true")
        )

    def summary(self) -> dict[str, Any]:
        [row] = self.stack.rows("SELECT * FROM run_summary WHERE airflow_run_id = %s", self.run_id)
        assert row["discovered"] == sum(row[part] for part in PARTS), row
        return row

    def counts(self) -> dict[str, int]:
        """What of the summary is not zero."""
        return {name: count for name in ("discovered", *PARTS) if (count := self.summary()[name])}

    def shards(self) -> list[dict[str, Any]]:
        """The shards of its present plan, as the ledger has them."""
        return self.stack.owner_rows(
            "SELECT s.* FROM nightlabel.shard s JOIN nightlabel.run r USING (run_id, plan_number) "
            "WHERE r.airflow_run_id = %s ORDER BY s.shard_number",
            self.run_id,
        )

    def xcom_sizes(self) -> dict[str, int]:
        entries = self.api.get(f"{self.path}/taskInstances/~/xcomEntries?limit=500")["xcom_entries"]
        return {f"{entry['task_id']} {entry['key']} {entry['map_index']}": self._size(entry) for entry in entries}

    def _size(self, entry: dict[str, Any]) -> int:
        path = f"{self.path}/taskInstances/{entry['task_id']}/xcomEntries/{quote(entry['key'], safe='')}"
        return len(json.dumps(self.api.get(f"{path}?map_index={entry['map_index']}")["value"]))


class Night(AirflowRun):
    """A Dag run, from its trigger to its end."""

    def __init__(self, stack: RunningStack, *, dag: str = DAG, **conf: Any) -> None:
        started = time.monotonic()
        super().__init__(stack, AirflowRun.trigger(stack, dag=dag, **conf).run_id, dag=dag)
        self.state = self.wait()
        self.seconds = time.monotonic() - started


def photo(name: str) -> bytes:
    return photo_bytes(next(photo for photo in PHOTOS if photo.key.startswith(name)))
