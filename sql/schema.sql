-- The schema as the migrations and views make it, for reading; `make schema` writes it and a test compares.
-- Change sql/migrations and sql/views, never this file.

CREATE SCHEMA nightlabel;

CREATE FUNCTION nightlabel.add_outcome_partition(new_model_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM nightlabel.model WHERE model_id = new_model_id) THEN
        RAISE EXCEPTION 'model % is not registered', new_model_id;
    END IF;
    IF to_regclass(format('nightlabel.%I', 'outcome_model_' || new_model_id)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS nightlabel.%I PARTITION OF nightlabel.outcome FOR VALUES IN (%L)',
        'outcome_model_' || new_model_id, new_model_id
    );
    PERFORM nightlabel.count_labels_of(format('nightlabel.%I', 'outcome_model_' || new_model_id)::regclass);
END
$$;

CREATE FUNCTION nightlabel.analyze_ledger() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    known double precision := (SELECT reltuples FROM pg_class WHERE oid = 'nightlabel.outcome'::regclass);
    present double precision := (
        SELECT sum(
            CASE WHEN c.reltuples > 0 AND c.relpages > 0
                THEN c.reltuples * (pg_relation_size(c.oid) / current_setting('block_size')::double precision) / c.relpages
                ELSE pg_relation_size(c.oid) / 300.0
            END
        )
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'nightlabel.outcome'::regclass
    );
BEGIN
    IF coalesce(present, 0) < 1000 OR present BETWEEN known / 1.33 AND known * 1.33 THEN
        RETURN false;
    END IF;
    ANALYZE nightlabel.outcome;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

CREATE FUNCTION nightlabel.count_deleted_labels() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    IF current_setting('nightlabel.keep_label_counts', true) = 'on' THEN
        RETURN NULL;
    END IF;
    INSERT INTO nightlabel.label_count_delta (day, model_id, labels, images, score_sums)
    SELECT day, model_id, array_agg(label), array_agg(-images), array_agg(-score_sum)
    FROM (
        SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, model_id, label,
            count(*) AS images, sum(score::double precision) AS score_sum
        FROM removed
        WHERE label IS NOT NULL
        GROUP BY 1, 2, 3
    ) AS counted
    GROUP BY day, model_id;
    RETURN NULL;
END
$$;

CREATE FUNCTION nightlabel.count_inserted_labels() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO nightlabel.label_count_delta (day, model_id, labels, images, score_sums)
    SELECT day, model_id, array_agg(label), array_agg(images), array_agg(score_sum)
    FROM (
        SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, model_id, label,
            count(*) AS images, sum(score::double precision) AS score_sum
        FROM added
        WHERE label IS NOT NULL
        GROUP BY 1, 2, 3
    ) AS counted
    GROUP BY day, model_id;
    RETURN NULL;
END
$$;

CREATE FUNCTION nightlabel.count_labels_of(ledger regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER count_inserted_labels AFTER INSERT ON %s REFERENCING NEW TABLE AS added'
        ' FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_inserted_labels()', ledger
    );
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER count_updated_labels AFTER UPDATE ON %s'
        ' REFERENCING OLD TABLE AS removed NEW TABLE AS added'
        ' FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_updated_labels()', ledger
    );
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER count_deleted_labels AFTER DELETE ON %s REFERENCING OLD TABLE AS removed'
        ' FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_deleted_labels()', ledger
    );
END
$$;

CREATE FUNCTION nightlabel.count_updated_labels() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM added) THEN
        RETURN NULL;  -- every batch may replace dead letters, and comes by here; few do
    END IF;
    INSERT INTO nightlabel.label_count_delta (day, model_id, labels, images, score_sums)
    SELECT day, model_id, array_agg(label), array_agg(images), array_agg(score_sum)
    FROM (
        SELECT day, model_id, label, sum(step) AS images, sum(step * score::double precision) AS score_sum
        FROM (
            SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, model_id, label, score, 1 AS step FROM added
            UNION ALL
            SELECT (recorded_at AT TIME ZONE 'UTC')::date, model_id, label, score, -1 FROM removed
        ) AS stepped
        WHERE label IS NOT NULL
        GROUP BY 1, 2, 3
    ) AS counted
    GROUP BY day, model_id;
    RETURN NULL;
