-- not in one transaction
-- 0013: watching the labels. What each run recorded, counted by label, and how it compares with the runs before it; labels
-- that reviewers give, with their history, from which the golden set grows; the labels of a low score, found by an index.
-- Older code runs on, judges nothing and knows no reviews. An index is built beside a running night, by reading the
-- ledger once; later partitions get it when they are made.

CREATE TABLE IF NOT EXISTS nightlabel.run_quality (
    run_id                    uuid              NOT NULL,
    model_id                  integer           NOT NULL,
    judged_at                 timestamptz       NOT NULL DEFAULT clock_timestamp(),
    is_history                boolean           NOT NULL,
    verdict                   text              NOT NULL CHECK (verdict IN ('ordinary', 'moved', 'not_judged')),
    reason                    text              NOT NULL,
    images                    bigint            NOT NULL CHECK (images >= 0),
    dead                      bigint            NOT NULL CHECK (dead >= 0),
    score_sum                 double precision  NOT NULL,
    score_square_sum          double precision  NOT NULL,
    low_score                 real              NOT NULL CHECK (low_score >= 0 AND low_score <= 1),
    low_scores                bigint            NOT NULL CHECK (low_scores >= 0),
    nights                    integer           NOT NULL CHECK (nights >= 0),
    images_before             bigint            NOT NULL CHECK (images_before >= 0),
    js_distance               real,
    js_ordinary               real,
    psi                       real,
    psi_ordinary              real,
    moved_share               real,
    low_score_share_before    real,
    low_score_share_ordinary  real,
    mean_score_before         real,
    mean_score_ordinary       real,
    dead_ratio_before         real,
    dead_ratio_ordinary       real,
    moved                     text[]            NOT NULL,
    moved_labels              text[]            NOT NULL,
    shares_before             real[]            NOT NULL,
    shares_now                real[]            NOT NULL,
    thresholds                jsonb             NOT NULL,
    PRIMARY KEY (run_id, model_id),
    CHECK (cardinality(moved_labels) = cardinality(shares_before) AND cardinality(moved_labels) = cardinality(shares_now))
);
-- ;;
COMMENT ON TABLE nightlabel.run_quality IS 'What each run recorded, counted, and how that compares with the runs of the same model before it; run_drift shows it.';
-- ;;
CREATE TABLE IF NOT EXISTS nightlabel.run_label (
    run_id    uuid     NOT NULL,
    model_id  integer  NOT NULL,
    label     text     NOT NULL,
    images    bigint   NOT NULL CHECK (images >= 0),
    PRIMARY KEY (run_id, model_id, label)
);
-- ;;
COMMENT ON TABLE nightlabel.run_label IS 'How many images got which label in a run, counted at its end: what later runs are compared with.';
-- ;;
-- Only ever added to: a correction is another row, and the one before says when it ceased to hold. Keys stand here
-- themselves, so that a review outlives maintenance, which removes image versions that no object holds any more.
CREATE TABLE IF NOT EXISTS nightlabel.review (
    review_id      bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_id       uuid         NOT NULL,
    bucket         text         NOT NULL COLLATE "C",
    object_key     text         NOT NULL COLLATE "C",
    etag           text         NOT NULL,
    label          text         NOT NULL,
    label_id       text         NOT NULL,
    reviewer       text         NOT NULL CHECK (reviewer <> ''),
    note           text         NOT NULL,
    reviewed_at    timestamptz  NOT NULL DEFAULT clock_timestamp(),
    recorded_by    text         NOT NULL DEFAULT session_user,
    superseded_at  timestamptz,
    model_id       integer      NOT NULL,
    seen_label     text         NOT NULL,
    seen_label_id  text         NOT NULL,
    seen_score     real         NOT NULL
);
-- ;;
COMMENT ON TABLE nightlabel.review IS 'Labels that people gave to images after they saw the model''s; a correction is another row.';
-- ;;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS review_current ON nightlabel.review (image_id) WHERE superseded_at IS NULL;
-- ;;
-- What reviewers call, and nothing else is needed for it: workers may not write the table. The object's row is kept from
-- being forgotten meanwhile.
CREATE OR REPLACE FUNCTION nightlabel.record_review(
    wanted_bucket text, wanted_key text, right_label text, who text, why text DEFAULT '', wanted_etag text DEFAULT NULL,
    into_golden_set text DEFAULT 'review'
) RETURNS bigint
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
-- ;;
REVOKE ALL ON FUNCTION nightlabel.record_review(text, text, text, text, text, text, text) FROM PUBLIC;
-- ;;
-- Forgetting reaches reviews as well, by their keys.
CREATE OR REPLACE FUNCTION nightlabel.count_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT
        (SELECT count(*) FROM nightlabel.golden_image AS g WHERE g.bucket = wanted_bucket AND g.object_key ^@ wanted_prefix)
        + (SELECT count(*) FROM nightlabel.review AS r WHERE r.bucket = wanted_bucket AND r.object_key ^@ wanted_prefix)
$$;
-- ;;
CREATE OR REPLACE FUNCTION nightlabel.forget_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
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
-- ;;
-- As in 0008, and what the runs counted of them, so that no run is compared with what was forgotten. Distances and the
-- shares of labels that moved, which were worked out of such counts, stay, as the run's books do.
CREATE OR REPLACE FUNCTION nightlabel.forget_images(id uuid, wanted_bucket text, wanted_prefix text, image_ids uuid[]) RETURNS bigint
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
-- ;;
CREATE INDEX IF NOT EXISTS outcome_low_score ON ONLY nightlabel.outcome (score) WHERE score < 0.5::real;
-- ;;
SELECT format(
    'CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON nightlabel.%I (score) WHERE score < 0.5::real',
    c.relname || '_low_score_idx', c.relname
)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass AND NOT EXISTS (
    -- A partition that was made since the first statement has its index already, under a name that Postgres chose.
    SELECT FROM pg_inherits AS x JOIN pg_index AS has ON has.indexrelid = x.inhrelid
    WHERE x.inhparent = 'nightlabel.outcome_low_score'::regclass AND has.indrelid = c.oid
);
-- ;; run its rows
SELECT format('ALTER INDEX nightlabel.outcome_low_score ATTACH PARTITION nightlabel.%I', c.relname || '_low_score_idx')
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass AND NOT EXISTS (
    SELECT FROM pg_inherits AS x JOIN pg_index AS has ON has.indexrelid = x.inhrelid
    WHERE x.inhparent = 'nightlabel.outcome_low_score'::regclass AND has.indrelid = c.oid
);
-- ;; run its rows
INSERT INTO nightlabel.schema_compatibility (revision, oldest_code) VALUES ('0013', '0009') ON CONFLICT DO NOTHING;
