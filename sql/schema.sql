-- The schema as the migrations and views make it, for reading; `make schema` writes it and a test compares.
-- Change sql/migrations and sql/views, never this file.

CREATE SCHEMA nightlabel;

COMMENT ON SCHEMA nightlabel IS 'Nightlabel: labels of images, one outcome per image version and model version. Read the views; the tables are internal.';

CREATE FUNCTION nightlabel.add_outcome_partition(new_model_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM nightlabel.model WHERE model_id = new_model_id) THEN
        RAISE EXCEPTION 'model % is not registered', new_model_id;
    END IF;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS nightlabel.%I PARTITION OF nightlabel.outcome FOR VALUES IN (%L)',
        'outcome_model_' || new_model_id, new_model_id
    );
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON nightlabel.%I (retry_after) WHERE error_code IS NOT NULL',
        'outcome_model_' || new_model_id || '_dead', 'outcome_model_' || new_model_id
    );
END
$$;

CREATE FUNCTION nightlabel.drop_old_manifests(older_than interval) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    WITH dropped AS (
        DELETE FROM nightlabel.manifest_chunk c
        USING nightlabel.run r
        WHERE c.run_id = r.run_id AND coalesce(r.finished_at, r.started_at) < now() - older_than
        RETURNING 1
    )
    SELECT count(*) FROM dropped
$$;

CREATE TABLE nightlabel.alembic_version (
    version_num character varying(32) NOT NULL
);

COMMENT ON TABLE nightlabel.alembic_version IS 'Which migration the schema is at; one row, written by `migrate`.';

COMMENT ON COLUMN nightlabel.alembic_version.version_num IS 'Number of the newest migration that was run.';

CREATE TABLE nightlabel.image (
    image_id uuid NOT NULL,
    bucket text NOT NULL COLLATE pg_catalog."C",
    object_key text NOT NULL COLLATE pg_catalog."C",
    etag text NOT NULL,
    size_bytes bigint NOT NULL,
    last_modified timestamp with time zone NOT NULL,
    content_sha256 bytea,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    is_etag_md5 boolean DEFAULT false NOT NULL,
    CONSTRAINT image_content_sha256_check CHECK ((length(content_sha256) = 32)),
    CONSTRAINT image_size_bytes_check CHECK ((size_bytes >= 0))
);

COMMENT ON TABLE nightlabel.image IS 'Every object version ever seen: what a key held under one ETag.';

COMMENT ON COLUMN nightlabel.image.image_id IS 'First 16 bytes of SHA-256 over bucket, 0x00, key, 0x00, ETag without quotes.';

COMMENT ON COLUMN nightlabel.image.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.image.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.image.etag IS 'ETag of the version, without quotes and without W/.';

COMMENT ON COLUMN nightlabel.image.size_bytes IS 'Size of the version.';

COMMENT ON COLUMN nightlabel.image.last_modified IS 'When the version was written, as the store said when it was first seen.';

COMMENT ON COLUMN nightlabel.image.content_sha256 IS 'SHA-256 of the bytes, once they were read.';

COMMENT ON COLUMN nightlabel.image.first_seen_at IS 'When a listing showed the version first.';

COMMENT ON COLUMN nightlabel.image.is_etag_md5 IS 'Whether the ETag was seen to be the MD5 of the bytes that were read.';

