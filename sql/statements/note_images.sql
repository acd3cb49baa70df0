-- Note image versions that were never seen before.
INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified)
SELECT c.image_id, %(bucket)s, c.object_key, c.etag, c.size_bytes, c.last_modified
FROM changed AS c
ORDER BY c.image_id
ON CONFLICT (image_id) DO NOTHING;
