-- Make one row of the shards of each plan of runs that ended long ago, a hundred runs at most: their sums stand in the
-- plan's first shard, so that run_summary and run_cost show what they showed. The row that is left is `superseded`: nobody
-- can claim it any more. Returns how many rows went; a dry run only counts, all of them, and locks nothing.
WITH long_ago AS (
    SELECT r.run_id
    FROM nightlabel.run AS r
    WHERE r.state IN ('succeeded', 'failed') AND r.finished_at < %(before)s
        AND EXISTS (
            SELECT
            FROM nightlabel.shard AS s
            JOIN nightlabel.shard AS first ON first.run_id = s.run_id AND first.plan_number = s.plan_number
            WHERE s.run_id = r.run_id AND first.shard_number < s.shard_number
        )
),
taken AS MATERIALIZED (
    SELECT r.run_id
    FROM long_ago
    JOIN nightlabel.run AS r ON r.run_id = long_ago.run_id
    -- Once more, since the row may have changed until it was locked.
    WHERE NOT %(dry_run)s AND r.state IN ('succeeded', 'failed') AND r.finished_at < %(before)s
    LIMIT 100
    FOR UPDATE OF r SKIP LOCKED
),
ended AS (
    SELECT taken.run_id FROM taken
    UNION ALL
    SELECT long_ago.run_id FROM long_ago WHERE %(dry_run)s
),
total AS MATERIALIZED (
    SELECT
        s.run_id, s.plan_number, min(s.shard_number) AS shard_number, max(s.attempt) + 1 AS attempt,
        sum(s.images) AS images, sum(s.labelled) AS labelled, sum(s.copied) AS copied, sum(s.dead) AS dead,
        sum(s.gone) AS gone, sum(s.done_elsewhere) AS done_elsewhere,
        sum(s.fetch_s ORDER BY s.shard_number) AS fetch_s, sum(s.decode_s ORDER BY s.shard_number) AS decode_s,
        sum(s.predict_s ORDER BY s.shard_number) AS predict_s, sum(s.write_s ORDER BY s.shard_number) AS write_s,
        min(s.started_at) AS started_at, max(s.heartbeat_at) AS heartbeat_at, max(s.finished_at) AS finished_at
    FROM ended
    JOIN nightlabel.shard AS s ON s.run_id = ended.run_id
    GROUP BY s.run_id, s.plan_number
),
old AS MATERIALIZED (
    SELECT s.run_id, s.plan_number, s.shard_number
    FROM ended AS e
    JOIN nightlabel.shard AS s ON s.run_id = e.run_id
    LEFT JOIN total AS t
        ON t.run_id = s.run_id AND t.plan_number = s.plan_number AND t.shard_number = s.shard_number
    WHERE t.run_id IS NULL
),
removed AS (
    DELETE FROM nightlabel.shard AS s
    USING old
    WHERE NOT %(dry_run)s
        AND s.run_id = old.run_id AND s.plan_number = old.plan_number AND s.shard_number = old.shard_number
    RETURNING 1
),
merged AS (
    UPDATE nightlabel.shard AS s
    SET state = 'superseded', attempt = t.attempt, images = t.images, labelled = t.labelled, copied = t.copied,
        dead = t.dead, gone = t.gone, done_elsewhere = t.done_elsewhere, fetch_s = t.fetch_s, decode_s = t.decode_s,
        predict_s = t.predict_s, write_s = t.write_s, started_at = t.started_at, heartbeat_at = t.heartbeat_at,
        finished_at = t.finished_at
    FROM total AS t
    WHERE NOT %(dry_run)s
        AND s.run_id = t.run_id AND s.plan_number = t.plan_number AND s.shard_number = t.shard_number
)
SELECT CASE WHEN %(dry_run)s THEN (SELECT count(*) FROM old) ELSE (SELECT count(*) FROM removed) END;
