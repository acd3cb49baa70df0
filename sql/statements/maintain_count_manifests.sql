-- How many chunks drop_old_manifests would drop.
SELECT count(*)
FROM nightlabel.manifest_chunk AS c
JOIN nightlabel.run AS r ON r.run_id = c.run_id
WHERE r.state IN ('succeeded', 'failed') AND r.finished_at < %(before)s;
