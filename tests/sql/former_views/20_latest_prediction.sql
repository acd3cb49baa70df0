-- latest_prediction: the label of everything that is in the buckets now.
-- Grain:   one row per existing object whose current version has a label.
-- Rule:    the production model's label, else that of the newest former production model; no row while only dead.
-- Readers: analysts, the results gallery, the REST API.
CREATE OR REPLACE VIEW nightlabel.latest_prediction AS
SELECT
    i.bucket::text AS bucket,
    i.object_key::text AS object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    best.label,
    best.label_id,
    best.score,
    best.top_labels,
    best.top_scores,
    m.name AS model_name,
    m.version AS model_version,
    best.engine,
    best.run_id,
    best.recorded_at AS predicted_at
FROM nightlabel.object AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
CROSS JOIN LATERAL (
    SELECT c.*
    FROM nightlabel.production_line AS p
    JOIN nightlabel.outcome AS c ON c.model_id = p.model_id AND c.image_id = o.image_id
    WHERE c.label IS NOT NULL
    ORDER BY p.rank
    LIMIT 1
) AS best
JOIN nightlabel.model AS m ON m.model_id = best.model_id
WHERE o.gone_at IS NULL;
COMMENT ON VIEW nightlabel.latest_prediction IS
    'One row per existing object: the label of its current version by the production model, else by the newest former one.';
COMMENT ON COLUMN nightlabel.latest_prediction.label_id IS 'Stable id of the label; label names may repeat, ids do not.';
COMMENT ON COLUMN nightlabel.latest_prediction.score IS 'Probability of the label, 0 to 1.';
COMMENT ON COLUMN nightlabel.latest_prediction.top_labels IS 'Best labels, best first, beside top_scores.';
COMMENT ON COLUMN nightlabel.latest_prediction.run_id IS 'The run that recorded it; see run_summary.';
