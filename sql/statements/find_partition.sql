-- Whether a model's outcomes are being dropped; whether it has a place in the ledger; the table of its name that stands
-- outside of it, if there is one.
SELECT
    EXISTS (SELECT FROM nightlabel.dropped_model AS d WHERE d.model_id = %(model_id)s AND d.ended_at IS NULL) AS is_dropped,
    i.inhdetachpending IS NOT DISTINCT FROM false AS has_place,
    CASE WHEN i.inhdetachpending IS DISTINCT FROM false THEN 'nightlabel.' || c.relname END AS outside
FROM (SELECT to_regclass('nightlabel.outcome_model_' || %(model_id)s)) AS named (oid)
LEFT JOIN pg_class AS c ON c.oid = named.oid
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = 'nightlabel.outcome'::regclass;