CREATE TABLE nightlabel.model (
    model_id integer NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    source text NOT NULL,
    licence text NOT NULL,
    files jsonb NOT NULL,
    label_map jsonb NOT NULL,
    preprocessing jsonb NOT NULL,
    artefacts jsonb NOT NULL,
    registered_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE nightlabel.model IS 'Model versions, each exact enough to reproduce its labels.';

COMMENT ON COLUMN nightlabel.model.model_id IS 'Number of the model version in these tables; each has a partition of outcome.';

COMMENT ON COLUMN nightlabel.model.name IS 'Name of the model.';

COMMENT ON COLUMN nightlabel.model.version IS 'Version of the model; another precision is another version.';

COMMENT ON COLUMN nightlabel.model.source IS 'Where the weights are from.';

COMMENT ON COLUMN nightlabel.model.licence IS 'Licence of the weights.';

COMMENT ON COLUMN nightlabel.model.files IS 'SHA-256 of each file, by its path in the model''s folder.';

COMMENT ON COLUMN nightlabel.model.label_map IS 'Per output column: [label id, label].';

COMMENT ON COLUMN nightlabel.model.preprocessing IS 'What is done to the pixels before the model sees them, and what its output means.';

COMMENT ON COLUMN nightlabel.model.artefacts IS 'Path of what each engine loads, by engine.';

COMMENT ON COLUMN nightlabel.model.registered_at IS 'When the version was registered.';

CREATE TABLE nightlabel.model_alias (
    alias text NOT NULL,
    model_id integer NOT NULL,
    valid_from timestamp with time zone DEFAULT now() NOT NULL,
    valid_to timestamp with time zone,
    changed_by text DEFAULT SESSION_USER NOT NULL,
    reason text NOT NULL,
    CONSTRAINT model_alias_check CHECK ((valid_to >= valid_from))
);

COMMENT ON TABLE nightlabel.model_alias IS 'Which model each alias names, with its history; the row without valid_to holds now.';

COMMENT ON COLUMN nightlabel.model_alias.alias IS 'The name that moves, such as production.';

COMMENT ON COLUMN nightlabel.model_alias.model_id IS 'The model version that it named in this span.';

COMMENT ON COLUMN nightlabel.model_alias.valid_from IS 'Start of the span.';

COMMENT ON COLUMN nightlabel.model_alias.valid_to IS 'End of the span; null while the alias names this version.';

COMMENT ON COLUMN nightlabel.model_alias.changed_by IS 'Database user who moved the alias.';

COMMENT ON COLUMN nightlabel.model_alias.reason IS 'Why it was moved, in words.';

CREATE TABLE nightlabel.object (
    bucket text NOT NULL COLLATE pg_catalog."C",
    object_key text NOT NULL COLLATE pg_catalog."C",
    image_id uuid NOT NULL,
    last_modified timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    gone_at timestamp with time zone
);

COMMENT ON TABLE nightlabel.object IS 'What each key holds now; a row is written only when a listing shows a change.';

COMMENT ON COLUMN nightlabel.object.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.object.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.object.image_id IS 'The version that the key holds now, or held last.';

COMMENT ON COLUMN nightlabel.object.last_modified IS 'When the object was last written, as the store says.';

COMMENT ON COLUMN nightlabel.object.changed_at IS 'Start of the listing that showed the change.';

COMMENT ON COLUMN nightlabel.object.gone_at IS 'Start of the complete listing that no longer showed the key.';

CREATE TABLE nightlabel.outcome (
    image_id uuid NOT NULL,
    model_id integer NOT NULL,
    label text,
    label_id text,
    score real,
    top_labels text[],
    top_scores real[],
    stage text,
    error_code text,
    message text,
    attempts integer DEFAULT 1 NOT NULL,
    retry_after timestamp with time zone,
    engine text,
    run_id uuid NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    decoder text,
    is_copied boolean DEFAULT false NOT NULL,
    CONSTRAINT outcome_attempts_check CHECK ((attempts >= 1)),
    CONSTRAINT outcome_is_label_or_error CHECK ((((num_nonnulls(label, label_id, score, top_labels, top_scores, engine) = 6) AND (num_nonnulls(stage, error_code, message, retry_after) = 0) AND (cardinality(top_labels) = cardinality(top_scores))) OR ((num_nonnulls(label, label_id, score, top_labels, top_scores) = 0) AND (num_nonnulls(stage, error_code, message) = 3)))),
    CONSTRAINT outcome_score_check CHECK (((score >= (0)::double precision) AND (score <= (1)::double precision))),
    CONSTRAINT outcome_stage_check CHECK ((stage = ANY (ARRAY['list'::text, 'plan'::text, 'fetch'::text, 'decode'::text, 'batch'::text, 'predict'::text, 'write'::text])))
)
PARTITION BY LIST (model_id);

COMMENT ON TABLE nightlabel.outcome IS 'The ledger: one row per image version and model version, either a label or an error.';

COMMENT ON COLUMN nightlabel.outcome.image_id IS 'The image version.';

COMMENT ON COLUMN nightlabel.outcome.model_id IS 'The model version.';

COMMENT ON COLUMN nightlabel.outcome.label IS 'Best label; null for a dead letter.';

COMMENT ON COLUMN nightlabel.outcome.label_id IS 'Stable id of the label; label names may repeat, ids do not.';

COMMENT ON COLUMN nightlabel.outcome.score IS 'Probability of the label, 0 to 1.';

COMMENT ON COLUMN nightlabel.outcome.top_labels IS 'Best labels, best first, beside top_scores.';

COMMENT ON COLUMN nightlabel.outcome.top_scores IS 'Probabilities of top_labels, in the same order.';

COMMENT ON COLUMN nightlabel.outcome.stage IS 'Of a dead letter: the stage that gave up; null for a label.';

COMMENT ON COLUMN nightlabel.outcome.error_code IS 'Of a dead letter: its stable code; null for a label.';

COMMENT ON COLUMN nightlabel.outcome.message IS 'Of a dead letter: what was found and what to do; null for a label.';

COMMENT ON COLUMN nightlabel.outcome.attempts IS 'How many runs tried the image with this model.';

COMMENT ON COLUMN nightlabel.outcome.retry_after IS 'When a retryable dead letter is tried again; null when it is permanent.';

COMMENT ON COLUMN nightlabel.outcome.engine IS 'What executed the model; null for most dead letters, which never got so far.';

COMMENT ON COLUMN nightlabel.outcome.run_id IS 'The run that recorded it.';

COMMENT ON COLUMN nightlabel.outcome.recorded_at IS 'When it was recorded, by the database''s clock; its UTC day is the day of label_daily.';

COMMENT ON COLUMN nightlabel.outcome.decoder IS 'Of a dead letter of the decode stage: the decoder that gave up; another one tries it again.';

COMMENT ON COLUMN nightlabel.outcome.is_copied IS 'Whether the label was taken over from equal bytes under another key, and not computed.';

CREATE VIEW nightlabel.production_line AS
 SELECT model_id,
    row_number() OVER (ORDER BY (max(COALESCE(valid_to, 'infinity'::timestamp with time zone))) DESC, model_id DESC) AS rank
   FROM nightlabel.model_alias a
  WHERE (alias = 'production'::text)
  GROUP BY model_id;

COMMENT ON VIEW nightlabel.production_line IS 'Models that hold or ever held the alias production, best first.';

COMMENT ON COLUMN nightlabel.production_line.model_id IS 'The model version.';

COMMENT ON COLUMN nightlabel.production_line.rank IS '1 for the model that is production now; then by when each last was, newest first.';

CREATE VIEW nightlabel.dead_letter_open AS
 SELECT i.bucket,
    i.object_key,
    i.etag,
    best.stage,
    best.error_code,
    best.message,
    best.attempts,
    (best.retry_after IS NULL) AS permanent,
    best.retry_after,
    m.name AS model_name,
    m.version AS model_version,
    best.run_id,
    best.recorded_at AS failed_at
   FROM (((nightlabel.object o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
     CROSS JOIN LATERAL ( SELECT c.image_id,
            c.model_id,
            c.label,
            c.label_id,
            c.score,
            c.top_labels,
            c.top_scores,
            c.stage,
            c.error_code,
            c.message,
            c.attempts,
            c.retry_after,
            c.engine,
            c.run_id,
            c.recorded_at,
            c.decoder,
            c.is_copied
           FROM (nightlabel.production_line p
             JOIN nightlabel.outcome c ON (((c.model_id = p.model_id) AND (c.image_id = o.image_id))))
          ORDER BY (c.label IS NOT NULL) DESC, p.rank
         LIMIT 1) best)
     JOIN nightlabel.model m ON ((m.model_id = best.model_id)))
  WHERE ((o.gone_at IS NULL) AND (best.error_code IS NOT NULL));

COMMENT ON VIEW nightlabel.dead_letter_open IS 'One row per existing object whose current version could not be labelled, with stage, code and reason.';

COMMENT ON COLUMN nightlabel.dead_letter_open.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.dead_letter_open.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.dead_letter_open.etag IS 'ETag of the current version, without quotes.';

COMMENT ON COLUMN nightlabel.dead_letter_open.stage IS 'The stage that gave up: fetch or decode, mostly.';

COMMENT ON COLUMN nightlabel.dead_letter_open.error_code IS 'Stable code of the reason; see docs/errors.md.';

COMMENT ON COLUMN nightlabel.dead_letter_open.message IS 'One sentence: what was found and what to do.';

COMMENT ON COLUMN nightlabel.dead_letter_open.attempts IS 'How many runs tried the image with this model.';

COMMENT ON COLUMN nightlabel.dead_letter_open.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';

COMMENT ON COLUMN nightlabel.dead_letter_open.retry_after IS 'From when the nightly run tries again; null when permanent.';

COMMENT ON COLUMN nightlabel.dead_letter_open.model_name IS 'Name of the model of the run that gave up.';

COMMENT ON COLUMN nightlabel.dead_letter_open.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.dead_letter_open.run_id IS 'The run that recorded it; see run_summary.';

COMMENT ON COLUMN nightlabel.dead_letter_open.failed_at IS 'When it was recorded.';

CREATE VIEW nightlabel.dead_letter_reason AS
 SELECT bucket,
    stage,
    error_code,
    permanent,
    count(*) AS objects,
    min(failed_at) AS first_failed_at,
    max(failed_at) AS last_failed_at,
    min(retry_after) AS next_retry_after,
    (array_agg(object_key ORDER BY failed_at DESC, (object_key COLLATE "C")))[1] AS example_key,
    (array_agg(message ORDER BY failed_at DESC, (object_key COLLATE "C")))[1] AS example_message
   FROM nightlabel.dead_letter_open
  GROUP BY bucket, stage, error_code, permanent;

COMMENT ON VIEW nightlabel.dead_letter_reason IS 'dead_letter_open counted by bucket, stage, error code and whether it is permanent, with the newest example.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.bucket IS 'Bucket of the objects.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.stage IS 'The stage that gave up.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.error_code IS 'Stable code of the reason.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.objects IS 'Existing objects without a label for this reason.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.first_failed_at IS 'When the oldest of them was recorded.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.last_failed_at IS 'When the newest of them was recorded.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.next_retry_after IS 'When the first of them may be tried again; null when permanent.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.example_key IS 'Key of the newest of them.';

COMMENT ON COLUMN nightlabel.dead_letter_reason.example_message IS 'Message of the newest of them.';

CREATE VIEW nightlabel.duplicate_content AS
 WITH repeated AS MATERIALIZED (
         SELECT i_1.content_sha256
           FROM (nightlabel.object o_1
             JOIN nightlabel.image i_1 ON ((i_1.image_id = o_1.image_id)))
          WHERE ((o_1.gone_at IS NULL) AND (i_1.content_sha256 IS NOT NULL))
          GROUP BY i_1.content_sha256
         HAVING (count(*) > 1)
        )
 SELECT encode(i.content_sha256, 'hex'::text) AS content_sha256,
    count(*) AS objects,
    (sum(i.size_bytes))::bigint AS size_bytes,
    (array_agg(o.bucket ORDER BY o.bucket, o.object_key))[1:10] AS buckets,
    (array_agg(o.object_key ORDER BY o.bucket, o.object_key))[1:10] AS object_keys,
    COALESCE(array_agg(DISTINCT best.label ORDER BY best.label) FILTER (WHERE (best.label IS NOT NULL)), '{}'::text[]) AS labels
   FROM (((repeated r
     JOIN nightlabel.image i ON ((i.content_sha256 = r.content_sha256)))
     JOIN nightlabel.object o ON (((o.image_id = i.image_id) AND (o.gone_at IS NULL))))
     LEFT JOIN LATERAL ( SELECT c.label
           FROM (nightlabel.production_line p
             JOIN nightlabel.outcome c ON (((c.model_id = p.model_id) AND (c.image_id = o.image_id))))
          WHERE (c.label IS NOT NULL)
          ORDER BY p.rank
         LIMIT 1) best ON (true))
  GROUP BY i.content_sha256;

COMMENT ON VIEW nightlabel.duplicate_content IS 'One row per content that at least two existing objects hold now, with at most ten of their keys and their labels.';

COMMENT ON COLUMN nightlabel.duplicate_content.content_sha256 IS 'SHA-256 of the bytes, 64 hexadecimal digits.';

COMMENT ON COLUMN nightlabel.duplicate_content.objects IS 'Existing objects that hold these bytes.';

COMMENT ON COLUMN nightlabel.duplicate_content.size_bytes IS 'Bytes of all of them together.';

COMMENT ON COLUMN nightlabel.duplicate_content.buckets IS 'Bucket of each of object_keys, in the same order.';

COMMENT ON COLUMN nightlabel.duplicate_content.object_keys IS 'Keys of the first ten of them, in order of bucket and key.';

COMMENT ON COLUMN nightlabel.duplicate_content.labels IS 'Their different labels, in order; empty while none has one.';

CREATE VIEW nightlabel.label_by_prefix AS
 SELECT ((o.recorded_at AT TIME ZONE 'UTC'::text))::date AS day,
    i.bucket,
    k.prefix,
    m.name AS model_name,
    m.version AS model_version,
    o.label,
    count(*) AS images,
    (avg(o.score))::real AS mean_score
   FROM (((nightlabel.outcome o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
     JOIN nightlabel.model m ON ((m.model_id = o.model_id)))
     CROSS JOIN LATERAL ( SELECT "left"(i.object_key, strpos(i.object_key, '/'::text)) AS prefix
         OFFSET 0) k)
  WHERE (o.label IS NOT NULL)
  GROUP BY (((o.recorded_at AT TIME ZONE 'UTC'::text))::date), i.bucket, k.prefix, m.name, m.version, o.label;

COMMENT ON VIEW nightlabel.label_by_prefix IS 'Images and mean score by UTC day, bucket, first part of the key, model version and label; each outcome counted once.';

COMMENT ON COLUMN nightlabel.label_by_prefix.day IS 'UTC day on which the label was recorded; name the days, since all of them are the whole ledger.';

COMMENT ON COLUMN nightlabel.label_by_prefix.bucket IS 'Bucket of the images.';

COMMENT ON COLUMN nightlabel.label_by_prefix.prefix IS 'The key up to and including its first slash; empty for a key without one.';

COMMENT ON COLUMN nightlabel.label_by_prefix.model_name IS 'Name of the model that gave the label.';

COMMENT ON COLUMN nightlabel.label_by_prefix.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.label_by_prefix.label IS 'The label; names may repeat, and two classes of one name are counted together.';

COMMENT ON COLUMN nightlabel.label_by_prefix.images IS 'Image versions that got the label.';

COMMENT ON COLUMN nightlabel.label_by_prefix.mean_score IS 'Mean probability of the label, 0 to 1; weigh it by images when adding rows up.';

CREATE VIEW nightlabel.label_change AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    fm.name AS from_model_name,
    fm.version AS from_model_version,
    f.label AS from_label,
    f.label_id AS from_label_id,
    f.score AS from_score,
    f.recorded_at AS from_predicted_at,
    tm.name AS to_model_name,
    tm.version AS to_model_version,
    t.label AS to_label,
    t.label_id AS to_label_id,
    t.score AS to_score,
    t.recorded_at AS to_predicted_at
   FROM (((((nightlabel.object o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
     JOIN nightlabel.outcome f ON ((f.image_id = o.image_id)))
     JOIN nightlabel.outcome t ON (((t.image_id = o.image_id) AND (t.model_id > f.model_id) AND (t.label_id <> f.label_id))))
     JOIN nightlabel.model fm ON ((fm.model_id = f.model_id)))
     JOIN nightlabel.model tm ON ((tm.model_id = t.model_id)))
  WHERE (o.gone_at IS NULL);

COMMENT ON VIEW nightlabel.label_change IS 'One row per existing object and pair of models whose labels for its current version differ by id; from is the model registered first.';

COMMENT ON COLUMN nightlabel.label_change.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.label_change.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.label_change.etag IS 'ETag of the current version, without quotes.';

COMMENT ON COLUMN nightlabel.label_change.from_model_name IS 'Name of the model of the two that was registered first.';

COMMENT ON COLUMN nightlabel.label_change.from_model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.label_change.from_label IS 'Its label.';

COMMENT ON COLUMN nightlabel.label_change.from_label_id IS 'Stable id of its label.';

COMMENT ON COLUMN nightlabel.label_change.from_score IS 'Probability of its label, 0 to 1.';

COMMENT ON COLUMN nightlabel.label_change.from_predicted_at IS 'When its label was recorded.';

COMMENT ON COLUMN nightlabel.label_change.to_model_name IS 'Name of the other model.';

COMMENT ON COLUMN nightlabel.label_change.to_model_version IS 'Version of the other model.';

COMMENT ON COLUMN nightlabel.label_change.to_label IS 'Label of the other model.';

COMMENT ON COLUMN nightlabel.label_change.to_label_id IS 'Stable id of that label; never that of from_label_id.';

COMMENT ON COLUMN nightlabel.label_change.to_score IS 'Probability of that label, 0 to 1.';

COMMENT ON COLUMN nightlabel.label_change.to_predicted_at IS 'When that label was recorded.';

CREATE VIEW nightlabel.label_daily AS
 SELECT ((o.recorded_at AT TIME ZONE 'UTC'::text))::date AS day,
    m.name AS model_name,
    m.version AS model_version,
    o.label,
    count(*) AS images,
    (avg(o.score))::real AS mean_score
   FROM (nightlabel.outcome o
     JOIN nightlabel.model m ON ((m.model_id = o.model_id)))
  WHERE (o.label IS NOT NULL)
  GROUP BY (((o.recorded_at AT TIME ZONE 'UTC'::text))::date), m.name, m.version, o.label;

COMMENT ON VIEW nightlabel.label_daily IS 'Images and mean score by UTC day, model version and label; each outcome counted once.';

COMMENT ON COLUMN nightlabel.label_daily.day IS 'UTC day on which the label was recorded.';

COMMENT ON COLUMN nightlabel.label_daily.model_name IS 'Name of the model that gave the label.';

COMMENT ON COLUMN nightlabel.label_daily.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.label_daily.label IS 'The label; two classes of one name are counted together.';

COMMENT ON COLUMN nightlabel.label_daily.images IS 'Image versions that got the label.';

COMMENT ON COLUMN nightlabel.label_daily.mean_score IS 'Mean probability of the label, 0 to 1; weigh it by images when adding rows up.';

CREATE VIEW nightlabel.latest_prediction AS
 SELECT i.bucket,
    i.object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    best.label,
    best.label_id,
    best.score,
    best.top_labels,
    best.top_scores,
    m.name AS model_name,
    m.version AS model_version,
    best.engine,
    best.run_id,
    best.recorded_at AS predicted_at
   FROM (((nightlabel.object o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
     CROSS JOIN LATERAL ( SELECT c.image_id,
            c.model_id,
            c.label,
            c.label_id,
            c.score,
            c.top_labels,
            c.top_scores,
            c.stage,
            c.error_code,
            c.message,
            c.attempts,
            c.retry_after,
            c.engine,
            c.run_id,
            c.recorded_at,
            c.decoder,
            c.is_copied
           FROM (nightlabel.production_line p
             JOIN nightlabel.outcome c ON (((c.model_id = p.model_id) AND (c.image_id = o.image_id))))
          WHERE (c.label IS NOT NULL)
          ORDER BY p.rank
         LIMIT 1) best)
     JOIN nightlabel.model m ON ((m.model_id = best.model_id)))
  WHERE (o.gone_at IS NULL);

COMMENT ON VIEW nightlabel.latest_prediction IS 'One row per existing object: the label of its current version by the production model, else by the newest former one.';

COMMENT ON COLUMN nightlabel.latest_prediction.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.latest_prediction.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.latest_prediction.etag IS 'ETag of the version that was labelled, without quotes.';

COMMENT ON COLUMN nightlabel.latest_prediction.size_bytes IS 'Size of that version.';

COMMENT ON COLUMN nightlabel.latest_prediction.last_modified IS 'When the object was written, as the store says.';

COMMENT ON COLUMN nightlabel.latest_prediction.label IS 'Best label; names may repeat.';

COMMENT ON COLUMN nightlabel.latest_prediction.label_id IS 'Stable id of the label; label names may repeat, ids do not.';

COMMENT ON COLUMN nightlabel.latest_prediction.score IS 'Probability of the label, 0 to 1.';

COMMENT ON COLUMN nightlabel.latest_prediction.top_labels IS 'Best labels, best first, beside top_scores.';

COMMENT ON COLUMN nightlabel.latest_prediction.top_scores IS 'Probabilities of top_labels, in the same order.';

COMMENT ON COLUMN nightlabel.latest_prediction.model_name IS 'Name of the model that gave the label.';

COMMENT ON COLUMN nightlabel.latest_prediction.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.latest_prediction.engine IS 'What executed the model.';

COMMENT ON COLUMN nightlabel.latest_prediction.run_id IS 'The run that recorded it; see run_summary.';

COMMENT ON COLUMN nightlabel.latest_prediction.predicted_at IS 'When the label was recorded.';

CREATE TABLE nightlabel.listing (
    bucket text NOT NULL COLLATE pg_catalog."C",
    prefix text NOT NULL COLLATE pg_catalog."C",
    listed_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE nightlabel.listing IS 'The newest complete listing of each prefix; an older one that ends later changes nothing.';

COMMENT ON COLUMN nightlabel.listing.bucket IS 'Bucket that was listed.';

COMMENT ON COLUMN nightlabel.listing.prefix IS 'Prefix that was listed; empty for the whole bucket.';

COMMENT ON COLUMN nightlabel.listing.listed_at IS 'When it began.';

CREATE TABLE nightlabel.manifest_chunk (
    run_id uuid NOT NULL,
    plan_number integer NOT NULL,
    shard_number integer NOT NULL,
    chunk_number integer NOT NULL,
    bucket text NOT NULL,
    image_id uuid[] NOT NULL,
    object_key text[] NOT NULL,
    etag text[] NOT NULL,
    size_bytes bigint[] NOT NULL,
    prior_attempts integer[] NOT NULL,
    CONSTRAINT manifest_chunk_image_id_check CHECK (((cardinality(image_id) >= 1) AND (cardinality(image_id) <= 1000)))
);

COMMENT ON TABLE nightlabel.manifest_chunk IS 'The ordered image refs of a shard, at most 1,000 a row; dropped some days after the run.';

COMMENT ON COLUMN nightlabel.manifest_chunk.run_id IS 'The run.';

COMMENT ON COLUMN nightlabel.manifest_chunk.plan_number IS 'The plan of the run.';

COMMENT ON COLUMN nightlabel.manifest_chunk.shard_number IS 'The shard of the plan.';

COMMENT ON COLUMN nightlabel.manifest_chunk.chunk_number IS 'Place of the row in the shard''s manifest, from 0.';

COMMENT ON COLUMN nightlabel.manifest_chunk.bucket IS 'Bucket of the objects.';

COMMENT ON COLUMN nightlabel.manifest_chunk.image_id IS 'The image versions; the arrays are beside one another.';

COMMENT ON COLUMN nightlabel.manifest_chunk.object_key IS 'Their keys, exactly as stored.';

COMMENT ON COLUMN nightlabel.manifest_chunk.etag IS 'Their ETags, without quotes.';

COMMENT ON COLUMN nightlabel.manifest_chunk.size_bytes IS 'Their sizes.';

COMMENT ON COLUMN nightlabel.manifest_chunk.prior_attempts IS 'Attempts that the ledger held when planned; above 0 for a dead letter that is tried again.';

ALTER TABLE nightlabel.model ALTER COLUMN model_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME nightlabel.model_model_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW nightlabel.never_labelled AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    i.first_seen_at
   FROM (nightlabel.object o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
  WHERE ((o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.production_line p
             JOIN nightlabel.outcome c ON ((c.model_id = p.model_id)))
          WHERE (c.image_id = o.image_id)))));

COMMENT ON VIEW nightlabel.never_labelled IS 'One row per existing object whose current version has neither a label nor a dead letter by any model of the production line.';

COMMENT ON COLUMN nightlabel.never_labelled.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.never_labelled.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.never_labelled.etag IS 'ETag of the current version, without quotes.';

COMMENT ON COLUMN nightlabel.never_labelled.size_bytes IS 'Size of the current version.';

COMMENT ON COLUMN nightlabel.never_labelled.last_modified IS 'When the object was written, as the store says.';

COMMENT ON COLUMN nightlabel.never_labelled.first_seen_at IS 'When a listing showed this version first.';

CREATE VIEW nightlabel.object_outcome AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    m.name AS model_name,
    m.version AS model_version,
    c.label,
    c.label_id,
    c.score,
    c.is_copied,
    c.stage,
    c.error_code,
    c.message,
    c.attempts,
    c.retry_after,
    c.engine,
    c.run_id,
    c.recorded_at
   FROM (((nightlabel.object o
     JOIN nightlabel.image i ON ((i.image_id = o.image_id)))
     JOIN nightlabel.outcome c ON ((c.image_id = o.image_id)))
     JOIN nightlabel.model m ON ((m.model_id = c.model_id)))
  WHERE (o.gone_at IS NULL);

COMMENT ON VIEW nightlabel.object_outcome IS 'One row per existing object and model version that has an outcome for its current version: a label or an error.';

COMMENT ON COLUMN nightlabel.object_outcome.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.object_outcome.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.object_outcome.etag IS 'ETag of the current version, without quotes.';

COMMENT ON COLUMN nightlabel.object_outcome.model_name IS 'Name of the model that the outcome is of.';

COMMENT ON COLUMN nightlabel.object_outcome.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.object_outcome.label IS 'Best label; null for a dead letter.';

COMMENT ON COLUMN nightlabel.object_outcome.label_id IS 'Stable id of the label; null for a dead letter.';

COMMENT ON COLUMN nightlabel.object_outcome.score IS 'Probability of the label, 0 to 1; null for a dead letter.';

COMMENT ON COLUMN nightlabel.object_outcome.is_copied IS 'Whether the label was taken over from equal content instead of computed.';

COMMENT ON COLUMN nightlabel.object_outcome.stage IS 'Of a dead letter: the stage that gave up; null for a label.';

COMMENT ON COLUMN nightlabel.object_outcome.error_code IS 'Of a dead letter: its stable code; null for a label.';

COMMENT ON COLUMN nightlabel.object_outcome.message IS 'Of a dead letter: what was found and what to do; null for a label.';

COMMENT ON COLUMN nightlabel.object_outcome.attempts IS 'How many runs tried the image with this model.';

COMMENT ON COLUMN nightlabel.object_outcome.retry_after IS 'Of a dead letter: from when the nightly run tries again; null when it is permanent.';

COMMENT ON COLUMN nightlabel.object_outcome.engine IS 'What executed the model.';

COMMENT ON COLUMN nightlabel.object_outcome.run_id IS 'The run that recorded it; see run_summary.';

COMMENT ON COLUMN nightlabel.object_outcome.recorded_at IS 'When it was recorded.';

CREATE TABLE nightlabel.run (
    run_id uuid NOT NULL,
    dag_id text NOT NULL,
    airflow_run_id text,
    bucket text NOT NULL COLLATE pg_catalog."C",
    prefix text NOT NULL COLLATE pg_catalog."C",
    parameters jsonb NOT NULL,
    model_id integer NOT NULL,
    plan_number integer DEFAULT 1 NOT NULL,
    state text NOT NULL,
    message text,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    max_dead_ratio double precision NOT NULL,
    min_images_for_ratio integer NOT NULL,
    discovered bigint NOT NULL,
    already_done bigint NOT NULL,
    deferred bigint NOT NULL,
    carried_labelled bigint DEFAULT 0 NOT NULL,
    carried_dead bigint DEFAULT 0 NOT NULL,
    list_s real DEFAULT 0 NOT NULL,
    plan_attempt integer DEFAULT 0 NOT NULL,
    carried_copied bigint DEFAULT 0 NOT NULL,
    CONSTRAINT run_already_done_check CHECK ((already_done >= 0)),
    CONSTRAINT run_carried_copied_check CHECK ((carried_copied >= 0)),
    CONSTRAINT run_carried_dead_check CHECK ((carried_dead >= 0)),
    CONSTRAINT run_carried_labelled_check CHECK ((carried_labelled >= 0)),
    CONSTRAINT run_deferred_check CHECK ((deferred >= 0)),
    CONSTRAINT run_discovered_check CHECK ((discovered >= 0)),
    CONSTRAINT run_max_dead_ratio_check CHECK (((max_dead_ratio >= (0)::double precision) AND (max_dead_ratio <= (1)::double precision))),
    CONSTRAINT run_min_images_for_ratio_check CHECK ((min_images_for_ratio >= 0)),
    CONSTRAINT run_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'running'::text, 'succeeded'::text, 'failed'::text])))
);

