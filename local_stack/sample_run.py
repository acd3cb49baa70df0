"""One night on the sample photos, as ``make run`` shows it: upload, trigger, watch, print. Talks to all servers."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from local_stack.airflow import AirflowApi
from local_stack.processes import StackError
from local_stack.samples import PREFIX, sample_objects
from local_stack.stack import BUCKET, Stack, Tell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DAG_ID = "classify_images"
PARSE_TIMEOUT_S = 90.0
RUN_TIMEOUT_S = 600.0
POLL_INTERVAL_S = 0.5
COUNTS = ("discovered", "already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
STAGES = ("list_s", "fetch_s", "decode_s", "predict_s", "write_s")


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """How a run ended, as Airflow says."""

    run_id: str
    state: str
    seconds: float
    """From the trigger to the end."""

    @property
    def is_success(self) -> bool:
        """Whether every task did its work."""
        return self.state == "success"


def upload_samples(stack: Stack) -> tuple[int, int]:
    """Bring the sample photos into the bucket, those that are not there with the same content.

    Returns:
        How many were uploaded, and how many there are.
    """
    import hashlib

    client = stack.store.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
    there = {item["Key"]: item["ETag"].strip('"') for page in pages for item in page.get("Contents", [])}
    samples = dict(sample_objects())
    new = {
        key: body
        for key, body in samples.items()
        if there.get(key) != hashlib.md5(body, usedforsecurity=False).hexdigest()
    }
    for key, body in new.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    return len(new), len(samples)


def run_once(stack: Stack, console: Console) -> RunAnswer:
    """Trigger the Dag on the sample photos and wait for its end, showing how far it is.

    Raises:
        StackError: the Dag does not appear, a part of the stack died, or the run takes too long.
    """
    api = stack.airflow.api()
    ready_dag(api, stack)
    conf = {"bucket": BUCKET, "prefix": PREFIX}
    started = time.monotonic()
    run = api.post(f"/api/v2/dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": conf})
    run_id = str(run["dag_run_id"])
    address = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}"
    with closing(_Progress(console)) as progress:
        run = _watched(stack, api, address, run, progress, started)
    return RunAnswer(run_id, str(run["state"]), time.monotonic() - started)


def _watched(
    stack: Stack, api: AirflowApi, address: str, run: dict[str, Any], progress: _Progress, started: float
) -> dict[str, Any]:
    """Show how far a run is until it ends, and return it as it ended."""
    while run["state"] not in ("success", "failed"):
        if time.monotonic() - started > RUN_TIMEOUT_S:
            raise StackError(
                f"The run {run['dag_run_id']} is still {run['state']} after {RUN_TIMEOUT_S:.0f} s; "
                "look at it in the UI."
            )
        time.sleep(POLL_INTERVAL_S)
        stack.check()
        run = api.get(address)
        seconds = time.monotonic() - started
        if run["state"] == "queued":
            ahead = api.get(f"/api/v2/dags/{DAG_ID}/dagRuns?state=running&limit=1")["dag_runs"]
            if ahead:
                progress.say(f"waiting for the run {ahead[0]['dag_run_id']}; one runs at a time", seconds)
                continue
        progress.show(api.get(f"{address}/taskInstances?limit=100")["task_instances"], seconds)
    return run


def ready_dag(api: AirflowApi, stack: Stack) -> None:
    """Wait until the Dag was parsed, and unpause it if it is paused; its timetable starts no missed run then.

    Raises:
        StackError: it does not appear, or cannot be parsed.
    """
    deadline = time.monotonic() + PARSE_TIMEOUT_S
    while (dag := api.get(f"/api/v2/dags/{DAG_ID}")) is None or dag.get("is_stale"):
        stack.check()
        errors = api.get("/api/v2/importErrors")["import_errors"]
        if errors:
            raise StackError(f"Airflow cannot parse {errors[0]['filename']}:\n{errors[0]['stack_trace']}")
        if time.monotonic() > deadline:
            raise StackError(
                f"The Dag {DAG_ID} did not appear within {PARSE_TIMEOUT_S:.0f} s; "
                f"Airflow reads {stack.settings.dags_folder}; its log is {stack.airflow.home / 'dag-processor.log'}."
            )
        time.sleep(POLL_INTERVAL_S)
    if dag["is_paused"]:
        api.patch(f"/api/v2/dags/{DAG_ID}?update_mask=is_paused", {"is_paused": False})


class _Progress:
    """How far a run is: one line that renews itself on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._status = console.status("waiting for the scheduler") if console.is_terminal else None
        if self._status:
            self._status.start()

    def show(self, tasks: list[dict[str, Any]], seconds: float) -> None:
        states: dict[str, list[str]] = {}
        for task in tasks:
            states.setdefault(str(task["task_id"]), []).append(str(task["state"] or "waiting"))
        shown = [task for task in sorted(states, key=_task_order) if set(states[task]) != {"skipped"}]
        self.say(", ".join(f"{task} {_states(states[task])}" for task in shown), seconds)

    def say(self, text: str, seconds: float) -> None:
        if self._status:
            self._status.update(f"{seconds:.0f} s  {text}")
        elif text != self._last:
            self._console.print(f"{seconds:5.1f} s  {text}", highlight=False, soft_wrap=True)
        self._last = text

    def close(self) -> None:
        if self._status:
            self._status.stop()


