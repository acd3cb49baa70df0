-- Which labels were given on one day, last night for instance, and how often?
-- For: analysts
-- Reads: counts by day alone, however large the ledger is
-- Parameters:
--   day  date  the UTC day; empty: the newest on which anything was labelled
-- Columns:
--   label       text     the label
--   images      bigint   images that got it
--   percent     numeric  of all labels of the day
--   mean_score  real     mean probability
-- Example: day=2026-11-18
--   label         | images | percent | mean_score
--   --------------+--------+---------+-----------
--   crane         | 2      | 50.0    | 0.65625
--   Egyptian cat  | 1      | 25.0    | 0.609375
--   😺 smiling cat | 1      | 25.0    | 0.671875
\if :{?day} \else \set day '' \endif
SELECT
    label,
    sum(images)::bigint AS images,
    round(100 * sum(images) / sum(sum(images)) OVER (), 1) AS percent,
    (sum(images * mean_score) / sum(images))::real AS mean_score
FROM nightlabel.label_daily
WHERE day = coalesce(
    CAST(nullif(CAST(:'day' AS text), '') AS date),
    (SELECT max(day) FROM nightlabel.label_daily)
)
GROUP BY label
ORDER BY images DESC, label;