COMMENT ON TABLE nightlabel.run IS 'One execution, however started; command line and REST runs have a dag_id of their own.';

COMMENT ON COLUMN nightlabel.run.run_id IS 'Id of the run.';

COMMENT ON COLUMN nightlabel.run.dag_id IS 'The Dag that it ran in; cli or rest where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run.airflow_run_id IS 'Airflow''s own id of the run; null where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run.bucket IS 'Bucket that the run looked at.';

COMMENT ON COLUMN nightlabel.run.prefix IS 'Prefix that the run looked at; empty for the whole bucket.';

COMMENT ON COLUMN nightlabel.run.parameters IS 'The request in full, as it was given.';

COMMENT ON COLUMN nightlabel.run.model_id IS 'The model version that the run was planned with, whatever is promoted meanwhile.';

COMMENT ON COLUMN nightlabel.run.plan_number IS 'Grows when discovery is repeated; only shards of this plan count.';

COMMENT ON COLUMN nightlabel.run.state IS 'planned, running, succeeded or failed.';

COMMENT ON COLUMN nightlabel.run.message IS 'Why the run failed; null otherwise.';

COMMENT ON COLUMN nightlabel.run.started_at IS 'When the run began.';

COMMENT ON COLUMN nightlabel.run.finished_at IS 'When it ended; null while it runs.';

