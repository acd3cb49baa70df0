-- Note image versions that were never seen before.
INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified)
SELECT l.image_id, %(bucket)s, l.object_key, l.etag, l.size_bytes, l.last_modified
FROM listed AS l
WHERE NOT EXISTS (SELECT FROM nightlabel.image AS i WHERE i.image_id = l.image_id)
ORDER BY l.image_id
ON CONFLICT (image_id) DO NOTHING;
