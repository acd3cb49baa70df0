-- Note keys under the prefix that a complete listing no longer shows.
UPDATE nightlabel.object AS o
SET gone_at = %(listed_at)s
WHERE o.bucket = %(bucket)s
    AND o.object_key ^@ %(prefix)s
    AND o.gone_at IS NULL
    AND NOT EXISTS (SELECT FROM listed AS l WHERE l.object_key = o.object_key);
