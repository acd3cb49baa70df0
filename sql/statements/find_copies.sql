-- The label that a model gave to the bytes of each ref under another key, if it did: equal size, and an ETag that was
-- seen to be the MD5 of the bytes that were read there. Each pair of ETag and size is given once, and at most a hundred
-- images that were read under it are looked at, so that neither the ledger's size nor a photo that is everywhere matters.
SELECT ref.place, known.label, known.label_id, known.score, known.top_labels, known.top_scores, known.engine
FROM unnest(%(etag)s::text[], %(size_bytes)s::bigint[]) WITH ORDINALITY AS ref (etag, size_bytes, place)
CROSS JOIN LATERAL (
    SELECT o.label, o.label_id, o.score, o.top_labels, o.top_scores, o.engine
    FROM (
        SELECT i.image_id
        FROM nightlabel.image AS i
        WHERE i.etag = ref.etag AND i.is_etag_md5 AND i.size_bytes = ref.size_bytes
        LIMIT 100
    ) AS same
    CROSS JOIN LATERAL (
        SELECT * FROM nightlabel.outcome AS c
        WHERE c.image_id = same.image_id AND c.model_id = %(model_id)s
        OFFSET 0
    ) AS o
    WHERE o.label IS NOT NULL
    LIMIT 1
) AS known;
