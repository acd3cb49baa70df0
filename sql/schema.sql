-- The schema as the migrations and views make it, for reading; `make schema` writes it and a test compares.
-- Change sql/migrations and sql/views, never this file.

CREATE SCHEMA nightlabel;

COMMENT ON SCHEMA nightlabel IS 'Nightlabel: labels of images, one outcome per image version and model version. Read the views; the tables are internal.';

CREATE FUNCTION nightlabel.add_outcome_partition(new_model_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    partition text := format('nightlabel.%I', 'outcome_model_' || new_model_id);
BEGIN
    IF NOT EXISTS (SELECT FROM nightlabel.model WHERE model_id = new_model_id) THEN
        RAISE EXCEPTION 'model % is not registered', new_model_id;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(partition, 0));
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE nightlabel.outcome INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
    EXECUTE format('ALTER TABLE nightlabel.outcome ATTACH PARTITION %s FOR VALUES IN (%L)', partition, new_model_id);
    PERFORM nightlabel.count_labels_of(partition::regclass);
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

CREATE FUNCTION nightlabel.count_forgettable(wanted_bucket text, wanted_prefix text, OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint, OUT runs bigint, OUT examples text[]) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    WITH found AS MATERIALIZED (
        SELECT f.image_id FROM nightlabel.forgettable_images(wanted_bucket, wanted_prefix) AS f (image_id)
    )
    SELECT
        (SELECT count(*) FROM found),
        (SELECT count(*) FROM nightlabel.object AS o WHERE o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix)
            + nightlabel.count_other_keys(wanted_bucket, wanted_prefix),
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

CREATE FUNCTION nightlabel.count_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT
        (SELECT count(*) FROM nightlabel.golden_image AS g WHERE g.bucket = wanted_bucket AND g.object_key ^@ wanted_prefix)
        + (SELECT count(*) FROM nightlabel.review AS r WHERE r.bucket = wanted_bucket AND r.object_key ^@ wanted_prefix)
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

CREATE FUNCTION nightlabel.forget_flips(wanted_bucket text, wanted_prefix text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    UPDATE nightlabel.gate_check AS c
    SET flips = coalesce(
        (
            SELECT jsonb_agg(f.flip ORDER BY f.place)
            FROM jsonb_array_elements(c.flips) WITH ORDINALITY AS f (flip, place)
            WHERE NOT (f.flip ->> 'bucket' = wanted_bucket AND (f.flip ->> 'object_key') ^@ wanted_prefix)
        ),
        '[]'::jsonb
    )
    WHERE EXISTS (
        SELECT FROM jsonb_array_elements(c.flips) AS f (flip)
        WHERE f.flip ->> 'bucket' = wanted_bucket AND (f.flip ->> 'object_key') ^@ wanted_prefix
    )
$$;

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
    UPDATE nightlabel.run_label AS l
    SET images = greatest(l.images - counted.images, 0)
    FROM (
        SELECT o.run_id, o.model_id, o.label, count(*) AS images
        FROM nightlabel.outcome AS o
        WHERE o.image_id = ANY(wanted) AND o.label IS NOT NULL
        GROUP BY o.run_id, o.model_id, o.label
    ) AS counted
    WHERE l.run_id = counted.run_id AND l.model_id = counted.model_id AND l.label = counted.label;
    UPDATE nightlabel.run_quality AS q
    SET images = greatest(q.images - counted.images, 0), dead = greatest(q.dead - counted.dead, 0),
        score_sum = greatest(q.score_sum - counted.score_sum, 0),
        score_square_sum = greatest(q.score_square_sum - counted.score_square_sum, 0),
        low_scores = greatest(q.low_scores - counted.low_scores, 0)
    FROM (
        SELECT o.run_id, o.model_id, count(o.label) AS images, count(o.error_code) AS dead,
            coalesce(sum(o.score::double precision), 0) AS score_sum,
            coalesce(sum(o.score::double precision * o.score), 0) AS score_square_sum,
            count(*) FILTER (WHERE o.score < j.low_score) AS low_scores
        FROM nightlabel.outcome AS o
        JOIN nightlabel.run_quality AS j ON j.run_id = o.run_id AND j.model_id = o.model_id
        WHERE o.image_id = ANY(wanted)
        GROUP BY o.run_id, o.model_id
    ) AS counted
    WHERE q.run_id = counted.run_id AND q.model_id = counted.model_id;
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

CREATE FUNCTION nightlabel.forget_in_chunk(id uuid, wanted_bucket text, wanted_prefix text, in_run uuid, in_plan integer, in_shard integer, in_chunk integer) RETURNS boolean
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

CREATE FUNCTION nightlabel.forget_names(id uuid, wanted_bucket text, wanted_prefix text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    deleted_objects bigint;
    deleted_others bigint;
    deleted_listings bigint;
    changed_runs bigint;
    address text := 's3://' || wanted_bucket || '/' || wanted_prefix;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || wanted_bucket, 0));
    DELETE FROM nightlabel.object AS o
    WHERE o.bucket = wanted_bucket AND o.object_key ^@ wanted_prefix
        AND NOT EXISTS (SELECT FROM nightlabel.image AS i WHERE i.image_id = o.image_id);
    GET DIAGNOSTICS deleted_objects = ROW_COUNT;
    deleted_others := nightlabel.forget_other_keys(wanted_bucket, wanted_prefix);
    PERFORM nightlabel.forget_flips(wanted_bucket, wanted_prefix);
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
    SET objects = f.objects + deleted_objects + deleted_others, listings = f.listings + deleted_listings,
        runs = f.runs + changed_runs
    WHERE f.forgetting_id = id;
END
$$;

CREATE FUNCTION nightlabel.forget_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    deleted_golden bigint;
    deleted_reviews bigint;
BEGIN
    DELETE FROM nightlabel.golden_image AS g WHERE g.bucket = wanted_bucket AND g.object_key ^@ wanted_prefix;
    GET DIAGNOSTICS deleted_golden = ROW_COUNT;
    DELETE FROM nightlabel.review AS r WHERE r.bucket = wanted_bucket AND r.object_key ^@ wanted_prefix;
    GET DIAGNOSTICS deleted_reviews = ROW_COUNT;
    RETURN deleted_golden + deleted_reviews;
END
$$;

CREATE FUNCTION nightlabel.forgettable_chunks(wanted_bucket text, wanted_prefix text) RETURNS TABLE(run_id uuid, plan_number integer, shard_number integer, chunk_number integer, refs bigint)
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

CREATE FUNCTION nightlabel.forgettable_images(wanted_bucket text, wanted_prefix text) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT image_id FROM nightlabel.image WHERE bucket = wanted_bucket AND object_key ^@ wanted_prefix
$$;

CREATE FUNCTION nightlabel.forgotten(id uuid, OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint, OUT runs bigint) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT f.images, f.objects, f.outcomes, f.manifest_refs, f.listings, f.runs
    FROM nightlabel.forgetting AS f WHERE f.forgetting_id = id
$$;

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

CREATE FUNCTION nightlabel.record_review(wanted_bucket text, wanted_key text, right_label text, who text, why text DEFAULT ''::text, wanted_etag text DEFAULT NULL::text, into_golden_set text DEFAULT 'review'::text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    seen record;
    class_ids text[];
    given_id text;
    given_label text;
    made bigint;
BEGIN
    IF coalesce(who, '') = '' THEN
        RAISE EXCEPTION 'a review needs the name of its reviewer';
    END IF;
    IF btrim(coalesce(into_golden_set, '')) = '' THEN
        RAISE EXCEPTION 'a review needs the name of the golden set that it goes to; leave it out for the set review';
    END IF;
    PERFORM FROM nightlabel.object AS o
    WHERE o.bucket = wanted_bucket AND o.object_key = wanted_key AND o.gone_at IS NULL
    FOR KEY SHARE;
    SELECT o.image_id, i.etag, c.model_id, c.label, c.label_id, c.score, m.label_map, m.name || '@' || m.version AS model
    INTO seen
    FROM nightlabel.object AS o
    JOIN nightlabel.image AS i ON i.image_id = o.image_id
    JOIN nightlabel.production_line AS line ON true
    JOIN nightlabel.outcome AS c ON c.model_id = line.model_id AND c.image_id = o.image_id AND c.label IS NOT NULL
    JOIN nightlabel.model AS m ON m.model_id = c.model_id
    WHERE o.bucket = wanted_bucket AND o.object_key = wanted_key AND o.gone_at IS NULL
    ORDER BY line.rank
    LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no object % of the bucket % has a label now; latest_prediction lists those that have one',
            quote_literal(wanted_key), quote_literal(wanted_bucket);
    END IF;
    IF seen.etag <> wanted_etag THEN
        RAISE EXCEPTION 'the object % was overwritten since it was looked at: its ETag is %, and % was reviewed; look at it again',
            quote_literal(wanted_key), seen.etag, wanted_etag;
    END IF;
    SELECT array_agg(DISTINCT pair ->> 0 ORDER BY pair ->> 0) INTO class_ids
    FROM jsonb_array_elements(seen.label_map) AS pair
    WHERE pair ->> 0 = right_label;
    IF class_ids IS NULL THEN
        SELECT array_agg(DISTINCT pair ->> 0 ORDER BY pair ->> 0) INTO class_ids
        FROM jsonb_array_elements(seen.label_map) AS pair
        WHERE pair ->> 1 = right_label;
    END IF;
    IF class_ids IS NULL THEN
        RAISE EXCEPTION 'the model % knows no label %; give the name or the id of one of its label map',
            seen.model, quote_literal(right_label);
    ELSIF cardinality(class_ids) > 1 THEN
        RAISE EXCEPTION 'the model % has % classes of the name %; give the id of the one that is meant: %',
            seen.model, cardinality(class_ids), quote_literal(right_label), array_to_string(class_ids, ', ');
    END IF;
    SELECT pair ->> 0, pair ->> 1 INTO given_id, given_label
    FROM jsonb_array_elements(seen.label_map) AS pair
    WHERE pair ->> 0 = class_ids[1]
    LIMIT 1;
    -- Two reviewers of one image, one after the other.
    PERFORM pg_advisory_xact_lock(hashtextextended('nightlabel.review ' || seen.image_id, 0));
    UPDATE nightlabel.review AS r SET superseded_at = clock_timestamp()
    WHERE r.image_id = seen.image_id AND r.superseded_at IS NULL;
    INSERT INTO nightlabel.review (
        image_id, bucket, object_key, etag, label, label_id, reviewer, note, model_id, seen_label, seen_label_id, seen_score
    )
    VALUES (
        seen.image_id, wanted_bucket, wanted_key, seen.etag, given_label, given_id, who, coalesce(why, ''), seen.model_id,
        seen.label, seen.label_id, seen.score
    )
    RETURNING review_id INTO made;
    INSERT INTO nightlabel.golden_image AS g (golden_set, bucket, object_key, etag, label_id, origin)
    VALUES (into_golden_set, wanted_bucket, wanted_key, seen.etag, given_id, 'review')
    ON CONFLICT (golden_set, bucket, object_key) DO UPDATE
    SET etag = excluded.etag, label_id = excluded.label_id, added_by = excluded.added_by, added_at = excluded.added_at
    WHERE g.origin = 'review';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the golden set % has the object % from a CSV file, which no review overwrites; name another set, or correct the file and load it again',
            quote_literal(into_golden_set), quote_literal(wanted_key);
    END IF;
    RETURN made;
END
$$;

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
    check_id bigint,
    is_forced boolean DEFAULT false NOT NULL,
    approved_by text,
    ended_by text,
    ended_reason text,
    CONSTRAINT model_alias_check CHECK ((valid_to >= valid_from))
);

