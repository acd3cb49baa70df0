-- Close a shard of a run whose time is up: what it has not got to is the run's deferred, and another run's work. Returns
-- its counts over all attempts; no row for a stale attempt. Sent again because the answer was lost it finds nothing left.
WITH cut AS MATERIALIZED (
    SELECT run_id, plan_number, shard_number, images - labelled - dead - gone - done_elsewhere AS left_out
    FROM nightlabel.shard
    WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
        AND attempt = %(attempt)s
    FOR UPDATE
),
counted AS (
    UPDATE nightlabel.run AS r
    SET deferred = r.deferred + cut.left_out
    FROM cut
    WHERE r.run_id = cut.run_id AND cut.left_out > 0
)
UPDATE nightlabel.shard AS s
SET state = 'done', ended_attempt = s.attempt, images = s.images - cut.left_out,
    heartbeat_at = now(), finished_at = now()
FROM cut
WHERE s.run_id = cut.run_id AND s.plan_number = cut.plan_number AND s.shard_number = cut.shard_number
RETURNING s.images, s.labelled, s.copied, s.dead, s.gone, s.done_elsewhere, s.fetch_s, s.decode_s, s.predict_s, s.write_s;
