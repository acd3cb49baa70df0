-- Cut the first pending images into shards.
INSERT INTO nightlabel.shard (run_id, plan_number, shard_number, device, state, images)
SELECT %(run_id)s, %(plan_number)s, position / %(shard_size)s, %(device)s, 'planned', count(*)
FROM pending
WHERE position < %(planned)s
GROUP BY position / %(shard_size)s
ORDER BY 3
RETURNING shard_number;
