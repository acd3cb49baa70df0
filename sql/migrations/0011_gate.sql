-- 0011: the gate. Golden sets, thresholds, every check of a candidate with its verdict, and of each alias also who took it
-- away, who approved it, by which check and whether it was forced. Older code runs on: what it reads and writes of
-- model_alias is as it was, and moving an alias becomes the owner's right (sql/grants.sql), which no worker used.

CREATE TABLE nightlabel.golden_image (
    golden_set  text         NOT NULL DEFAULT 'default',
    bucket      text         NOT NULL,
    object_key  text         NOT NULL,
    etag        text         NOT NULL,
    label_id    text         NOT NULL,
    origin      text         NOT NULL CHECK (origin IN ('csv', 'review')),
    added_by    text         NOT NULL DEFAULT session_user,
    added_at    timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (golden_set, bucket, object_key)
);
COMMENT ON TABLE  nightlabel.golden_image IS 'Images whose right label is known, by golden set: what a candidate is judged on.';
COMMENT ON COLUMN nightlabel.golden_image.golden_set IS 'Name of the set.';
COMMENT ON COLUMN nightlabel.golden_image.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.golden_image.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.golden_image.etag IS 'ETag of the version that has this label, without quotes and without W/; another version is not judged.';
COMMENT ON COLUMN nightlabel.golden_image.label_id IS 'Stable id of the right label.';
COMMENT ON COLUMN nightlabel.golden_image.origin IS 'csv: loaded from a file. review: the label of a reviewer, which judges nothing: what is reviewed was picked by low scores.';
COMMENT ON COLUMN nightlabel.golden_image.added_by IS 'The login that gave the row as it is.';
COMMENT ON COLUMN nightlabel.golden_image.added_at IS 'When it did.';

CREATE TABLE nightlabel.gate_threshold (
    model_name           text              PRIMARY KEY,
    golden_set           text              NOT NULL DEFAULT 'default',
    min_golden_images    integer           NOT NULL DEFAULT 150  CHECK (min_golden_images >= 0),
    max_unreadable       double precision  NOT NULL DEFAULT 0.05 CHECK (max_unreadable >= 0 AND max_unreadable < 1),
    min_top1             double precision  NOT NULL DEFAULT 0.5  CHECK (min_top1 >= 0 AND min_top1 <= 1),
    max_loss             double precision  NOT NULL DEFAULT 0.02 CHECK (max_loss > 0 AND max_loss <= 0.2),
    confidence           double precision  NOT NULL DEFAULT 0.95 CHECK (confidence >= 0.8 AND confidence < 1),
    min_compared_images  integer           NOT NULL DEFAULT 50   CHECK (min_compared_images >= 30),
    min_agreement        double precision  NOT NULL DEFAULT 0.6  CHECK (min_agreement >= 0 AND min_agreement <= 1),
    max_slowdown         double precision  NOT NULL DEFAULT 0.5  CHECK (max_slowdown >= 0 AND max_slowdown < 1),
    changed_by           text              NOT NULL DEFAULT session_user,
    changed_at           timestamptz       NOT NULL DEFAULT clock_timestamp(),
    reason               text              NOT NULL,
    -- Something has to be able to stop a model: a golden set or, without one, agreement.
    CHECK (min_golden_images >= 100 OR min_agreement >= 0.5)
);
COMMENT ON TABLE  nightlabel.gate_threshold IS 'What a candidate has to reach, by the name of its model; the row * is for models without a row of their own.';
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
INSERT INTO nightlabel.gate_threshold (model_name, reason) VALUES ('*', 'as delivered');

