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
--   started_at           | model  | images | figures         | labels
--   ---------------------+--------+--------+-----------------+---------------------------------------------------------------------------------
--   2026-11-19 02:00:00Z | tiny@2 | 2      | psi, mean_score | jack-o'-lantern 45.3 -> 51.6
--   2026-11-13 02:00:00Z | tiny@1 | 3      | psi, mean_score | 12" ruler 4.7 -> 6.3, crane 68.8 -> 64.1, tabby 73.4 -> 59.4
--   2026-11-08 02:00:00Z | tiny@1 | 3      | psi, mean_score | 100% wool: {grey} 59.4 -> 12.5, jack-o'-lantern 42.2 -> 70.3, tabby 23.4 -> 73.4
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
