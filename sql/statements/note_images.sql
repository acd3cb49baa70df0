-- Note image versions that were never seen before.
INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified)
SELECT image_id, %(bucket)s, object_key, etag, size_bytes, last_modified
FROM listed
ORDER BY image_id
ON CONFLICT (image_id) DO NOTHING;
