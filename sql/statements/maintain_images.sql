-- Remove the versions that nothing refers to any more, of some blocks of the table: no object, no outcome, no manifest.
-- Returns how many. A dry run only counts, and takes for gone what the steps before it would have removed: objects,
-- outcomes before their time, and every outcome of the models that go.
WITH unused AS MATERIALIZED (
    SELECT i.image_id
    FROM nightlabel.image AS i
    WHERE i.ctid >= %(first)s::tid AND i.ctid < %(end)s::tid
        AND NOT EXISTS (
            SELECT FROM nightlabel.object AS o
            WHERE o.image_id = i.image_id AND (o.gone_at IS NULL OR o.gone_at >= %(objects_before)s)
        )
        AND NOT EXISTS (
            SELECT FROM nightlabel.outcome AS c
            WHERE c.image_id = i.image_id
                AND c.model_id <> ALL(%(dropped)s::integer[])
                AND (
                    c.recorded_at >= %(outcomes_before)s
                    OR EXISTS (SELECT FROM nightlabel.object AS o WHERE o.image_id = c.image_id AND o.gone_at IS NULL)
                    OR EXISTS (
                        SELECT FROM nightlabel.run AS r WHERE r.run_id = c.run_id AND r.state IN ('planned', 'running')
                    )
                )
        )
        AND NOT EXISTS (SELECT FROM pg_temp.named_by_manifest AS n WHERE n.image_id = i.image_id)
),
removed AS (
    DELETE FROM nightlabel.image AS i
    USING unused
    WHERE NOT %(dry_run)s AND i.image_id = unused.image_id
    RETURNING 1
)
SELECT CASE WHEN %(dry_run)s THEN (SELECT count(*) FROM unused) ELSE (SELECT count(*) FROM removed) END;
