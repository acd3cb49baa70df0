-- object_outcome: what every model said of what is in the buckets now.
-- Grain:   one row per existing object and model version that has an outcome for its current version.
-- Rule:    every registered model, of the production line or not; a label or an error, never both.
-- Cost:    one object's rows by key in a moment; a whole model is a scan of its part of the ledger.
-- Readers: analysts who compare models, data engineers who ask what happened to one object.
CREATE OR REPLACE VIEW nightlabel.object_outcome AS
SELECT
    o.bucket::text AS bucket,
    o.object_key::text AS object_key,
    i.etag,
    m.name AS model_name,
    m.version AS model_version,
    c.label,
    c.label_id,
    c.score,
    c.is_copied,
    c.stage,
    c.error_code,
    c.message,
    c.attempts,
    c.retry_after,
    c.engine,
    c.run_id,
    c.recorded_at
FROM nightlabel.object AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
JOIN nightlabel.outcome AS c ON c.image_id = o.image_id
JOIN nightlabel.model AS m ON m.model_id = c.model_id
WHERE o.gone_at IS NULL;
COMMENT ON VIEW nightlabel.object_outcome IS
    'One row per existing object and model version that has an outcome for its current version: a label or an error.';
COMMENT ON COLUMN nightlabel.object_outcome.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.object_outcome.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.object_outcome.etag IS 'ETag of the current version, without quotes.';
COMMENT ON COLUMN nightlabel.object_outcome.model_name IS 'Name of the model that the outcome is of.';
COMMENT ON COLUMN nightlabel.object_outcome.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.object_outcome.label IS 'Best label; null for a dead letter.';
COMMENT ON COLUMN nightlabel.object_outcome.label_id IS 'Stable id of the label; null for a dead letter.';
COMMENT ON COLUMN nightlabel.object_outcome.score IS 'Probability of the label, 0 to 1; null for a dead letter.';
COMMENT ON COLUMN nightlabel.object_outcome.is_copied IS 'Whether the label was taken over from equal content instead of computed.';
COMMENT ON COLUMN nightlabel.object_outcome.stage IS 'Of a dead letter: the stage that gave up; null for a label.';
COMMENT ON COLUMN nightlabel.object_outcome.error_code IS 'Of a dead letter: its stable code; null for a label.';
COMMENT ON COLUMN nightlabel.object_outcome.message IS 'Of a dead letter: what was found and what to do; null for a label.';
COMMENT ON COLUMN nightlabel.object_outcome.attempts IS 'How many runs tried the image with this model.';
COMMENT ON COLUMN nightlabel.object_outcome.retry_after IS 'Of a dead letter: from when the nightly run tries again; null when it is permanent.';
COMMENT ON COLUMN nightlabel.object_outcome.engine IS 'What executed the model.';
COMMENT ON COLUMN nightlabel.object_outcome.run_id IS 'The run that recorded it; see run_summary.';
COMMENT ON COLUMN nightlabel.object_outcome.recorded_at IS 'When it was recorded.';