COMMENT ON TABLE nightlabel.model_alias IS 'Which model each alias names, with its history; the row without valid_to holds now.';

COMMENT ON COLUMN nightlabel.model_alias.alias IS 'The name that moves, such as production.';

COMMENT ON COLUMN nightlabel.model_alias.model_id IS 'The model version that it named in this span.';

COMMENT ON COLUMN nightlabel.model_alias.valid_from IS 'Start of the span.';

COMMENT ON COLUMN nightlabel.model_alias.valid_to IS 'End of the span; null while the alias names this version.';

COMMENT ON COLUMN nightlabel.model_alias.changed_by IS 'Database user who moved the alias.';

COMMENT ON COLUMN nightlabel.model_alias.reason IS 'Why it was moved, in words.';

COMMENT ON COLUMN nightlabel.model_alias.check_id IS 'The check that let it be promoted; null where none was needed, or where it was forced without one.';

COMMENT ON COLUMN nightlabel.model_alias.is_forced IS 'Whether somebody overrode the gate; reason says why.';

COMMENT ON COLUMN nightlabel.model_alias.approved_by IS 'Who said yes in Airflow; null where the login of changed_by did it by hand.';

COMMENT ON COLUMN nightlabel.model_alias.ended_by IS 'Database user who moved the alias on, or took it away; null while it holds, and for spans from before this was noted.';

COMMENT ON COLUMN nightlabel.model_alias.ended_reason IS 'Why, in words; likewise.';

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
 SELECT o.bucket,
    o.object_key,
    i.etag,
    d.stage,
    d.error_code,
    d.message,
    d.attempts,
    (d.retry_after IS NULL) AS permanent,
    d.retry_after,
    p.name AS model_name,
    p.version AS model_version,
    d.run_id,
    d.recorded_at AS failed_at
   FROM (((nightlabel.outcome d
     JOIN ( SELECT line.model_id,
            line.rank,
            m.name,
            m.version
           FROM (nightlabel.production_line line
             JOIN nightlabel.model m ON ((m.model_id = line.model_id)))
         OFFSET 0) p ON ((p.model_id = d.model_id)))
     JOIN nightlabel.object o ON ((o.image_id = d.image_id)))
     JOIN nightlabel.image i ON ((i.image_id = d.image_id)))
  WHERE ((d.error_code IS NOT NULL) AND (o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.production_line b
             CROSS JOIN LATERAL ( SELECT
                   FROM nightlabel.outcome better
                  WHERE ((better.image_id = d.image_id) AND (better.model_id = b.model_id) AND ((better.label IS NOT NULL) OR (b.rank < p.rank)))
                 OFFSET 0) closing)))));

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

CREATE TABLE nightlabel.dropped_model (
    model_id integer NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL,
    dropped_by text DEFAULT SESSION_USER NOT NULL,
    outcomes bigint NOT NULL,
    partition oid NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT dropped_model_outcomes_check CHECK ((outcomes >= 0))
);

COMMENT ON TABLE nightlabel.dropped_model IS 'Models whose outcomes were dropped as a whole, by whom and how many; the model stays registered and may get new ones.';

COMMENT ON COLUMN nightlabel.dropped_model.model_id IS 'The model version.';

COMMENT ON COLUMN nightlabel.dropped_model.dropped_at IS 'When the drop began.';

COMMENT ON COLUMN nightlabel.dropped_model.dropped_by IS 'The login that asked for it.';

COMMENT ON COLUMN nightlabel.dropped_model.outcomes IS 'Labels and dead letters that went with it.';

COMMENT ON COLUMN nightlabel.dropped_model.partition IS 'The table that goes; one of the same name that is made later, or that somebody else took out of the ledger, is another.';

COMMENT ON COLUMN nightlabel.dropped_model.ended_at IS 'Null while it is under way, or after it was interrupted: the model is refused until the next maintenance brings it to its end.';

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

CREATE TABLE nightlabel.forgetting (
    forgetting_id uuid DEFAULT gen_random_uuid() NOT NULL,
    bucket text NOT NULL COLLATE pg_catalog."C",
    prefix_sha256 bytea NOT NULL,
    is_whole_bucket boolean NOT NULL,
    reason text NOT NULL,
    requested_by text DEFAULT SESSION_USER NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    images bigint DEFAULT 0 NOT NULL,
    objects bigint DEFAULT 0 NOT NULL,
    outcomes bigint DEFAULT 0 NOT NULL,
    manifest_refs bigint DEFAULT 0 NOT NULL,
    listings bigint DEFAULT 0 NOT NULL,
    runs bigint DEFAULT 0 NOT NULL,
    CONSTRAINT forgetting_images_check CHECK ((images >= 0)),
    CONSTRAINT forgetting_listings_check CHECK ((listings >= 0)),
    CONSTRAINT forgetting_manifest_refs_check CHECK ((manifest_refs >= 0)),
    CONSTRAINT forgetting_objects_check CHECK ((objects >= 0)),
    CONSTRAINT forgetting_outcomes_check CHECK ((outcomes >= 0)),
    CONSTRAINT forgetting_prefix_sha256_check CHECK ((length(prefix_sha256) = 32)),
    CONSTRAINT forgetting_runs_check CHECK ((runs >= 0))
);

COMMENT ON TABLE nightlabel.forgetting IS 'Every erasure: who asked for it, when and why, and how many rows it took; nothing of what was erased.';

COMMENT ON COLUMN nightlabel.forgetting.forgetting_id IS 'Its own id.';

COMMENT ON COLUMN nightlabel.forgetting.bucket IS 'Name of the bucket.';

COMMENT ON COLUMN nightlabel.forgetting.prefix_sha256 IS 'SHA-256 of the prefix in UTF-8: a prefix may itself say who somebody is, so only who knows it can find its row.';

COMMENT ON COLUMN nightlabel.forgetting.is_whole_bucket IS 'Whether every object of the bucket was meant: its prefix was empty.';

COMMENT ON COLUMN nightlabel.forgetting.reason IS 'Why, in the words of who asked; empty if they gave none.';

COMMENT ON COLUMN nightlabel.forgetting.requested_by IS 'The login that asked for it.';

COMMENT ON COLUMN nightlabel.forgetting.started_at IS 'When it was asked for.';

COMMENT ON COLUMN nightlabel.forgetting.finished_at IS 'When nothing was left; null while it is under way, or after it was cut short.';

COMMENT ON COLUMN nightlabel.forgetting.images IS 'Image versions that were deleted.';

COMMENT ON COLUMN nightlabel.forgetting.objects IS 'Keys that were deleted.';

COMMENT ON COLUMN nightlabel.forgetting.outcomes IS 'Labels and dead letters that were deleted, by every model.';

COMMENT ON COLUMN nightlabel.forgetting.manifest_refs IS 'Refs of manifests that were replaced by one of an object that is not there.';

COMMENT ON COLUMN nightlabel.forgetting.listings IS 'Listings of prefixes within this one that were deleted.';

COMMENT ON COLUMN nightlabel.forgetting.runs IS 'Runs whose prefix, or address of a manifest, was taken out.';

CREATE TABLE nightlabel.gate_check (
    check_id bigint NOT NULL,
    model_id integer NOT NULL,
    production_model_id integer,
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    checked_by text DEFAULT SESSION_USER NOT NULL,
    verdict text NOT NULL,
    reasons jsonb NOT NULL,
    thresholds jsonb NOT NULL,
    model_sha256 text NOT NULL,
    golden_set text NOT NULL,
    golden_sha256 text NOT NULL,
    golden_images bigint NOT NULL,
    golden_unreadable bigint NOT NULL,
    top1 double precision,
    top5 double precision,
    right_score double precision,
    production_top1 double precision,
    production_top5 double precision,
    production_right_score double precision,
    only_production_right bigint,
    only_candidate_right bigint,
    loss double precision,
    loss_bound double precision,
    golden_agreement double precision,
    recent_days integer NOT NULL,
    recent_images bigint NOT NULL,
    recent_unreadable bigint NOT NULL,
    recent_agreement double precision,
    score_shift double precision,
    engine text NOT NULL,
    images_per_second double precision,
    production_images_per_second double precision,
    label_shifts jsonb NOT NULL,
    flips jsonb NOT NULL,
    CONSTRAINT gate_check_golden_images_check CHECK ((golden_images >= 0)),
    CONSTRAINT gate_check_golden_unreadable_check CHECK ((golden_unreadable >= 0)),
    CONSTRAINT gate_check_recent_days_check CHECK ((recent_days >= 0)),
    CONSTRAINT gate_check_recent_images_check CHECK ((recent_images >= 0)),
    CONSTRAINT gate_check_recent_unreadable_check CHECK ((recent_unreadable >= 0)),
    CONSTRAINT gate_check_verdict_check CHECK ((verdict = ANY (ARRAY['passed'::text, 'failed'::text])))
);

