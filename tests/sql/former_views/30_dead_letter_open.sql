-- dead_letter_open: what could not be labelled and still is not.
-- Grain:   one row per existing object whose current version has only a dead letter.
-- Rule:    current versions only; a label by any model of the production line closes it.
-- Readers: operators, the results gallery.
CREATE OR REPLACE VIEW nightlabel.dead_letter_open AS
SELECT
    i.bucket::text AS bucket,
    i.object_key::text AS object_key,
    i.etag,
    best.stage,
    best.error_code,
    best.message,
    best.attempts,
    best.retry_after IS NULL AS permanent,
    best.retry_after,
    m.name AS model_name,
    m.version AS model_version,
    best.run_id,
    best.recorded_at AS failed_at
FROM nightlabel.object AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
CROSS JOIN LATERAL (
    SELECT c.*
    FROM nightlabel.production_line AS p
    JOIN nightlabel.outcome AS c ON c.model_id = p.model_id AND c.image_id = o.image_id
    ORDER BY (c.label IS NOT NULL) DESC, p.rank
    LIMIT 1
) AS best
JOIN nightlabel.model AS m ON m.model_id = best.model_id
WHERE o.gone_at IS NULL AND best.error_code IS NOT NULL;
COMMENT ON VIEW nightlabel.dead_letter_open IS
    'One row per existing object whose current version could not be labelled, with stage, code and reason.';
COMMENT ON COLUMN nightlabel.dead_letter_open.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';
COMMENT ON COLUMN nightlabel.dead_letter_open.retry_after IS 'From when the nightly run tries again; null when permanent.';
