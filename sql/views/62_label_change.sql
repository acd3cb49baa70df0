-- label_change: where two models disagree.
-- Grain:   one row per existing object and pair of models that gave its current version different labels.
-- Rule:    labels differ when their ids do, since names repeat. `from` is the model that was registered first, whether
--          or not either was ever in production.
-- Cost:    one object's rows by key in a moment; a pair of models is one pass over both, so name the pair.
-- Readers: ML engineers before a promotion, analysts after it.
CREATE OR REPLACE VIEW nightlabel.label_change AS
SELECT
    o.bucket::text AS bucket,
    o.object_key::text AS object_key,
    i.etag,
    fm.name AS from_model_name,
    fm.version AS from_model_version,
    f.label AS from_label,
    f.label_id AS from_label_id,
    f.score AS from_score,
    f.recorded_at AS from_predicted_at,
    tm.name AS to_model_name,
    tm.version AS to_model_version,
    t.label AS to_label,
    t.label_id AS to_label_id,
    t.score AS to_score,
    t.recorded_at AS to_predicted_at
FROM nightlabel.object AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
JOIN nightlabel.outcome AS f ON f.image_id = o.image_id
JOIN nightlabel.outcome AS t ON t.image_id = o.image_id AND t.model_id > f.model_id AND t.label_id <> f.label_id
JOIN nightlabel.model AS fm ON fm.model_id = f.model_id
JOIN nightlabel.model AS tm ON tm.model_id = t.model_id
WHERE o.gone_at IS NULL;
COMMENT ON VIEW nightlabel.label_change IS
    'One row per existing object and pair of models whose labels for its current version differ by id; from is the model registered first.';
COMMENT ON COLUMN nightlabel.label_change.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.label_change.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.label_change.etag IS 'ETag of the current version, without quotes.';
COMMENT ON COLUMN nightlabel.label_change.from_model_name IS 'Name of the model of the two that was registered first.';
COMMENT ON COLUMN nightlabel.label_change.from_model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.label_change.from_label IS 'Its label.';
COMMENT ON COLUMN nightlabel.label_change.from_label_id IS 'Stable id of its label.';
COMMENT ON COLUMN nightlabel.label_change.from_score IS 'Probability of its label, 0 to 1.';
COMMENT ON COLUMN nightlabel.label_change.from_predicted_at IS 'When its label was recorded.';
COMMENT ON COLUMN nightlabel.label_change.to_model_name IS 'Name of the other model.';
COMMENT ON COLUMN nightlabel.label_change.to_model_version IS 'Version of the other model.';
COMMENT ON COLUMN nightlabel.label_change.to_label IS 'Label of the other model.';
COMMENT ON COLUMN nightlabel.label_change.to_label_id IS 'Stable id of that label; never that of from_label_id.';
COMMENT ON COLUMN nightlabel.label_change.to_score IS 'Probability of that label, 0 to 1.';
COMMENT ON COLUMN nightlabel.label_change.to_predicted_at IS 'When that label was recorded.';
