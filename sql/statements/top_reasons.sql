-- The most frequent codes of the dead letters that a run recorded, or one of its shards, most frequent first. Looks up
-- the images of the present plan by their key, however large the ledger is.
SELECT o.error_code, count(*) AS images
FROM nightlabel.run AS r
JOIN nightlabel.manifest_chunk AS c ON c.run_id = r.run_id AND c.plan_number = r.plan_number
CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id)
JOIN nightlabel.outcome AS o ON o.image_id = ref.image_id AND o.model_id = r.model_id AND o.run_id = r.run_id
WHERE r.run_id = %(run_id)s
    AND c.shard_number = coalesce(%(shard_number)s::integer, c.shard_number)
    AND o.error_code IS NOT NULL
GROUP BY o.error_code
ORDER BY images DESC, o.error_code
LIMIT 3;
