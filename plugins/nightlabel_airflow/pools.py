"""Finds missing pools when a run starts, in the scheduler: a listener, since tasks cannot read pools.

Airflow leaves a task whose pool does not exist waiting for ever, with a line in the scheduler's log only. So the
listener looks the pools up in the session that starts the run and leaves the missing names where `discover` reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

OPERATOR = "ClassifyShardOperator"
"""Runs of Dags that have such a task are looked at."""

MISSING_POOLS_KEY = "missing_pools"
"""XCom of the task `report`: a task's own XComs are deleted when it starts, and `report` starts last."""

MISSING_POOLS_TASK = "report"


@hookimpl
def on_dag_run_running(dag_run: DagRun) -> None:
    """Leave the names of pools that the run needs and that do not exist, if there are any."""
    tasks = [task for task in dag_run.dag.tasks if task.task_type == OPERATOR] if dag_run.dag else []
    if not tasks:
        return

    from airflow.models.pool import Pool
    from airflow.models.xcom import XComModel
    from sqlalchemy import delete, select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    needed = {task.pool for task in tasks}
    missing = sorted(needed - set(session.scalars(select(Pool.pool).where(Pool.pool.in_(needed)))))
    dag_id, run_id, key, task_id = dag_run.dag_id, dag_run.run_id, MISSING_POOLS_KEY, MISSING_POOLS_TASK
    if missing:
        XComModel.set(key, missing, dag_id=dag_id, run_id=run_id, task_id=task_id, serialize=False, session=session)
    else:  # the run may be a cleared one, which left names behind the first time
        session.execute(delete(XComModel).filter_by(dag_id=dag_id, run_id=run_id, task_id=task_id, key=key))
