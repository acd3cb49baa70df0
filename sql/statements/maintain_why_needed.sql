-- Why a model cannot be superseded, as text; no row when it can be: an alias names it, or a run with it is not over.
SELECT 'the alias ' || alias || ' names it'
FROM nightlabel.model_alias
WHERE model_id = %(model_id)s AND valid_to IS NULL
UNION ALL
SELECT 'run ' || run_id || ' with it is ' || state
FROM nightlabel.run
WHERE model_id = %(model_id)s AND state IN ('planned', 'running')
LIMIT 1;
