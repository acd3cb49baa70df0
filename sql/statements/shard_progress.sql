-- Where a shard stands: to tell a fenced attempt from a batch whose commit was not heard of.
SELECT attempt, batches
FROM nightlabel.shard
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s;