COMMENT ON COLUMN nightlabel.run.max_dead_ratio IS 'Share of dead letters above which the run fails, 0 to 1.';

COMMENT ON COLUMN nightlabel.run.min_images_for_ratio IS 'From how many images on the share of dead letters is judged.';

COMMENT ON COLUMN nightlabel.run.discovered IS 'Objects that the listing, the manifest or the inventory showed.';

COMMENT ON COLUMN nightlabel.run.already_done IS 'Objects whose current version had an outcome before the run.';

COMMENT ON COLUMN nightlabel.run.deferred IS 'Left for a later run by max_images or the time budget.';

COMMENT ON COLUMN nightlabel.run.carried_labelled IS 'Labels that the run recorded under former plans; likewise carried_dead.';

COMMENT ON COLUMN nightlabel.run.carried_dead IS 'Dead letters that the run recorded under former plans.';

COMMENT ON COLUMN nightlabel.run.list_s IS 'Seconds of the listing.';

COMMENT ON COLUMN nightlabel.run.plan_attempt IS 'Fencing token of discovery: a plan of an older try of the task is refused.';

COMMENT ON COLUMN nightlabel.run.carried_copied IS 'Labels among carried_labelled that were copied from equal content.';

CREATE TABLE nightlabel.shard (
    run_id uuid NOT NULL,
    plan_number integer NOT NULL,
    shard_number integer NOT NULL,
    device text NOT NULL,
    state text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    batches integer DEFAULT 0 NOT NULL,
    images bigint NOT NULL,
    labelled bigint DEFAULT 0 NOT NULL,
    copied bigint DEFAULT 0 NOT NULL,
    dead bigint DEFAULT 0 NOT NULL,
    gone bigint DEFAULT 0 NOT NULL,
    done_elsewhere bigint DEFAULT 0 NOT NULL,
    fetch_s real DEFAULT 0 NOT NULL,
    decode_s real DEFAULT 0 NOT NULL,
    predict_s real DEFAULT 0 NOT NULL,
    write_s real DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    heartbeat_at timestamp with time zone,
    finished_at timestamp with time zone,
    ended_attempt integer DEFAULT 0 NOT NULL,
    unclean_ends integer DEFAULT 0 NOT NULL,
    in_flight integer DEFAULT 0 NOT NULL,
    is_isolated boolean DEFAULT false NOT NULL,
    CONSTRAINT shard_counts_are_within_images CHECK (((labelled >= 0) AND (dead >= 0) AND (gone >= 0) AND (done_elsewhere >= 0) AND ((copied >= 0) AND (copied <= labelled)) AND ((((labelled + dead) + gone) + done_elsewhere) <= images))),
    CONSTRAINT shard_device_check CHECK ((device = ANY (ARRAY['cpu'::text, 'gpu'::text]))),
    CONSTRAINT shard_images_check CHECK ((images > 0)),
    CONSTRAINT shard_in_flight_check CHECK ((in_flight >= 0)),
    CONSTRAINT shard_shard_number_check CHECK ((shard_number >= 0)),
    CONSTRAINT shard_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'running'::text, 'done'::text, 'superseded'::text]))),
    CONSTRAINT shard_unclean_ends_check CHECK ((unclean_ends >= 0))
)
WITH (fillfactor='50');

