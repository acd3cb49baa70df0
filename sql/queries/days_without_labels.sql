-- On which days was nothing labelled?
-- For: operators
-- Reads: counts by day alone, however large the ledger is
-- Parameters:
--   days   integer  how many days, the last one included
--   until  date     last UTC day that counts; empty: today
-- Columns:
--   day      date    the UTC day
--   runs     bigint  runs that began on it
--   weekday  text    its name
-- Example: days=21; until=2026-11-22
--   day        | runs | weekday
--   -----------+------+--------
--   2026-11-15 | 0    | Sunday
--   2026-11-16 | 0    | Monday
\if :{?days} \else \set days 30 \endif
\if :{?until} \else \set until '' \endif
SELECT
    d.day::date AS day,
    (
        SELECT count(*) FROM nightlabel.run_summary
        WHERE started_at >= d.day AT TIME ZONE 'UTC' AND started_at < (d.day + interval '1 day') AT TIME ZONE 'UTC'
    ) AS runs,
    to_char(d.day, 'FMDay') AS weekday
FROM (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
CROSS JOIN LATERAL generate_series(
    (asked.until - CAST(:'days' AS integer) + 1)::timestamp, asked.until::timestamp, interval '1 day'
) AS d (day)
LEFT JOIN (
    SELECT DISTINCT day FROM nightlabel.label_daily
    CROSS JOIN (
        SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
    ) AS asked
    WHERE day BETWEEN asked.until - CAST(:'days' AS integer) + 1 AND asked.until
) AS labelled ON labelled.day = d.day::date
WHERE labelled.day IS NULL
ORDER BY 1;
