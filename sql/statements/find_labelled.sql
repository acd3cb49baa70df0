-- Fill the listing with existing objects that have a label already and match, instead of with what the store shows. The
-- label that is looked at is the best one of `models`, best first, among which the run's own model is not: so what it
-- records changes nothing in the choice. A dead letter counts only where none of them has a label, and only if asked for.
INSERT INTO listed (image_id, object_key, etag, size_bytes, last_modified)
SELECT i.image_id, i.object_key, i.etag, i.size_bytes, o.last_modified
FROM nightlabel.outcome AS c
JOIN nightlabel.object AS o ON o.image_id = c.image_id
JOIN nightlabel.image AS i ON i.image_id = c.image_id
WHERE c.model_id = ANY(%(models)s::integer[])
    AND o.bucket = %(bucket)s AND o.object_key ^@ %(prefix)s AND o.gone_at IS NULL
    AND (c.label IS NOT NULL OR %(dead_letters_too)s)
    AND (%(label)s::text IS NULL OR c.label = %(label)s::text)
    AND (%(label_id)s::text IS NULL OR c.label_id = %(label_id)s::text)
    AND c.recorded_at >= coalesce(%(since)s::timestamptz, '-infinity')
    AND c.recorded_at < coalesce(%(until)s::timestamptz, 'infinity')
    -- Of one model alone there is no better one to look up, ten million times.
    AND (cardinality(%(models)s::integer[]) = 1 OR NOT EXISTS (
        SELECT FROM nightlabel.outcome AS better
        WHERE better.image_id = c.image_id AND better.model_id = ANY(%(models)s::integer[])
            AND better.model_id <> c.model_id
            AND CASE
                WHEN (better.label IS NULL) = (c.label IS NULL)
                THEN array_position(%(models)s::integer[], better.model_id)
                    < array_position(%(models)s::integer[], c.model_id)
                ELSE better.label IS NOT NULL
            END
    ));
