-- Say of an attempt that failed that it has ended by itself, so that the next one suspects no image.
UPDATE nightlabel.shard
SET ended_attempt = attempt
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
    AND attempt = %(attempt)s;
