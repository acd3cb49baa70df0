-- Statements that drop the partitions that were taken out of the ledger, by this maintenance or by one that was
-- interrupted.
SELECT format('DROP TABLE %s', c.oid::regclass)
FROM pg_class AS c
WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^outcome_model_[0-9]+$'
    AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid)
ORDER BY c.oid;