COMMENT ON TABLE nightlabel.gate_check IS 'Every check of a candidate against the golden set and production: what was found, and the verdict.';

COMMENT ON COLUMN nightlabel.gate_check.check_id IS 'Number of the check; later ones have higher numbers.';

COMMENT ON COLUMN nightlabel.gate_check.model_id IS 'The candidate.';

COMMENT ON COLUMN nightlabel.gate_check.production_model_id IS 'What was production then; null if nothing was.';

COMMENT ON COLUMN nightlabel.gate_check.checked_at IS 'When it ended.';

COMMENT ON COLUMN nightlabel.gate_check.checked_by IS 'The login that recorded it.';

COMMENT ON COLUMN nightlabel.gate_check.verdict IS 'passed or failed; only a check that passed lets a model be promoted without force.';

COMMENT ON COLUMN nightlabel.gate_check.reasons IS 'Every threshold that was missed: {"threshold", "is_warning", "message"}; one that is no warning fails the check.';

COMMENT ON COLUMN nightlabel.gate_check.thresholds IS 'The thresholds of that moment.';

COMMENT ON COLUMN nightlabel.gate_check.model_sha256 IS 'SHA-256 over the candidate''s files, label map, preprocessing and artefacts as they were registered.';

COMMENT ON COLUMN nightlabel.gate_check.golden_set IS 'Name of the golden set.';

COMMENT ON COLUMN nightlabel.gate_check.golden_sha256 IS 'SHA-256 over the images of the golden set that judge, as they were: another one, or another label, makes the check one of the past.';

COMMENT ON COLUMN nightlabel.gate_check.golden_images IS 'Golden images that were judged, by both models where there was a production model.';

COMMENT ON COLUMN nightlabel.gate_check.golden_unreadable IS 'Golden images that were missing, overwritten or undecodable; they count for neither model.';

COMMENT ON COLUMN nightlabel.gate_check.top1 IS 'Share of golden images whose best label by the candidate is right, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_check.top5 IS 'Share with the right label among its best five.';

COMMENT ON COLUMN nightlabel.gate_check.right_score IS 'Mean probability that the candidate gives the right label, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_check.production_top1 IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.gate_check.production_top5 IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.gate_check.production_right_score IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.gate_check.only_production_right IS 'Golden images that production labels rightly and the candidate wrongly.';

COMMENT ON COLUMN nightlabel.gate_check.only_candidate_right IS 'The other way round.';

COMMENT ON COLUMN nightlabel.gate_check.loss IS 'production_top1 - top1; negative when the candidate is better.';

COMMENT ON COLUMN nightlabel.gate_check.loss_bound IS 'The largest that the loss may be in truth, at the confidence of the thresholds.';

COMMENT ON COLUMN nightlabel.gate_check.golden_agreement IS 'Share of golden images that both models give the same label, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_check.recent_days IS 'Of how many days back production''s labels were sampled.';

COMMENT ON COLUMN nightlabel.gate_check.recent_images IS 'Images of those days that both models labelled for the check.';

COMMENT ON COLUMN nightlabel.gate_check.recent_unreadable IS 'Images among the sample that were gone, or could not be read any more.';

COMMENT ON COLUMN nightlabel.gate_check.recent_agreement IS 'Share of recent images that both models give the same label, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_check.score_shift IS 'Mean probability of the candidate''s best label less that of production''s, over every image that both labelled.';

COMMENT ON COLUMN nightlabel.gate_check.engine IS 'What executed both models.';

COMMENT ON COLUMN nightlabel.gate_check.images_per_second IS 'Images per second of the candidate''s engine alone, decoding left out.';

COMMENT ON COLUMN nightlabel.gate_check.production_images_per_second IS 'Likewise of production, on the same images and machine.';

COMMENT ON COLUMN nightlabel.gate_check.label_shifts IS 'Which label of production became which of the candidate, the most frequent first: {"from_label_id", "from_label", "to_label_id", "to_label", "images"}.';

COMMENT ON COLUMN nightlabel.gate_check.flips IS 'Images that the models label differently, some of them; model_check_flip shows them. Those that are forgotten are taken out.';

ALTER TABLE nightlabel.gate_check ALTER COLUMN check_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME nightlabel.gate_check_check_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE nightlabel.gate_threshold (
    model_name text NOT NULL,
    golden_set text DEFAULT 'default'::text NOT NULL,
    min_golden_images integer DEFAULT 150 NOT NULL,
    max_unreadable double precision DEFAULT 0.05 NOT NULL,
    min_top1 double precision DEFAULT 0.5 NOT NULL,
    max_loss double precision DEFAULT 0.02 NOT NULL,
    confidence double precision DEFAULT 0.95 NOT NULL,
    min_compared_images integer DEFAULT 50 NOT NULL,
    min_agreement double precision DEFAULT 0.6 NOT NULL,
    max_slowdown double precision DEFAULT 0.5 NOT NULL,
    changed_by text DEFAULT SESSION_USER NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    reason text NOT NULL,
    CONSTRAINT gate_threshold_check CHECK (((min_golden_images >= 100) OR (min_agreement >= (0.5)::double precision))),
    CONSTRAINT gate_threshold_confidence_check CHECK (((confidence >= (0.8)::double precision) AND (confidence < (1)::double precision))),
    CONSTRAINT gate_threshold_max_loss_check CHECK (((max_loss > (0)::double precision) AND (max_loss <= (0.2)::double precision))),
    CONSTRAINT gate_threshold_max_slowdown_check CHECK (((max_slowdown >= (0)::double precision) AND (max_slowdown < (1)::double precision))),
    CONSTRAINT gate_threshold_max_unreadable_check CHECK (((max_unreadable >= (0)::double precision) AND (max_unreadable < (1)::double precision))),
    CONSTRAINT gate_threshold_min_agreement_check CHECK (((min_agreement >= (0)::double precision) AND (min_agreement <= (1)::double precision))),
    CONSTRAINT gate_threshold_min_compared_images_check CHECK ((min_compared_images >= 30)),
    CONSTRAINT gate_threshold_min_golden_images_check CHECK ((min_golden_images >= 0)),
    CONSTRAINT gate_threshold_min_top1_check CHECK (((min_top1 >= (0)::double precision) AND (min_top1 <= (1)::double precision)))
);

COMMENT ON TABLE nightlabel.gate_threshold IS 'What a candidate has to reach, by the name of its model; the row * is for models without a row of their own.';

COMMENT ON COLUMN nightlabel.gate_threshold.model_name IS 'Name of the model, whatever its version; * for every other.';

COMMENT ON COLUMN nightlabel.gate_threshold.golden_set IS 'The golden set that judges it.';

COMMENT ON COLUMN nightlabel.gate_threshold.min_golden_images IS 'From how many golden images on top-1 is judged; fewer fail the check. 0: no golden set is needed. Below 100 only with a min_agreement of at least 0.5.';

COMMENT ON COLUMN nightlabel.gate_threshold.max_unreadable IS 'Largest share of the golden set that may be missing, overwritten or undecodable, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_threshold.min_top1 IS 'Least share of golden images whose best label is right, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_threshold.max_loss IS 'How much lower than production''s the candidate''s top-1 may be, as a share: 0.02 is 2 points. What has to be below it is not the loss that was measured but the largest that it may be in truth.';

COMMENT ON COLUMN nightlabel.gate_threshold.confidence IS 'How sure that is: a model that loses max_loss or more passes in one case of 1/(1 - confidence).';

COMMENT ON COLUMN nightlabel.gate_threshold.min_compared_images IS 'From how many images on, golden ones or those of the last days, agreement is judged; fewer of both fail the check.';

COMMENT ON COLUMN nightlabel.gate_threshold.min_agreement IS 'Least share of images that candidate and production give the same label, 0 to 1.';

COMMENT ON COLUMN nightlabel.gate_threshold.max_slowdown IS 'Share of production''s images per second that may be lost, 0 to 1; more is a warning.';

COMMENT ON COLUMN nightlabel.gate_threshold.changed_by IS 'The login that changed the row last.';

COMMENT ON COLUMN nightlabel.gate_threshold.changed_at IS 'When it did.';

COMMENT ON COLUMN nightlabel.gate_threshold.reason IS 'Why, in words.';

CREATE TABLE nightlabel.golden_image (
    golden_set text DEFAULT 'default'::text NOT NULL,
    bucket text NOT NULL,
    object_key text NOT NULL,
    etag text NOT NULL,
    label_id text NOT NULL,
    origin text NOT NULL,
    added_by text DEFAULT SESSION_USER NOT NULL,
    added_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT golden_image_origin_check CHECK ((origin = ANY (ARRAY['csv'::text, 'review'::text])))
);

COMMENT ON TABLE nightlabel.golden_image IS 'Images whose right label is known, by golden set: what a candidate is judged on.';

COMMENT ON COLUMN nightlabel.golden_image.golden_set IS 'Name of the set.';

COMMENT ON COLUMN nightlabel.golden_image.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.golden_image.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.golden_image.etag IS 'ETag of the version that has this label, without quotes and without W/; another version is not judged.';

