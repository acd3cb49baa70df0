-- production_line: every model that holds or ever held the alias `production`, best first.
-- Grain:   one row per model version.
-- Rule:    rank 1 holds the alias now; the others follow by when they last held it, newest first.
-- Readers: the views below and discovery; not part of the public contract.
CREATE OR REPLACE VIEW nightlabel.production_line AS
SELECT
    a.model_id,
    row_number() OVER (ORDER BY max(coalesce(a.valid_to, 'infinity')) DESC, a.model_id DESC) AS rank
FROM nightlabel.model_alias AS a
WHERE a.alias = 'production'
GROUP BY a.model_id;
COMMENT ON VIEW nightlabel.production_line IS 'Models that hold or ever held the alias production, best first.';
