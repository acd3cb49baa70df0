-- For which labels has the mean score moved, against the same span before?
-- For: analysts, ML engineers
-- Reads: counts by day alone, however large the ledger is
-- Parameters:
--   days   integer  how many days make each of the two spans
--   until  date     last UTC day that counts; empty: today
--   least  bigint   images that a label must have in both
-- Columns:
--   label          text    the label
--   images_before  bigint  images in the span before
--   images_now     bigint  images in the last span
--   score_before   real    mean probability then
--   score_now      real    mean probability now
--   change         real    the difference
-- Example: days=7; until=2026-11-22; least=1
--   label             | images_before | images_now | score_before | score_now | change
--   ------------------+---------------+------------+--------------+-----------+-----------
--   Egyptian cat      | 1             | 8          | 0.78125      | 0.578125  | -0.203125
--   tabby             | 3             | 4          | 0.578125     | 0.738281  | 0.160156
--   crane             | 5             | 34         | 0.78125      | 0.646599  | -0.134651
--   jack-o'-lantern   | 3             | 9          | 0.755208     | 0.647569  | -0.107639
--   100% wool: {grey} | 2             | 7          | 0.570312     | 0.649554  | 0.0792411
--   😺 smiling cat     | 3             | 8          | 0.744792     | 0.679688  | -0.0651042
--   12" ruler         | 1             | 11         | 0.578125     | 0.622159  | 0.0440341
\if :{?days} \else \set days 7 \endif
\if :{?until} \else \set until '' \endif
\if :{?least} \else \set least 20 \endif
SELECT label, images_before, images_now, score_before, score_now, (score_now - score_before)::real AS change
FROM (
    SELECT
        label,
        coalesce(sum(images) FILTER (WHERE NOT is_now), 0)::bigint AS images_before,
        coalesce(sum(images) FILTER (WHERE is_now), 0)::bigint AS images_now,
        (sum(images * mean_score) FILTER (WHERE NOT is_now) / sum(images) FILTER (WHERE NOT is_now))::real AS score_before,
        (sum(images * mean_score) FILTER (WHERE is_now) / sum(images) FILTER (WHERE is_now))::real AS score_now
    FROM (
        SELECT label, images, mean_score, day > asked.until - CAST(:'days' AS integer) AS is_now
        FROM nightlabel.label_daily
        CROSS JOIN (
            SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
        ) AS asked
        WHERE day BETWEEN asked.until - 2 * CAST(:'days' AS integer) + 1 AND asked.until
    ) AS spans
    GROUP BY label
) AS compared
WHERE images_before >= CAST(:'least' AS bigint) AND images_now >= CAST(:'least' AS bigint)
ORDER BY abs(score_now - score_before) DESC, label;
