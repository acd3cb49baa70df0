-- Note that an image of the shard killed its decoder: from now on each of them is decoded in a process apart.
UPDATE nightlabel.shard
SET is_isolated = true
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
    AND attempt = %(attempt)s;
