-- Statements that make room for new rows and bring the planner's statistics up to date: the ledger as a whole last, which
-- autovacuum never looks at. A table that somebody else is vacuuming is left to him.
SELECT format('VACUUM (ANALYZE, SKIP_LOCKED) %s', c.oid::regclass)
FROM pg_class AS c
WHERE c.relnamespace = 'nightlabel'::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT 'ANALYZE (SKIP_LOCKED) ' || CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'ONLY ' ELSE '' END
    || 'nightlabel.outcome'
ORDER BY 1 DESC;
