-- The ledger's partitions: model and blocks on disk.
SELECT m.model_id, pg_relation_size(i.inhrelid) / current_setting('block_size')::bigint AS blocks
FROM pg_inherits AS i
JOIN nightlabel.model AS m ON i.inhrelid = to_regclass('nightlabel.outcome_model_' || m.model_id)
WHERE i.inhparent = 'nightlabel.outcome'::regclass AND NOT i.inhdetachpending
ORDER BY m.model_id;
