-- The images that manifests name, for the session; but for those of runs that ended before `dropped_before`.
CREATE TEMPORARY TABLE named_by_manifest AS
SELECT DISTINCT ref.image_id
FROM nightlabel.manifest_chunk AS c
JOIN nightlabel.run AS r ON r.run_id = c.run_id
CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id)
WHERE r.state IN ('planned', 'running') OR r.finished_at >= %(dropped_before)s;
