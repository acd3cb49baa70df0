-- How much work does copying labels of equal images save, day by day?
-- For: operators, data engineers
-- Reads: the runs of the days asked for
-- Parameters:
--   days   integer  how many days, the last one included
--   until  date     last UTC day that counts; empty: today
-- Columns:
--   day       date     UTC day on which the runs began
--   labelled  bigint   labels recorded
--   copied    bigint   those that were copied
--   percent   numeric  their share
-- Example: days=5; until=2026-11-22
--   day        | labelled | copied | percent
--   -----------+----------+--------+--------
--   2026-11-22 | 7        | 0      | 0.0
--   2026-11-21 | 7        | 2      | 28.6
--   2026-11-20 | 8        | 1      | 12.5
--   2026-11-19 | 12       | 3      | 25.0
--   2026-11-18 | 4        | 0      | 0.0
\if :{?days} \else \set days 30 \endif
\if :{?until} \else \set until '' \endif
SELECT
    (started_at AT TIME ZONE 'UTC')::date AS day,
    sum(labelled)::bigint AS labelled,
    sum(copied)::bigint AS copied,
    round(100 * sum(copied) / sum(labelled), 1) AS percent
FROM nightlabel.run_summary
CROSS JOIN (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
WHERE labelled > 0
    AND started_at >= (asked.until - CAST(:'days' AS integer) + 1)::timestamp AT TIME ZONE 'UTC'
    AND started_at < (asked.until + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY 1
ORDER BY 1 DESC;
