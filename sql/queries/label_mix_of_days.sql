-- Which labels were given in the last 30 days, and how often?
-- For: analysts
-- Reads: counts by day alone, however large the ledger is
-- Parameters:
--   days   integer  how many days, the last one included
--   until  date     last UTC day that counts; empty: today
-- Columns:
--   label       text     the label
--   images      bigint   images that got it
--   percent     numeric  of all labels of these days
--   mean_score  real     mean probability
-- Example: days=30; until=2026-11-22
--   label             | images | percent | mean_score
--   ------------------+--------+---------+-----------
--   crane             | 40     | 33.6    | 0.664453
--   😺 smiling cat     | 21     | 17.6    | 0.71875
--   jack-o'-lantern   | 13     | 10.9    | 0.66226
--   100% wool: {grey} | 12     | 10.1    | 0.579427
--   12" ruler         | 12     | 10.1    | 0.61849
--   tabby             | 11     | 9.2     | 0.588068
--   Egyptian cat      | 10     | 8.4     | 0.60625
\if :{?days} \else \set days 30 \endif
\if :{?until} \else \set until '' \endif
SELECT
    label,
    sum(images)::bigint AS images,
    round(100 * sum(images) / sum(sum(images)) OVER (), 1) AS percent,
    (sum(images * mean_score) / sum(images))::real AS mean_score
FROM nightlabel.label_daily
CROSS JOIN (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
WHERE day BETWEEN asked.until - CAST(:'days' AS integer) + 1 AND asked.until
GROUP BY label
ORDER BY images DESC, label;
