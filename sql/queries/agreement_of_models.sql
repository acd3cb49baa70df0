-- How often do two models agree on what is there now?
-- For: ML engineers
-- Reads: all outcomes of both models
-- Parameters:
--   from_model  text  name@version of the one that was registered first
--   to_model    text  name@version of the other
-- Columns:
--   images   bigint   existing objects that both have labelled
--   same     bigint   those with the same label id
--   percent  numeric  their share
-- Example: from_model=tiny@1; to_model=candidate@1
--   images | same | percent
--   -------+------+--------
--   22     | 1    | 4.5
\if :{?from_model} \else \set from_model 'efficientnet-lite0@1' \endif
\if :{?to_model} \else \set to_model 'efficientnet-lite0@2' \endif
SELECT
    count(*) AS images,
    count(*) FILTER (WHERE f.label_id = t.label_id) AS same,
    round(100.0 * count(*) FILTER (WHERE f.label_id = t.label_id) / nullif(count(*), 0), 1) AS percent
FROM nightlabel.object_outcome AS f
JOIN nightlabel.object_outcome AS t ON t.bucket = f.bucket AND t.object_key = f.object_key
WHERE f.model_name || '@' || f.model_version = CAST(:'from_model' AS text)
    AND t.model_name || '@' || t.model_version = CAST(:'to_model' AS text)
    AND f.label IS NOT NULL AND t.label IS NOT NULL;
