-- Remove the rows of keys that were gone long ago, of some blocks of the table. That they are gone is still known by the
-- listing that showed it: a manifest or a listing from before cannot bring them back. Returns how many; a dry run only
-- counts.
WITH old AS MATERIALIZED (
    SELECT o.bucket, o.object_key
    FROM nightlabel.object AS o
    WHERE o.ctid >= %(first)s::tid AND o.ctid < %(end)s::tid AND o.gone_at < %(before)s
),
removed AS (
    DELETE FROM nightlabel.object AS o
    USING old
    WHERE NOT %(dry_run)s AND o.bucket = old.bucket AND o.object_key = old.object_key AND o.gone_at < %(before)s
    RETURNING 1
)
SELECT CASE WHEN %(dry_run)s THEN (SELECT count(*) FROM old) ELSE (SELECT count(*) FROM removed) END;
