-- Note what a manifest or an inventory shows, each row as of when the key is known to have held it: a row changes what
-- is noted of its key only if nobody has looked later, neither a listing that covers the key nor what noted it last.
-- Nothing is taken for gone, since a key that is not shown may well exist. Looking a key up tells its time in whole
-- seconds only.
WITH shown AS (
    SELECT object_key, image_id, last_modified, least(coalesce(seen_at, %(listed_at)s), %(listed_at)s) AS seen_at
    FROM listed
), newer AS MATERIALIZED (
    SELECT prefix, listed_at
    FROM nightlabel.listing
    WHERE bucket = %(bucket)s AND listed_at > (SELECT least(min(seen_at), %(listed_at)s) FROM listed)
)
INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at)
SELECT %(bucket)s, s.object_key, s.image_id, s.last_modified, s.seen_at
FROM shown AS s
LEFT JOIN nightlabel.object AS o ON o.bucket = %(bucket)s AND o.object_key = s.object_key
WHERE (
        o.object_key IS NULL
        OR greatest(o.changed_at, o.gone_at) < s.seen_at AND (
            o.image_id <> s.image_id
            OR date_trunc('second', o.last_modified) <> date_trunc('second', s.last_modified)
            OR o.gone_at IS NOT NULL
        )
    )
    AND NOT EXISTS (SELECT FROM newer WHERE s.object_key ^@ newer.prefix AND newer.listed_at > s.seen_at)
ORDER BY s.object_key
ON CONFLICT (bucket, object_key) DO UPDATE
SET image_id = excluded.image_id, last_modified = excluded.last_modified, changed_at = excluded.changed_at,
    gone_at = NULL;
