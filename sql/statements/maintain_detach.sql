-- What is left to do to drop the outcomes of models, as statements: to take a partition out of the ledger while others
-- read and write it, or to bring an interrupted taking out to its end; to drop what is out. No row for a model when nothing
-- is left.
SELECT m.model_id, i.inhrelid IS NOT NULL AND NOT i.inhdetachpending AS is_whole, format(
    CASE
        WHEN i.inhdetachpending THEN 'ALTER TABLE nightlabel.outcome DETACH PARTITION %%s FINALIZE'
        WHEN i.inhrelid IS NOT NULL THEN 'ALTER TABLE nightlabel.outcome DETACH PARTITION %%s CONCURRENTLY'
        ELSE 'DROP TABLE %%s'
    END,
    c.oid::regclass
)
FROM unnest(%(models)s::integer[]) AS m (model_id)
JOIN pg_class AS c ON c.oid = to_regclass('nightlabel.outcome_model_' || m.model_id)
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
ORDER BY m.model_id;