COMMENT ON TABLE nightlabel.shard IS 'A slice of a run''s manifest: unit of a task and of a retry; counts are added by the batches'' transactions.';

COMMENT ON COLUMN nightlabel.shard.run_id IS 'The run.';

COMMENT ON COLUMN nightlabel.shard.plan_number IS 'The plan of the run that the shard belongs to.';

COMMENT ON COLUMN nightlabel.shard.shard_number IS 'Number of the shard in its plan, from 0.';

COMMENT ON COLUMN nightlabel.shard.device IS 'cpu or gpu: the queue that works on it.';

COMMENT ON COLUMN nightlabel.shard.state IS 'planned, running, done, or superseded by a later plan.';

COMMENT ON COLUMN nightlabel.shard.attempt IS 'Fencing token: a write that carries another number is refused.';

COMMENT ON COLUMN nightlabel.shard.batches IS 'Batches that the present attempt has recorded; a batch is sent with its number and recorded once.';

COMMENT ON COLUMN nightlabel.shard.images IS 'Image refs in the shard.';

COMMENT ON COLUMN nightlabel.shard.labelled IS 'Labels recorded by the shard, the copied ones included.';

COMMENT ON COLUMN nightlabel.shard.copied IS 'Labels taken over from equal content instead of computed.';

COMMENT ON COLUMN nightlabel.shard.dead IS 'Dead letters recorded by the shard.';