COMMENT ON COLUMN nightlabel.golden_image.label_id IS 'Stable id of the right label.';

COMMENT ON COLUMN nightlabel.golden_image.origin IS 'csv: loaded from a file. review: the label of a reviewer, which judges nothing: what is reviewed was picked by low scores.';

COMMENT ON COLUMN nightlabel.golden_image.added_by IS 'The login that gave the row as it is.';

COMMENT ON COLUMN nightlabel.golden_image.added_at IS 'When it did.';

CREATE TABLE nightlabel.review (
    review_id bigint NOT NULL,
    image_id uuid NOT NULL,
    bucket text NOT NULL COLLATE pg_catalog."C",
    object_key text NOT NULL COLLATE pg_catalog."C",
    etag text NOT NULL,
    label text NOT NULL,
    label_id text NOT NULL,
    reviewer text NOT NULL,
    note text NOT NULL,
    reviewed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    recorded_by text DEFAULT SESSION_USER NOT NULL,
    superseded_at timestamp with time zone,
    model_id integer NOT NULL,
    seen_label text NOT NULL,
    seen_label_id text NOT NULL,
    seen_score real NOT NULL,
    CONSTRAINT review_reviewer_check CHECK ((reviewer <> ''::text))
);

COMMENT ON TABLE nightlabel.review IS 'Labels that people gave to images after they saw the model''s; a correction is another row.';

COMMENT ON COLUMN nightlabel.review.review_id IS 'Number of the review; later ones have higher numbers.';

COMMENT ON COLUMN nightlabel.review.image_id IS 'The image version.';

COMMENT ON COLUMN nightlabel.review.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.review.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.review.etag IS 'ETag of the version, without quotes.';

COMMENT ON COLUMN nightlabel.review.label IS 'The reviewer''s label.';

COMMENT ON COLUMN nightlabel.review.label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.review.reviewer IS 'Who reviewed it, as was said.';

COMMENT ON COLUMN nightlabel.review.note IS 'What was said about it; empty if nothing was.';

COMMENT ON COLUMN nightlabel.review.reviewed_at IS 'When it was recorded.';

COMMENT ON COLUMN nightlabel.review.recorded_by IS 'The login that recorded it.';

COMMENT ON COLUMN nightlabel.review.superseded_at IS 'When a later review of the same version took its place; null while it holds.';

COMMENT ON COLUMN nightlabel.review.model_id IS 'The model version whose label was shown.';

COMMENT ON COLUMN nightlabel.review.seen_label IS 'The model''s label.';

COMMENT ON COLUMN nightlabel.review.seen_label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.review.seen_score IS 'Its probability, 0 to 1.';

CREATE VIEW nightlabel.image_review AS
 SELECT r.bucket,
    r.object_key,
    r.etag,
    r.label,
    r.label_id,
    r.reviewer,
    r.note,
    r.reviewed_at,
    r.superseded_at,
    r.recorded_by,
    m.name AS model_name,
    m.version AS model_version,
    r.seen_label,
    r.seen_label_id,
    r.seen_score,
    (r.label_id = r.seen_label_id) AS is_model_right
   FROM (nightlabel.review r
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)));

COMMENT ON VIEW nightlabel.image_review IS 'One row per label that a reviewer gave to an image version, with what the model had said; corrections are further rows.';

COMMENT ON COLUMN nightlabel.image_review.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.image_review.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.image_review.etag IS 'ETag of the version that was reviewed, without quotes.';

COMMENT ON COLUMN nightlabel.image_review.label IS 'The reviewer''s label.';

COMMENT ON COLUMN nightlabel.image_review.label_id IS 'Stable id of that label; one of the model''s label map.';

COMMENT ON COLUMN nightlabel.image_review.reviewer IS 'Who reviewed it, as was said.';

COMMENT ON COLUMN nightlabel.image_review.note IS 'What the reviewer said about it; mostly empty.';

COMMENT ON COLUMN nightlabel.image_review.reviewed_at IS 'When it was recorded.';

COMMENT ON COLUMN nightlabel.image_review.superseded_at IS 'When a later review of the same version took its place; null while it holds.';

COMMENT ON COLUMN nightlabel.image_review.recorded_by IS 'The login that recorded it.';

COMMENT ON COLUMN nightlabel.image_review.model_name IS 'Name of the model whose label was shown.';

COMMENT ON COLUMN nightlabel.image_review.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.image_review.seen_label IS 'The model''s label.';

COMMENT ON COLUMN nightlabel.image_review.seen_label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.image_review.seen_score IS 'Its probability, 0 to 1.';

COMMENT ON COLUMN nightlabel.image_review.is_model_right IS 'Whether the reviewer gave the label that the model had given.';

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

CREATE TABLE nightlabel.label_count (
    day date NOT NULL,
    model_id integer NOT NULL,
    label text NOT NULL,
    images bigint NOT NULL,
    score_sum double precision NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE nightlabel.label_count IS 'Labels recorded, by UTC day and model, but for what label_count_delta holds; label_daily adds both.';

COMMENT ON COLUMN nightlabel.label_count.day IS 'UTC day on which the labels were recorded.';

COMMENT ON COLUMN nightlabel.label_count.model_id IS 'The model version that gave them.';

COMMENT ON COLUMN nightlabel.label_count.label IS 'The label; two classes of one name are counted together.';

COMMENT ON COLUMN nightlabel.label_count.images IS 'Image versions that got the label.';

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

COMMENT ON COLUMN nightlabel.label_count_delta.day IS 'UTC day on which the labels were recorded.';

COMMENT ON COLUMN nightlabel.label_count_delta.model_id IS 'The model version that gave them.';

COMMENT ON COLUMN nightlabel.label_count_delta.labels IS 'The labels, each once; the other arrays are beside it.';

COMMENT ON COLUMN nightlabel.label_count_delta.images IS 'Beside labels; negative for what was deleted or changed.';

COMMENT ON COLUMN nightlabel.label_count_delta.score_sums IS 'Sums of the scores, beside labels.';

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

COMMENT ON COLUMN nightlabel.label_daily.day IS 'UTC day on which the label was recorded.';

COMMENT ON COLUMN nightlabel.label_daily.model_name IS 'Name of the model that gave the label.';

COMMENT ON COLUMN nightlabel.label_daily.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.label_daily.label IS 'The label; two classes of one name are counted together.';

COMMENT ON COLUMN nightlabel.label_daily.images IS 'Image versions that got the label.';

COMMENT ON COLUMN nightlabel.label_daily.mean_score IS 'Mean probability of the label, 0 to 1; weigh it by images when adding rows up.';

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
    p.name AS model_name,
    p.version AS model_version,
    c.engine,
    c.run_id,
    c.recorded_at AS predicted_at
   FROM (((nightlabel.outcome c
     JOIN ( SELECT line.model_id,
            line.rank,
            m.name,
            m.version
           FROM (nightlabel.production_line line
             JOIN nightlabel.model m ON ((m.model_id = line.model_id)))
         OFFSET 0) p ON ((p.model_id = c.model_id)))
     JOIN nightlabel.object o ON ((o.image_id = c.image_id)))
     JOIN nightlabel.image i ON ((i.image_id = c.image_id)))
  WHERE ((c.label IS NOT NULL) AND (o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.outcome better
             JOIN nightlabel.production_line b ON ((b.model_id = better.model_id)))
          WHERE ((better.image_id = c.image_id) AND (better.label IS NOT NULL) AND (b.rank < p.rank))))));

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

CREATE TABLE nightlabel.maintenance_position (
    step text NOT NULL,
    block bigint NOT NULL,
    stopped_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT maintenance_position_block_check CHECK ((block >= 0))
);

COMMENT ON TABLE nightlabel.maintenance_position IS 'Where a step of maintenance was when its time was up; the next one begins there. No row: at the beginning.';

COMMENT ON COLUMN nightlabel.maintenance_position.step IS 'The step of maintenance.';

COMMENT ON COLUMN nightlabel.maintenance_position.block IS 'Block of the table that the step reads.';

COMMENT ON COLUMN nightlabel.maintenance_position.stopped_at IS 'When its time was up.';

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

CREATE VIEW nightlabel.model_alias_history AS
 SELECT a.alias,
    m.name AS model_name,
    m.version AS model_version,
    a.valid_from,
    a.valid_to,
    a.changed_by,
    a.approved_by,
    a.reason,
    a.is_forced,
    a.check_id,
    a.ended_by,
    a.ended_reason
   FROM (nightlabel.model_alias a
     JOIN nightlabel.model m ON ((m.model_id = a.model_id)));

COMMENT ON VIEW nightlabel.model_alias_history IS 'One row per alias and span in which it named one model version: who moved it there, when, why, and by which check.';

COMMENT ON COLUMN nightlabel.model_alias_history.alias IS 'production, candidate or shadow.';

COMMENT ON COLUMN nightlabel.model_alias_history.model_name IS 'Name of the model that it named.';

COMMENT ON COLUMN nightlabel.model_alias_history.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.model_alias_history.valid_from IS 'Start of the span.';

COMMENT ON COLUMN nightlabel.model_alias_history.valid_to IS 'End of the span; null while the alias names this version.';

COMMENT ON COLUMN nightlabel.model_alias_history.changed_by IS 'Database user who moved the alias there.';

COMMENT ON COLUMN nightlabel.model_alias_history.approved_by IS 'Who said yes in Airflow; null where the login of changed_by did it by hand.';

COMMENT ON COLUMN nightlabel.model_alias_history.reason IS 'Why it was moved, in words.';

COMMENT ON COLUMN nightlabel.model_alias_history.is_forced IS 'Whether somebody overrode the gate.';

COMMENT ON COLUMN nightlabel.model_alias_history.check_id IS 'The check that the promotion rests on; see model_check.';

