-- never_labelled: what is in the buckets and waits for its first outcome.
-- Grain:   one row per existing object whose current version has no outcome from the production line.
-- Rule:    neither label nor dead letter; every existing object is in latest_prediction, in dead_letter_open or here, and
--          in one of them only. An overwritten object is here again until its new version is looked at.
-- Cost:    one object by key in a moment; all of them are one pass over objects and ledger.
-- Readers: operators, data engineers.
CREATE OR REPLACE VIEW nightlabel.never_labelled AS
SELECT
    o.bucket::text AS bucket,
    o.object_key::text AS object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    i.first_seen_at
FROM nightlabel.object AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
WHERE o.gone_at IS NULL
    AND NOT EXISTS (
        SELECT
        FROM nightlabel.production_line AS p
        JOIN nightlabel.outcome AS c ON c.model_id = p.model_id
        WHERE c.image_id = o.image_id
    );
COMMENT ON VIEW nightlabel.never_labelled IS
    'One row per existing object whose current version has neither a label nor a dead letter by any model of the production line.';
COMMENT ON COLUMN nightlabel.never_labelled.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.never_labelled.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.never_labelled.etag IS 'ETag of the current version, without quotes.';
COMMENT ON COLUMN nightlabel.never_labelled.size_bytes IS 'Size of the current version.';
COMMENT ON COLUMN nightlabel.never_labelled.last_modified IS 'When the object was written, as the store says.';
COMMENT ON COLUMN nightlabel.never_labelled.first_seen_at IS 'When a listing showed this version first.';
