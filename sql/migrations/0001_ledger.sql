-- 0001: image versions, objects, models, the ledger of outcomes, runs with their shards and manifests.
-- Forward only. Keys are compared byte by byte (COLLATE "C"), as the object store compares them.

CREATE TABLE nightlabel.image (
    image_id        uuid        PRIMARY KEY,
    bucket          text        NOT NULL COLLATE "C",
    object_key      text        NOT NULL COLLATE "C",
    etag            text        NOT NULL,
    size_bytes      bigint      NOT NULL CHECK (size_bytes >= 0),
    last_modified   timestamptz NOT NULL,
    content_sha256  bytea       CHECK (length(content_sha256) = 32),
    first_seen_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  nightlabel.image IS 'Every object version ever seen: what a key held under one ETag.';
COMMENT ON COLUMN nightlabel.image.image_id IS 'First 16 bytes of SHA-256 over bucket, 0x00, key, 0x00, ETag without quotes.';
COMMENT ON COLUMN nightlabel.image.content_sha256 IS 'SHA-256 of the bytes, once they were read.';

CREATE TABLE nightlabel.object (
    bucket         text        NOT NULL COLLATE "C",
    object_key     text        NOT NULL COLLATE "C",
    image_id       uuid        NOT NULL,
    last_modified  timestamptz NOT NULL,
    changed_at     timestamptz NOT NULL,
    gone_at        timestamptz,
    PRIMARY KEY (bucket, object_key)
);
CREATE INDEX object_image_id ON nightlabel.object (image_id);
COMMENT ON TABLE  nightlabel.object IS 'What each key holds now; a row is written only when a listing shows a change.';
COMMENT ON COLUMN nightlabel.object.changed_at IS 'Start of the listing that showed the change.';
COMMENT ON COLUMN nightlabel.object.gone_at IS 'Start of the complete listing that no longer showed the key.';

CREATE TABLE nightlabel.listing (
    bucket     text        NOT NULL COLLATE "C",
    prefix     text        NOT NULL COLLATE "C",
    listed_at  timestamptz NOT NULL,
    PRIMARY KEY (bucket, prefix)
);
COMMENT ON TABLE  nightlabel.listing IS 'The newest complete listing of each prefix; an older one that ends later changes nothing.';
COMMENT ON COLUMN nightlabel.listing.listed_at IS 'When it began.';

CREATE TABLE nightlabel.model (
    model_id       integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text        NOT NULL,
    version        text        NOT NULL,
    source         text        NOT NULL,
    licence        text        NOT NULL,
    files          jsonb       NOT NULL,
    label_map      jsonb       NOT NULL,
    preprocessing  jsonb       NOT NULL,
    artefacts      jsonb       NOT NULL,
    registered_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, version)
);
COMMENT ON TABLE  nightlabel.model IS 'Model versions, each exact enough to reproduce its labels.';
COMMENT ON COLUMN nightlabel.model.files IS 'SHA-256 of each file, by its path in the model''s folder.';
COMMENT ON COLUMN nightlabel.model.label_map IS 'Per output column: [label id, label].';
COMMENT ON COLUMN nightlabel.model.artefacts IS 'Path of what each engine loads, by engine.';

CREATE TABLE nightlabel.model_alias (
    alias       text        NOT NULL,
    model_id    integer     NOT NULL REFERENCES nightlabel.model,
    valid_from  timestamptz NOT NULL DEFAULT now(),
    valid_to    timestamptz,
    changed_by  text        NOT NULL DEFAULT session_user,
    reason      text        NOT NULL,
    PRIMARY KEY (alias, valid_from),
    CHECK (valid_to >= valid_from)
);
CREATE UNIQUE INDEX model_alias_current ON nightlabel.model_alias (alias) WHERE valid_to IS NULL;
COMMENT ON TABLE nightlabel.model_alias IS 'Which model each alias names, with its history; the row without valid_to holds now.';

CREATE TABLE nightlabel.outcome (
    image_id      uuid        NOT NULL,
    model_id      integer     NOT NULL,
    label         text,
    label_id      text,
    score         real        CHECK (score BETWEEN 0 AND 1),
    top_labels    text[],
    top_scores    real[],
    stage         text        CHECK (stage IN ('list', 'plan', 'fetch', 'decode', 'batch', 'predict', 'write')),
    error_code    text,
    message       text,
    attempts      integer     NOT NULL DEFAULT 1 CHECK (attempts >= 1),
    retry_after   timestamptz,
    engine        text,
    run_id        uuid        NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (image_id, model_id),
    CONSTRAINT outcome_is_label_or_error CHECK (
        (num_nonnulls(label, label_id, score, top_labels, top_scores, engine) = 6
            AND num_nonnulls(stage, error_code, message, retry_after) = 0
            AND cardinality(top_labels) = cardinality(top_scores))
        OR (num_nonnulls(label, label_id, score, top_labels, top_scores) = 0
            AND num_nonnulls(stage, error_code, message) = 3)
    )
) PARTITION BY LIST (model_id);
-- No foreign keys: the ledger's rows are written by the thousand, and image and model rows are never deleted under them.
COMMENT ON TABLE  nightlabel.outcome IS 'The ledger: one row per image version and model version, either a label or an error.';
COMMENT ON COLUMN nightlabel.outcome.retry_after IS 'When a retryable dead letter is tried again; null when it is permanent.';