COMMENT ON COLUMN nightlabel.model_alias_history.ended_by IS 'Database user who moved the alias on or took it away; null while it holds.';

COMMENT ON COLUMN nightlabel.model_alias_history.ended_reason IS 'Why, in words; null while it holds.';

CREATE VIEW nightlabel.model_check AS
 SELECT c.check_id,
    m.name AS model_name,
    m.version AS model_version,
    p.name AS production_name,
    p.version AS production_version,
    c.checked_at,
    c.checked_by,
    c.verdict,
    ARRAY( SELECT (r.reason ->> 'threshold'::text)
           FROM jsonb_array_elements(c.reasons) WITH ORDINALITY r(reason, place)
          WHERE (NOT ((r.reason ->> 'is_warning'::text))::boolean)
          ORDER BY r.place) AS stopped_by,
    ARRAY( SELECT (r.reason ->> 'message'::text)
           FROM jsonb_array_elements(c.reasons) WITH ORDINALITY r(reason, place)
          ORDER BY r.place) AS messages,
    c.golden_set,
    c.golden_images,
    c.golden_unreadable,
    c.top1,
    c.top5,
    c.right_score,
    c.production_top1,
    c.production_top5,
    c.production_right_score,
    c.only_production_right,
    c.only_candidate_right,
    c.loss,
    c.loss_bound,
    c.golden_agreement,
    c.recent_days,
    c.recent_images,
    c.recent_unreadable,
    c.recent_agreement,
    c.score_shift,
    c.engine,
    c.images_per_second,
    c.production_images_per_second,
    c.thresholds,
    c.label_shifts
   FROM ((nightlabel.gate_check c
     JOIN nightlabel.model m ON ((m.model_id = c.model_id)))
     LEFT JOIN nightlabel.model p ON ((p.model_id = c.production_model_id)));

COMMENT ON VIEW nightlabel.model_check IS 'One row per check of a candidate by the golden set and beside production: what was found, and the verdict.';

COMMENT ON COLUMN nightlabel.model_check.check_id IS 'Number of the check; later ones have higher numbers.';

COMMENT ON COLUMN nightlabel.model_check.model_name IS 'Name of the candidate.';

COMMENT ON COLUMN nightlabel.model_check.model_version IS 'Version of the candidate.';

COMMENT ON COLUMN nightlabel.model_check.production_name IS 'Name of what was production then; null if nothing was.';

COMMENT ON COLUMN nightlabel.model_check.production_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.model_check.checked_at IS 'When the check ended.';

COMMENT ON COLUMN nightlabel.model_check.checked_by IS 'Database user who recorded it.';

COMMENT ON COLUMN nightlabel.model_check.verdict IS 'passed or failed.';

COMMENT ON COLUMN nightlabel.model_check.stopped_by IS 'The thresholds that failed it; empty when it passed.';

COMMENT ON COLUMN nightlabel.model_check.messages IS 'What was missed, a sentence each, warnings too.';

COMMENT ON COLUMN nightlabel.model_check.golden_set IS 'Name of the golden set.';

COMMENT ON COLUMN nightlabel.model_check.golden_images IS 'Golden images that were judged, by both models where there was a production model.';

COMMENT ON COLUMN nightlabel.model_check.golden_unreadable IS 'Golden images that were missing, overwritten or undecodable.';

COMMENT ON COLUMN nightlabel.model_check.top1 IS 'Share of golden images whose best label by the candidate is right, 0 to 1.';

COMMENT ON COLUMN nightlabel.model_check.top5 IS 'Share with the right label among its best five.';

COMMENT ON COLUMN nightlabel.model_check.right_score IS 'Mean probability that the candidate gives the right label, 0 to 1.';

COMMENT ON COLUMN nightlabel.model_check.production_top1 IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.model_check.production_top5 IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.model_check.production_right_score IS 'Likewise of production, on the same images.';

COMMENT ON COLUMN nightlabel.model_check.only_production_right IS 'Golden images that production labels rightly and the candidate wrongly.';

COMMENT ON COLUMN nightlabel.model_check.only_candidate_right IS 'The other way round.';

COMMENT ON COLUMN nightlabel.model_check.loss IS 'production_top1 - top1; negative when the candidate is better.';

COMMENT ON COLUMN nightlabel.model_check.loss_bound IS 'The largest that the loss may be in truth, at the confidence of the thresholds.';

COMMENT ON COLUMN nightlabel.model_check.golden_agreement IS 'Share of golden images that both models give the same label, 0 to 1.';

COMMENT ON COLUMN nightlabel.model_check.recent_days IS 'Of how many days back production''s labels were sampled.';

COMMENT ON COLUMN nightlabel.model_check.recent_images IS 'Images of those days that both models labelled for the check.';

COMMENT ON COLUMN nightlabel.model_check.recent_unreadable IS 'Images among the sample that were gone, or could not be read any more.';

COMMENT ON COLUMN nightlabel.model_check.recent_agreement IS 'Share of recent images that both models give the same label, 0 to 1.';

COMMENT ON COLUMN nightlabel.model_check.score_shift IS 'Mean probability of the candidate''s best label less that of production''s.';

COMMENT ON COLUMN nightlabel.model_check.engine IS 'What executed both models.';

COMMENT ON COLUMN nightlabel.model_check.images_per_second IS 'Images per second of the candidate''s engine alone, decoding left out.';

COMMENT ON COLUMN nightlabel.model_check.production_images_per_second IS 'Likewise of production, on the same machine.';

COMMENT ON COLUMN nightlabel.model_check.thresholds IS 'The thresholds of that moment, by name.';

COMMENT ON COLUMN nightlabel.model_check.label_shifts IS 'Which label of production became which of the candidate on how many images, the most frequent first.';

CREATE VIEW nightlabel.model_check_flip AS
 SELECT c.check_id,
    m.name AS model_name,
    m.version AS model_version,
    (f.flip ->> 'bucket'::text) AS bucket,
    (f.flip ->> 'object_key'::text) AS object_key,
    (f.flip ->> 'etag'::text) AS etag,
    ((f.flip ->> 'is_golden'::text))::boolean AS is_golden,
    (f.flip ->> 'right_label_id'::text) AS right_label_id,
    (f.flip ->> 'from_label'::text) AS from_label,
    (f.flip ->> 'from_label_id'::text) AS from_label_id,
    ((f.flip ->> 'from_score'::text))::real AS from_score,
    (f.flip ->> 'to_label'::text) AS to_label,
    (f.flip ->> 'to_label_id'::text) AS to_label_id,
    ((f.flip ->> 'to_score'::text))::real AS to_score
   FROM ((nightlabel.gate_check c
     JOIN nightlabel.model m ON ((m.model_id = c.model_id)))
     CROSS JOIN LATERAL jsonb_array_elements(c.flips) f(flip));

COMMENT ON VIEW nightlabel.model_check_flip IS 'One row per check and image that the candidate labels differently from production; at most 100 of a check.';

COMMENT ON COLUMN nightlabel.model_check_flip.check_id IS 'The check; see model_check.';

COMMENT ON COLUMN nightlabel.model_check_flip.model_name IS 'Name of the candidate.';

COMMENT ON COLUMN nightlabel.model_check_flip.model_version IS 'Version of the candidate.';

COMMENT ON COLUMN nightlabel.model_check_flip.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.model_check_flip.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.model_check_flip.etag IS 'ETag of the version that was looked at, without quotes.';

COMMENT ON COLUMN nightlabel.model_check_flip.is_golden IS 'Whether it is of the golden set, and not of the last days.';

COMMENT ON COLUMN nightlabel.model_check_flip.right_label_id IS 'Id of the right label of a golden image; null for others.';

COMMENT ON COLUMN nightlabel.model_check_flip.from_label IS 'Label that production gives it.';

COMMENT ON COLUMN nightlabel.model_check_flip.from_label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.model_check_flip.from_score IS 'Probability of that label, 0 to 1.';

COMMENT ON COLUMN nightlabel.model_check_flip.to_label IS 'Label that the candidate gives it.';

COMMENT ON COLUMN nightlabel.model_check_flip.to_label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.model_check_flip.to_score IS 'Probability of that label, 0 to 1.';

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

CREATE VIEW nightlabel.review_queue AS
 SELECT o.bucket,
    o.object_key,
    i.etag,
    c.label,
    c.label_id,
    c.score,
    c.top_labels,
    c.top_scores,
    p.name AS model_name,
    p.version AS model_version,
    c.run_id,
    c.recorded_at AS predicted_at
   FROM (((nightlabel.outcome c
     JOIN ( SELECT line.model_id,
            line.rank,
            m.name,
            m.version
           FROM (nightlabel.production_line line
             JOIN nightlabel.model m ON ((m.model_id = line.model_id)))
         OFFSET 0) p ON ((p.model_id = c.model_id)))
     JOIN nightlabel.object o ON ((o.image_id = c.image_id)))
     JOIN nightlabel.image i ON ((i.image_id = c.image_id)))
  WHERE ((c.score < (0.5)::real) AND (o.gone_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM (nightlabel.outcome better
             JOIN nightlabel.production_line b ON ((b.model_id = better.model_id)))
          WHERE ((better.image_id = c.image_id) AND (better.label IS NOT NULL) AND (b.rank < p.rank))))) AND (NOT (EXISTS ( SELECT
           FROM nightlabel.review r
          WHERE ((r.image_id = c.image_id) AND (r.superseded_at IS NULL))
         OFFSET 0))));

COMMENT ON VIEW nightlabel.review_queue IS 'One row per existing object whose present label has a score below 0.5 and that nobody has reviewed.';

COMMENT ON COLUMN nightlabel.review_queue.bucket IS 'Bucket of the object.';

COMMENT ON COLUMN nightlabel.review_queue.object_key IS 'The key, exactly as stored.';

