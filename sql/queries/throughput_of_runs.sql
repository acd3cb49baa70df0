-- Do the runs become slower?
-- For: operators
-- Reads: the newest runs alone
-- Parameters:
--   runs  bigint  how many runs that have ended
-- Columns:
--   started_at         timestamp with time zone  when the run began
--   model              text                      name@version of its model
--   images             bigint                    labels and dead letters that it recorded
--   images_per_second  real                      images over the time from start to end
--   percent_of_former  numeric                   of the run before that recorded anything
-- Example: runs=4
--   started_at           | model       | images | images_per_second | percent_of_former
--   ---------------------+-------------+--------+-------------------+------------------
--   2026-11-22 03:00:00Z | candidate@1 | 3      | 0.046875          | 162
--   2026-11-22 02:00:00Z | tiny@2      | 4      | 0.0289855         | 62
--   2026-11-21 03:00:00Z | candidate@1 | 3      | 0.046875          | 561
--   2026-11-21 02:00:00Z | tiny@2      | 5      | 0.0083612         |
\if :{?runs} \else \set runs 14 \endif
SELECT
    started_at,
    model_name || '@' || model_version AS model,
    images,
    images_per_second,
    round((100 * images_per_second / lag(images_per_second) OVER (ORDER BY started_at))::numeric, 0) AS percent_of_former
FROM (
    SELECT *
    FROM nightlabel.run_cost
    WHERE finished_at IS NOT NULL AND images > 0
    ORDER BY started_at DESC
    LIMIT CAST(:'runs' AS bigint)
) AS newest
ORDER BY started_at DESC;
