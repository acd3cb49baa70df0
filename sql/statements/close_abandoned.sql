-- Close runs that nobody will close: planned or running, and without any sign of life for a day. A claim of one of
-- their shards sets them running again. Never waits for, nor keeps waiting, a worker of such a run for long.
WITH abandoned AS (
    SELECT r.run_id, last.seen_at
    FROM nightlabel.run AS r
    CROSS JOIN LATERAL (
        SELECT greatest(r.started_at, max(s.heartbeat_at)) AS seen_at
        FROM nightlabel.shard AS s
        WHERE s.run_id = r.run_id
    ) AS last
    WHERE r.state IN ('planned', 'running')
        AND r.run_id <> %(run_id)s
        AND r.started_at < now() - interval '24 hours' AND last.seen_at < now() - interval '24 hours'
    FOR UPDATE OF r SKIP LOCKED
)
UPDATE nightlabel.run AS r
SET state = 'failed', finished_at = abandoned.seen_at,
    message = 'abandoned: no sign of life since ' || to_char(abandoned.seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
        || ' UTC; the next run finds its images again'
FROM abandoned
WHERE r.run_id = abandoned.run_id;
