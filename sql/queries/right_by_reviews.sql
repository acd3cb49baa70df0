-- How often was the model right, as reviewers see it, and what does it take for what?
-- For: ML engineers
-- Reads: every review that holds
-- Parameters:
--   least  bigint  reviews that a label must have
-- Columns:
--   model         text     name@version
--   label         text     the model's label
--   reviewed      bigint   reviews of it that hold
--   percent       numeric  percent of them in which it was right
--   mostly        text     what reviewers gave instead, most often; empty where it was always right
-- Example: least=2
--   model  | label         | reviewed | percent | mostly
--   -------+---------------+----------+---------+-------------
--   tiny@2 | crane         | 5        | 0.0     | Egyptian cat
--   tiny@1 | 😺 smiling cat | 3        | 33.3    | crane
--   tiny@2 | 😺 smiling cat | 3        | 33.3    | Egyptian cat
--   tiny@2 | 12" ruler     | 2        | 50.0    | Egyptian cat
\if :{?least} \else \set least 5 \endif
SELECT
    model_name || '@' || model_version AS model,
    seen_label AS label,
    count(*) AS reviewed,
    round(100.0 * count(*) FILTER (WHERE is_model_right) / count(*), 1) AS percent,
    coalesce(mode() WITHIN GROUP (ORDER BY label) FILTER (WHERE NOT is_model_right), '') AS mostly
FROM nightlabel.image_review
WHERE superseded_at IS NULL
GROUP BY model_name, model_version, seen_label
HAVING count(*) >= CAST(:'least' AS bigint)
ORDER BY reviewed DESC, model, label;
