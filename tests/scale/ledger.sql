-- A ledger of any size, made by the database itself: numbers %(first)s to %(last)s of the objects in one bucket, each
-- with its image and an outcome of model %(model_id)s. Keys, ETags and sizes are those of tests/generated_bucket.py for
-- the numbers below %(listed)s, but for
--   every tenth         not in the ledger: it is new,
--   1 of a hundred      under another ETag: it was overwritten since,
--   7 of two hundred    a dead letter: permanent, or retryable with its time still to come,
--   7 of two thousand   a dead letter whose time has come.
-- The 5,000 numbers from %(listed)s on have vanished from the prefix; all others are of another prefix.
WITH numbered AS (
    SELECT
        n,
        CASE
            WHEN n < %(listed)s THEN
                'in/2026/' || to_char(n / 40000 + 1, 'FM000') || '/' || to_char(n %% 40000, 'FM00000') || '-'
                || left(md5(n::text), 12) || '.jpg'
            WHEN n < %(listed)s + 5000 THEN 'in/2025/' || n || '.jpg'
            ELSE 'archive/' || md5(n::text) || '.jpg'
        END AS object_key,
        CASE WHEN n %% 100 = 1 THEN md5('old ' || n) ELSE md5(n::text) END AS etag
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    WHERE n >= %(listed)s OR n %% 10 <> 0
),
identified AS (
    SELECT
        n, object_key, etag,
        encode(substr(sha256(
            convert_to('photos', 'UTF8') || '\x00'::bytea || convert_to(object_key, 'UTF8') || '\x00'::bytea
            || convert_to(etag, 'UTF8')
        ), 1, 16), 'hex')::uuid AS image_id,
        timestamptz '2026-11-01 00:00:00+00' + make_interval(secs => n %% 60) AS last_modified
    FROM numbered
),
images AS (
    INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified)
    SELECT image_id, 'photos', object_key, etag, 100000 + n %% 1000, last_modified FROM identified
),
objects AS (
    INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at)
    SELECT 'photos', object_key, image_id, last_modified, '2026-11-02 00:00:00+00' FROM identified
)
INSERT INTO nightlabel.outcome (
    image_id, model_id, label, label_id, score, top_labels, top_scores, engine,
    stage, error_code, message, retry_after, run_id, recorded_at
)
SELECT
    image_id, %(model_id)s,
    CASE WHEN NOT is_dead THEN 'label ' || n %% 1000 END,
    CASE WHEN NOT is_dead THEN 'n' || to_char(n %% 1000, 'FM00000000') END,
    CASE WHEN NOT is_dead THEN 0.75 END,
    CASE WHEN NOT is_dead THEN ARRAY['label ' || n %% 1000, 'cat', 'dog', 'crane', 'photocopier'] END,
    CASE WHEN NOT is_dead THEN ARRAY[0.75, 0.1, 0.05, 0.05, 0.05]::real[] END,
    CASE WHEN NOT is_dead THEN 'litert' END,
    CASE WHEN is_dead THEN 'decode' END,
    CASE WHEN is_dead THEN 'decoder_timeout' END,
    CASE WHEN is_dead THEN 'it took too long' END,
    CASE
        WHEN n %% 2000 = 7 THEN now() - interval '1 hour'
        WHEN n %% 400 = 7 THEN now() + interval '10 years'
    END,
    '00000000-0000-0000-0000-000000000001', now() - interval '1 day'
FROM identified, LATERAL (SELECT n %% 200 = 7 AS is_dead) AS kind;
