-- duplicate_content: the same bytes under several keys.
-- Grain:   one row per content (SHA-256) that at least two existing objects hold now.
-- Rule:    current versions whose bytes were read. At most ten keys, first in order; the labels of latest_prediction,
--          each once: more than one says that equal bytes have different labels, by different models for instance.
-- Cost:    one pass over all objects, and the labels of the duplicates alone.
-- Readers: analysts, whoever pays for the bucket.
CREATE OR REPLACE VIEW nightlabel.duplicate_content AS
WITH repeated AS MATERIALIZED (
    SELECT i.content_sha256
    FROM nightlabel.object AS o
    JOIN nightlabel.image AS i ON i.image_id = o.image_id
    WHERE o.gone_at IS NULL AND i.content_sha256 IS NOT NULL
    GROUP BY i.content_sha256
    HAVING count(*) > 1
)
SELECT
    encode(i.content_sha256, 'hex') AS content_sha256,
    count(*) AS objects,
    sum(i.size_bytes)::bigint AS size_bytes,
    (array_agg(o.bucket::text ORDER BY o.bucket, o.object_key))[1:10] AS buckets,
    (array_agg(o.object_key::text ORDER BY o.bucket, o.object_key))[1:10] AS object_keys,
    coalesce(array_agg(DISTINCT best.label ORDER BY best.label) FILTER (WHERE best.label IS NOT NULL), '{}') AS labels
FROM repeated AS r
JOIN nightlabel.image AS i ON i.content_sha256 = r.content_sha256
JOIN nightlabel.object AS o ON o.image_id = i.image_id AND o.gone_at IS NULL
LEFT JOIN LATERAL (
    SELECT c.label
    FROM nightlabel.production_line AS p
    JOIN nightlabel.outcome AS c ON c.model_id = p.model_id AND c.image_id = o.image_id
    WHERE c.label IS NOT NULL
    ORDER BY p.rank
    LIMIT 1
) AS best ON true
GROUP BY i.content_sha256;
COMMENT ON VIEW nightlabel.duplicate_content IS
    'One row per content that at least two existing objects hold now, with at most ten of their keys and their labels.';
COMMENT ON COLUMN nightlabel.duplicate_content.content_sha256 IS 'SHA-256 of the bytes, 64 hexadecimal digits.';
COMMENT ON COLUMN nightlabel.duplicate_content.objects IS 'Existing objects that hold these bytes.';
COMMENT ON COLUMN nightlabel.duplicate_content.size_bytes IS 'Bytes of all of them together.';
COMMENT ON COLUMN nightlabel.duplicate_content.buckets IS 'Bucket of each of object_keys, in the same order.';
COMMENT ON COLUMN nightlabel.duplicate_content.object_keys IS 'Keys of the first ten of them, in order of bucket and key.';
COMMENT ON COLUMN nightlabel.duplicate_content.labels IS 'Their different labels, in order; empty while none has one.';
