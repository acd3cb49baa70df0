-- Why do images have no label, and how many for each reason?
-- For: operators
-- Reads: the dead letters that are there now
-- Parameters: none
-- Columns:
--   error_code      text                      stable code of the reason
--   stage           text                      the stage that gave up
--   permanent       boolean                   whether nobody tries again by himself
--   objects         bigint                    existing objects
--   last_failed_at  timestamp with time zone  when the newest was recorded
--   example_key     text                      key of the newest
-- Example:
--   error_code      | stage  | permanent | objects | last_failed_at       | example_key
--   ----------------+--------+-----------+---------+----------------------+------------------------
--   access_denied   | fetch  | no        | 5       | 2026-11-21 02:01:00Z | archive/tab\t45\x01.jpg
--   image_too_large | decode | yes       | 2       | 2026-11-19 02:01:00Z | in/2025/line\n57.jpg
--   undecodable     | decode | yes       | 2       | 2026-11-20 02:02:00Z | in/2026/line\n64.jpg
SELECT
    error_code,
    stage,
    permanent,
    sum(objects)::bigint AS objects,
    max(last_failed_at) AS last_failed_at,
    (array_agg(example_key ORDER BY last_failed_at DESC, bucket))[1] AS example_key
FROM nightlabel.dead_letter_reason
GROUP BY error_code, stage, permanent
ORDER BY objects DESC, error_code, stage, permanent;
