-- The refs of one chunk that still have no outcome, in manifest order, as parallel arrays, and the size of the chunk.
SELECT
    c.bucket,
    cardinality(c.image_id) AS images,
    array_agg(ref.object_key ORDER BY ref.place) FILTER (WHERE o.image_id IS NULL) AS object_key,
    array_agg(ref.etag ORDER BY ref.place) FILTER (WHERE o.image_id IS NULL) AS etag,
    array_agg(ref.size_bytes ORDER BY ref.place) FILTER (WHERE o.image_id IS NULL) AS size_bytes,
    array_agg(ref.prior_attempts ORDER BY ref.place) FILTER (WHERE o.image_id IS NULL) AS prior_attempts
FROM nightlabel.manifest_chunk AS c
CROSS JOIN LATERAL unnest(c.image_id, c.object_key, c.etag, c.size_bytes, c.prior_attempts)
    WITH ORDINALITY AS ref (image_id, object_key, etag, size_bytes, prior_attempts, place)
LEFT JOIN nightlabel.outcome AS o
    ON o.model_id = %(model_id)s AND o.image_id = ref.image_id
    AND (o.error_code IS NULL OR o.attempts <> ref.prior_attempts)
WHERE c.run_id = %(run_id)s AND c.plan_number = %(plan_number)s AND c.shard_number = %(shard_number)s
    AND c.chunk_number = %(chunk_number)s
GROUP BY c.bucket, c.image_id;
