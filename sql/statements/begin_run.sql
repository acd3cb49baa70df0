-- Begin a run, or the next plan of one that was planned before. Returns its id and the number of the plan; no row when
-- a newer try of discovery has planned it meanwhile.
INSERT INTO nightlabel.run AS r (
    run_id, dag_id, airflow_run_id, bucket, prefix, parameters, model_id, state, started_at,
    max_dead_ratio, min_images_for_ratio, plan_attempt, discovered, already_done, deferred
)
VALUES (
    %(run_id)s, %(dag_id)s, %(airflow_run_id)s, %(bucket)s, %(prefix)s, %(parameters)s, %(model_id)s, 'planned',
    %(started_at)s, %(max_dead_ratio)s, %(min_images_for_ratio)s, %(plan_attempt)s, 0, 0, 0
)
ON CONFLICT (dag_id, airflow_run_id) DO UPDATE
SET plan_number = r.plan_number + 1, bucket = excluded.bucket, prefix = excluded.prefix,
    parameters = excluded.parameters, model_id = excluded.model_id, state = 'planned', message = NULL,
    started_at = excluded.started_at, finished_at = NULL,
    max_dead_ratio = excluded.max_dead_ratio, min_images_for_ratio = excluded.min_images_for_ratio,
    plan_attempt = excluded.plan_attempt
WHERE r.plan_attempt <= excluded.plan_attempt
RETURNING run_id, plan_number;
