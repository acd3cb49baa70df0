-- Note, before an attempt decodes its first image, how many refs without outcome it may have begun at a time.
UPDATE nightlabel.shard
SET in_flight = %(in_flight)s
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
    AND attempt = %(attempt)s;
