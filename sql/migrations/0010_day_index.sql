-- not in one transaction
-- 0010: finds the outcomes of a day, for label_by_prefix and for whoever asks for a day. The ledger grows in the order of
-- its days, so that a few dates for each megabyte are enough (BRIN): some kilobytes for a million outcomes, and nothing
-- that writing would notice. The multi-range form stays sharp where a later night fills a gap among older rows;
-- autosummarize, since the newest days are asked for most, and a vacuum of a large ledger comes months apart. Built
-- beside a running night, by reading the ledger once; later partitions get it when they are made.

CREATE INDEX IF NOT EXISTS outcome_day ON ONLY nightlabel.outcome
    USING brin (((recorded_at AT TIME ZONE 'UTC')::date) date_minmax_multi_ops) WITH (autosummarize = on);
-- ;;
SELECT format(
    'CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON nightlabel.%I'
    ' USING brin (((recorded_at AT TIME ZONE ''UTC'')::date) date_minmax_multi_ops) WITH (autosummarize = on)',
    c.relname || '_day_idx', c.relname
)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass AND NOT EXISTS (
    -- A partition that was made since the first statement has its index already, under a name that Postgres chose.
    SELECT FROM pg_inherits AS x JOIN pg_index AS has ON has.indexrelid = x.inhrelid
    WHERE x.inhparent = 'nightlabel.outcome_day'::regclass AND has.indrelid = c.oid
);
-- ;; run its rows
SELECT format('ALTER INDEX nightlabel.outcome_day ATTACH PARTITION nightlabel.%I', c.relname || '_day_idx')
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass AND NOT EXISTS (
    -- A partition that was made since the first statement has its index already, under a name that Postgres chose.
    SELECT FROM pg_inherits AS x JOIN pg_index AS has ON has.indexrelid = x.inhrelid
    WHERE x.inhparent = 'nightlabel.outcome_day'::regclass AND has.indrelid = c.oid
);
-- ;; run its rows
INSERT INTO nightlabel.schema_compatibility (revision, oldest_code) VALUES ('0010', '0009') ON CONFLICT DO NOTHING;
