-- The statement that takes a model's partition out of the ledger while others read and write it, or that brings an
-- interrupted one to its end. No row when it is out.
SELECT format(
    'ALTER TABLE nightlabel.outcome DETACH PARTITION %%s ' || CASE WHEN i.inhdetachpending THEN 'FINALIZE' ELSE 'CONCURRENTLY' END,
    i.inhrelid::regclass
)
FROM pg_inherits AS i
WHERE i.inhparent = 'nightlabel.outcome'::regclass
    AND (i.inhrelid = to_regclass('nightlabel.outcome_model_' || %(model_id)s::integer) OR %(model_id)s::integer IS NULL AND i.inhdetachpending);
