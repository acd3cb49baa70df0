-- Which images should a person look at first?
-- For: ML engineers, analysts
-- Reads: as many low scores as are asked for, however large the ledger is
-- Parameters:
--   below  real    probability that counts as unsure, at most 0.5
--   limit  bigint  how many
-- Columns:
--   bucket        text  bucket of the object
--   object_key    text  the key, exactly as stored
--   label         text  best label
--   score         real  its probability
--   second        text  next best label
--   second_score  real  its probability
-- Example: below=0.45; limit=5
--   bucket | object_key          | label             | score    | second        | second_score
--   -------+---------------------+-------------------+----------+---------------+-------------
--   photos | /a|b 18.jpg         | tabby             | 0.34375  | 😺 smiling cat | 0.273438
--   photos | in/2026/a|b 24.jpg  | tabby             | 0.34375  | 😺 smiling cat | 0.273438
--   photos | in/2025/100%30\.jpg | tabby             | 0.359375 | crane         | 0.304688
--   photos | /say "14".jpg       | 😺 smiling cat     | 0.390625 | tabby         | 0.226562
--   photos | /100%53\.jpg        | 100% wool: {grey} | 0.40625  | crane         | 0.21875
\if :{?below} \else \set below 0.3 \endif
\if :{?limit} \else \set limit 100 \endif
SELECT bucket, object_key, label, score, top_labels[2] AS second, top_scores[2] AS second_score
FROM nightlabel.review_queue
WHERE score < CAST(:'below' AS real)
ORDER BY score, bucket, object_key
LIMIT CAST(:'limit' AS bigint);
