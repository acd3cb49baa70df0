-- Close a shard whose every ref was looked at. Returns its counts over all attempts; no row for a stale attempt.
UPDATE nightlabel.shard
SET state = 'done', heartbeat_at = now(), finished_at = now(),
    fetch_s = fetch_s + %(fetch_s)s, decode_s = decode_s + %(decode_s)s,
    predict_s = predict_s + %(predict_s)s, write_s = write_s + %(write_s)s
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
    AND attempt = %(attempt)s
RETURNING images, labelled, copied, dead, gone, done_elsewhere, fetch_s, decode_s, predict_s, write_s;