def _task_order(task_id: str) -> tuple[int, str]:
    order = {"discover": 0, "report": 2}
    return order.get(task_id, 1), task_id


def _states(states: list[str]) -> str:
    if len(states) == 1:
        return "done" if states[0] == "success" else states[0].replace("_", " ")
    done = sum(state == "success" for state in states)
    others = Counter(state for state in states if state != "success")
    return f"{done}/{len(states)} shards" + "".join(f", {count} {state}" for state, count in sorted(others.items()))


def print_labels(stack: Stack, console: Console) -> None:
    """Print the outcome of every sample, as an analyst would read it: by SQL, from the public views."""
    rows = _read(
        stack,
        """
        SELECT object_key, label, score, NULL, NULL FROM nightlabel.latest_prediction
        WHERE bucket = %(bucket)s AND starts_with(object_key, %(prefix)s)
        UNION ALL
        SELECT object_key, NULL, NULL, error_code, message FROM nightlabel.dead_letter_open
        WHERE bucket = %(bucket)s AND starts_with(object_key, %(prefix)s)
        ORDER BY 4 NULLS FIRST, 1
        """,
        {"bucket": BUCKET, "prefix": PREFIX},
    )
    table = _table("object", "label", ">score", "dead letter")
    for key, label, score, code, message in rows:
        reason = "" if code is None else f"{code}: {message}"
        table.add_row(key, label or "", "" if score is None else f"{score:.3f}", reason)
    console.print(table)


def print_summary(stack: Stack, console: Console, answer: RunAnswer) -> None:
    """Print the run's counts and seconds, from the public view ``run_summary``."""
    columns = (*COUNTS, "images_per_second", *STAGES)
    rows = _read(
        stack,
        f"SELECT {', '.join(columns)} FROM nightlabel.run_summary "  # noqa: S608 - names from above
        "WHERE dag_id = %(dag_id)s AND airflow_run_id = %(run_id)s",
        {"dag_id": DAG_ID, "run_id": answer.run_id},
    )
    console.print(f"Run {answer.run_id}: {answer.state} after {answer.seconds:.1f} s", highlight=False)
    if not rows:
        console.print("The run left no row in nightlabel.run_summary; its tasks' logs say why.")
        return
    row = dict(zip(columns, rows[0], strict=True))
    counts = ", ".join(f"{row[name]} {name.replace('_', ' ')}" for name in COUNTS if row[name] or name == "discovered")
    console.print(f"  images   {counts}", highlight=False)
    seconds = ", ".join(f"{name.removesuffix('_s')} {row[name] or 0:.2f}" for name in STAGES)
    console.print(f"  seconds  {seconds}", highlight=False)
    if row["discovered"] and row["already_done"] == row["discovered"]:
        console.print("Nothing was new: every image had its outcome from an earlier run.")


def print_links(stack: Stack, console: Console) -> None:
    """Print where to look, with the logins that this stack made for itself."""
    store = stack.store.reader
    lines = {
        "Airflow": f"{stack.airflow.url}  user admin, password {stack.airflow.password}",
        "Results": f"{stack.login('nightlabel_reader').url()}  (psql or any BI tool; reads the views)",
        "Photos": f"{stack.store.endpoint_url}  bucket {BUCKET}, key {store.access_key}, secret {store.secret_key}",
    }
    for name, line in lines.items():
        console.print(f"{name:8} {line}", highlight=False, markup=False, soft_wrap=True)


def print_failure(stack: Stack, console: Console, answer: RunAnswer) -> None:
    """Say which tasks failed and where their logs are."""
    address = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(answer.run_id, safe='')}/taskInstances?limit=100"
    for task in stack.airflow.api().get(address)["task_instances"]:
        if task["state"] in ("failed", "upstream_failed"):
            console.print(f"Task {task['task_id']} {task['state']} in try {task['try_number']}.", highlight=False)
    console.print(f"The tasks' logs are in the UI and under {stack.airflow.home / 'logs'}.", highlight=False)


def run_samples(stack: Stack, console: Console, tell: Tell) -> RunAnswer:
    """Upload, run and print everything.

    Raises:
        StackError: as in ``run_once``.
    """
    new, samples = upload_samples(stack)
    tell(f"{samples} sample objects in the bucket {BUCKET}, {new} of them uploaded now")
    answer = run_once(stack, console)
    print_labels(stack, console)
    print_summary(stack, console, answer)
    if not answer.is_success:
        print_failure(stack, console, answer)
    return answer


def make_console() -> Console:
    """Return a console for the standard output; wide enough for a table when that is a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return table


def _read(stack: Stack, query: str, parameters: dict[str, str]) -> list[tuple[Any, ...]]:
    """Run a query as the reader."""
    import psycopg

    with psycopg.connect(stack.login("nightlabel_reader").url()) as connection:
        return connection.execute(query.encode(), parameters).fetchall()
