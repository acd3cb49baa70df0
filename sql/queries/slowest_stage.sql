-- Which stage takes most of the time, run by run?
-- For: operators
-- Reads: the newest runs alone
-- Parameters:
--   runs  bigint  how many runs that have ended
-- Columns:
--   started_at  timestamp with time zone  when the run began
--   stage       text                      the stage that took most
--   seconds     real                      its seconds, added over threads and shards
--   percent     numeric                   of the four stages
-- Example: runs=4
--   started_at           | stage   | seconds | percent
--   ---------------------+---------+---------+--------
--   2026-11-22 03:00:00Z | write   | 0.875   | 41.2
--   2026-11-22 02:00:00Z | fetch   | 1.14062 | 37.6
--   2026-11-21 03:00:00Z | fetch   | 0.84375 | 35.3
--   2026-11-21 02:00:00Z | predict | 1.25    | 29.0
\if :{?runs} \else \set runs 14 \endif
SELECT r.started_at, most.stage, most.seconds, round((100 * most.seconds / r.worker_s)::numeric, 1) AS percent
FROM (
    SELECT *
    FROM nightlabel.run_cost
    WHERE finished_at IS NOT NULL AND worker_s > 0
    ORDER BY started_at DESC
    LIMIT CAST(:'runs' AS bigint)
) AS r
CROSS JOIN LATERAL (
    SELECT stage, seconds
    FROM (VALUES ('fetch', r.fetch_s), ('decode', r.decode_s), ('predict', r.predict_s), ('write', r.write_s))
        AS s (stage, seconds)
    ORDER BY seconds DESC, stage
    LIMIT 1
) AS most
ORDER BY r.started_at DESC;
