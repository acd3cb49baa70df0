-- Store the refs of every shard, in order, as chunks of at most 1,000.
INSERT INTO nightlabel.manifest_chunk (
    run_id, plan_number, shard_number, chunk_number, bucket, image_id, object_key, etag, size_bytes, prior_attempts
)
SELECT
    %(run_id)s, %(plan_number)s, position / %(shard_size)s, position %% %(shard_size)s / 1000, %(bucket)s,
    array_agg(image_id ORDER BY position), array_agg(object_key ORDER BY position),
    array_agg(etag ORDER BY position), array_agg(size_bytes ORDER BY position),
    array_agg(prior_attempts ORDER BY position)
FROM pending
WHERE position < %(planned)s
GROUP BY position / %(shard_size)s, position %% %(shard_size)s / 1000;
