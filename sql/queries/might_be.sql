-- Which images might be a cat, by any of the best labels and not the first one alone?
-- For: analysts
-- Reads: every label that is there now, read once
-- Parameters:
--   labels  text    the labels, with | between them
--   least   real    least probability that counts
--   limit   bigint  how many
-- Columns:
--   bucket       text  bucket of the object
--   object_key   text  the key, exactly as stored
--   found        text  the likeliest of the labels in question
--   found_score  real  its probability
--   label        text  the label that the image has
-- Example: labels=tabby|Egyptian cat; least=0.1; limit=5
--   bucket | object_key           | found        | found_score | label
--   -------+----------------------+--------------+-------------+-------------
--   photos | in/2026/photo29.jpg  | tabby        | 0.921875    | tabby
--   photos | archive//photo65.jpg | tabby        | 0.859375    | tabby
--   scans  | tab\t59\x01.jpg      | Egyptian cat | 0.609375    | Egyptian cat
--   photos | 😀 63.png             | Egyptian cat | 0.5625      | Egyptian cat
--   scans  | /line\n71.jpg        | tabby        | 0.46875     | tabby
\if :{?labels} \else \set labels 'tabby|Egyptian cat' \endif
\if :{?least} \else \set least 0.1 \endif
\if :{?limit} \else \set limit 100 \endif
SELECT p.bucket, p.object_key, hit.found, hit.found_score, p.label
FROM nightlabel.latest_prediction AS p
CROSS JOIN LATERAL (
    SELECT t.label AS found, t.score AS found_score
    FROM unnest(p.top_labels, p.top_scores) AS t (label, score)
    WHERE t.label = ANY(string_to_array(CAST(:'labels' AS text), '|')) AND t.score >= CAST(:'least' AS real)
    ORDER BY t.score DESC, t.label
    LIMIT 1
) AS hit
WHERE p.top_labels && string_to_array(CAST(:'labels' AS text), '|')
ORDER BY hit.found_score DESC, p.bucket, p.object_key
LIMIT CAST(:'limit' AS bigint);