COMMENT ON COLUMN nightlabel.shard.gone IS 'Deleted or overwritten between listing and reading.';

COMMENT ON COLUMN nightlabel.shard.done_elsewhere IS 'Recorded first by another run.';

COMMENT ON COLUMN nightlabel.shard.fetch_s IS 'Seconds added over the threads of the stage; likewise the other three.';

COMMENT ON COLUMN nightlabel.shard.decode_s IS 'Seconds of decoding, added over the threads of the stage.';

COMMENT ON COLUMN nightlabel.shard.predict_s IS 'Seconds of the model, added over the threads of the stage.';

COMMENT ON COLUMN nightlabel.shard.write_s IS 'Seconds of writing outcomes, added over the threads of the stage.';

COMMENT ON COLUMN nightlabel.shard.started_at IS 'When its first attempt began.';

COMMENT ON COLUMN nightlabel.shard.heartbeat_at IS 'When an attempt last recorded something.';

COMMENT ON COLUMN nightlabel.shard.finished_at IS 'When it was done; null before.';

COMMENT ON COLUMN nightlabel.shard.ended_attempt IS 'The newest attempt that said that it ended; one that did not was killed, or its process died.';

COMMENT ON COLUMN nightlabel.shard.unclean_ends IS 'Attempts that ended without saying so.';

