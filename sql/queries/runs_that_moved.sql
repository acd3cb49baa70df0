-- In which runs were the labels not like those before, and what has moved?
-- For: operators, ML engineers
-- Reads: the newest runs alone
-- Parameters:
--   runs  bigint  how many runs to look back
-- Columns:
--   started_at  timestamp with time zone  when the run began
--   model       text                      name@version
--   images      bigint                    labels that the run recorded
--   figures     text                      figures that moved
--   labels      text                      labels that moved most, with their shares before and now in percent
-- Example: runs=20
--   started_at           | model       | images | figures         | labels
--   ---------------------+-------------+--------+-----------------+---------------------------------------------------
--   2026-11-21 03:00:00Z | candidate@1 | 3      | psi, mean_score | 100% wool: {grey} 82.8 -> 68.8, tabby 78.1 -> 10.9
--   2026-11-20 03:00:00Z | candidate@1 | 1      | psi, mean_score | crane 12.5 -> 0.0
--   2026-11-19 02:00:00Z | tiny@2      | 2      | psi, mean_score | jack-o'-lantern 78.1 -> 76.6, crane 31.3 -> 23.4
--   2026-11-19 00:00:00Z | tiny@2      | 10     | psi, mean_score | 😺 smiling cat 57.8 -> 45.3
--   2026-11-12 02:00:00Z | tiny@1      | 3      | psi, mean_score | Egyptian cat 60.9 -> 21.9
\if :{?runs} \else \set runs 30 \endif
SELECT
    started_at,
    model_name || '@' || model_version AS model,
    images,
    array_to_string(moved, ', ') AS figures,
    (
        SELECT string_agg(
            m.label || ' ' || round(100 * m.before::numeric, 1) || ' -> ' || round(100 * m.now::numeric, 1), ', '
            ORDER BY m.place
        )
        FROM unnest(moved_labels, shares_before, shares_now) WITH ORDINALITY AS m (label, before, now, place)
    ) AS labels
FROM (SELECT * FROM nightlabel.run_drift ORDER BY started_at DESC LIMIT CAST(:'runs' AS bigint)) AS newest
WHERE verdict = 'moved'
ORDER BY started_at DESC;
