-- 0008: forgetting, for erasure requests: a table that says what was forgotten, and the functions that do it. Nothing of
-- what is there changes, and older code runs on.
--
-- What begins with the prefix is found once and then taken out in small transactions; each of them looks again at what
-- it is given, and what was cut short goes on when it is called again. A ref of a manifest is not taken out but replaced
-- by one of an object that is not there, so that a shard that is tried again counts it as gone and its books balance.

CREATE TABLE nightlabel.forgetting (
    forgetting_id    uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    bucket           text         NOT NULL COLLATE "C",
    prefix_sha256    bytea        NOT NULL CHECK (length(prefix_sha256) = 32),
    is_whole_bucket  boolean      NOT NULL,
    reason           text         NOT NULL,
    requested_by     text         NOT NULL DEFAULT session_user,
    started_at       timestamptz  NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    images           bigint       NOT NULL DEFAULT 0 CHECK (images >= 0),
    objects          bigint       NOT NULL DEFAULT 0 CHECK (objects >= 0),
    outcomes         bigint       NOT NULL DEFAULT 0 CHECK (outcomes >= 0),
    manifest_refs    bigint       NOT NULL DEFAULT 0 CHECK (manifest_refs >= 0),
    listings         bigint       NOT NULL DEFAULT 0 CHECK (listings >= 0),
    runs             bigint       NOT NULL DEFAULT 0 CHECK (runs >= 0)
);
CREATE UNIQUE INDEX forgetting_unfinished ON nightlabel.forgetting (bucket, prefix_sha256) WHERE finished_at IS NULL;
COMMENT ON TABLE nightlabel.forgetting IS 'Every erasure: who asked for it, when and why, and how many rows it took; nothing of what was erased.';
COMMENT ON COLUMN nightlabel.forgetting.forgetting_id IS 'Its own id.';
COMMENT ON COLUMN nightlabel.forgetting.bucket IS 'Name of the bucket.';
COMMENT ON COLUMN nightlabel.forgetting.is_whole_bucket IS 'Whether every object of the bucket was meant: its prefix was empty.';
COMMENT ON COLUMN nightlabel.forgetting.reason IS 'Why, in the words of who asked; empty if they gave none.';
COMMENT ON COLUMN nightlabel.forgetting.started_at IS 'When it was asked for.';
COMMENT ON COLUMN nightlabel.forgetting.prefix_sha256 IS 'SHA-256 of the prefix in UTF-8: a prefix may itself say who somebody is, so only who knows it can find its row.';
COMMENT ON COLUMN nightlabel.forgetting.requested_by IS 'The login that asked for it.';
COMMENT ON COLUMN nightlabel.forgetting.finished_at IS 'When nothing was left; null while it is under way, or after it was cut short.';
COMMENT ON COLUMN nightlabel.forgetting.images IS 'Image versions that were deleted.';
COMMENT ON COLUMN nightlabel.forgetting.objects IS 'Keys that were deleted.';
COMMENT ON COLUMN nightlabel.forgetting.outcomes IS 'Labels and dead letters that were deleted, by every model.';
COMMENT ON COLUMN nightlabel.forgetting.manifest_refs IS 'Refs of manifests that were replaced by one of an object that is not there.';
COMMENT ON COLUMN nightlabel.forgetting.listings IS 'Listings of prefixes within this one that were deleted.';
COMMENT ON COLUMN nightlabel.forgetting.runs IS 'Runs whose prefix, or address of a manifest, was taken out.';

-- Every version of the objects. Keys are not indexed in `image`, so this reads the table once; it locks nothing.
CREATE FUNCTION nightlabel.forgettable_images(wanted_bucket text, wanted_prefix text) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT image_id FROM nightlabel.image WHERE bucket = wanted_bucket AND object_key ^@ wanted_prefix
$$;

-- Tables of outcomes that are in the schema and no whole part of the ledger: maintenance is taking one out, or somebody
-- has. Whoever deletes from the ledger does not reach them.
CREATE FUNCTION nightlabel.outcomes_detached() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT c.relname::text
    FROM pg_class AS c
    WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p', 'f') AND c.relname ^@ 'outcome_model_'
        AND NOT EXISTS (
            SELECT FROM pg_inherits AS i
            WHERE i.inhrelid = c.oid AND i.inhparent = 'nightlabel.outcome'::regclass AND NOT i.inhdetachpending
        )
    ORDER BY c.relname
$$;

