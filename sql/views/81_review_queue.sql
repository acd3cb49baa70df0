-- review_queue: labels that the model is unsure of, for a person to look at.
-- Grain:   one row per existing object whose label in latest_prediction has a score below 0.5 and no review.
-- Rule:    current versions by the production line only. A recorded review of the version takes it out; a new version of
--          the object, or a label by a newer production model, is judged afresh by its own score, reviewed or not.
-- Plans:   from the lowest score on, by the ledger's index of low scores, which an ORDER BY score LIMIT reads as far as it
--          has to; a bucket, prefix or model is looked for among these. What was reviewed is passed over as the index is
--          read (OFFSET 0 keeps it so), before anything else is looked up: it is what has the lowest scores, after a while.
-- Readers: reviewers, ML engineers.
CREATE OR REPLACE VIEW nightlabel.review_queue AS
SELECT
    o.bucket::text AS bucket,
    o.object_key::text AS object_key,
    i.etag,
    c.label,
    c.label_id,
    c.score,
    c.top_labels,
    c.top_scores,
    p.name AS model_name,
    p.version AS model_version,
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
WHERE c.score < 0.5::real
    AND o.gone_at IS NULL
    AND NOT EXISTS (
        SELECT
        FROM nightlabel.outcome AS better
        JOIN nightlabel.production_line AS b ON b.model_id = better.model_id
        WHERE better.image_id = c.image_id AND better.label IS NOT NULL AND b.rank < p.rank
    )
    AND NOT EXISTS (
        SELECT FROM nightlabel.review AS r WHERE r.image_id = c.image_id AND r.superseded_at IS NULL OFFSET 0
    );
COMMENT ON VIEW nightlabel.review_queue IS
    'One row per existing object whose present label has a score below 0.5 and that nobody has reviewed.';
COMMENT ON COLUMN nightlabel.review_queue.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.review_queue.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.review_queue.etag IS 'ETag of the version that was labelled, without quotes; record_review takes it, so that nobody reviews another version.';
COMMENT ON COLUMN nightlabel.review_queue.label IS 'The model''s best label; names may repeat.';
COMMENT ON COLUMN nightlabel.review_queue.label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.review_queue.score IS 'Its probability, 0 to 0.5.';
COMMENT ON COLUMN nightlabel.review_queue.top_labels IS 'Best labels, best first, beside top_scores.';
COMMENT ON COLUMN nightlabel.review_queue.top_scores IS 'Probabilities of top_labels, in the same order.';
COMMENT ON COLUMN nightlabel.review_queue.model_name IS 'Name of the model that gave the label.';
COMMENT ON COLUMN nightlabel.review_queue.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.review_queue.run_id IS 'The run that recorded it; see run_summary.';
COMMENT ON COLUMN nightlabel.review_queue.predicted_at IS 'When the label was recorded.';
