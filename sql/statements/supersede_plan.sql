-- A repeated discovery takes over: attempts of the former plan can write no more.
UPDATE nightlabel.shard
SET state = 'superseded', attempt = attempt + 1
WHERE run_id = %(run_id)s;
