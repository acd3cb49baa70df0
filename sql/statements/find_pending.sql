-- What of the listing has to be classified, in the order in which the runs take it: new images first, oldest first.
-- Settled is what has an outcome from one of the models in question, unless that is a dead letter whose time has come,
-- or one of a decoder that was replaced since. A run that tries dead letters again takes each of them, once.
--
-- Whether there is any outcome is looked up in the index alone, in the index's order, once for each image of the listing
-- (LIMIT keeps it so): four times as fast as reading ten million outcomes for a million images, and the ledger's size
-- does not matter. Only dead letters are looked at closer. The run's own model is one of those in question.
INSERT INTO pending (position, image_id, object_key, etag, size_bytes, prior_attempts)
WITH open AS (
    SELECT l.image_id, l.object_key, l.etag, l.size_bytes, l.last_modified, 0 AS prior_attempts
    FROM (SELECT * FROM listed ORDER BY image_id) AS l
    LEFT JOIN LATERAL (
        SELECT true AS is_there
        FROM nightlabel.outcome AS o
        WHERE o.image_id = l.image_id AND o.model_id = ANY(%(settled_by)s)
        LIMIT 1
    ) AS any_outcome ON true
    WHERE any_outcome.is_there IS NULL
    UNION ALL
    SELECT l.image_id, l.object_key, l.etag, l.size_bytes, l.last_modified, coalesce(mine.attempts, 0)
    FROM listed AS l
    LEFT JOIN nightlabel.outcome AS mine ON mine.model_id = %(model_id)s AND mine.image_id = l.image_id
    WHERE EXISTS (
        SELECT FROM nightlabel.outcome AS d
        WHERE d.image_id = l.image_id AND d.model_id = ANY(%(settled_by)s) AND d.error_code IS NOT NULL
    )
    AND NOT EXISTS (
        SELECT FROM nightlabel.outcome AS o
        WHERE o.image_id = l.image_id
            AND o.model_id = ANY(%(settled_by)s)
            AND (
                o.error_code IS NULL
                OR CASE
                    WHEN %(is_retry)s THEN o.run_id = %(run_id)s
                    ELSE (o.retry_after IS NULL OR o.retry_after > %(listed_at)s)
                        AND (o.decoder IS NULL OR o.decoder = %(decoder)s)
                END
            )
    )
)
SELECT
    row_number() OVER (ORDER BY prior_attempts > 0, last_modified, object_key) - 1,
    image_id, object_key, etag, size_bytes, prior_attempts
FROM open;
