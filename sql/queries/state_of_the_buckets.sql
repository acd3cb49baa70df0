-- How much of each bucket has a label, how much cannot have one, and how much waits?
-- For: operators, analysts
-- Reads: all objects, read three times
-- Parameters: none
-- Columns:
--   bucket            text     the bucket
--   objects           bigint   existing objects
--   labelled          bigint   those with a label
--   dead              bigint   those with a dead letter only
--   waiting           bigint   those that no run has looked at
--   percent_labelled  numeric  share of those with a label
-- Example:
--   bucket | objects | labelled | dead | waiting | percent_labelled
--   -------+---------+----------+------+---------+-----------------
--   photos | 58      | 46       | 7    | 5       | 79.3
--   scans  | 12      | 8        | 2    | 2       | 66.7
SELECT
    bucket,
    sum(labelled + dead + waiting)::bigint AS objects,
    sum(labelled)::bigint AS labelled,
    sum(dead)::bigint AS dead,
    sum(waiting)::bigint AS waiting,
    round(100 * sum(labelled) / sum(labelled + dead + waiting), 1) AS percent_labelled
FROM (
    SELECT bucket, count(*) AS labelled, 0 AS dead, 0 AS waiting FROM nightlabel.latest_prediction GROUP BY bucket
    UNION ALL
    SELECT bucket, 0, count(*), 0 FROM nightlabel.dead_letter_open GROUP BY bucket
    UNION ALL
    SELECT bucket, 0, 0, count(*) FROM nightlabel.never_labelled GROUP BY bucket
) AS counted
GROUP BY bucket
ORDER BY objects DESC, bucket;