COMMENT ON COLUMN nightlabel.review_queue.etag IS 'ETag of the version that was labelled, without quotes; record_review takes it, so that nobody reviews another version.';

COMMENT ON COLUMN nightlabel.review_queue.label IS 'The model''s best label; names may repeat.';

COMMENT ON COLUMN nightlabel.review_queue.label_id IS 'Stable id of that label.';

COMMENT ON COLUMN nightlabel.review_queue.score IS 'Its probability, 0 to 0.5.';

COMMENT ON COLUMN nightlabel.review_queue.top_labels IS 'Best labels, best first, beside top_scores.';

COMMENT ON COLUMN nightlabel.review_queue.top_scores IS 'Probabilities of top_labels, in the same order.';

COMMENT ON COLUMN nightlabel.review_queue.model_name IS 'Name of the model that gave the label.';

COMMENT ON COLUMN nightlabel.review_queue.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.review_queue.run_id IS 'The run that recorded it; see run_summary.';

COMMENT ON COLUMN nightlabel.review_queue.predicted_at IS 'When the label was recorded.';

ALTER TABLE nightlabel.review ALTER COLUMN review_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME nightlabel.review_review_id_seq
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
    expected_s real,
    shadow_of uuid,
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

COMMENT ON COLUMN nightlabel.run.expected_s IS 'Seconds that the images to classify were likely to take when the run was planned; null if nobody knew, or asked.';

COMMENT ON COLUMN nightlabel.run.shadow_of IS 'The run whose images a shadow model looks at in this one, for comparison only; null for every other run.';

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

COMMENT ON COLUMN nightlabel.shard.state IS 'planned, running, done, or superseded: by a later plan, or since maintenance made one row of a plan''s shards.';

COMMENT ON COLUMN nightlabel.shard.attempt IS 'Fencing token: a write that carries another number is refused.';

COMMENT ON COLUMN nightlabel.shard.batches IS 'Batches that the present attempt has recorded; a batch is sent with its number and recorded once.';

COMMENT ON COLUMN nightlabel.shard.images IS 'Image refs in the shard; without those that were deferred since the time was up.';

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
    whole.worker_s,
    (((whole.worker_s * (1000)::double precision) / (NULLIF(spent.images, 0))::double precision))::real AS seconds_per_1000,
    (spent.fetch_s / NULLIF(whole.worker_s, (0)::double precision)) AS fetch_share,
    (spent.decode_s / NULLIF(whole.worker_s, (0)::double precision)) AS decode_share,
    (spent.predict_s / NULLIF(whole.worker_s, (0)::double precision)) AS predict_share,
    (spent.write_s / NULLIF(whole.worker_s, (0)::double precision)) AS write_share
   FROM (((nightlabel.run r
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)))
     CROSS JOIN LATERAL ( SELECT (((COALESCE(sum(p.recorded) FILTER (WHERE (p.plan_number = r.plan_number)), (0)::numeric) + (r.carried_labelled)::numeric) + (r.carried_dead)::numeric))::bigint AS images,
            ((COALESCE(sum(p.copied) FILTER (WHERE (p.plan_number = r.plan_number)), (0)::numeric) + (r.carried_copied)::numeric))::bigint AS copied,
            (EXTRACT(epoch FROM (COALESCE(r.finished_at, clock_timestamp()) - r.started_at)))::real AS run_s,
            COALESCE(sum(p.fetch_s ORDER BY p.plan_number), (0)::real) AS fetch_s,
            COALESCE(sum(p.decode_s ORDER BY p.plan_number), (0)::real) AS decode_s,
            COALESCE(sum(p.predict_s ORDER BY p.plan_number), (0)::real) AS predict_s,
            COALESCE(sum(p.write_s ORDER BY p.plan_number), (0)::real) AS write_s
           FROM ( SELECT s.plan_number,
                    sum((s.labelled + s.dead)) AS recorded,
                    sum(s.copied) AS copied,
                    sum(s.fetch_s ORDER BY s.shard_number) AS fetch_s,
                    sum(s.decode_s ORDER BY s.shard_number) AS decode_s,
                    sum(s.predict_s ORDER BY s.shard_number) AS predict_s,
                    sum(s.write_s ORDER BY s.shard_number) AS write_s
                   FROM nightlabel.shard s
                  WHERE (s.run_id = r.run_id)
                  GROUP BY s.plan_number) p) spent)
     CROSS JOIN LATERAL ( SELECT (((spent.fetch_s + spent.decode_s) + spent.predict_s) + spent.write_s) AS worker_s) whole);

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

CREATE TABLE nightlabel.run_quality (
    run_id uuid NOT NULL,
    model_id integer NOT NULL,
    judged_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    is_history boolean NOT NULL,
    verdict text NOT NULL,
    reason text NOT NULL,
    images bigint NOT NULL,
    dead bigint NOT NULL,
    score_sum double precision NOT NULL,
    score_square_sum double precision NOT NULL,
    low_score real NOT NULL,
    low_scores bigint NOT NULL,
    nights integer NOT NULL,
    images_before bigint NOT NULL,
    js_distance real,
    js_ordinary real,
    psi real,
    psi_ordinary real,
    moved_share real,
    low_score_share_before real,
    low_score_share_ordinary real,
    mean_score_before real,
    mean_score_ordinary real,
    dead_ratio_before real,
    dead_ratio_ordinary real,
    moved text[] NOT NULL,
    moved_labels text[] NOT NULL,
    shares_before real[] NOT NULL,
    shares_now real[] NOT NULL,
    thresholds jsonb NOT NULL,
    CONSTRAINT run_quality_check CHECK (((cardinality(moved_labels) = cardinality(shares_before)) AND (cardinality(moved_labels) = cardinality(shares_now)))),
    CONSTRAINT run_quality_dead_check CHECK ((dead >= 0)),
    CONSTRAINT run_quality_images_before_check CHECK ((images_before >= 0)),
    CONSTRAINT run_quality_images_check CHECK ((images >= 0)),
    CONSTRAINT run_quality_low_score_check CHECK (((low_score >= (0)::double precision) AND (low_score <= (1)::double precision))),
    CONSTRAINT run_quality_low_scores_check CHECK ((low_scores >= 0)),
    CONSTRAINT run_quality_nights_check CHECK ((nights >= 0)),
    CONSTRAINT run_quality_verdict_check CHECK ((verdict = ANY (ARRAY['ordinary'::text, 'moved'::text, 'not_judged'::text])))
);

COMMENT ON TABLE nightlabel.run_quality IS 'What each run recorded, counted, and how that compares with the runs of the same model before it; run_drift shows it.';

COMMENT ON COLUMN nightlabel.run_quality.run_id IS 'The run.';

COMMENT ON COLUMN nightlabel.run_quality.model_id IS 'The model version whose labels were judged: the run''s own.';

COMMENT ON COLUMN nightlabel.run_quality.judged_at IS 'When it was judged last.';

COMMENT ON COLUMN nightlabel.run_quality.is_history IS 'Whether it labelled what was new, so that later runs are compared with it; not a retry, and no run that labels again.';

COMMENT ON COLUMN nightlabel.run_quality.verdict IS 'ordinary, moved or not_judged.';

COMMENT ON COLUMN nightlabel.run_quality.reason IS 'What has moved, or why it was not judged; empty for an ordinary run.';

COMMENT ON COLUMN nightlabel.run_quality.images IS 'Labels that the run recorded.';

COMMENT ON COLUMN nightlabel.run_quality.dead IS 'Dead letters that the run recorded.';

COMMENT ON COLUMN nightlabel.run_quality.score_sum IS 'Sum of the labels'' scores.';

COMMENT ON COLUMN nightlabel.run_quality.score_square_sum IS 'Sum of the squares of the scores, by which their spread is known.';

COMMENT ON COLUMN nightlabel.run_quality.low_score IS 'Below this a score counted as low.';

COMMENT ON COLUMN nightlabel.run_quality.low_scores IS 'Labels with a low score.';

COMMENT ON COLUMN nightlabel.run_quality.nights IS 'Runs before, of the same model and source, that it was compared with, or that are known if these are too few.';

COMMENT ON COLUMN nightlabel.run_quality.images_before IS 'Labels of these together.';

COMMENT ON COLUMN nightlabel.run_quality.js_distance IS 'Jensen-Shannon distance of the label mixes; null where nothing was judged, as all that follows.';

COMMENT ON COLUMN nightlabel.run_quality.js_ordinary IS 'How far an ordinary night goes.';

COMMENT ON COLUMN nightlabel.run_quality.psi IS 'Population stability index of the label mixes.';

COMMENT ON COLUMN nightlabel.run_quality.psi_ordinary IS 'How far an ordinary night goes.';

COMMENT ON COLUMN nightlabel.run_quality.moved_share IS 'Share of images with labels beyond what an ordinary night has of each.';

COMMENT ON COLUMN nightlabel.run_quality.low_score_share_before IS 'Share of low scores in the runs before.';

COMMENT ON COLUMN nightlabel.run_quality.low_score_share_ordinary IS 'How far an ordinary night goes.';

COMMENT ON COLUMN nightlabel.run_quality.mean_score_before IS 'Mean score of the runs before.';

COMMENT ON COLUMN nightlabel.run_quality.mean_score_ordinary IS 'How low an ordinary night goes.';

COMMENT ON COLUMN nightlabel.run_quality.dead_ratio_before IS 'Share of dead letters in the runs before.';

COMMENT ON COLUMN nightlabel.run_quality.dead_ratio_ordinary IS 'How far an ordinary night goes.';

COMMENT ON COLUMN nightlabel.run_quality.moved IS 'Which figures have moved.';

COMMENT ON COLUMN nightlabel.run_quality.moved_labels IS 'Labels that moved most, first; the two columns that follow are beside it.';

COMMENT ON COLUMN nightlabel.run_quality.shares_before IS 'Their shares in the runs before.';

