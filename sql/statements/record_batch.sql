-- Record a batch: its outcomes and the shard's counts, all or nothing, in one round trip.
-- The fence lets it through only for the newest attempt and only once for each batch number; without a row nothing
-- is written. `outcomes` is a JSON array, one object an image. An outcome that stands already stays, unless it is
-- the dead letter that this run was planned to try again; what stays was recorded elsewhere. So was an image's second
-- outcome in one batch.
WITH fence AS MATERIALIZED (
    SELECT run_id, plan_number, shard_number
    FROM nightlabel.shard
    WHERE run_id = %(run_id)s AND plan_number = %(plan_number)s AND shard_number = %(shard_number)s
        AND attempt = %(attempt)s AND batches = %(batch)s - 1
    FOR UPDATE
),
given AS MATERIALIZED (
    SELECT *
    FROM jsonb_to_recordset(%(outcomes)s) AS g (
        image_id uuid, label text, label_id text, score real, top_labels text[], top_scores real[],
        stage text, error_code text, message text, decoder text, prior_attempts integer, retry_after timestamptz,
        engine text, content_sha256 text, is_etag_md5 boolean, is_copied boolean
    )
),
recorded AS (
    INSERT INTO nightlabel.outcome AS o (
        image_id, model_id, label, label_id, score, top_labels, top_scores,
        stage, error_code, message, decoder, attempts, retry_after, engine, is_copied, run_id
    )
    SELECT DISTINCT ON (g.image_id)
        g.image_id, %(model_id)s, g.label, g.label_id, g.score, g.top_labels, g.top_scores,
        g.stage, g.error_code, g.message, g.decoder, g.prior_attempts + 1, g.retry_after, g.engine, g.is_copied,
        fence.run_id
    FROM fence CROSS JOIN given AS g
    ORDER BY g.image_id
    ON CONFLICT (image_id, model_id) DO UPDATE
    SET label = excluded.label, label_id = excluded.label_id, score = excluded.score,
        top_labels = excluded.top_labels, top_scores = excluded.top_scores,
        stage = excluded.stage, error_code = excluded.error_code, message = excluded.message,
        decoder = excluded.decoder, attempts = excluded.attempts, retry_after = excluded.retry_after, engine = excluded.engine,
        is_copied = excluded.is_copied, run_id = excluded.run_id, recorded_at = excluded.recorded_at
    WHERE o.error_code IS NOT NULL AND o.attempts = excluded.attempts - 1
    RETURNING o.image_id, o.label IS NOT NULL AS is_label, o.is_copied
),
read AS (
    UPDATE nightlabel.image AS i
    SET content_sha256 = decode(g.content_sha256, 'hex'), is_etag_md5 = g.is_etag_md5
    FROM recorded JOIN given AS g USING (image_id)
    WHERE i.image_id = recorded.image_id AND g.content_sha256 IS NOT NULL
        AND (i.content_sha256 IS NULL OR (g.is_etag_md5 AND NOT i.is_etag_md5))
),
counted AS (
    SELECT
        count(*) FILTER (WHERE is_label) AS labelled,
        count(*) FILTER (WHERE is_copied) AS copied,
        count(*) FILTER (WHERE NOT is_label) AS dead,
        (SELECT count(*) FROM given) - count(*) AS done_elsewhere
    FROM recorded
)
UPDATE nightlabel.shard AS s
SET batches = s.batches + 1,
    labelled = s.labelled + counted.labelled,
    copied = s.copied + counted.copied,
    dead = s.dead + counted.dead,
    gone = s.gone + %(gone)s,
    done_elsewhere = s.done_elsewhere + counted.done_elsewhere + %(done_elsewhere)s,
    fetch_s = s.fetch_s + %(fetch_s)s, decode_s = s.decode_s + %(decode_s)s,
    predict_s = s.predict_s + %(predict_s)s, write_s = s.write_s + %(write_s)s,
    heartbeat_at = now()
FROM fence CROSS JOIN counted
WHERE s.run_id = fence.run_id AND s.plan_number = fence.plan_number AND s.shard_number = fence.shard_number
RETURNING s.batches;
