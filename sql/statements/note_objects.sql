-- Note what each key holds now, where it is not what was noted last; nothing is written, or locked, for the others.
-- What a newer listing has looked at meanwhile, under whatever prefix, stays as that one saw it; so does what a newer
-- manifest or inventory has shown.
WITH newer AS MATERIALIZED (
    SELECT prefix FROM nightlabel.listing WHERE bucket = %(bucket)s AND listed_at > %(listed_at)s
)
INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at)
SELECT %(bucket)s, l.object_key, l.image_id, l.last_modified, %(listed_at)s
FROM listed AS l
LEFT JOIN nightlabel.object AS o ON o.bucket = %(bucket)s AND o.object_key = l.object_key
WHERE (
        o.object_key IS NULL
        OR o.image_id <> l.image_id
        OR o.last_modified <> l.last_modified
        OR o.gone_at IS NOT NULL
    )
    AND (o.changed_at IS NULL OR o.changed_at <= %(listed_at)s)
    AND NOT EXISTS (SELECT FROM newer WHERE l.object_key ^@ newer.prefix)
ORDER BY l.object_key
ON CONFLICT (bucket, object_key) DO UPDATE
SET image_id = excluded.image_id, last_modified = excluded.last_modified, changed_at = excluded.changed_at,
    gone_at = NULL;
