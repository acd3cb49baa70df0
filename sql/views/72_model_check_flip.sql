-- model_check_flip: images that a candidate labels differently from production, as its check found them.
-- Grain:   one row per check and image; at most 100 of a check, those first of which both models are surest.
-- Rule:    an image that was forgotten since has no row.
-- Cost:    a hundred rows of a check at most.
-- Readers: ML engineers who look at what would change before they promote.
CREATE OR REPLACE VIEW nightlabel.model_check_flip AS
SELECT
    c.check_id,
    m.name AS model_name,
    m.version AS model_version,
    f.flip ->> 'bucket' AS bucket,
    f.flip ->> 'object_key' AS object_key,
    f.flip ->> 'etag' AS etag,
    (f.flip ->> 'is_golden')::boolean AS is_golden,
    f.flip ->> 'right_label_id' AS right_label_id,
    f.flip ->> 'from_label' AS from_label,
    f.flip ->> 'from_label_id' AS from_label_id,
    (f.flip ->> 'from_score')::real AS from_score,
    f.flip ->> 'to_label' AS to_label,
    f.flip ->> 'to_label_id' AS to_label_id,
    (f.flip ->> 'to_score')::real AS to_score
FROM nightlabel.gate_check AS c
JOIN nightlabel.model AS m ON m.model_id = c.model_id
CROSS JOIN LATERAL jsonb_array_elements(c.flips) AS f (flip);
COMMENT ON VIEW nightlabel.model_check_flip IS
    'One row per check and image that the candidate labels differently from production; at most 100 of a check.';
COMMENT ON COLUMN nightlabel.model_check_flip.check_id IS 'The check; see model_check.';
COMMENT ON COLUMN nightlabel.model_check_flip.model_name IS 'Name of the candidate.';
COMMENT ON COLUMN nightlabel.model_check_flip.model_version IS 'Version of the candidate.';
COMMENT ON COLUMN nightlabel.model_check_flip.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.model_check_flip.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.model_check_flip.etag IS 'ETag of the version that was looked at, without quotes.';
COMMENT ON COLUMN nightlabel.model_check_flip.is_golden IS 'Whether it is of the golden set, and not of the last days.';
COMMENT ON COLUMN nightlabel.model_check_flip.right_label_id IS 'Id of the right label of a golden image; null for others.';
COMMENT ON COLUMN nightlabel.model_check_flip.from_label IS 'Label that production gives it.';
COMMENT ON COLUMN nightlabel.model_check_flip.from_label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.model_check_flip.from_score IS 'Probability of that label, 0 to 1.';
COMMENT ON COLUMN nightlabel.model_check_flip.to_label IS 'Label that the candidate gives it.';
COMMENT ON COLUMN nightlabel.model_check_flip.to_label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.model_check_flip.to_score IS 'Probability of that label, 0 to 1.';
