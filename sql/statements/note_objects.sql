-- Note what each key holds now, where it is not what was noted last; nothing is written, or locked, for the others.
-- What a newer listing has looked at meanwhile, under whatever prefix, stays as that one saw it; so does what a newer
-- manifest or inventory has shown.
WITH newer AS MATERIALIZED (
    SELECT prefix FROM nightlabel.listing WHERE bucket = %(bucket)s AND listed_at > %(listed_at)s
)
INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at)
SELECT %(bucket)s, c.object_key, c.image_id, c.last_modified, %(listed_at)s
FROM changed AS c
WHERE (c.noted_at IS NULL OR c.noted_at <= %(listed_at)s)
    AND NOT EXISTS (SELECT FROM newer WHERE c.object_key ^@ newer.prefix)
ORDER BY c.object_key
ON CONFLICT (bucket, object_key) DO UPDATE
SET image_id = excluded.image_id, last_modified = excluded.last_modified, changed_at = excluded.changed_at,
    gone_at = NULL;
