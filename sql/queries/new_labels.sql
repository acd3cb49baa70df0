-- Which labels appeared for the first time in the last days?
-- For: analysts
-- Reads: the counts of all days
-- Parameters:
--   days   integer  how many days, the last one included
--   until  date     last UTC day that counts; empty: today
-- Columns:
--   label      text    the label
--   first_day  date    UTC day on which any model gave it first
--   images     bigint  images that got it since
-- Example: days=20; until=2026-11-22
--   label           | first_day  | images
--   ----------------+------------+-------
--   12" ruler       | 2026-11-10 | 12
--   crane           | 2026-11-05 | 40
--   jack-o'-lantern | 2026-11-03 | 13
\if :{?days} \else \set days 7 \endif
\if :{?until} \else \set until '' \endif
SELECT label, min(day) AS first_day, sum(images)::bigint AS images
FROM nightlabel.label_daily
CROSS JOIN (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
WHERE day <= asked.until
GROUP BY label, asked.until
HAVING min(day) > asked.until - CAST(:'days' AS integer)
ORDER BY first_day DESC, label;
