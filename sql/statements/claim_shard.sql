-- Begin a new attempt of a shard of the run's present plan; older attempts can write no more.
-- An attempt before it that did not say that it ended was killed, or its process died: what it had begun is suspect, and
-- after the second such end the whole shard is. One that is claimed again because an answer was lost had begun nothing.
WITH claimed AS (
    UPDATE nightlabel.shard AS s
    SET attempt = s.attempt + 1, state = 'running', batches = 0,
        unclean_ends = s.unclean_ends + (s.ended_attempt < s.attempt AND NOT %(is_again)s)::integer,
        is_isolated = s.is_isolated
            OR s.unclean_ends + (s.ended_attempt < s.attempt AND NOT %(is_again)s)::integer >= 2,
        started_at = coalesce(s.started_at, now()), heartbeat_at = now(), finished_at = NULL
    FROM nightlabel.run AS r
    WHERE r.run_id = %(run_id)s
        AND s.run_id = r.run_id AND s.plan_number = r.plan_number AND s.shard_number = %(shard_number)s
        AND s.state <> 'superseded'
    RETURNING s.plan_number, s.attempt, s.device, s.images, r.model_id, s.is_isolated,
        CASE WHEN s.ended_attempt < s.attempt - 1 THEN s.in_flight ELSE 0 END AS suspects
),
running AS (
    UPDATE nightlabel.run
    SET state = 'running', finished_at = NULL, message = NULL
    WHERE run_id = %(run_id)s AND state <> 'running' AND EXISTS (SELECT FROM claimed)
)
SELECT c.plan_number, c.attempt, c.device, c.images, c.model_id, m.name, m.version, c.suspects, c.is_isolated
FROM claimed AS c
JOIN nightlabel.model AS m USING (model_id);
