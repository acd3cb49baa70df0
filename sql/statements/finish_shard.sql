-- Close a shard whose every ref was looked at. Returns its counts over all attempts; no row for a stale attempt.
-- Sent again because the answer was lost it closes the same attempt again, and adds its seconds no more.
UPDATE nightlabel.shard
SET state = 'done', ended_attempt = attempt, heartbeat_at = now(), finished_at = now(),
    fetch_s = CASE state WHEN 'done' THEN fetch_s ELSE fetch_s + %(fetch_s)s END,
    decode_s = CASE state WHEN 'done' THEN decode_s ELSE decode_s + %(decode_s)s END,
    predict_s = CASE state WHEN 'done' THEN predict_s ELSE predict_s + %(predict_s)s END,
    write_s = CASE state WHEN 'done' THEN write_s ELSE write_s + %(write_s)s END
WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
    AND attempt = %(attempt)s
RETURNING images, labelled, copied, dead, gone, done_elsewhere, fetch_s, decode_s, predict_s, write_s;
