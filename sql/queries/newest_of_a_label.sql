-- Which images got a label last?
-- For: analysts
-- Reads: as many labels as are asked for
-- Parameters:
--   label  text    the label
--   limit  bigint  how many
-- Columns:
--   bucket        text                      bucket of the object
--   object_key    text                      the key, exactly as stored
--   score         real                      probability of the label
--   predicted_at  timestamp with time zone  when it was recorded
-- Example: label=tabby; limit=5
--   bucket | object_key           | score    | predicted_at
--   -------+----------------------+----------+---------------------
--   scans  | /line\n71.jpg        | 0.46875  | 2026-11-21 02:02:01Z
--   photos | archive//photo65.jpg | 0.859375 | 2026-11-21 02:01:01Z
--   photos | in/2026/photo29.jpg  | 0.921875 | 2026-11-20 12:01:02Z
--   photos | in/2025/100%30\.jpg  | 0.359375 | 2026-11-10 02:01:00Z
--   photos | in/2026/a|b 24.jpg   | 0.34375  | 2026-11-08 02:01:00Z
\if :{?label} \else \set label tabby \endif
\if :{?limit} \else \set limit 100 \endif
SELECT bucket, object_key, score, predicted_at
FROM nightlabel.latest_prediction
WHERE label = CAST(:'label' AS text)
ORDER BY predicted_at DESC, bucket, object_key
LIMIT CAST(:'limit' AS bigint);
