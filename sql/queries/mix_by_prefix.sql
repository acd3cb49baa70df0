-- What is below each prefix: its most frequent labels?
-- For: analysts
-- Reads: the outcomes of the days asked for, one by one
-- Parameters:
--   days   integer  how many days, the last one included
--   until  date     last UTC day that counts; empty: today
--   top    bigint   how many labels of each prefix
-- Columns:
--   bucket   text     the bucket
--   prefix   text     the key up to its first slash; empty for keys without one
--   label    text     the label
--   images   bigint   images that got it
--   percent  numeric  of the labels below the prefix
-- Example: days=7; until=2026-11-22; top=1
--   bucket | prefix   | label     | images | percent
--   -------+----------+-----------+--------+--------
--   photos |          | crane     | 4      | 50.0
--   photos | /        | crane     | 4      | 36.4
--   photos | archive/ | crane     | 5      | 38.5
--   photos | in/      | crane     | 11     | 45.8
--   photos | odd\n/   | crane     | 4      | 36.4
--   scans  |          | crane     | 2      | 66.7
--   scans  | /        | 12" ruler | 1      | 50.0
--   scans  | archive/ | crane     | 3      | 37.5
--   scans  | in/      | crane     | 1      | 100.0
\if :{?days} \else \set days 7 \endif
\if :{?until} \else \set until '' \endif
\if :{?top} \else \set top 3 \endif
SELECT bucket, prefix, label, images, percent
FROM (
    SELECT
        bucket,
        prefix,
        label,
        sum(images)::bigint AS images,
        round(100 * sum(images) / sum(sum(images)) OVER (PARTITION BY bucket, prefix), 1) AS percent,
        row_number() OVER (PARTITION BY bucket, prefix ORDER BY sum(images) DESC, label) AS place
    FROM nightlabel.label_by_prefix
    CROSS JOIN (
        SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
    ) AS asked
    WHERE day BETWEEN asked.until - CAST(:'days' AS integer) + 1 AND asked.until
    GROUP BY bucket, prefix, label
) AS mixed
WHERE place <= CAST(:'top' AS bigint)
ORDER BY bucket, prefix, place;
