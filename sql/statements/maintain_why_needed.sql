-- Why the outcomes of a model cannot be dropped, as text; no row when they can be: an alias names it, a run with it is not
-- over, or somebody else has taken them out of the ledger, perhaps to keep them elsewhere.
SELECT 'the alias ' || alias || ' names it'
FROM nightlabel.model_alias
WHERE model_id = %(model_id)s AND valid_to IS NULL
UNION ALL
SELECT 'run ' || run_id || ' with it is ' || state
FROM nightlabel.run
WHERE model_id = %(model_id)s AND state IN ('planned', 'running')
UNION ALL
SELECT 'somebody else took its table ' || 'nightlabel.' || c.relname || ' out of the ledger; attach it again, rename it or drop it by hand'
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = 'nightlabel.outcome'::regclass
WHERE c.oid = to_regclass('nightlabel.outcome_model_' || %(model_id)s) AND i.inhdetachpending IS DISTINCT FROM false
    AND NOT EXISTS (SELECT FROM nightlabel.dropped_model AS d WHERE d.partition = c.oid AND d.ended_at IS NULL)
LIMIT 1;
