-- A ledger as two months leave it, made by the database itself: images %(first)s to %(last)s of %(images)s in one bucket,
-- with their objects and outcomes. Only the number of an image decides what it is, so that any part can be made apart.
--   models     1, 2 and 3 were in production one after the other (25, 20 and 15 days); a fifth of what the former ones
--              labelled was labelled again by model 3; model 4 is a candidate that saw 1 of 25.
--   labels     1,000, the most frequent on a tenth of the images (Zipf), and `rare` on 40 images of any ledger.
--   objects    1 of 33 was overwritten (its former version keeps its image and its outcomes), 1 of 50 has vanished.
--   dead       1 of 100, a third of them to be tried again.
--   content    1 of 20 has the bytes of its neighbour.
--   times      60 days; 16 neighbours were recorded together.
-- Every 100,000 images share a prefix.
WITH numbered AS (
    SELECT
        n,
        hashint8extended(n, 1) & 9223372036854775807 AS luck,
        -- An overwritten object: the version before has the same key.
        CASE WHEN n %% 33 = 1 THEN n - 1 ELSE n END AS of_key,
        n / 16 * 16 * 5184000.0 / %(images)s AS recorded_s
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
),
identified AS MATERIALIZED (
    SELECT
        n, luck, object_key, etag, recorded_s,
        encode(substr(sha256(
            convert_to('history', 'UTF8') || '\x00'::bytea || convert_to(object_key, 'UTF8') || '\x00'::bytea
            || convert_to(etag, 'UTF8')
        ), 1, 16), 'hex')::uuid AS image_id,
        timestamptz '2026-09-01 00:00:00+00' + make_interval(secs => recorded_s::double precision - 3600) AS last_modified
    FROM (
        SELECT
            n, luck, recorded_s, md5(n::text) AS etag,
            'cam-' || to_char(of_key / 100000, 'FM0000') || '/2026/' || to_char(of_key %% 100000, 'FM00000') || '-'
                || left(md5(of_key::text), 12) || '.jpg' AS object_key
        FROM numbered
    ) AS keyed
),
images AS (
    INSERT INTO nightlabel.image (image_id, bucket, object_key, etag, size_bytes, last_modified, content_sha256, is_etag_md5)
    SELECT
        image_id, 'history', object_key, etag, 50000 + luck %% 200000, last_modified,
        sha256(int8send(CASE WHEN n %% 20 = 1 THEN n - 1 ELSE n END)), n %% 20 <> 1
    FROM identified
),
objects AS (
    INSERT INTO nightlabel.object (bucket, object_key, image_id, last_modified, changed_at, gone_at)
    SELECT
        'history', object_key, image_id, last_modified, last_modified + interval '30 minutes',
        CASE WHEN n %% 50 = 7 THEN timestamptz '2026-11-01 00:00:00+00' END
    FROM identified
    WHERE n %% 33 <> 0 OR n = %(images)s - 1
),
told AS (
    SELECT
        image_id, n,
        CASE WHEN recorded_s < 25 * 86400 THEN 1 WHEN recorded_s < 45 * 86400 THEN 2 ELSE 3 END AS model_id,
        recorded_s, luck
    FROM identified
    UNION ALL
    SELECT image_id, n, 3, 45 * 86400 + recorded_s / 4, hashint8extended(n, 2) & 9223372036854775807
    FROM identified
    WHERE recorded_s < 45 * 86400 AND luck %% 5 = 0
    UNION ALL
    SELECT image_id, n, 4, 58 * 86400 + recorded_s / 60, hashint8extended(n, 3) & 9223372036854775807
    FROM identified
    WHERE luck %% 25 = 1
),
labelled AS (
    SELECT
        *,
        luck %% 100 = 3 AS is_dead,
        CASE
            WHEN n %% (%(images)s / 40) = 11 THEN 'rare'
            ELSE 'label ' || floor(exp(luck %% 1000003 / 1000003.0 * ln(1000.0)))::integer
        END AS label,
        (0.3 + luck / 1000003 %% 700 / 1000.0)::real AS score
    FROM told
)
INSERT INTO nightlabel.outcome (
    image_id, model_id, label, label_id, score, top_labels, top_scores, engine,
    stage, error_code, message, decoder, retry_after, run_id, recorded_at
)
SELECT
    image_id, (%(model_key)s::integer[])[model_id],
    CASE WHEN NOT is_dead THEN label END,
    CASE WHEN NOT is_dead THEN 'n' || lpad(split_part(label, ' ', 2), 8, '0') END,
    CASE WHEN NOT is_dead THEN score END,
    CASE WHEN NOT is_dead THEN ARRAY[label, 'label 7', 'label 77', 'label 777', 'photocopier'] END,
    CASE WHEN NOT is_dead THEN ARRAY[score, (1 - score) / 2, (1 - score) / 4, (1 - score) / 8, (1 - score) / 16] END,
    CASE WHEN NOT is_dead THEN 'litert' END,
    CASE WHEN is_dead THEN 'decode' END,
    CASE WHEN is_dead THEN CASE luck / 100 %% 3 WHEN 0 THEN 'decoder_timeout' ELSE 'undecodable' END END,
    CASE WHEN is_dead THEN 'these bytes are no image that the decoder knows' END,
    CASE WHEN is_dead THEN %(decoder)s END,
    CASE WHEN is_dead AND luck / 100 %% 3 = 0 THEN timestamptz '2030-01-01 00:00:00+00' END,
    encode(substr(sha256(int4send(floor(recorded_s / 86400)::integer)), 1, 16), 'hex')::uuid,
    timestamptz '2026-09-01 00:00:00+00' + make_interval(secs => recorded_s::double precision)
FROM labelled;