END
$$;

CREATE FUNCTION nightlabel.drop_old_manifests(older_than interval) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    WITH old AS (
        SELECT c.run_id, c.plan_number, c.shard_number, c.chunk_number
        FROM nightlabel.manifest_chunk c
        JOIN nightlabel.run r ON r.run_id = c.run_id
        WHERE coalesce(r.finished_at, r.started_at) < now() - older_than
        LIMIT 1000
        FOR UPDATE OF c SKIP LOCKED
    ),
    dropped AS (
        DELETE FROM nightlabel.manifest_chunk c
        USING old
        WHERE c.run_id = old.run_id AND c.plan_number = old.plan_number AND c.shard_number = old.shard_number
            AND c.chunk_number = old.chunk_number
        RETURNING 1
    )
    SELECT count(*) FROM dropped
$$;

CREATE FUNCTION nightlabel.fold_label_counts() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('nightlabel.fold_label_counts', 0)) THEN
        RETURN 0;
    END IF;
    WITH taken AS (
        DELETE FROM nightlabel.label_count_delta
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM nightlabel.label_count_delta LIMIT 50000))
        RETURNING day, model_id, labels, images, score_sums
    ),
    summed AS (
        SELECT t.day, t.model_id, u.label, sum(u.images)::bigint AS images, sum(u.score_sum) AS score_sum
        FROM taken AS t CROSS JOIN LATERAL unnest(t.labels, t.images, t.score_sums) AS u (label, images, score_sum)
        GROUP BY t.day, t.model_id, u.label
    ),
    added AS (
        INSERT INTO nightlabel.label_count AS c (day, model_id, label, images, score_sum)
        SELECT day, model_id, label, images, score_sum FROM summed
        ON CONFLICT (day, model_id, label) DO UPDATE
        SET images = c.images + excluded.images, score_sum = c.score_sum + excluded.score_sum
    )
    SELECT count(*) INTO folded FROM taken;
    RETURN folded;
END
$$;

CREATE TABLE nightlabel.alembic_version (
    version_num character varying(32) NOT NULL
);

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

COMMENT ON COLUMN nightlabel.image.content_sha256 IS 'SHA-256 of the bytes, once they were read.';

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

COMMENT ON COLUMN nightlabel.model.files IS 'SHA-256 of each file, by its path in the model''s folder.';

COMMENT ON COLUMN nightlabel.model.label_map IS 'Per output column: [label id, label].';

COMMENT ON COLUMN nightlabel.model.artefacts IS 'Path of what each engine loads, by engine.';

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

CREATE TABLE nightlabel.object (
    bucket text NOT NULL COLLATE pg_catalog."C",
    object_key text NOT NULL COLLATE pg_catalog."C",
    image_id uuid NOT NULL,
    last_modified timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    gone_at timestamp with time zone
);

COMMENT ON TABLE nightlabel.object IS 'What each key holds now; a row is written only when a listing shows a change.';

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

COMMENT ON COLUMN nightlabel.outcome.retry_after IS 'When a retryable dead letter is tried again; null when it is permanent.';

COMMENT ON COLUMN nightlabel.outcome.decoder IS 'Of a dead letter of the decode stage: the decoder that gave up; another one tries it again.';

COMMENT ON COLUMN nightlabel.outcome.is_copied IS 'Whether the label was taken over from equal bytes under another key, and not computed.';

CREATE VIEW nightlabel.production_line AS
 SELECT model_id,
    row_number() OVER (ORDER BY (max(COALESCE(valid_to, 'infinity'::timestamp with time zone))) DESC, model_id DESC) AS rank
   FROM nightlabel.model_alias a
  WHERE (alias = 'production'::text)
  GROUP BY model_id;

COMMENT ON VIEW nightlabel.production_line IS 'Models that hold or ever held the alias production, best first.';