COMMENT ON COLUMN nightlabel.shard.in_flight IS 'Most refs without outcome that the present attempt may have begun: after an unclean end the first so many are suspects.';

COMMENT ON COLUMN nightlabel.shard.is_isolated IS 'Whether every image of the shard is decoded in a process apart, since one killed its decoder.';

CREATE VIEW nightlabel.run_cost AS
 SELECT r.run_id,
    r.dag_id,
    r.state,
    r.started_at,
    r.finished_at,
    m.name AS model_name,
    m.version AS model_version,
    spent.images,
    spent.copied,
    spent.run_s,
    (((spent.images)::double precision / NULLIF(spent.run_s, (0)::double precision)))::real AS images_per_second,
    r.list_s,
    spent.fetch_s,
    spent.decode_s,
    spent.predict_s,
    spent.write_s,
    spent.worker_s,
    (((spent.worker_s * (1000)::double precision) / (NULLIF(spent.images, 0))::double precision))::real AS seconds_per_1000,
    (spent.fetch_s / NULLIF(spent.worker_s, (0)::double precision)) AS fetch_share,
    (spent.decode_s / NULLIF(spent.worker_s, (0)::double precision)) AS decode_share,
    (spent.predict_s / NULLIF(spent.worker_s, (0)::double precision)) AS predict_share,
    (spent.write_s / NULLIF(spent.worker_s, (0)::double precision)) AS write_share
   FROM ((nightlabel.run r
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)))
     CROSS JOIN LATERAL ( SELECT (((COALESCE(sum((s.labelled + s.dead)) FILTER (WHERE (s.plan_number = r.plan_number)), (0)::numeric) + (r.carried_labelled)::numeric) + (r.carried_dead)::numeric))::bigint AS images,
            ((COALESCE(sum(s.copied) FILTER (WHERE (s.plan_number = r.plan_number)), (0)::numeric) + (r.carried_copied)::numeric))::bigint AS copied,
            (EXTRACT(epoch FROM (COALESCE(r.finished_at, clock_timestamp()) - r.started_at)))::real AS run_s,
            COALESCE(sum(s.fetch_s), (0)::real) AS fetch_s,
            COALESCE(sum(s.decode_s), (0)::real) AS decode_s,
            COALESCE(sum(s.predict_s), (0)::real) AS predict_s,
            COALESCE(sum(s.write_s), (0)::real) AS write_s,
            COALESCE(sum((((s.fetch_s + s.decode_s) + s.predict_s) + s.write_s)), (0)::real) AS worker_s
           FROM nightlabel.shard s
          WHERE (s.run_id = r.run_id)) spent);

COMMENT ON VIEW nightlabel.run_cost IS 'One row per run: images per second, seconds of each stage added over threads and shards, seconds per 1,000 images.';

COMMENT ON COLUMN nightlabel.run_cost.run_id IS 'The run; see run_summary for its books.';

COMMENT ON COLUMN nightlabel.run_cost.dag_id IS 'The Dag that it ran in; cli or rest where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run_cost.state IS 'planned, running, succeeded or failed.';

COMMENT ON COLUMN nightlabel.run_cost.started_at IS 'When the run began.';

COMMENT ON COLUMN nightlabel.run_cost.finished_at IS 'When it ended; null while it runs.';

COMMENT ON COLUMN nightlabel.run_cost.model_name IS 'Name of the model that the run was planned with.';

COMMENT ON COLUMN nightlabel.run_cost.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.run_cost.images IS 'Labels and dead letters that the run recorded.';

COMMENT ON COLUMN nightlabel.run_cost.copied IS 'Labels among them that were taken over from equal content, which costs next to nothing.';

COMMENT ON COLUMN nightlabel.run_cost.run_s IS 'Seconds from the start of the run to its end, or to now while it runs.';

COMMENT ON COLUMN nightlabel.run_cost.images_per_second IS 'images over run_s.';

COMMENT ON COLUMN nightlabel.run_cost.list_s IS 'Seconds of the listing; not part of worker_s.';

COMMENT ON COLUMN nightlabel.run_cost.fetch_s IS 'Seconds of fetching, added over threads, shards and plans.';

COMMENT ON COLUMN nightlabel.run_cost.decode_s IS 'Seconds of decoding, likewise.';

COMMENT ON COLUMN nightlabel.run_cost.predict_s IS 'Seconds of the model, likewise.';

COMMENT ON COLUMN nightlabel.run_cost.write_s IS 'Seconds of writing outcomes, likewise.';

COMMENT ON COLUMN nightlabel.run_cost.worker_s IS 'The four stages added up; stages overlap, so it may be more than run_s.';

COMMENT ON COLUMN nightlabel.run_cost.seconds_per_1000 IS 'worker_s for each 1,000 images.';

COMMENT ON COLUMN nightlabel.run_cost.fetch_share IS 'Share of fetching in worker_s, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_cost.decode_share IS 'Share of decoding in worker_s, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_cost.predict_share IS 'Share of the model in worker_s, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_cost.write_share IS 'Share of writing in worker_s, 0 to 1.';

CREATE VIEW nightlabel.run_summary AS
 SELECT r.run_id,
    r.dag_id,
    r.airflow_run_id,
    r.state,
    r.started_at,
    r.finished_at,
    m.name AS model_name,
    m.version AS model_version,
    r.discovered,
    r.already_done,
    r.deferred,
    (s.labelled + r.carried_labelled) AS labelled,
    (s.copied + r.carried_copied) AS copied,
    (s.dead + r.carried_dead) AS dead,
    s.gone,
    s.done_elsewhere,
    ((((s.images - s.labelled) - s.dead) - s.gone) - s.done_elsewhere) AS unfinished,
    ((((((s.labelled + s.dead) + r.carried_labelled) + r.carried_dead))::numeric / NULLIF(EXTRACT(epoch FROM (COALESCE(r.finished_at, clock_timestamp()) - r.started_at)), (0)::numeric)))::real AS images_per_second,
    r.list_s,
    s.fetch_s,
    s.decode_s,
    s.predict_s,
    s.write_s
   FROM ((nightlabel.run r
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)))
     CROSS JOIN LATERAL ( SELECT (COALESCE(sum(shard.images), (0)::numeric))::bigint AS images,
            (COALESCE(sum(shard.labelled), (0)::numeric))::bigint AS labelled,
            (COALESCE(sum(shard.copied), (0)::numeric))::bigint AS copied,
            (COALESCE(sum(shard.dead), (0)::numeric))::bigint AS dead,
            (COALESCE(sum(shard.gone), (0)::numeric))::bigint AS gone,
            (COALESCE(sum(shard.done_elsewhere), (0)::numeric))::bigint AS done_elsewhere,
            COALESCE(sum(shard.fetch_s), (0)::real) AS fetch_s,
            COALESCE(sum(shard.decode_s), (0)::real) AS decode_s,
            COALESCE(sum(shard.predict_s), (0)::real) AS predict_s,
            COALESCE(sum(shard.write_s), (0)::real) AS write_s
           FROM nightlabel.shard
          WHERE ((shard.run_id = r.run_id) AND (shard.plan_number = r.plan_number))) s);

