-- What has every model said of what an object holds now, and when?
-- For: data engineers, analysts
-- Reads: a few lookups
-- Parameters:
--   bucket      text  the bucket
--   object_key  text  the key, exactly as stored
-- Columns:
--   recorded_at  timestamp with time zone  when it was recorded
--   model        text                      name@version of the model
--   label        text                      the label; null for a dead letter
--   score        real                      its probability
--   error_code   text                      why there is none
--   is_copied    boolean                   whether it was taken over from equal content
--   attempts     integer                   runs that tried it
--   run_id       uuid                      the run that recorded it
--   counts       boolean                   whether latest_prediction shows this label
-- Example: bucket=photos; object_key=in/2026/photo29.jpg
--   recorded_at          | model       | label | score    | error_code  | is_copied | attempts | run_id                               | counts
--   ---------------------+-------------+-------+----------+-------------+-----------+----------+--------------------------------------+-------
--   2026-11-09 02:01:00Z | tiny@1      |       |          | undecodable | no        | 1        | 00000000-0000-0000-0000-000000000008 | no
--   2026-11-17 12:01:23Z | candidate@1 | crane | 0.609375 |             | no        | 1        | 00000000-0000-0000-0000-00000000000f | no
--   2026-11-20 12:01:02Z | tiny@2      | tabby | 0.921875 |             | no        | 1        | 00000000-0000-0000-0000-000000000014 | yes
\if :{?bucket} \else \set bucket photos \endif
\if :{?object_key} \else \set object_key 'in/2026/photo1.jpg' \endif
SELECT
    o.recorded_at,
    o.model_name || '@' || o.model_version AS model,
    o.label,
    o.score,
    o.error_code,
    o.is_copied,
    o.attempts,
    o.run_id,
    p.object_key IS NOT NULL AS counts
FROM nightlabel.object_outcome AS o
LEFT JOIN nightlabel.latest_prediction AS p
    ON p.bucket = o.bucket AND p.object_key = o.object_key
    AND p.model_name = o.model_name AND p.model_version = o.model_version
WHERE o.bucket = CAST(:'bucket' AS text) AND o.object_key = CAST(:'object_key' AS text)
ORDER BY o.recorded_at, model;
