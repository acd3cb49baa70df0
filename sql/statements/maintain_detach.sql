-- The drops that are under way, each with what is left to do as a statement: to take its partition out of the ledger while
-- others read and write it, or to bring an interrupted taking out to its end; to drop what is out; null when nothing is
-- left. A table of the same name that is another one is somebody else's.
SELECT d.model_id, d.dropped_at, i.inhrelid IS NOT NULL AND NOT i.inhdetachpending AS is_whole, format(
    CASE
        WHEN i.inhdetachpending THEN 'ALTER TABLE nightlabel.outcome DETACH PARTITION %s FINALIZE'
        WHEN i.inhrelid IS NOT NULL THEN 'ALTER TABLE nightlabel.outcome DETACH PARTITION %s CONCURRENTLY'
        WHEN c.oid IS NOT NULL THEN 'DROP TABLE %s'
    END,
    c.oid::regclass
)
FROM nightlabel.dropped_model AS d
LEFT JOIN pg_class AS c ON c.oid = d.partition AND c.oid = to_regclass('nightlabel.outcome_model_' || d.model_id)
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
WHERE d.ended_at IS NULL
ORDER BY d.dropped_at;
