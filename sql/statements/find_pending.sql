-- What of the listing has to be classified, in the order in which the runs take it: new images first, oldest first.
-- Settled is what has an outcome from one of the models in question, unless that is a dead letter whose time has come,
-- or one of a decoder that was replaced since. A run that tries dead letters again takes each of them, once.
INSERT INTO pending (position, image_id, object_key, etag, size_bytes, prior_attempts)
SELECT
    row_number() OVER (ORDER BY coalesce(mine.attempts, 0) > 0, l.last_modified, l.object_key) - 1,
    l.image_id, l.object_key, l.etag, l.size_bytes, coalesce(mine.attempts, 0)
FROM listed AS l
LEFT JOIN nightlabel.outcome AS mine ON mine.model_id = %(model_id)s AND mine.image_id = l.image_id
WHERE NOT EXISTS (
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
);