CREATE VIEW nightlabel.dead_letter_open AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    d.stage,
    d.error_code,
    d.message,
    d.attempts,
    (d.retry_after IS NULL) AS permanent,
    d.retry_after,
    m.name AS model_name,
    m.version AS model_version,
    d.run_id,
    d.recorded_at AS failed_at
   FROM ((((nightlabel.outcome d
     JOIN nightlabel.production_line p ON ((p.model_id = d.model_id)))
     JOIN nightlabel.object o ON ((o.image_id = d.image_id)))
     JOIN nightlabel.image i ON ((i.image_id = d.image_id)))
     JOIN nightlabel.model m ON ((m.model_id = d.model_id)))
  WHERE ((d.error_code IS NOT NULL) AND (o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.production_line b
             CROSS JOIN LATERAL ( SELECT
                   FROM nightlabel.outcome better
                  WHERE ((better.image_id = d.image_id) AND (better.model_id = b.model_id) AND ((better.label IS NOT NULL) OR (b.rank < p.rank)))
                 OFFSET 0) closing)))));

COMMENT ON VIEW nightlabel.dead_letter_open IS 'One row per existing object whose current version could not be labelled, with stage, code and reason.';

COMMENT ON COLUMN nightlabel.dead_letter_open.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';

COMMENT ON COLUMN nightlabel.dead_letter_open.retry_after IS 'From when the nightly run tries again; null when permanent.';

CREATE TABLE nightlabel.label_count (
    day date NOT NULL,
    model_id integer NOT NULL,
    label text NOT NULL,
    images bigint NOT NULL,
    score_sum double precision NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE nightlabel.label_count IS 'Labels recorded, by UTC day and model, but for what label_count_delta holds; label_daily adds both.';

COMMENT ON COLUMN nightlabel.label_count.score_sum IS 'In double precision, in which a sum of some million scores of single precision loses nothing.';

CREATE TABLE nightlabel.label_count_delta (
    day date NOT NULL,
    model_id integer NOT NULL,
    labels text[] NOT NULL,
    images bigint[] NOT NULL,
    score_sums double precision[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='20000');

COMMENT ON TABLE nightlabel.label_count_delta IS 'What was recorded and is not folded into label_count yet: one row a statement, day and model.';

COMMENT ON COLUMN nightlabel.label_count_delta.images IS 'Beside labels; negative for what was deleted or changed.';

CREATE VIEW nightlabel.label_daily AS
 SELECT counted.day,
    m.name AS model_name,
    m.version AS model_version,
    counted.label,
    counted.images,
    counted.mean_score
   FROM (( SELECT parts.day,
            parts.model_id,
            parts.label,
            (sum(parts.images))::bigint AS images,
            ((sum(parts.score_sum) / (NULLIF(sum(parts.images), (0)::numeric))::double precision))::real AS mean_score
           FROM ( SELECT label_count.day,
                    label_count.model_id,
                    label_count.label,
                    label_count.images,
                    label_count.score_sum
                   FROM nightlabel.label_count
                UNION ALL
                 SELECT d.day,
                    d.model_id,
                    u.label,
                    u.images,
                    u.score_sum
                   FROM (nightlabel.label_count_delta d
                     CROSS JOIN LATERAL UNNEST(d.labels, d.images, d.score_sums) u(label, images, score_sum))) parts
          GROUP BY parts.day, parts.model_id, parts.label
         HAVING (sum(parts.images) > (0)::numeric)) counted
     JOIN nightlabel.model m ON ((m.model_id = counted.model_id)));

COMMENT ON VIEW nightlabel.label_daily IS 'Images and mean score by UTC day, model version and label; each outcome counted once.';

CREATE VIEW nightlabel.latest_prediction AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    i.size_bytes,
    o.last_modified,
    c.label,
    c.label_id,
    c.score,
    c.top_labels,
    c.top_scores,
    m.name AS model_name,
    m.version AS model_version,
    c.engine,
    c.run_id,
    c.recorded_at AS predicted_at
   FROM ((((nightlabel.outcome c
     JOIN nightlabel.production_line p ON ((p.model_id = c.model_id)))
     JOIN nightlabel.object o ON ((o.image_id = c.image_id)))
     JOIN nightlabel.image i ON ((i.image_id = c.image_id)))
     JOIN nightlabel.model m ON ((m.model_id = c.model_id)))
  WHERE ((c.label IS NOT NULL) AND (o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.outcome better
             JOIN nightlabel.production_line b ON ((b.model_id = better.model_id)))
          WHERE ((better.image_id = c.image_id) AND (better.label IS NOT NULL) AND (b.rank < p.rank))))));

