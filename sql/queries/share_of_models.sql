-- Which model has labelled what share of what is there now?
-- For: data engineers, ML engineers
-- Reads: every label that is there now, read once
-- Parameters: none
-- Columns:
--   model    text     name@version of the model
--   engine   text     what executed it
--   images   bigint   existing objects whose label is by it
--   percent  numeric  of all that have a label
-- Example:
--   model  | engine     | images | percent
--   -------+------------+--------+--------
--   tiny@2 | litert     | 29     | 53.7
--   tiny@1 | litert     | 17     | 31.5
--   tiny@2 | tensorflow | 6      | 11.1
--   tiny@1 | tensorflow | 2      | 3.7
SELECT
    model_name || '@' || model_version AS model,
    engine,
    count(*) AS images,
    round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM nightlabel.latest_prediction
GROUP BY 1, 2
ORDER BY images DESC, model, engine;
