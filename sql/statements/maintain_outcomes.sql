-- Remove outcomes by age, of some blocks of a model's partition: of versions that no existing object holds. No
-- public view shows these but label_daily, which goes on counting them, and label_by_prefix, which does not. None of a run that is not over: its shards are
-- counted anew from the ledger. Returns how many; a dry run only counts.
WITH old AS MATERIALIZED (
    SELECT c.image_id
    FROM nightlabel.outcome AS c
    WHERE c.model_id = %(model_id)s AND c.ctid >= %(first)s::tid AND c.ctid < %(end)s::tid
        AND c.recorded_at < %(before)s
        AND NOT EXISTS (SELECT FROM nightlabel.object AS o WHERE o.image_id = c.image_id AND o.gone_at IS NULL)
        AND NOT EXISTS (
            SELECT FROM nightlabel.run AS r WHERE r.run_id = c.run_id AND r.state IN ('planned', 'running')
        )
),
removed AS (
    DELETE FROM nightlabel.outcome AS c
    USING old
    -- A dead letter that was tried again meanwhile is not old any more.
    WHERE NOT %(dry_run)s AND c.model_id = %(model_id)s AND c.image_id = old.image_id AND c.recorded_at < %(before)s
    RETURNING 1
)
SELECT CASE WHEN %(dry_run)s THEN (SELECT count(*) FROM old) ELSE (SELECT count(*) FROM removed) END;