COMMENT ON VIEW nightlabel.latest_prediction IS 'One row per existing object: the label of its current version by the production model, else by the newest former one.';

COMMENT ON COLUMN nightlabel.latest_prediction.label_id IS 'Stable id of the label; label names may repeat, ids do not.';

COMMENT ON COLUMN nightlabel.latest_prediction.score IS 'Probability of the label, 0 to 1.';

COMMENT ON COLUMN nightlabel.latest_prediction.top_labels IS 'Best labels, best first, beside top_scores.';

COMMENT ON COLUMN nightlabel.latest_prediction.run_id IS 'The run that recorded it; see run_summary.';

CREATE TABLE nightlabel.listing (
    bucket text NOT NULL COLLATE pg_catalog."C",
    prefix text NOT NULL COLLATE pg_catalog."C",
    listed_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE nightlabel.listing IS 'The newest complete listing of each prefix; an older one that ends later changes nothing.';

COMMENT ON COLUMN nightlabel.listing.listed_at IS 'When it began.';

CREATE TABLE nightlabel.maintenance_position (
    step text NOT NULL,
    block bigint NOT NULL,
    stopped_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT maintenance_position_block_check CHECK ((block >= 0))
);

COMMENT ON TABLE nightlabel.maintenance_position IS 'Where a step of maintenance was when its time was up; the next one begins there. No row: at the beginning.';

COMMENT ON COLUMN nightlabel.maintenance_position.block IS 'Block of the table that the step reads.';

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

COMMENT ON COLUMN nightlabel.manifest_chunk.prior_attempts IS 'Attempts that the ledger held when planned; above 0 for a dead letter that is tried again.';

ALTER TABLE nightlabel.model ALTER COLUMN model_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME nightlabel.model_model_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

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

COMMENT ON COLUMN nightlabel.run.plan_number IS 'Grows when discovery is repeated; only shards of this plan count.';

COMMENT ON COLUMN nightlabel.run.carried_labelled IS 'Labels that the run recorded under former plans; likewise carried_dead.';

COMMENT ON COLUMN nightlabel.run.plan_attempt IS 'Fencing token of discovery: a plan of an older try of the task is refused.';

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

COMMENT ON COLUMN nightlabel.shard.attempt IS 'Fencing token: a write that carries another number is refused.';

COMMENT ON COLUMN nightlabel.shard.batches IS 'Batches that the present attempt has recorded; a batch is sent with its number and recorded once.';

COMMENT ON COLUMN nightlabel.shard.fetch_s IS 'Seconds added over the threads of the stage; likewise the other three.';

COMMENT ON COLUMN nightlabel.shard.ended_attempt IS 'The newest attempt that said that it ended; one that did not was killed, or its process died.';

COMMENT ON COLUMN nightlabel.shard.unclean_ends IS 'Attempts that ended without saying so.';

COMMENT ON COLUMN nightlabel.shard.in_flight IS 'Most refs without outcome that the present attempt may have begun: after an unclean end the first so many are suspects.';

COMMENT ON COLUMN nightlabel.shard.is_isolated IS 'Whether every image of the shard is decoded in a process apart, since one killed its decoder.';

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
            COALESCE(sum(shard.fetch_s ORDER BY shard.shard_number), (0)::real) AS fetch_s,
            COALESCE(sum(shard.decode_s ORDER BY shard.shard_number), (0)::real) AS decode_s,
            COALESCE(sum(shard.predict_s ORDER BY shard.shard_number), (0)::real) AS predict_s,
            COALESCE(sum(shard.write_s ORDER BY shard.shard_number), (0)::real) AS write_s
           FROM nightlabel.shard
          WHERE ((shard.run_id = r.run_id) AND (shard.plan_number = r.plan_number))) s);

