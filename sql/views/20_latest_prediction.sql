-- latest_prediction: the label of everything that is in the buckets now.
-- Grain:   one row per existing object whose current version has a label.
-- Rule:    the production model's label, else that of the newest former production model; no row while only dead.
-- Readers: analysts, the results gallery, the REST API.
-- Plans:   from either end, whatever the size: by key from object, by label and newest first from the ledger's index
--          (label, recorded_at), which an ORDER BY predicted_at DESC LIMIT reads as far as it has to. The few models are
--          put together apart (OFFSET 0): by key, most of the time goes into the search for an order of joins.
CREATE OR REPLACE VIEW nightlabel.latest_prediction AS
SELECT
    o.bucket,
    o.object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    c.label,
    c.label_id,
    c.score,
    c.top_labels,
    c.top_scores,
    p.name AS model_name,
    p.version AS model_version,
    c.engine,
    c.run_id,
    c.recorded_at AS predicted_at
FROM nightlabel.outcome AS c
JOIN (
    SELECT line.model_id, line.rank, m.name, m.version
    FROM nightlabel.production_line AS line
    JOIN nightlabel.model AS m ON m.model_id = line.model_id
    OFFSET 0
) AS p ON p.model_id = c.model_id
JOIN nightlabel.object AS o ON o.image_id = c.image_id
JOIN nightlabel.image AS i ON i.image_id = c.image_id
WHERE c.label IS NOT NULL
    AND o.gone_at IS NULL
    AND NOT EXISTS (
        SELECT
        FROM nightlabel.outcome AS better
        JOIN nightlabel.production_line AS b ON b.model_id = better.model_id
        WHERE better.image_id = c.image_id AND better.label IS NOT NULL AND b.rank < p.rank
    );
COMMENT ON VIEW nightlabel.latest_prediction IS
    'One row per existing object: the label of its current version by the production model, else by the newest former one.';
COMMENT ON COLUMN nightlabel.latest_prediction.label_id IS 'Stable id of the label; label names may repeat, ids do not.';
COMMENT ON COLUMN nightlabel.latest_prediction.score IS 'Probability of the label, 0 to 1.';
COMMENT ON COLUMN nightlabel.latest_prediction.top_labels IS 'Best labels, best first, beside top_scores.';
COMMENT ON COLUMN nightlabel.latest_prediction.run_id IS 'The run that recorded it; see run_summary.';
