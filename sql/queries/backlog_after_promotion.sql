-- How many images still have the label of another model than the present one?
-- For: data engineers, ML engineers
-- Reads: every label that is there now, read once
-- Parameters:
--   model  text  name@version of the present model; empty: that of the newest nightly run
-- Columns:
--   bucket       text                      the bucket
--   labelled_by  text                      name@version of the model that their label is by
--   images       bigint                    existing objects to label again
--   size_bytes   bigint                    their bytes
--   oldest       timestamp with time zone  when the oldest of these labels was recorded
-- Example: model=tiny@2
--   bucket | labelled_by | images | size_bytes | oldest
--   -------+-------------+--------+------------+---------------------
--   photos | tiny@1      | 16     | 28200      | 2026-11-05 02:02:00Z
--   scans  | tiny@1      | 3      | 5300       | 2026-11-02 02:02:01Z
\if :{?model} \else \set model '' \endif
SELECT
    bucket,
    model_name || '@' || model_version AS labelled_by,
    count(*) AS images,
    sum(size_bytes)::bigint AS size_bytes,
    min(predicted_at) AS oldest
FROM nightlabel.latest_prediction
WHERE model_name || '@' || model_version <> coalesce(
    nullif(CAST(:'model' AS text), ''),
    (
        SELECT model_name || '@' || model_version
        FROM nightlabel.run_summary
        WHERE dag_id = 'classify_images'
        ORDER BY started_at DESC
        LIMIT 1
    )
)
GROUP BY 1, 2
ORDER BY images DESC, bucket, labelled_by;