COMMENT ON VIEW nightlabel.run_summary IS 'One row per run; discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished.';

COMMENT ON COLUMN nightlabel.run_summary.already_done IS 'Objects whose current version had an outcome before the run.';

COMMENT ON COLUMN nightlabel.run_summary.deferred IS 'Left for a later run by max_images or the time budget.';

COMMENT ON COLUMN nightlabel.run_summary.labelled IS 'Labels recorded by this run, the copied ones included.';

COMMENT ON COLUMN nightlabel.run_summary.copied IS 'Labels taken over from equal content instead of computed.';

COMMENT ON COLUMN nightlabel.run_summary.gone IS 'Deleted or overwritten between listing and reading; the next run finds what is there.';

COMMENT ON COLUMN nightlabel.run_summary.done_elsewhere IS 'Recorded first by another run.';

COMMENT ON COLUMN nightlabel.run_summary.unfinished IS 'In shards that ran out of retries; zero in a successful run.';

CREATE TABLE nightlabel.schema_compatibility (
    revision text NOT NULL,
    oldest_code text NOT NULL,
    CONSTRAINT schema_compatibility_check CHECK ((oldest_code <= revision))
);

COMMENT ON TABLE nightlabel.schema_compatibility IS 'Which code may work on each revision of the schema, as its migration says; code of a newer revision migrates first.';

COMMENT ON COLUMN nightlabel.schema_compatibility.oldest_code IS 'The oldest revision whose code reads and writes this one correctly.';

ALTER TABLE ONLY nightlabel.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY nightlabel.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (image_id);

ALTER TABLE ONLY nightlabel.label_count
    ADD CONSTRAINT label_count_pkey PRIMARY KEY (day, model_id, label);

ALTER TABLE ONLY nightlabel.listing
    ADD CONSTRAINT listing_pkey PRIMARY KEY (bucket, prefix);

ALTER TABLE ONLY nightlabel.maintenance_position
    ADD CONSTRAINT maintenance_position_pkey PRIMARY KEY (step);

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

ALTER TABLE ONLY nightlabel.schema_compatibility
    ADD CONSTRAINT schema_compatibility_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY nightlabel.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (run_id, plan_number, shard_number);

CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;

CREATE UNIQUE INDEX model_alias_current ON nightlabel.model_alias USING btree (alias) WHERE (valid_to IS NULL);

CREATE INDEX object_image_id ON nightlabel.object USING btree (image_id);

CREATE INDEX outcome_dead_letter ON ONLY nightlabel.outcome USING btree (recorded_at DESC) WHERE (error_code IS NOT NULL);

CREATE INDEX outcome_label ON ONLY nightlabel.outcome USING btree (label, recorded_at DESC) WHERE (label IS NOT NULL);

CREATE INDEX run_started_at ON nightlabel.run USING btree (started_at);

CREATE TRIGGER count_deleted_labels AFTER DELETE ON nightlabel.outcome REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_deleted_labels();

CREATE TRIGGER count_inserted_labels AFTER INSERT ON nightlabel.outcome REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_inserted_labels();

CREATE TRIGGER count_updated_labels AFTER UPDATE ON nightlabel.outcome REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_updated_labels();

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

REVOKE ALL ON FUNCTION nightlabel.analyze_ledger() FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.analyze_ledger() TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.count_deleted_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_inserted_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_labels_of(ledger regclass) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_updated_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.fold_label_counts() FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.fold_label_counts() TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.alembic_version TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.image TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.model TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.model_alias TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.object TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.outcome TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.production_line TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_count TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_count_delta TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.listing TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.maintenance_position TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.manifest_chunk TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.shard TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.schema_compatibility TO nightlabel_writer;
