-- Note what each key holds now, where it is not what was noted last.
-- A listing that began before the noted change knows less than what is noted, and changes nothing.
INSERT INTO nightlabel.object AS o (bucket, object_key, image_id, changed_at)
SELECT %(bucket)s, object_key, image_id, %(listed_at)s
FROM listed
ORDER BY object_key
ON CONFLICT (bucket, object_key) DO UPDATE
SET image_id = excluded.image_id, changed_at = excluded.changed_at, gone_at = NULL
WHERE (o.image_id <> excluded.image_id OR o.gone_at IS NOT NULL)
    AND greatest(o.changed_at, o.gone_at) <= excluded.changed_at;
