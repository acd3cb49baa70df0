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
    WITH old AS (
        SELECT c.run_id, c.plan_number, c.shard_number, c.chunk_number
        FROM nightlabel.manifest_chunk c
        JOIN nightlabel.run r ON r.run_id = c.run_id
        WHERE r.state IN ('succeeded', 'failed') AND r.finished_at < now() - older_than
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

COMMENT ON COLUMN nightlabel.dead_letter_open.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';

COMMENT ON COLUMN nightlabel.dead_letter_open.retry_after IS 'From when the nightly run tries again; null when permanent.';

CREATE TABLE nightlabel.dropped_model (
    model_id integer NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL,
    dropped_by text DEFAULT SESSION_USER NOT NULL,
    outcomes bigint NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT dropped_model_outcomes_check CHECK ((outcomes >= 0))
);

COMMENT ON TABLE nightlabel.dropped_model IS 'Models whose outcomes were dropped as a whole, by whom and how many; the model stays registered and may get new ones.';

COMMENT ON COLUMN nightlabel.dropped_model.ended_at IS 'Null while it is under way, or after it was interrupted: the next maintenance brings it to its end.';

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

CREATE TABLE nightlabel.view_file (
    name text NOT NULL,
    sha256 text NOT NULL
);

COMMENT ON TABLE nightlabel.view_file IS 'The file that each view was made of last, by its SHA-256: one that is the same is not made again, which would wait for its readers.';

ALTER TABLE ONLY nightlabel.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY nightlabel.dropped_model
    ADD CONSTRAINT dropped_model_pkey PRIMARY KEY (model_id, dropped_at);

ALTER TABLE ONLY nightlabel.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (image_id);

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

ALTER TABLE ONLY nightlabel.view_file
    ADD CONSTRAINT view_file_pkey PRIMARY KEY (name);

CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;

CREATE UNIQUE INDEX model_alias_current ON nightlabel.model_alias USING btree (alias) WHERE (valid_to IS NULL);

CREATE INDEX object_image_id ON nightlabel.object USING btree (image_id);

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

GRANT SELECT ON TABLE nightlabel.dropped_model TO nightlabel_writer;

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

GRANT SELECT ON TABLE nightlabel.view_file TO nightlabel_writer;
