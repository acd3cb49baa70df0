-- Does a label become more frequent, week over week?
-- For: analysts
-- Reads: counts by day alone, however large the ledger is
-- Parameters:
--   label  text     the label
--   weeks  integer  how many weeks, the last one included
--   until  date     a day of the last week; empty: today
-- Columns:
--   week        date     Monday of the week, UTC
--   images      bigint   images that got the label
--   all_images  bigint   images that got any label
--   percent     numeric  its share
--   change      numeric  percentage points more than the week before that has labels
-- Example: label=crane; weeks=3; until=2026-11-22
--   week       | images | all_images | percent | change
--   -----------+--------+------------+---------+-------
--   2026-11-02 | 1      | 20         | 5.0     |
--   2026-11-09 | 5      | 18         | 27.8    | 22.8
--   2026-11-16 | 34     | 81         | 42.0    | 14.2
\if :{?label} \else \set label tabby \endif
\if :{?weeks} \else \set weeks 8 \endif
\if :{?until} \else \set until '' \endif
SELECT
    week,
    images,
    all_images,
    round(100.0 * images / all_images, 1) AS percent,
    round(100.0 * images / all_images - lag(100.0 * images / all_images) OVER (ORDER BY week), 1) AS change
FROM (
    SELECT
        date_trunc('week', day::timestamp)::date AS week,
        coalesce(sum(images) FILTER (WHERE label = CAST(:'label' AS text)), 0)::bigint AS images,
        sum(images)::bigint AS all_images
    FROM nightlabel.label_daily
    CROSS JOIN (
        SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
    ) AS asked
    WHERE day >= date_trunc('week', asked.until::timestamp)::date - 7 * (CAST(:'weeks' AS integer) - 1)
        AND day < date_trunc('week', asked.until::timestamp)::date + 7
    GROUP BY 1
) AS weekly
ORDER BY week;
