-- Which labels does another model replace by which?
-- For: ML engineers
-- Reads: all outcomes of both models
-- Parameters:
--   from_model  text    name@version of the one that was registered first
--   to_model    text    name@version of the other
--   limit       bigint  how many pairs
-- Columns:
--   from_label  text    label of the one model
--   to_label    text    label of the other
--   images      bigint  existing objects of which that holds
-- Example: from_model=tiny@1; to_model=candidate@1; limit=5
--   from_label    | to_label          | images
--   --------------+-------------------+-------
--   😺 smiling cat | crane             | 5
--   crane         | crane             | 2
--   tabby         | 100% wool: {grey} | 2
--   tabby         | 12" ruler         | 2
--   😺 smiling cat | Egyptian cat      | 2
\if :{?from_model} \else \set from_model 'efficientnet-lite0@1' \endif
\if :{?to_model} \else \set to_model 'efficientnet-lite0@2' \endif
\if :{?limit} \else \set limit 100 \endif
SELECT from_label, to_label, count(*) AS images
FROM nightlabel.label_change
WHERE from_model_name || '@' || from_model_version = CAST(:'from_model' AS text)
    AND to_model_name || '@' || to_model_version = CAST(:'to_model' AS text)
GROUP BY from_label, to_label
ORDER BY images DESC, from_label, to_label
LIMIT CAST(:'limit' AS bigint);
