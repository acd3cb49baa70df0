-- dead_letter_open: what could not be labelled and still is not.
-- Grain:   one row per existing object whose current version has only a dead letter.
-- Rule:    current versions only; a label by any model of the production line closes it.
-- Readers: operators, the results gallery.
-- Plans:   dead letters are few, and found by indexes of their own; what closes one is looked up for each by its key
--          (OFFSET 0 keeps it so), where a join would read the ledger.
CREATE OR REPLACE VIEW nightlabel.dead_letter_open AS
SELECT
    o.bucket,
    o.object_key,
    i.etag,
    d.stage,
    d.error_code,
    d.message,
    d.attempts,
    d.retry_after IS NULL AS permanent,
    d.retry_after,
    p.name AS model_name,
    p.version AS model_version,
    d.run_id,
    d.recorded_at AS failed_at
FROM nightlabel.outcome AS d
JOIN (
    SELECT line.model_id, line.rank, m.name, m.version
    FROM nightlabel.production_line AS line
    JOIN nightlabel.model AS m ON m.model_id = line.model_id
    OFFSET 0
) AS p ON p.model_id = d.model_id
JOIN nightlabel.object AS o ON o.image_id = d.image_id
JOIN nightlabel.image AS i ON i.image_id = d.image_id
WHERE d.error_code IS NOT NULL
    AND o.gone_at IS NULL
    AND NOT EXISTS (
        SELECT
        FROM nightlabel.production_line AS b
        CROSS JOIN LATERAL (
            SELECT
            FROM nightlabel.outcome AS better
            WHERE better.image_id = d.image_id AND better.model_id = b.model_id
                AND (better.label IS NOT NULL OR b.rank < p.rank)
            OFFSET 0
        ) AS closing
    );
COMMENT ON VIEW nightlabel.dead_letter_open IS
    'One row per existing object whose current version could not be labelled, with stage, code and reason.';
COMMENT ON COLUMN nightlabel.dead_letter_open.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';
COMMENT ON COLUMN nightlabel.dead_letter_open.retry_after IS 'From when the nightly run tries again; null when permanent.';