CREATE TABLE nightlabel.run (
    run_id                uuid        PRIMARY KEY,
    dag_id                text        NOT NULL,
    airflow_run_id        text,
    bucket                text        NOT NULL COLLATE "C",
    prefix                text        NOT NULL COLLATE "C",
    parameters            jsonb       NOT NULL,
    model_id              integer     NOT NULL REFERENCES nightlabel.model,
    plan_number           integer     NOT NULL DEFAULT 1,
    state                 text        NOT NULL CHECK (state IN ('planned', 'running', 'succeeded', 'failed')),
    message               text,
    started_at            timestamptz NOT NULL DEFAULT now(),
    finished_at           timestamptz,
    max_dead_ratio        double precision NOT NULL CHECK (max_dead_ratio BETWEEN 0 AND 1),
    min_images_for_ratio  integer     NOT NULL CHECK (min_images_for_ratio >= 0),
    discovered            bigint      NOT NULL CHECK (discovered >= 0),
    already_done          bigint      NOT NULL CHECK (already_done >= 0),
    deferred              bigint      NOT NULL CHECK (deferred >= 0),
    carried_labelled      bigint      NOT NULL DEFAULT 0 CHECK (carried_labelled >= 0),
    carried_dead          bigint      NOT NULL DEFAULT 0 CHECK (carried_dead >= 0),
    list_s                real        NOT NULL DEFAULT 0,
    UNIQUE (dag_id, airflow_run_id)
);
CREATE INDEX run_started_at ON nightlabel.run (started_at);
COMMENT ON TABLE  nightlabel.run IS 'One execution, however started; command line and REST runs have a dag_id of their own.';
COMMENT ON COLUMN nightlabel.run.plan_number IS 'Grows when discovery is repeated; only shards of this plan count.';
COMMENT ON COLUMN nightlabel.run.carried_labelled IS 'Labels that the run recorded under former plans; likewise carried_dead.';

CREATE TABLE nightlabel.shard (
    run_id          uuid        NOT NULL REFERENCES nightlabel.run,
    plan_number     integer     NOT NULL,
    shard_number    integer     NOT NULL CHECK (shard_number >= 0),
    device          text        NOT NULL CHECK (device IN ('cpu', 'gpu')),
    state           text        NOT NULL CHECK (state IN ('planned', 'running', 'done', 'superseded')),
    attempt         integer     NOT NULL DEFAULT 0,
    batches         integer     NOT NULL DEFAULT 0,
    images          bigint      NOT NULL CHECK (images > 0),
    labelled        bigint      NOT NULL DEFAULT 0,
    copied          bigint      NOT NULL DEFAULT 0,
    dead            bigint      NOT NULL DEFAULT 0,
    gone            bigint      NOT NULL DEFAULT 0,
    done_elsewhere  bigint      NOT NULL DEFAULT 0,
    fetch_s         real        NOT NULL DEFAULT 0,
    decode_s        real        NOT NULL DEFAULT 0,
    predict_s       real        NOT NULL DEFAULT 0,
    write_s         real        NOT NULL DEFAULT 0,
    started_at      timestamptz,
    heartbeat_at    timestamptz,
    finished_at     timestamptz,
    PRIMARY KEY (run_id, plan_number, shard_number),
    CONSTRAINT shard_counts_are_within_images CHECK (
        labelled >= 0 AND dead >= 0 AND gone >= 0 AND done_elsewhere >= 0 AND copied BETWEEN 0 AND labelled
        AND labelled + dead + gone + done_elsewhere <= images
    )
) WITH (fillfactor = 50);  -- updated once a batch: room for the new version on the same page keeps the index out of it
COMMENT ON TABLE  nightlabel.shard IS 'A slice of a run''s manifest: unit of a task and of a retry; counts are added by the batches'' transactions.';
COMMENT ON COLUMN nightlabel.shard.attempt IS 'Fencing token: a write that carries another number is refused.';
COMMENT ON COLUMN nightlabel.shard.batches IS 'Batches that the present attempt has recorded; a batch is sent with its number and recorded once.';
COMMENT ON COLUMN nightlabel.shard.fetch_s IS 'Seconds added over the threads of the stage; likewise the other three.';

CREATE TABLE nightlabel.manifest_chunk (
    run_id          uuid      NOT NULL,
    plan_number     integer   NOT NULL,
    shard_number    integer   NOT NULL,
    chunk_number    integer   NOT NULL,
    bucket          text      NOT NULL,
    image_id        uuid[]    NOT NULL,
    object_key      text[]    NOT NULL,
    etag            text[]    NOT NULL,
    size_bytes      bigint[]  NOT NULL,
    prior_attempts  integer[] NOT NULL,
    PRIMARY KEY (run_id, plan_number, shard_number, chunk_number),
    CHECK (cardinality(image_id) BETWEEN 1 AND 1000)
);
COMMENT ON TABLE  nightlabel.manifest_chunk IS 'The ordered image refs of a shard, at most 1,000 a row; dropped some days after the run.';
COMMENT ON COLUMN nightlabel.manifest_chunk.prior_attempts IS 'Attempts that the ledger held when planned; above 0 for a dead letter that is tried again.';

-- Registering a model needs a partition, and workers may run no DDL: this function owns that one right.
CREATE FUNCTION nightlabel.add_outcome_partition(new_model_id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
REVOKE ALL ON FUNCTION nightlabel.add_outcome_partition(integer) FROM PUBLIC;

-- Manifests are the only rows that are dropped in daily work, and workers may delete nothing: likewise.
CREATE FUNCTION nightlabel.drop_old_manifests(older_than interval) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
    WITH dropped AS (
        DELETE FROM nightlabel.manifest_chunk c
        USING nightlabel.run r
        WHERE c.run_id = r.run_id AND coalesce(r.finished_at, r.started_at) < now() - older_than
        RETURNING 1
    )
    SELECT count(*) FROM dropped
$$;
REVOKE ALL ON FUNCTION nightlabel.drop_old_manifests(interval) FROM PUBLIC;
