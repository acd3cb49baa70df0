-- Fill the listing with a share of the images that a run has labelled, under whatever plan, of objects that still hold
-- them. Whether an image is among them is drawn from its id and nothing else: the first four bytes of a hash, as a part
-- of 2^32. So each night draws alike, and a larger share holds every image of a smaller one.
INSERT INTO listed (image_id, object_key, etag, size_bytes, last_modified)
SELECT i.image_id, i.object_key, i.etag, i.size_bytes, o.last_modified
FROM nightlabel.run AS r
CROSS JOIN LATERAL (
    SELECT DISTINCT ref.image_id
    FROM nightlabel.manifest_chunk AS c
    CROSS JOIN LATERAL unnest(c.image_id) AS ref (image_id)
    WHERE c.run_id = r.run_id
) AS done
CROSS JOIN LATERAL (
    SELECT ('x' || left(encode(sha256(convert_to('shadow ' || done.image_id, 'UTF8')), 'hex'), 8))::bit(32)::bigint
        / 4294967296.0::double precision AS place
) AS drawn
JOIN nightlabel.outcome AS labelled
    ON labelled.image_id = done.image_id AND labelled.model_id = r.model_id AND labelled.run_id = r.run_id
    AND labelled.label IS NOT NULL
JOIN nightlabel.object AS o ON o.image_id = done.image_id AND o.gone_at IS NULL
JOIN nightlabel.image AS i ON i.image_id = done.image_id
WHERE r.run_id = %(shadow_of)s AND drawn.place < %(share)s::double precision;
