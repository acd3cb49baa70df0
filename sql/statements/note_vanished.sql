-- Note keys under the prefix that a complete listing no longer shows; not those that a newer one has looked at, nor
-- those that a newer manifest or inventory has shown.
UPDATE nightlabel.object AS o
SET gone_at = %(listed_at)s
WHERE o.bucket = %(bucket)s
    AND o.object_key ^@ %(prefix)s
    AND o.gone_at IS NULL
    AND o.changed_at <= %(listed_at)s
    AND NOT EXISTS (SELECT FROM listed AS l WHERE l.object_key = o.object_key)
    AND NOT EXISTS (
        SELECT FROM nightlabel.listing AS newer
        WHERE newer.bucket = o.bucket AND newer.listed_at > %(listed_at)s AND o.object_key ^@ newer.prefix
    );