CREATE TABLE nightlabel.gate_check (
    check_id                      bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id                      integer      NOT NULL REFERENCES nightlabel.model,
    production_model_id           integer      REFERENCES nightlabel.model,
    checked_at                    timestamptz  NOT NULL DEFAULT clock_timestamp(),
    checked_by                    text         NOT NULL DEFAULT session_user,
    verdict                       text         NOT NULL CHECK (verdict IN ('passed', 'failed')),
    reasons                       jsonb        NOT NULL,
    thresholds                    jsonb        NOT NULL,
    model_sha256                  text         NOT NULL,
    golden_set                    text         NOT NULL,
    golden_sha256                 text         NOT NULL,
    golden_images                 bigint       NOT NULL CHECK (golden_images >= 0),
    golden_unreadable             bigint       NOT NULL CHECK (golden_unreadable >= 0),
    top1                          double precision,
    top5                          double precision,
    right_score                   double precision,
    production_top1               double precision,
    production_top5               double precision,
    production_right_score        double precision,
    only_production_right         bigint,
    only_candidate_right          bigint,
    loss                          double precision,
    loss_bound                    double precision,
    golden_agreement              double precision,
    recent_days                   integer      NOT NULL CHECK (recent_days >= 0),
    recent_images                 bigint       NOT NULL CHECK (recent_images >= 0),
    recent_unreadable             bigint       NOT NULL CHECK (recent_unreadable >= 0),
    recent_agreement              double precision,
    score_shift                   double precision,
    engine                        text         NOT NULL,
    images_per_second             double precision,
    production_images_per_second  double precision,
    label_shifts                  jsonb        NOT NULL,
    flips                         jsonb        NOT NULL
);
CREATE INDEX gate_check_model ON nightlabel.gate_check (model_id, check_id);
COMMENT ON TABLE  nightlabel.gate_check IS 'Every check of a candidate against the golden set and production: what was found, and the verdict.';
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

-- Who took an alias away, and by what it was given.
ALTER TABLE nightlabel.model_alias ADD COLUMN check_id bigint;
ALTER TABLE nightlabel.model_alias ADD COLUMN is_forced boolean NOT NULL DEFAULT false;
ALTER TABLE nightlabel.model_alias ADD COLUMN approved_by text;
ALTER TABLE nightlabel.model_alias ADD COLUMN ended_by text;
ALTER TABLE nightlabel.model_alias ADD COLUMN ended_reason text;
COMMENT ON COLUMN nightlabel.model_alias.check_id IS 'The check that let it be promoted; null where none was needed, or where it was forced without one.';
COMMENT ON COLUMN nightlabel.model_alias.is_forced IS 'Whether somebody overrode the gate; reason says why.';
COMMENT ON COLUMN nightlabel.model_alias.approved_by IS 'Who said yes in Airflow; null where the login of changed_by did it by hand.';
COMMENT ON COLUMN nightlabel.model_alias.ended_by IS 'Database user who moved the alias on, or took it away; null while it holds, and for spans from before this was noted.';
COMMENT ON COLUMN nightlabel.model_alias.ended_reason IS 'Why, in words; likewise.';

-- Tables besides `object` that hold the keys of objects, for forgetting: a later migration that adds one replaces these two.
CREATE FUNCTION nightlabel.count_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
    SELECT count(*) FROM nightlabel.golden_image AS g WHERE g.bucket = wanted_bucket AND g.object_key ^@ wanted_prefix
$$;
CREATE FUNCTION nightlabel.forget_other_keys(wanted_bucket text, wanted_prefix text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'nightlabel', 'pg_temp'
    AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM nightlabel.golden_image AS g WHERE g.bucket = wanted_bucket AND g.object_key ^@ wanted_prefix;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

-- What checks found of single images goes likewise; their figures stay. It is no row, so that it is not counted.
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
REVOKE ALL ON FUNCTION
    nightlabel.count_other_keys(text, text), nightlabel.forget_other_keys(text, text),
    nightlabel.forget_flips(text, text)
    FROM PUBLIC;

CREATE OR REPLACE FUNCTION nightlabel.count_forgettable(
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

-- As in 0008, and the other tables that hold keys.
CREATE OR REPLACE FUNCTION nightlabel.forget_names(id uuid, wanted_bucket text, wanted_prefix text) RETURNS void
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

INSERT INTO nightlabel.schema_compatibility (revision, oldest_code) VALUES ('0011', '0009');
