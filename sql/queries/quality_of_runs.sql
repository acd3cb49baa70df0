-- How have mean score, low scores and dead letters gone from run to run?
-- For: operators, ML engineers
-- Reads: the newest runs alone
-- Parameters:
--   runs  bigint  how many runs
-- Columns:
--   started_at     timestamp with time zone  when the run began
--   verdict        text                      ordinary, moved or not_judged
--   images         bigint                    labels that the run recorded
--   mean_score     real                      their mean probability
--   low_percent    numeric                   percent of them with a low score
--   dead_percent   numeric                   percent of dead letters among all that it recorded
--   js_distance    real                      distance of its label mix from that of the runs before
-- Example: runs=6
--   started_at           | verdict    | images | mean_score | low_percent | dead_percent | js_distance
--   ---------------------+------------+--------+------------+-------------+--------------+------------
--   2026-11-23 03:00:00Z | not_judged | 0      |            |             |              |
--   2026-11-22 03:00:00Z | ordinary   | 3      | 0.734375   | 0.0         | 0.0          | 0.21875
--   2026-11-22 02:00:00Z | ordinary   | 4      | 0.65625    | 0.0         | 0.0          | 0.21875
--   2026-11-21 03:00:00Z | moved      | 3      | 0.697917   | 0.0         | 0.0          | 0.90625
--   2026-11-21 02:00:00Z | ordinary   | 4      | 0.722656   | 25.0        | 20.0         | 0.296875
--   2026-11-20 12:00:00Z | ordinary   | 4      | 0.660156   | 50.0        | 20.0         | 0.84375
\if :{?runs} \else \set runs 30 \endif
SELECT
    started_at,
    verdict,
    images,
    mean_score,
    round(100 * low_score_share::numeric, 1) AS low_percent,
    round(100 * dead_ratio::numeric, 1) AS dead_percent,
    js_distance
FROM nightlabel.run_drift
ORDER BY started_at DESC
LIMIT CAST(:'runs' AS bigint);
