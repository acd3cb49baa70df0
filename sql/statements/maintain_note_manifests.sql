-- Add the images that manifests name to those that are noted for the session, of every plan that is not noted yet; but for
-- those of runs that ended before `dropped_before`.
WITH planned AS (
    INSERT INTO pg_temp.noted_plan (run_id, plan_number)
    SELECT r.run_id, r.plan_number
    FROM nightlabel.run AS r
    WHERE (r.state IN ('planned', 'running') OR r.finished_at >= %(dropped_before)s)
        AND NOT EXISTS (
            SELECT FROM pg_temp.noted_plan AS n WHERE n.run_id = r.run_id AND n.plan_number = r.plan_number
        )
    RETURNING run_id
)
INSERT INTO pg_temp.named_by_manifest (image_id)
SELECT DISTINCT ref.image_id
FROM planned
JOIN nightlabel.manifest_chunk AS c ON c.run_id = planned.run_id
CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id);