COMMENT ON COLUMN nightlabel.run_quality.shares_now IS 'Their shares in this run.';

COMMENT ON COLUMN nightlabel.run_quality.thresholds IS 'The thresholds of that moment.';

CREATE VIEW nightlabel.run_drift AS
 SELECT q.run_id,
    r.dag_id,
    r.started_at,
    m.name AS model_name,
    m.version AS model_version,
    q.verdict,
    q.reason,
    q.images,
    q.dead,
    q.nights,
    q.images_before,
    q.js_distance,
    q.js_ordinary,
    q.psi,
    q.psi_ordinary,
    q.moved_share,
    (((q.low_scores)::double precision / (NULLIF(q.images, 0))::double precision))::real AS low_score_share,
    q.low_score_share_before,
    q.low_score_share_ordinary,
    ((q.score_sum / (NULLIF(q.images, 0))::double precision))::real AS mean_score,
    q.mean_score_before,
    q.mean_score_ordinary,
    (((q.dead)::double precision / (NULLIF((q.images + q.dead), 0))::double precision))::real AS dead_ratio,
    q.dead_ratio_before,
    q.dead_ratio_ordinary,
    q.moved,
    q.moved_labels,
    q.shares_before,
    q.shares_now,
    q.judged_at
   FROM ((nightlabel.run_quality q
     JOIN nightlabel.run r ON ((r.run_id = q.run_id)))
     JOIN nightlabel.model m ON ((m.model_id = q.model_id)));

COMMENT ON VIEW nightlabel.run_drift IS 'One row per run and model: label mix, scores and dead letters beside those of the same model in the 28 days before.';

COMMENT ON COLUMN nightlabel.run_drift.run_id IS 'The run; see run_summary for its books.';

COMMENT ON COLUMN nightlabel.run_drift.dag_id IS 'The Dag that it ran in; cli where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run_drift.started_at IS 'When the run began.';

COMMENT ON COLUMN nightlabel.run_drift.model_name IS 'Name of the model that gave the labels.';

COMMENT ON COLUMN nightlabel.run_drift.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.run_drift.verdict IS 'ordinary, moved or not_judged.';

COMMENT ON COLUMN nightlabel.run_drift.reason IS 'One sentence: what has moved, or why it was not judged; empty for an ordinary run.';

COMMENT ON COLUMN nightlabel.run_drift.images IS 'Labels that the run recorded.';

COMMENT ON COLUMN nightlabel.run_drift.dead IS 'Dead letters that the run recorded.';

COMMENT ON COLUMN nightlabel.run_drift.nights IS 'Runs before, of the same model and source, that it was compared with, or that are known if these are too few.';

COMMENT ON COLUMN nightlabel.run_drift.images_before IS 'Labels of these together.';

COMMENT ON COLUMN nightlabel.run_drift.js_distance IS 'Jensen-Shannon distance of the label mixes, 0 (the same) to 1; labels that are rare in a night of this size count as one.';

COMMENT ON COLUMN nightlabel.run_drift.js_ordinary IS 'An ordinary night of this size reaches this at most.';

COMMENT ON COLUMN nightlabel.run_drift.psi IS 'Population stability index of the label mixes, 0 and more; likewise over labels that are not rare.';

COMMENT ON COLUMN nightlabel.run_drift.psi_ordinary IS 'An ordinary night of this size reaches this at most.';

COMMENT ON COLUMN nightlabel.run_drift.moved_share IS 'Share of images with labels beyond what an ordinary night has of each, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_drift.low_score_share IS 'Share of labels with a low score, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_drift.low_score_share_before IS 'Likewise of the runs before; null where they were not counted.';

COMMENT ON COLUMN nightlabel.run_drift.low_score_share_ordinary IS 'An ordinary night of this size reaches this at most.';

COMMENT ON COLUMN nightlabel.run_drift.mean_score IS 'Mean probability of the labels, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_drift.mean_score_before IS 'Likewise of the runs before.';

COMMENT ON COLUMN nightlabel.run_drift.mean_score_ordinary IS 'An ordinary night of this size falls to this at most.';

COMMENT ON COLUMN nightlabel.run_drift.dead_ratio IS 'Share of dead letters among labels and dead letters, 0 to 1.';

COMMENT ON COLUMN nightlabel.run_drift.dead_ratio_before IS 'Likewise of the runs before; null where they were not counted.';

COMMENT ON COLUMN nightlabel.run_drift.dead_ratio_ordinary IS 'An ordinary night of this size reaches this at most.';

COMMENT ON COLUMN nightlabel.run_drift.moved IS 'Which figures have moved: js_distance, psi, moved_share, low_score_share, mean_score, dead_ratio.';

COMMENT ON COLUMN nightlabel.run_drift.moved_labels IS 'Labels that moved most, first; at most ten, and empty unless something has moved.';

COMMENT ON COLUMN nightlabel.run_drift.shares_before IS 'Their shares of the images of the runs before, beside moved_labels.';

COMMENT ON COLUMN nightlabel.run_drift.shares_now IS 'Their shares of the images of this run, beside moved_labels.';

COMMENT ON COLUMN nightlabel.run_drift.judged_at IS 'When it was judged; again when its report is run again.';

CREATE TABLE nightlabel.run_label (
    run_id uuid NOT NULL,
    model_id integer NOT NULL,
    label text NOT NULL,
    images bigint NOT NULL,
    CONSTRAINT run_label_images_check CHECK ((images >= 0))
);

COMMENT ON TABLE nightlabel.run_label IS 'How many images got which label in a run, counted at its end: what later runs are compared with.';

COMMENT ON COLUMN nightlabel.run_label.run_id IS 'The run.';

COMMENT ON COLUMN nightlabel.run_label.model_id IS 'The model version that gave the labels.';

COMMENT ON COLUMN nightlabel.run_label.label IS 'The label; two classes of one name are counted together.';

COMMENT ON COLUMN nightlabel.run_label.images IS 'Image versions that got the label; fewer once some were forgotten.';

CREATE TABLE nightlabel.run_pace (
    run_id uuid NOT NULL,
    images_per_second double precision NOT NULL,
    free_at timestamp with time zone,
    CONSTRAINT run_pace_images_per_second_check CHECK (((images_per_second >= (0.01)::double precision) AND (images_per_second <= (100000)::double precision)))
)
WITH (fillfactor='50');

COMMENT ON TABLE nightlabel.run_pace IS 'Runs that keep to a rate: their workers take turns from here, whatever their number.';

COMMENT ON COLUMN nightlabel.run_pace.run_id IS 'The run.';

COMMENT ON COLUMN nightlabel.run_pace.images_per_second IS 'Most images that all of its workers together begin in a second; a change holds once the turns that its workers have taken are over: two seconds, or a turn for each at less than one a second.';

COMMENT ON COLUMN nightlabel.run_pace.free_at IS 'When the first image may begin that no worker has a turn for yet; null before the first turn.';

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
    s.write_s,
    (pace.images_per_second)::real AS max_images_per_second,
    r.expected_s,
    r.shadow_of
   FROM (((nightlabel.run r
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)))
     LEFT JOIN nightlabel.run_pace pace ON ((pace.run_id = r.run_id)))
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

COMMENT ON COLUMN nightlabel.run_summary.run_id IS 'Id of the run.';

COMMENT ON COLUMN nightlabel.run_summary.dag_id IS 'classify_images, retry_dead_letters, reclassify_images or shadow_images; cli for the command line.';

COMMENT ON COLUMN nightlabel.run_summary.airflow_run_id IS 'Airflow''s own id of the run; null where Airflow did not start it.';

COMMENT ON COLUMN nightlabel.run_summary.state IS 'planned, running, succeeded or failed.';

COMMENT ON COLUMN nightlabel.run_summary.started_at IS 'When the run began.';

COMMENT ON COLUMN nightlabel.run_summary.finished_at IS 'When it ended; null while it runs.';

COMMENT ON COLUMN nightlabel.run_summary.model_name IS 'Name of the model that the run was planned with.';

COMMENT ON COLUMN nightlabel.run_summary.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.run_summary.discovered IS 'Objects that the listing, the manifest or the inventory showed; in a retry, the dead letters that matched; where objects are labelled again, those that matched; in a shadow run, the sample.';

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

COMMENT ON COLUMN nightlabel.run_summary.max_images_per_second IS 'The rate that the run keeps to, all of its workers together; null without a bound.';

COMMENT ON COLUMN nightlabel.run_summary.expected_s IS 'Seconds that its images were likely to take when it was planned; null if nobody knew, or asked.';

COMMENT ON COLUMN nightlabel.run_summary.shadow_of IS 'Of a shadow run: the run whose images it looks at; null for every other run.';

CREATE TABLE nightlabel.schema_compatibility (
    revision text NOT NULL,
    oldest_code text NOT NULL,
    CONSTRAINT schema_compatibility_check CHECK ((oldest_code <= revision))
);

COMMENT ON TABLE nightlabel.schema_compatibility IS 'Which code may work on each revision of the schema, as its migration says; code of a newer revision migrates first.';

COMMENT ON COLUMN nightlabel.schema_compatibility.revision IS 'Number of a migration.';

COMMENT ON COLUMN nightlabel.schema_compatibility.oldest_code IS 'The oldest revision whose code reads and writes this one correctly.';

