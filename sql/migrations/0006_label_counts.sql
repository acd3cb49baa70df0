-- not in one transaction
-- 0006: how many images got which label on which day, counted as the outcomes are recorded, so that label_daily need not
-- read the ledger. A statement of whatever code leaves one row of label_count_delta, in its own transaction; rows are
-- folded into label_count later, and the view adds both. No row is written by two workers.
--
-- Code of 0005 runs on and is counted by the triggers; what it recorded before is counted by the last statement, which
-- locks nothing. A trigger waits for the batches that are being recorded, and keeps the next ones waiting for that long.

CREATE TABLE IF NOT EXISTS nightlabel.label_count (
    day        date              NOT NULL,
    model_id   integer           NOT NULL,
    label      text              NOT NULL,
    images     bigint            NOT NULL,
    score_sum  double precision  NOT NULL,
    PRIMARY KEY (day, model_id, label)
) WITH (fillfactor = 70);  -- a day's rows are updated by each folding: room for the new versions on the same page
COMMENT ON TABLE  nightlabel.label_count IS 'Labels recorded, by UTC day and model, but for what label_count_delta holds; label_daily adds both.';
COMMENT ON COLUMN nightlabel.label_count.score_sum IS 'In double precision, in which a sum of some million scores of single precision loses nothing.';
-- ;;
CREATE TABLE IF NOT EXISTS nightlabel.label_count_delta (
    day         date                NOT NULL,
    model_id    integer             NOT NULL,
    labels      text[]              NOT NULL,
    images      bigint[]            NOT NULL,
    score_sums  double precision[]  NOT NULL
) WITH (
    -- Rows come and go all night: what a reader has to step over is kept small, however large the table once was.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000
);
COMMENT ON TABLE  nightlabel.label_count_delta IS 'What was recorded and is not folded into label_count yet: one row a statement, day and model.';
COMMENT ON COLUMN nightlabel.label_count_delta.images IS 'Beside labels; negative for what was deleted or changed.';
-- ;;
-- Counting is the ledger's own affair, so workers have no right to write counts. A dead letter that becomes a label counts
-- when it becomes one.
CREATE OR REPLACE FUNCTION nightlabel.count_inserted_labels() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
CREATE OR REPLACE FUNCTION nightlabel.count_updated_labels() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
-- What is deleted is counted no more, so that nothing is left of an object that is to be forgotten; unless the transaction
-- has said SET LOCAL nightlabel.keep_label_counts = 'on', as whoever deletes outcomes for their age does: history stays.
-- A partition that is dropped fires no trigger, so its counts stay too.
CREATE OR REPLACE FUNCTION nightlabel.count_deleted_labels() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
-- A statement fires the triggers of the table that it names: mostly the ledger's, a partition's when it names that.
CREATE OR REPLACE FUNCTION nightlabel.count_labels_of(ledger regclass) RETURNS void
LANGUAGE plpgsql SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
-- One folding at a time, so that nobody waits for a row: who comes second folds nothing. At most 50,000 rows at a time,
-- so that none takes long. Killed in the middle it has done nothing.
CREATE OR REPLACE FUNCTION nightlabel.fold_label_counts() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
-- Autovacuum gathers statistics of each partition and none of the ledger as a whole, without which the planner takes the
-- newest rows of a label for few and reads and sorts them all. Does something only where the ledger has grown, or shrunk,
-- by a third since, and nobody keeps it waiting. Returns whether it did.
CREATE OR REPLACE FUNCTION nightlabel.analyze_ledger() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp SET lock_timeout = '1s' AS $$
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
-- ;;
-- Partitions get their keys and indexes from the ledger when they are attached, and their triggers here. Attached and not
-- made in place (PARTITION OF): that would wait for everybody who reads the ledger, and all who come later behind it.
CREATE OR REPLACE FUNCTION nightlabel.add_outcome_partition(new_model_id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
-- ;;
REVOKE ALL ON FUNCTION
    nightlabel.count_inserted_labels(), nightlabel.count_updated_labels(), nightlabel.count_deleted_labels(),
    nightlabel.count_labels_of(regclass), nightlabel.fold_label_counts(), nightlabel.analyze_ledger()
    FROM PUBLIC;
-- ;;
SELECT 'SELECT nightlabel.count_labels_of(''nightlabel.outcome'')'
UNION ALL
SELECT format('SELECT nightlabel.count_labels_of(%L)', inhrelid::regclass)
FROM pg_inherits
WHERE inhparent = 'nightlabel.outcome'::regclass;
-- ;; run its rows
-- What was recorded before the triggers: of each partition, what is in it less what was counted of it, both as one
-- snapshot shows them. Whatever is recorded, replaced or folded meanwhile changes both alike, so the difference is exact
-- at any moment, and nothing when it is taken again.
SELECT format(
    $statement$
        INSERT INTO nightlabel.label_count_delta (day, model_id, labels, images, score_sums)
        SELECT day, %1$s, array_agg(label), array_agg(images), array_agg(score_sum)
        FROM (
            SELECT day, label, sum(images)::bigint AS images, sum(score_sum) AS score_sum
            FROM (
                SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, label, count(*) AS images,
                    sum(score::double precision) AS score_sum
                FROM nightlabel.outcome
                WHERE model_id = %1$s AND label IS NOT NULL
                GROUP BY 1, 2
                UNION ALL
                SELECT day, label, -images, -score_sum FROM nightlabel.label_count WHERE model_id = %1$s
                UNION ALL
                SELECT d.day, u.label, -u.images, -u.score_sum
                FROM nightlabel.label_count_delta AS d
                CROSS JOIN LATERAL unnest(d.labels, d.images, d.score_sums) AS u (label, images, score_sum)
                WHERE d.model_id = %1$s
            ) AS counted
            GROUP BY day, label
            HAVING sum(images) <> 0
        ) AS missing
        GROUP BY day
    $statement$, model_id
)
FROM nightlabel.model
ORDER BY model_id;
-- ;; run its rows
SELECT nightlabel.fold_label_counts();
