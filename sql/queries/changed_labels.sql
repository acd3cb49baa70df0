-- Which images does another model label differently, the surest ones first?
-- For: ML engineers, analysts
-- Reads: all outcomes of both models
-- Parameters:
--   from_model  text    name@version of the one that was registered first
--   to_model    text    name@version of the other
--   limit       bigint  how many
-- Columns:
--   bucket      text  bucket of the object
--   object_key  text  the key, exactly as stored
--   from_label  text  label of the one model
--   from_score  real  its probability
--   to_label    text  label of the other
--   to_score    real  its probability
-- Example: from_model=tiny@1; to_model=tiny@2; limit=5
--   bucket | object_key         | from_label        | from_score | to_label  | to_score
--   -------+--------------------+-------------------+------------+-----------+---------
--   photos | /say "4".jpg       | crane             | 0.6875     | 12" ruler | 0.515625
--   photos | archive/a|b 10.jpg | jack-o'-lantern   | 0.859375   | crane     | 0.4375
--   photos | odd\n/say "9".jpg  | 😺 smiling cat     | 0.4375     | crane     | 0.90625
--   scans  | /it's 7.jpg        | 100% wool: {grey} | 0.421875   | 12" ruler | 0.515625
--   scans  | archive/photo6.jpg | 😺 smiling cat     | 0.421875   | crane     | 0.71875
\if :{?from_model} \else \set from_model 'efficientnet-lite0@1' \endif
\if :{?to_model} \else \set to_model 'efficientnet-lite0@2' \endif
\if :{?limit} \else \set limit 100 \endif
SELECT bucket, object_key, from_label, from_score, to_label, to_score
FROM nightlabel.label_change
WHERE from_model_name || '@' || from_model_version = CAST(:'from_model' AS text)
    AND to_model_name || '@' || to_model_version = CAST(:'to_model' AS text)
ORDER BY least(from_score, to_score) DESC, bucket, object_key
LIMIT CAST(:'limit' AS bigint);
