-- In which runs did unusually many images die?
-- For: operators
-- Reads: the newest runs alone
-- Parameters:
--   runs   bigint   how many runs
--   above  numeric  percent that counts as unusual
-- Columns:
--   started_at  timestamp with time zone  when the run began
--   dag_id      text                      what it ran in
--   images      bigint                    labels and dead letters that it recorded
--   dead        bigint                    dead letters among them
--   percent     numeric                   their share
-- Example: runs=20; above=20
--   started_at           | dag_id          | images | dead | percent
--   ---------------------+-----------------+--------+------+--------
--   2026-11-20 02:00:00Z | classify_images | 5      | 2    | 40.0
--   2026-11-19 02:00:00Z | classify_images | 4      | 2    | 50.0
--   2026-11-17 12:00:00Z | cli             | 48     | 10   | 20.8
--   2026-11-14 02:00:00Z | classify_images | 4      | 2    | 50.0
--   2026-11-13 02:00:00Z | classify_images | 5      | 2    | 40.0
\if :{?runs} \else \set runs 14 \endif
\if :{?above} \else \set above 5 \endif
SELECT started_at, dag_id, labelled + dead AS images, dead, round(100.0 * dead / (labelled + dead), 1) AS percent
FROM (SELECT * FROM nightlabel.run_summary ORDER BY started_at DESC LIMIT CAST(:'runs' AS bigint)) AS newest
WHERE labelled + dead > 0 AND 100.0 * dead / (labelled + dead) > CAST(:'above' AS numeric)
ORDER BY started_at DESC;