-- The chunks of manifests that name one of the objects.
CREATE FUNCTION nightlabel.forgettable_chunks(wanted_bucket text, wanted_prefix text)
    RETURNS TABLE (run_id uuid, plan_number integer, shard_number integer, chunk_number integer, refs bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT c.run_id, c.plan_number, c.shard_number, c.chunk_number, named.refs
    FROM nightlabel.manifest_chunk AS c
    CROSS JOIN LATERAL (
        SELECT count(*) AS refs
        FROM unnest(c.object_key, c.etag) AS ref (object_key, etag)
        WHERE ref.object_key ^@ wanted_prefix AND ref.etag <> '(forgotten)'
    ) AS named
    WHERE c.bucket = wanted_bucket AND named.refs > 0
$$;

-- Runs that are at work on one of the objects: what they have in hand would be recorded after it was forgotten. A shard
-- that has not been heard of for a quarter of an hour is taken for dead; one that is not begun yet does no harm.
CREATE FUNCTION nightlabel.runs_at_work(wanted_bucket text, wanted_prefix text) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT DISTINCT r.run_id
    FROM nightlabel.run AS r
    JOIN nightlabel.shard AS s ON s.run_id = r.run_id AND s.plan_number = r.plan_number
    JOIN nightlabel.manifest_chunk AS c
        ON c.run_id = s.run_id AND c.plan_number = s.plan_number AND c.shard_number = s.shard_number
    WHERE r.bucket = wanted_bucket AND r.state IN ('planned', 'running')
        AND s.state = 'running' AND s.heartbeat_at > now() - interval '15 minutes'
        AND EXISTS (SELECT FROM unnest(c.object_key) AS ref (object_key) WHERE ref.object_key ^@ wanted_prefix)
$$;

-- What would be forgotten, in rows of each kind, and some of the keys.
CREATE FUNCTION nightlabel.count_forgettable(
    wanted_bucket text, wanted_prefix text,
    OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint,
    OUT runs bigint, OUT examples text[]
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    WITH found AS MATERIALIZED (
        SELECT f.image_id FROM nightlabel.forgettable_images(wanted_bucket, wanted_prefix) AS f (image_id)
    )
    SELECT
        (SELECT count(*) FROM found),
        (SELECT count(*) FROM nightlabel.object AS o WHERE o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix),
        (SELECT count(*) FROM found JOIN nightlabel.outcome AS o USING (image_id)),
        (SELECT coalesce(sum(c.refs), 0)::bigint FROM nightlabel.forgettable_chunks(wanted_bucket, wanted_prefix) AS c),
        (
            SELECT count(*) FROM nightlabel.listing AS l
            WHERE l.bucket = wanted_bucket AND l.prefix ^@ wanted_prefix AND l.prefix <> ''
        ),
        (
            SELECT count(*) FROM nightlabel.run AS r
            WHERE r.bucket = wanted_bucket AND r.prefix ^@ wanted_prefix AND r.prefix NOT IN ('', '(forgotten)')
                OR (r.parameters ->> 'manifest') ^@ ('s3://' || wanted_bucket || '/' || wanted_prefix)
                OR (r.parameters ->> 'inventory') ^@ ('s3://' || wanted_bucket || '/' || wanted_prefix)
        ),
        ARRAY(
            SELECT o.object_key::text FROM nightlabel.object AS o
            WHERE o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix
            ORDER BY o.object_key LIMIT 5
        )
$$;

-- Begin a forgetting, or go on with the one of this prefix that was cut short.
CREATE FUNCTION nightlabel.begin_forgetting(wanted_bucket text, wanted_prefix text, why text) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    INSERT INTO nightlabel.forgetting AS f (bucket, prefix_sha256, is_whole_bucket, reason)
    VALUES (wanted_bucket, sha256(convert_to(wanted_prefix, 'UTF8')), wanted_prefix = '', why)
    ON CONFLICT (bucket, prefix_sha256) WHERE finished_at IS NULL DO UPDATE
    SET reason = CASE WHEN excluded.reason = '' THEN f.reason ELSE excluded.reason END
    RETURNING forgetting_id
$$;

-- Replace the refs of the objects in one chunk of a manifest. Returns whether that was done: not while a run is at work on
-- the shard. An attempt at it that nobody waits for any more, should it still live, can write no more.
CREATE FUNCTION nightlabel.forget_in_chunk(
    id uuid, wanted_bucket text, wanted_prefix text,
    in_run uuid, in_plan integer, in_shard integer, in_chunk integer
) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    is_at_work boolean;
BEGIN
    -- Whoever claims the shard waits here, and finds the refs replaced.
    SELECT r.state IN ('planned', 'running') AND s.plan_number = r.plan_number
        AND s.state = 'running' AND s.heartbeat_at > now() - interval '15 minutes'
    INTO is_at_work
    FROM nightlabel.shard AS s JOIN nightlabel.run AS r USING (run_id)
    WHERE s.run_id = in_run AND s.plan_number = in_plan AND s.shard_number = in_shard
    FOR UPDATE OF s;
    IF is_at_work THEN
        RETURN false;
    END IF;
    UPDATE nightlabel.shard AS s
    SET attempt = s.attempt + 1,
        ended_attempt = CASE WHEN s.ended_attempt = s.attempt THEN s.attempt + 1 ELSE s.ended_attempt END
    WHERE s.run_id = in_run AND s.plan_number = in_plan AND s.shard_number = in_shard AND s.state = 'running';
    WITH ref AS (
        SELECT
            u.place, u.prior_attempts, is_named,
            CASE WHEN is_named THEN nobody.image_id ELSE u.image_id END AS image_id,
            CASE WHEN is_named THEN nobody.object_key ELSE u.object_key END AS object_key,
            CASE WHEN is_named THEN '(forgotten)' ELSE u.etag END AS etag,
            CASE WHEN is_named THEN 1 ELSE u.size_bytes END AS size_bytes
        FROM nightlabel.manifest_chunk AS c
        CROSS JOIN LATERAL unnest(c.image_id, c.object_key, c.etag, c.size_bytes, c.prior_attempts)
            WITH ORDINALITY AS u (image_id, object_key, etag, size_bytes, prior_attempts, place)
        CROSS JOIN LATERAL (
            SELECT u.object_key ^@ wanted_prefix AND u.etag <> '(forgotten)' AS is_named,
                'nightlabel-forgotten/' || gen_random_uuid() AS object_key
        ) AS made
        CROSS JOIN LATERAL (
            SELECT made.object_key, encode(substr(sha256(
                convert_to(c.bucket, 'UTF8') || '\x00'::bytea || convert_to(made.object_key, 'UTF8')
                || '\x00'::bytea || convert_to('(forgotten)', 'UTF8')
            ), 1, 16), 'hex')::uuid AS image_id
        ) AS nobody
        WHERE c.run_id = in_run AND c.plan_number = in_plan AND c.shard_number = in_shard
            AND c.chunk_number = in_chunk AND c.bucket = wanted_bucket
    ),
    made AS (
        SELECT
            array_agg(image_id ORDER BY place) AS image_id, array_agg(object_key ORDER BY place) AS object_key,
            array_agg(etag ORDER BY place) AS etag, array_agg(size_bytes ORDER BY place) AS size_bytes,
            count(*) FILTER (WHERE is_named) AS refs
        FROM ref
    ),
    replaced AS (
        UPDATE nightlabel.manifest_chunk AS c
        SET image_id = made.image_id, object_key = made.object_key, etag = made.etag, size_bytes = made.size_bytes
        FROM made
        WHERE made.refs > 0
            AND c.run_id = in_run AND c.plan_number = in_plan AND c.shard_number = in_shard AND c.chunk_number = in_chunk
        RETURNING made.refs
    )
    UPDATE nightlabel.forgetting AS f
    SET manifest_refs = f.manifest_refs + replaced.refs
    FROM replaced
    WHERE f.forgetting_id = id;
    RETURN true;
END
$$;

-- Delete some image versions with every outcome of theirs, and the objects that hold them; those of other objects stay.
CREATE FUNCTION nightlabel.forget_images(id uuid, wanted_bucket text, wanted_prefix text, image_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    wanted uuid[];
    deleted_outcomes bigint;
    deleted_objects bigint;
    deleted_images bigint;
BEGIN
    -- One discovery of a bucket at a time notes objects, and none while some are taken away.
    PERFORM pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || wanted_bucket, 0));
    wanted := ARRAY(
        SELECT i.image_id FROM nightlabel.image AS i
        WHERE i.image_id = ANY(image_ids) AND i.bucket = wanted_bucket AND i.object_key ^@ wanted_prefix
        ORDER BY i.image_id
    );
    DELETE FROM nightlabel.outcome AS o WHERE o.image_id = ANY(wanted);
    GET DIAGNOSTICS deleted_outcomes = ROW_COUNT;
    DELETE FROM nightlabel.object AS o
    WHERE o.image_id = ANY(wanted) AND o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix;
    GET DIAGNOSTICS deleted_objects = ROW_COUNT;
    DELETE FROM nightlabel.image AS i WHERE i.image_id = ANY(wanted);
    GET DIAGNOSTICS deleted_images = ROW_COUNT;
    UPDATE nightlabel.forgetting AS f
    SET outcomes = f.outcomes + deleted_outcomes, objects = f.objects + deleted_objects,
        images = f.images + deleted_images
    WHERE f.forgetting_id = id;
    RETURN deleted_images;
END
$$;

-- Take the names themselves out of what else holds them: listings of prefixes within this one, and what runs were asked.
CREATE FUNCTION nightlabel.forget_names(id uuid, wanted_bucket text, wanted_prefix text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    deleted_objects bigint;
    deleted_listings bigint;
    changed_runs bigint;
    address text := 's3://' || wanted_bucket || '/' || wanted_prefix;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || wanted_bucket, 0));
    DELETE FROM nightlabel.object AS o
    WHERE o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix
        AND NOT EXISTS (SELECT FROM nightlabel.image AS i WHERE i.image_id = o.image_id);
    GET DIAGNOSTICS deleted_objects = ROW_COUNT;
    DELETE FROM nightlabel.listing AS l
    WHERE l.bucket = wanted_bucket AND l.prefix ^@ wanted_prefix AND l.prefix <> '';
    GET DIAGNOSTICS deleted_listings = ROW_COUNT;
    UPDATE nightlabel.run AS r
    SET prefix = CASE
            WHEN r.bucket = wanted_bucket AND r.prefix ^@ wanted_prefix AND r.prefix <> '' THEN '(forgotten)'
            ELSE r.prefix
        END,
        parameters = r.parameters
            || CASE WHEN (r.parameters ->> 'manifest') ^@ address THEN '{"manifest": "(forgotten)"}' ELSE '{}' END::jsonb
            || CASE WHEN (r.parameters ->> 'inventory') ^@ address THEN '{"inventory": "(forgotten)"}' ELSE '{}' END::jsonb
    WHERE r.bucket = wanted_bucket AND r.prefix ^@ wanted_prefix AND r.prefix NOT IN ('', '(forgotten)')
        OR (r.parameters ->> 'manifest') ^@ address
        OR (r.parameters ->> 'inventory') ^@ address;
    GET DIAGNOSTICS changed_runs = ROW_COUNT;
    UPDATE nightlabel.forgetting AS f
    SET objects = f.objects + deleted_objects, listings = f.listings + deleted_listings, runs = f.runs + changed_runs
    WHERE f.forgetting_id = id;
