-- Between which two labels does the model waver, image by image?
-- For: analysts, ML engineers
-- Reads: every label that is there now, read once
-- Parameters:
--   margin  real    how near the second score must be to the first
--   limit   bigint  how many
-- Columns:
--   bucket      text  bucket of the object
--   object_key  text  the key, exactly as stored
--   label       text  best label
--   second      text  next best label
--   margin      real  by how much the first is ahead
-- Example: margin=0.1; limit=5
--   bucket | object_key              | label             | second          | margin
--   -------+-------------------------+-------------------+-----------------+----------
--   photos | in/2025/it's 13.jpg     | 😺 smiling cat     | tabby           | 0
--   photos | in/2025/tab\t66\x01.jpg | Egyptian cat      | jack-o'-lantern | 0.03125
--   photos | in/2025/100%30\.jpg     | tabby             | crane           | 0.0546875
--   photos | odd\n/100%40\.jpg       | 100% wool: {grey} | 12" ruler       | 0.0625
--   photos | /a|b 18.jpg             | tabby             | 😺 smiling cat   | 0.0703125
\if :{?margin} \else \set margin 0.1 \endif
\if :{?limit} \else \set limit 100 \endif
SELECT
    bucket,
    object_key,
    label,
    top_labels[2] AS second,
    (top_scores[1] - top_scores[2])::real AS margin
FROM nightlabel.latest_prediction
WHERE top_scores[1] - top_scores[2] < CAST(:'margin' AS real)
ORDER BY top_scores[1] - top_scores[2], bucket, object_key
LIMIT CAST(:'limit' AS bigint);
