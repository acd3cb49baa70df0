-- 0009: which code may work on a schema that is newer than it; where maintenance stopped; which models it dropped; which files
-- the views are made of; manifests are dropped a bounded number at a time. Nothing that older code reads or writes changes,
-- but that code does not look at schema_compatibility yet and refuses every newer schema; and it would use a model that is
-- being dropped. So the oldest code for this revision is its own.

CREATE TABLE nightlabel.schema_compatibility (
    revision     text  PRIMARY KEY,
    oldest_code  text  NOT NULL CHECK (oldest_code <= revision)
);
COMMENT ON TABLE  nightlabel.schema_compatibility IS 'Which code may work on each revision of the schema, as its migration says; code of a newer revision migrates first.';
COMMENT ON COLUMN nightlabel.schema_compatibility.oldest_code IS 'The oldest revision whose code reads and writes this one correctly.';
INSERT INTO nightlabel.schema_compatibility (revision, oldest_code) VALUES ('0009', '0009');

CREATE TABLE nightlabel.maintenance_position (
    step        text         PRIMARY KEY,
    block       bigint       NOT NULL CHECK (block >= 0),
    stopped_at  timestamptz  NOT NULL DEFAULT now()
);
COMMENT ON TABLE  nightlabel.maintenance_position IS 'Where a step of maintenance was when its time was up; the next one begins there. No row: at the beginning.';
COMMENT ON COLUMN nightlabel.maintenance_position.block IS 'Block of the table that the step reads.';

CREATE TABLE nightlabel.dropped_model (
    model_id    integer      NOT NULL,
    dropped_at  timestamptz  NOT NULL DEFAULT now(),
    dropped_by  text         NOT NULL DEFAULT session_user,
    outcomes    bigint       NOT NULL CHECK (outcomes >= 0),
    partition   oid          NOT NULL,
    ended_at    timestamptz,
    PRIMARY KEY (model_id, dropped_at)
);
COMMENT ON TABLE  nightlabel.dropped_model IS 'Models whose outcomes were dropped as a whole, by whom and how many; the model stays registered and may get new ones.';
COMMENT ON COLUMN nightlabel.dropped_model.partition IS 'The table that goes; one of the same name that is made later, or that somebody else took out of the ledger, is another.';
COMMENT ON COLUMN nightlabel.dropped_model.ended_at IS 'Null while it is under way, or after it was interrupted: the model is refused until the next maintenance brings it to its end.';

CREATE TABLE nightlabel.view_file (
    name    text  PRIMARY KEY,
    sha256  text  NOT NULL
);
COMMENT ON TABLE  nightlabel.view_file IS 'The file that each view was made of last, by its SHA-256: one that is the same is not made again, which would wait for its readers.';

-- A call drops a thousand chunks at most, of runs that have ended; callers repeat it until it returns none. What another
-- session has locked is left to it.
CREATE OR REPLACE FUNCTION nightlabel.drop_old_manifests(older_than interval) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = nightlabel, pg_temp AS $$
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
