-- Which model labelled the nights from when to when, who decided that, and how many images did it label?
-- For: ML engineers, operators
-- Reads: all runs with their shards
-- Parameters:
--   alias  text  production, candidate or shadow
-- Columns:
--   model       text                      name@version
--   valid_from  timestamp with time zone  since when the alias named it
--   valid_to    timestamp with time zone  until when; null while it does
--   decided_by  text                      who said yes in Airflow, or the login that moved the alias
--   reason      text                      why
--   is_forced   boolean                   whether the gate was overridden
--   runs        bigint                    runs with it that began meanwhile
--   labelled    bigint                    images that these labelled
-- Example:
--   model  | valid_from           | valid_to             | decided_by | reason     | is_forced | runs | labelled
--   -------+----------------------+----------------------+------------+------------+-----------+------+---------
--   tiny@2 | 2026-11-13 20:00:00Z |                      | an owner   | known data | no        | 10   | 37
--   tiny@1 | 2026-11-01 02:00:00Z | 2026-11-13 20:00:00Z | an owner   | known data | no        | 12   | 36
\if :{?alias} \else \set alias 'production' \endif
SELECT
    a.model_name || '@' || a.model_version AS model,
    a.valid_from,
    a.valid_to,
    coalesce(a.approved_by, a.changed_by) AS decided_by,
    a.reason,
    a.is_forced,
    count(r.run_id) AS runs,
    coalesce(sum(r.labelled), 0)::bigint AS labelled
FROM nightlabel.model_alias_history AS a
LEFT JOIN nightlabel.run_summary AS r
    ON r.model_name = a.model_name AND r.model_version = a.model_version
    AND r.started_at >= a.valid_from AND (a.valid_to IS NULL OR r.started_at < a.valid_to)
WHERE a.alias = CAST(:'alias' AS text)
GROUP BY a.alias, a.model_name, a.model_version, a.valid_from, a.valid_to, a.approved_by, a.changed_by, a.reason, a.is_forced
ORDER BY a.valid_from DESC;
