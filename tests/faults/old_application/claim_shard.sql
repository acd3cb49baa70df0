-- Begin a new attempt of a shard of the run's present plan; older attempts can write no more.
WITH claimed AS (
    UPDATE nightlabel.shard AS s
    SET attempt = s.attempt + 1, state = 'running', batches = 0,
        started_at = coalesce(s.started_at, now()), heartbeat_at = now(), finished_at = NULL
    FROM nightlabel.run AS r
    WHERE r.run_id = %(run_id)s
        AND s.run_id = r.run_id AND s.plan_number = r.plan_number AND s.shard_number = %(shard_number)s
        AND s.state <> 'superseded'
    RETURNING s.plan_number, s.attempt, s.device, s.images, r.model_id
),
running AS (
    UPDATE nightlabel.run
    SET state = 'running', finished_at = NULL, message = NULL
    WHERE run_id = %(run_id)s AND state <> 'running' AND EXISTS (SELECT FROM claimed)
)
SELECT c.plan_number, c.attempt, c.device, c.images, c.model_id, m.name, m.version
FROM claimed AS c
JOIN nightlabel.model AS m USING (model_id);
