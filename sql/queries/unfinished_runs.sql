-- Which runs did not end, or left images unfinished?
-- For: operators
-- Reads: all runs with their shards
-- Parameters:
--   limit  bigint  how many
-- Columns:
--   run_id      uuid                      the run
--   started_at  timestamp with time zone  when it began
--   dag_id      text                      what it ran in
--   state       text                      planned, running, succeeded or failed
--   unfinished  bigint                    images that nobody has finished
--   discovered  bigint                    objects that it found
-- Example: limit=20
--   run_id                               | started_at           | dag_id          | state   | unfinished | discovered
--   -------------------------------------+----------------------+-----------------+---------+------------+-----------
--   00000000-0000-0000-0000-000000000017 | 2026-11-23 02:00:00Z | classify_images | running | 12         | 70
--   00000000-0000-0000-0000-00000000000a | 2026-11-11 02:00:00Z | classify_images | failed  | 1          | 32
\if :{?limit} \else \set limit 20 \endif
SELECT run_id, started_at, dag_id, state, unfinished, discovered
FROM nightlabel.run_summary
WHERE unfinished > 0 OR finished_at IS NULL
ORDER BY started_at DESC
LIMIT CAST(:'limit' AS bigint);