COMMENT ON VIEW nightlabel.run_summary IS 'One row per run; discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished.';

COMMENT ON COLUMN nightlabel.run_summary.run_id IS 'Id of the run.';

COMMENT ON COLUMN nightlabel.run_summary.dag_id IS 'classify_images or retry_dead_letters; cli for the command line.';

COMMENT ON COLUMN nightlabel.run_summary.airflow_run_id IS 'Airflow''s own id of the run; null where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run_summary.state IS 'planned, running, succeeded or failed.';

COMMENT ON COLUMN nightlabel.run_summary.started_at IS 'When the run began.';

COMMENT ON COLUMN nightlabel.run_summary.finished_at IS 'When it ended; null while it runs.';

COMMENT ON COLUMN nightlabel.run_summary.model_name IS 'Name of the model that the run was planned with.';

COMMENT ON COLUMN nightlabel.run_summary.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.run_summary.discovered IS 'Objects that the listing, the manifest or the inventory showed; in a retry, the dead letters that matched.';

COMMENT ON COLUMN nightlabel.run_summary.already_done IS 'Objects whose current version had an outcome before the run.';

COMMENT ON COLUMN nightlabel.run_summary.deferred IS 'Left for a later run by max_images or the time budget.';

COMMENT ON COLUMN nightlabel.run_summary.labelled IS 'Labels recorded by this run, the copied ones included.';

COMMENT ON COLUMN nightlabel.run_summary.copied IS 'Labels taken over from equal content instead of computed.';

COMMENT ON COLUMN nightlabel.run_summary.dead IS 'Dead letters recorded by this run.';

COMMENT ON COLUMN nightlabel.run_summary.gone IS 'Deleted or overwritten between listing and reading; the next run finds what is there.';

COMMENT ON COLUMN nightlabel.run_summary.done_elsewhere IS 'Recorded first by another run.';

COMMENT ON COLUMN nightlabel.run_summary.unfinished IS 'In shards that ran out of retries; zero in a successful run.';

COMMENT ON COLUMN nightlabel.run_summary.images_per_second IS 'Labelled and dead, over the time since the start of the run.';

COMMENT ON COLUMN nightlabel.run_summary.list_s IS 'Seconds of the listing.';

COMMENT ON COLUMN nightlabel.run_summary.fetch_s IS 'Seconds of fetching, added over threads and shards of the newest plan.';

COMMENT ON COLUMN nightlabel.run_summary.decode_s IS 'Seconds of decoding, likewise.';

COMMENT ON COLUMN nightlabel.run_summary.predict_s IS 'Seconds of the model, likewise.';

COMMENT ON COLUMN nightlabel.run_summary.write_s IS 'Seconds of writing outcomes, likewise.';

ALTER TABLE ONLY nightlabel.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY nightlabel.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (image_id);

ALTER TABLE ONLY nightlabel.listing
    ADD CONSTRAINT listing_pkey PRIMARY KEY (bucket, prefix);

ALTER TABLE ONLY nightlabel.manifest_chunk
    ADD CONSTRAINT manifest_chunk_pkey PRIMARY KEY (run_id, plan_number, shard_number, chunk_number);

ALTER TABLE ONLY nightlabel.model_alias
    ADD CONSTRAINT model_alias_pkey PRIMARY KEY (alias, valid_from);

ALTER TABLE ONLY nightlabel.model
    ADD CONSTRAINT model_name_version_key UNIQUE (name, version);

ALTER TABLE ONLY nightlabel.model
    ADD CONSTRAINT model_pkey PRIMARY KEY (model_id);

ALTER TABLE ONLY nightlabel.object
    ADD CONSTRAINT object_pkey PRIMARY KEY (bucket, object_key);

ALTER TABLE ONLY nightlabel.outcome
    ADD CONSTRAINT outcome_pkey PRIMARY KEY (image_id, model_id);

ALTER TABLE ONLY nightlabel.run
    ADD CONSTRAINT run_dag_id_airflow_run_id_key UNIQUE (dag_id, airflow_run_id);

ALTER TABLE ONLY nightlabel.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY nightlabel.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (run_id, plan_number, shard_number);

CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;

CREATE UNIQUE INDEX model_alias_current ON nightlabel.model_alias USING btree (alias) WHERE (valid_to IS NULL);

CREATE INDEX object_image_id ON nightlabel.object USING btree (image_id);

CREATE INDEX outcome_day ON ONLY nightlabel.outcome USING brin ((((recorded_at AT TIME ZONE 'UTC'::text))::date) date_minmax_multi_ops) WITH (autosummarize='on');

CREATE INDEX run_started_at ON nightlabel.run USING btree (started_at);

ALTER TABLE ONLY nightlabel.model_alias
    ADD CONSTRAINT model_alias_model_id_fkey FOREIGN KEY (model_id) REFERENCES nightlabel.model(model_id);

ALTER TABLE ONLY nightlabel.run
    ADD CONSTRAINT run_model_id_fkey FOREIGN KEY (model_id) REFERENCES nightlabel.model(model_id);

ALTER TABLE ONLY nightlabel.shard
    ADD CONSTRAINT shard_run_id_fkey FOREIGN KEY (run_id) REFERENCES nightlabel.run(run_id);

GRANT USAGE ON SCHEMA nightlabel TO nightlabel_writer;
GRANT USAGE ON SCHEMA nightlabel TO nightlabel_reader;

REVOKE ALL ON FUNCTION nightlabel.add_outcome_partition(new_model_id integer) FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.add_outcome_partition(new_model_id integer) TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.alembic_version TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.image TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.model TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.model_alias TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.object TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.outcome TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.production_line TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dead_letter_reason TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.dead_letter_reason TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.duplicate_content TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.duplicate_content TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_by_prefix TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_by_prefix TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_change TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_change TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.listing TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.manifest_chunk TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.never_labelled TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.never_labelled TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.object_outcome TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.object_outcome TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.shard TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_cost TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_cost TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_writer;