CREATE VIEW nightlabel.shadow_daily AS
 SELECT ((s.recorded_at AT TIME ZONE 'UTC'::text))::date AS day,
    m.name AS model_name,
    m.version AS model_version,
    sm.name AS shadow_model_name,
    sm.version AS shadow_model_version,
    count(s.label) AS images,
    count(*) FILTER (WHERE (s.label_id = p.label_id)) AS same,
    (((count(*) FILTER (WHERE (s.label_id = p.label_id)))::double precision / (NULLIF(count(s.label), 0))::double precision))::real AS agreement,
    (avg(p.score) FILTER (WHERE (s.label IS NOT NULL)))::real AS mean_score,
    (avg(s.score))::real AS shadow_mean_score,
    count(s.error_code) AS shadow_dead
   FROM (((((nightlabel.run sr
     JOIN nightlabel.run r ON ((r.run_id = sr.shadow_of)))
     JOIN nightlabel.outcome s ON (((s.model_id = sr.model_id) AND (s.run_id = sr.run_id))))
     JOIN nightlabel.outcome p ON (((p.image_id = s.image_id) AND (p.model_id = r.model_id) AND (p.label IS NOT NULL))))
     JOIN nightlabel.model m ON ((m.model_id = r.model_id)))
     JOIN nightlabel.model sm ON ((sm.model_id = sr.model_id)))
  GROUP BY (((s.recorded_at AT TIME ZONE 'UTC'::text))::date), m.name, m.version, sm.name, sm.version;

COMMENT ON VIEW nightlabel.shadow_daily IS 'One row per UTC day, model and shadow model: how often they agreed on the images that both looked at.';

COMMENT ON COLUMN nightlabel.shadow_daily.day IS 'UTC day on which the shadow model''s outcomes were recorded.';

COMMENT ON COLUMN nightlabel.shadow_daily.model_name IS 'Name of the model whose labels are compared with.';

COMMENT ON COLUMN nightlabel.shadow_daily.model_version IS 'Version of that model.';

COMMENT ON COLUMN nightlabel.shadow_daily.shadow_model_name IS 'Name of the shadow model.';

COMMENT ON COLUMN nightlabel.shadow_daily.shadow_model_version IS 'Version of the shadow model.';

COMMENT ON COLUMN nightlabel.shadow_daily.images IS 'Image versions that both have labelled.';

COMMENT ON COLUMN nightlabel.shadow_daily.same IS 'Those with the same label id.';

COMMENT ON COLUMN nightlabel.shadow_daily.agreement IS 'Their share, 0 to 1; null while there is no image.';

COMMENT ON COLUMN nightlabel.shadow_daily.mean_score IS 'Mean probability of the model''s labels on these images, 0 to 1.';

COMMENT ON COLUMN nightlabel.shadow_daily.shadow_mean_score IS 'Mean probability of the shadow model''s labels on them, 0 to 1.';

COMMENT ON COLUMN nightlabel.shadow_daily.shadow_dead IS 'Image versions that the model has labelled, and the shadow model''s run could not; not among images.';

CREATE TABLE nightlabel.view_file (
    name text NOT NULL,
    sha256 text NOT NULL
);

COMMENT ON TABLE nightlabel.view_file IS 'The file that each view was made of last, by its SHA-256: one that is the same is not made again, which would wait for its readers.';

COMMENT ON COLUMN nightlabel.view_file.name IS 'The view.';

COMMENT ON COLUMN nightlabel.view_file.sha256 IS 'Of the file, in hexadecimal digits.';

ALTER TABLE ONLY nightlabel.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY nightlabel.dropped_model
    ADD CONSTRAINT dropped_model_pkey PRIMARY KEY (model_id, dropped_at);

ALTER TABLE ONLY nightlabel.forgetting
    ADD CONSTRAINT forgetting_pkey PRIMARY KEY (forgetting_id);

ALTER TABLE ONLY nightlabel.gate_check
    ADD CONSTRAINT gate_check_pkey PRIMARY KEY (check_id);

ALTER TABLE ONLY nightlabel.gate_threshold
    ADD CONSTRAINT gate_threshold_pkey PRIMARY KEY (model_name);

ALTER TABLE ONLY nightlabel.golden_image
    ADD CONSTRAINT golden_image_pkey PRIMARY KEY (golden_set, bucket, object_key);

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

ALTER TABLE ONLY nightlabel.review
    ADD CONSTRAINT review_pkey PRIMARY KEY (review_id);

ALTER TABLE ONLY nightlabel.run
    ADD CONSTRAINT run_dag_id_airflow_run_id_key UNIQUE (dag_id, airflow_run_id);

ALTER TABLE ONLY nightlabel.run_label
    ADD CONSTRAINT run_label_pkey PRIMARY KEY (run_id, model_id, label);

ALTER TABLE ONLY nightlabel.run_pace
    ADD CONSTRAINT run_pace_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY nightlabel.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY nightlabel.run_quality
    ADD CONSTRAINT run_quality_pkey PRIMARY KEY (run_id, model_id);

ALTER TABLE ONLY nightlabel.schema_compatibility
    ADD CONSTRAINT schema_compatibility_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY nightlabel.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (run_id, plan_number, shard_number);

ALTER TABLE ONLY nightlabel.view_file
    ADD CONSTRAINT view_file_pkey PRIMARY KEY (name);

CREATE UNIQUE INDEX forgetting_unfinished ON nightlabel.forgetting USING btree (bucket, prefix_sha256) WHERE (finished_at IS NULL);

CREATE INDEX gate_check_model ON nightlabel.gate_check USING btree (model_id, check_id);

CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;

CREATE UNIQUE INDEX model_alias_current ON nightlabel.model_alias USING btree (alias) WHERE (valid_to IS NULL);

CREATE INDEX object_image_id ON nightlabel.object USING btree (image_id);

CREATE INDEX outcome_day ON ONLY nightlabel.outcome USING brin ((((recorded_at AT TIME ZONE 'UTC'::text))::date) date_minmax_multi_ops) WITH (autosummarize='on');

CREATE INDEX outcome_dead_letter ON ONLY nightlabel.outcome USING btree (recorded_at DESC) INCLUDE (image_id, model_id) WHERE (error_code IS NOT NULL);

CREATE INDEX outcome_label ON ONLY nightlabel.outcome USING btree (label, recorded_at DESC) WHERE (label IS NOT NULL);

CREATE INDEX outcome_low_score ON ONLY nightlabel.outcome USING btree (score) WHERE (score < (0.5)::real);

CREATE UNIQUE INDEX review_current ON nightlabel.review USING btree (image_id) WHERE (superseded_at IS NULL);

CREATE INDEX run_started_at ON nightlabel.run USING btree (started_at);

CREATE TRIGGER count_deleted_labels AFTER DELETE ON nightlabel.outcome REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_deleted_labels();

CREATE TRIGGER count_inserted_labels AFTER INSERT ON nightlabel.outcome REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_inserted_labels();

CREATE TRIGGER count_updated_labels AFTER UPDATE ON nightlabel.outcome REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION nightlabel.count_updated_labels();

ALTER TABLE ONLY nightlabel.gate_check
    ADD CONSTRAINT gate_check_model_id_fkey FOREIGN KEY (model_id) REFERENCES nightlabel.model(model_id);

ALTER TABLE ONLY nightlabel.gate_check
    ADD CONSTRAINT gate_check_production_model_id_fkey FOREIGN KEY (production_model_id) REFERENCES nightlabel.model(model_id);

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

REVOKE ALL ON FUNCTION nightlabel.begin_forgetting(wanted_bucket text, wanted_prefix text, why text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_deleted_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_forgettable(wanted_bucket text, wanted_prefix text, OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint, OUT runs bigint, OUT examples text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_inserted_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_labels_of(ledger regclass) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_other_keys(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.count_updated_labels() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.drop_old_manifests(older_than interval) TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.finish_forgetting(id uuid, wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.fold_label_counts() FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.fold_label_counts() TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.forget_flips(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forget_images(id uuid, wanted_bucket text, wanted_prefix text, image_ids uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forget_in_chunk(id uuid, wanted_bucket text, wanted_prefix text, in_run uuid, in_plan integer, in_shard integer, in_chunk integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forget_names(id uuid, wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forget_other_keys(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forgettable_chunks(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forgettable_images(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.forgotten(id uuid, OUT images bigint, OUT objects bigint, OUT outcomes bigint, OUT manifest_refs bigint, OUT listings bigint, OUT runs bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.outcomes_detached() FROM PUBLIC;

REVOKE ALL ON FUNCTION nightlabel.record_review(wanted_bucket text, wanted_key text, right_label text, who text, why text, wanted_etag text, into_golden_set text) FROM PUBLIC;
GRANT ALL ON FUNCTION nightlabel.record_review(wanted_bucket text, wanted_key text, right_label text, who text, why text, wanted_etag text, into_golden_set text) TO nightlabel_writer;

REVOKE ALL ON FUNCTION nightlabel.runs_at_work(wanted_bucket text, wanted_prefix text) FROM PUBLIC;

GRANT SELECT ON TABLE nightlabel.alembic_version TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.image TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.model TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.model_alias TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.object TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.outcome TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.production_line TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.dead_letter_open TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dead_letter_reason TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.dead_letter_reason TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.dropped_model TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.duplicate_content TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.duplicate_content TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.gate_check TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.gate_threshold TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.golden_image TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.review TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.image_review TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.image_review TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_by_prefix TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_by_prefix TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_change TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_change TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_count TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_count_delta TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.label_daily TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.latest_prediction TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.listing TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.maintenance_position TO nightlabel_writer;

GRANT SELECT,INSERT ON TABLE nightlabel.manifest_chunk TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.model_alias_history TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.model_alias_history TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.model_check TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.model_check TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.model_check_flip TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.model_check_flip TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.never_labelled TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.never_labelled TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.object_outcome TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.object_outcome TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.review_queue TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.review_queue TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.shard TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_cost TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_cost TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run_quality TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_drift TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_drift TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run_label TO nightlabel_writer;

GRANT SELECT,INSERT,UPDATE ON TABLE nightlabel.run_pace TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.run_summary TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.schema_compatibility TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.shadow_daily TO nightlabel_reader;
GRANT SELECT ON TABLE nightlabel.shadow_daily TO nightlabel_writer;

GRANT SELECT ON TABLE nightlabel.view_file TO nightlabel_writer;
