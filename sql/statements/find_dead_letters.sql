-- Fill the listing with the open dead letters that match, instead of with what the store shows, and with what this run
-- recorded under former plans. Open is what dead_letter_open shows: of an existing object's current version, with no
-- label from any of the models in question, and of several dead letters the best model's. `models` is best first.
INSERT INTO listed (image_id, object_key, etag, size_bytes, last_modified)
SELECT i.image_id, i.object_key, i.etag, i.size_bytes, o.last_modified
FROM nightlabel.outcome AS d
JOIN nightlabel.object AS o ON o.image_id = d.image_id
JOIN nightlabel.image AS i ON i.image_id = d.image_id
WHERE d.model_id = ANY(%(models)s::integer[])
    AND d.error_code IS NOT NULL
    AND o.bucket = %(bucket)s AND o.object_key ^@ %(prefix)s AND o.gone_at IS NULL
    AND (cardinality(%(codes)s::text[]) = 0 OR d.error_code = ANY(%(codes)s::text[]))
    AND d.recorded_at >= coalesce(%(failed_after)s::timestamptz, '-infinity')
    AND d.recorded_at < coalesce(%(failed_before)s::timestamptz, 'infinity')
    AND (%(permanent)s = 'any' OR (%(permanent)s = 'permanent') = (d.retry_after IS NULL))
    AND d.run_id IS DISTINCT FROM %(run_id)s::uuid
    AND NOT EXISTS (
        SELECT FROM nightlabel.outcome AS better
        WHERE better.image_id = d.image_id AND better.model_id = ANY(%(models)s::integer[])
            AND better.model_id <> d.model_id
            AND (better.label IS NOT NULL OR array_position(%(models)s::integer[], better.model_id)
                < array_position(%(models)s::integer[], d.model_id))
    )
UNION
SELECT i.image_id, i.object_key, i.etag, i.size_bytes, i.last_modified
FROM nightlabel.manifest_chunk AS c
CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id)
JOIN nightlabel.outcome AS mine
    ON mine.model_id = %(model_id)s AND mine.image_id = ref.image_id AND mine.run_id = c.run_id
JOIN nightlabel.image AS i ON i.image_id = ref.image_id
WHERE c.run_id = %(run_id)s::uuid;
