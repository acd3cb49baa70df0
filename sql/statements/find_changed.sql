-- Find what the listing shows under each key that is not what was noted last. Of everything else the image was noted
-- together with its object. Every key that is listed begins with the prefix: whatever else is in the bucket is not read.
INSERT INTO changed (image_id, object_key, etag, size_bytes, last_modified, noted_at)
SELECT l.image_id, l.object_key, l.etag, l.size_bytes, l.last_modified, o.changed_at
FROM listed AS l
LEFT JOIN nightlabel.object AS o
    ON o.bucket = %(bucket)s AND o.object_key = l.object_key AND o.object_key ^@ %(prefix)s
WHERE o.object_key IS NULL
    OR o.image_id <> l.image_id
    OR o.last_modified <> l.last_modified
    OR o.gone_at IS NOT NULL;
