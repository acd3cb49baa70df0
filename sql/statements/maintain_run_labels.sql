-- Remove what runs counted by label, of runs that began so long ago that no later run is compared with them: a hundred runs
-- at most. What came of the comparison stays (run_quality). Returns how many rows; a dry run only counts, all of them.
WITH old AS MATERIALIZED (
    SELECT r.run_id
    FROM nightlabel.run AS r
    WHERE r.started_at < %(before)s AND EXISTS (SELECT FROM nightlabel.run_label AS l WHERE l.run_id = r.run_id)
    ORDER BY r.started_at
    LIMIT CASE WHEN %(dry_run)s THEN NULL ELSE 100 END
),
removed AS (
    DELETE FROM nightlabel.run_label AS l
    USING old
    WHERE NOT %(dry_run)s AND l.run_id = old.run_id
    RETURNING 1
)
SELECT CASE
    WHEN %(dry_run)s THEN (SELECT count(*) FROM nightlabel.run_label AS l JOIN old ON old.run_id = l.run_id)
    ELSE (SELECT count(*) FROM removed)
END;
