-- The label that a model gave to the bytes of each ref under another key, if it did: equal size, and an ETag that was
-- seen to be the MD5 of the bytes that were read there. Looks up each ref by its ETag, however large the ledger is.
SELECT ref.place, known.label, known.label_id, known.score, known.top_labels, known.top_scores, known.engine
FROM unnest(%(place)s::integer[], %(etag)s::text[], %(size_bytes)s::bigint[]) AS ref (place, etag, size_bytes)
CROSS JOIN LATERAL (
    SELECT o.label, o.label_id, o.score, o.top_labels, o.top_scores, o.engine
    FROM nightlabel.image AS i
    JOIN nightlabel.outcome AS o ON o.image_id = i.image_id AND o.model_id = %(model_id)s
    WHERE i.etag = ref.etag AND i.is_etag_md5 AND i.size_bytes = ref.size_bytes AND o.label IS NOT NULL
    LIMIT 1
) AS known;
