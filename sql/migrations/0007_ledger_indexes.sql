-- not in one transaction
-- 0007: finds the newest rows of a label, and the newest dead letters, in each model's partition. Built beside a running
-- night, about five seconds for each million outcomes; later partitions get them when they are made.

-- Indexes of the ledger as a whole: not valid, and read by nobody, until every partition's is attached below.
CREATE INDEX IF NOT EXISTS outcome_label ON ONLY nightlabel.outcome (label, recorded_at DESC) WHERE label IS NOT NULL;
-- ;;
-- With the image, so that planning finds which listed images are dead letters without reading their rows, which lie far
-- apart.
CREATE INDEX IF NOT EXISTS outcome_dead_letter ON ONLY nightlabel.outcome (recorded_at DESC) INCLUDE (image_id, model_id)
WHERE error_code IS NOT NULL;
-- ;;
SELECT format(
    'CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON nightlabel.%I (label, recorded_at DESC) WHERE label IS NOT NULL',
    c.relname || '_label_recorded_at_idx', c.relname
)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass;
-- ;; run its rows
SELECT format(
    'CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON nightlabel.%I (recorded_at DESC) INCLUDE (image_id, model_id) '
    'WHERE error_code IS NOT NULL',
    c.relname || '_recorded_at_image_id_model_id_idx', c.relname
)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass;
-- ;; run its rows
SELECT format('ALTER INDEX nightlabel.%I ATTACH PARTITION nightlabel.%I', of_ledger, c.relname || of_partition)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
CROSS JOIN (
    VALUES ('outcome_label', '_label_recorded_at_idx'), ('outcome_dead_letter', '_recorded_at_image_id_model_id_idx')
) AS pairs (of_ledger, of_partition)
WHERE i.inhparent = 'nightlabel.outcome'::regclass;
-- ;; run its rows
-- The former index of the dead letters, which found the same rows by a time that nobody asks for.
SELECT format('DROP INDEX CONCURRENTLY IF EXISTS nightlabel.%I', c.relname || '_dead')
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'nightlabel.outcome'::regclass;
-- ;; run its rows
SELECT nightlabel.analyze_ledger();