END
$$;

-- Say that nothing is left, if so; not while a table of outcomes is out of reach. The planner's statistics hold samples
-- of the columns: they are made anew.
CREATE FUNCTION nightlabel.finish_forgetting(id uuid, wanted_bucket text, wanted_prefix text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    about record;
BEGIN
    IF EXISTS (
        SELECT FROM nightlabel.count_forgettable(wanted_bucket, wanted_prefix) AS c
        WHERE c.images + c.objects + c.outcomes + c.manifest_refs + c.listings + c.runs > 0
    ) THEN
        RETURN false;
    END IF;
    -- A statement of its own, after the other: it sees what has left the ledger while that one counted.
    IF EXISTS (SELECT FROM nightlabel.outcomes_detached()) THEN
        RETURN false;
    END IF;
    -- ANALYZE leaves those of a table that has become empty as they were; from Postgres 18 on they can be dropped, before
    -- it they stay until there are rows again.
    IF to_regproc('pg_catalog.pg_clear_attribute_stats') IS NOT NULL THEN
        FOR about IN
            SELECT s.schemaname, s.tablename, s.attname, s.inherited FROM pg_stats AS s WHERE s.schemaname = 'nightlabel'
        LOOP
            EXECUTE format(
                'SELECT pg_catalog.pg_clear_attribute_stats(%L, %L, %L, %L)',
                about.schemaname, about.tablename, about.attname, about.inherited
            );
        END LOOP;
    END IF;
    FOR about IN
        SELECT c.oid::regclass AS name FROM pg_class AS c
        WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        ORDER BY c.relname
    LOOP
        EXECUTE format('ANALYZE %s', about.name);
    END LOOP;
    UPDATE nightlabel.forgetting AS f SET finished_at = now() WHERE f.forgetting_id = id;
    RETURN true;
END
$$;

-- What a forgetting has taken so far, in the words of count_forgettable.
CREATE FUNCTION nightlabel.forgotten(
    id uuid,
    OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint,
    OUT runs bigint
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT f.images, f.objects, f.outcomes, f.manifest_refs, f.listings, f.runs
    FROM nightlabel.forgetting AS f WHERE f.forgetting_id = id
$$;

REVOKE ALL ON FUNCTION
    nightlabel.forgettable_images(text, text), nightlabel.outcomes_detached(),
    nightlabel.forgettable_chunks(text, text), nightlabel.runs_at_work(text, text),
    nightlabel.count_forgettable(text, text), nightlabel.begin_forgetting(text, text, text),
    nightlabel.forget_in_chunk(uuid, text, text, uuid, integer, integer, integer),
    nightlabel.forget_images(uuid, text, text, uuid[]), nightlabel.forget_names(uuid, text, text),
    nightlabel.finish_forgetting(uuid, text, text), nightlabel.forgotten(uuid)
    FROM PUBLIC;
