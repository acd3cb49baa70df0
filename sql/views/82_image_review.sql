-- image_review: the labels that reviewers gave, with what the model had said.
-- Grain:   one row per review; a correction is another row, and the one before it has a superseded_at.
-- Rule:    every version of every object that was reviewed, whatever became of it since.
-- Cost:    one pass over the reviews.
-- Readers: reviewers, ML engineers.
CREATE OR REPLACE VIEW nightlabel.image_review AS
SELECT
    r.bucket::text AS bucket,
    r.object_key::text AS object_key,
    r.etag,
    r.label,
    r.label_id,
    r.reviewer,
    r.note,
    r.reviewed_at,
    r.superseded_at,
    r.recorded_by,
    m.name AS model_name,
    m.version AS model_version,
    r.seen_label,
    r.seen_label_id,
    r.seen_score,
    r.label_id = r.seen_label_id AS is_model_right
FROM nightlabel.review AS r
JOIN nightlabel.model AS m ON m.model_id = r.model_id;
COMMENT ON VIEW nightlabel.image_review IS
    'One row per label that a reviewer gave to an image version, with what the model had said; corrections are further rows.';
COMMENT ON COLUMN nightlabel.image_review.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.image_review.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.image_review.etag IS 'ETag of the version that was reviewed, without quotes.';
COMMENT ON COLUMN nightlabel.image_review.label IS 'The reviewer''s label.';
COMMENT ON COLUMN nightlabel.image_review.label_id IS 'Stable id of that label; one of the model''s label map.';
COMMENT ON COLUMN nightlabel.image_review.reviewer IS 'Who reviewed it, as was said.';
COMMENT ON COLUMN nightlabel.image_review.note IS 'What the reviewer said about it; mostly empty.';
COMMENT ON COLUMN nightlabel.image_review.reviewed_at IS 'When it was recorded.';
COMMENT ON COLUMN nightlabel.image_review.superseded_at IS 'When a later review of the same version took its place; null while it holds.';
COMMENT ON COLUMN nightlabel.image_review.recorded_by IS 'The login that recorded it.';
COMMENT ON COLUMN nightlabel.image_review.model_name IS 'Name of the model whose label was shown.';
COMMENT ON COLUMN nightlabel.image_review.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.image_review.seen_label IS 'The model''s label.';
COMMENT ON COLUMN nightlabel.image_review.seen_label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.image_review.seen_score IS 'Its probability, 0 to 1.';
COMMENT ON COLUMN nightlabel.image_review.is_model_right IS 'Whether the reviewer gave the label that the model had given.';
