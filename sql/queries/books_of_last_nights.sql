-- What did the last runs find and do, and do the books balance?
-- For: operators
-- Reads: the newest runs alone
-- Parameters:
--   runs  bigint  how many runs
-- Columns:
--   started_at      timestamp with time zone  when the run began
--   dag_id          text                      what it ran in
--   state           text                      planned, running, succeeded or failed
--   discovered      bigint                    objects that it found
--   already_done    bigint                    had an outcome before
--   deferred        bigint                    left for a later run
--   labelled        bigint                    got a label
--   dead            bigint                    got a dead letter
--   gone            bigint                    vanished meanwhile
--   done_elsewhere  bigint                    another run was first
--   unfinished      bigint                    nobody has finished
--   balances        boolean                   whether the parts add up to discovered
-- Example: runs=4
--   started_at           | dag_id          | state     | discovered | already_done | deferred | labelled | dead | gone | done_elsewhere | unfinished | balances
--   ---------------------+-----------------+-----------+------------+--------------+----------+----------+------+------+----------------+------------+---------
--   2026-11-23 03:00:00Z | cli             | succeeded | 0          | 0            | 0        | 0        | 0    | 0    | 0              | 0          | yes
--   2026-11-23 02:00:00Z | classify_images | running   | 70         | 58           | 0        | 0        | 0    | 0    | 0              | 12         | yes
--   2026-11-22 03:00:00Z | shadow_images   | succeeded | 4          | 0            | 0        | 3        | 0    | 1    | 0              | 0          | yes
--   2026-11-22 02:00:00Z | classify_images | succeeded | 67         | 54           | 8        | 4        | 0    | 1    | 0              | 0          | yes
\if :{?runs} \else \set runs 7 \endif
SELECT
    started_at, dag_id, state, discovered, already_done, deferred, labelled, dead, gone, done_elsewhere, unfinished,
    discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished AS balances
FROM nightlabel.run_summary
ORDER BY started_at DESC
LIMIT CAST(:'runs' AS bigint);
