-- Keep every discovery waiting until the transaction ends, if none is at work: it finds out what is current, and what
-- has an outcome. Returns whether none was; whoever gets false lets go and comes again.
SELECT coalesce(bool_and(pg_try_advisory_xact_lock(hashtextextended('nightlabel.bucket ' || b.bucket, 0))), true)
FROM (SELECT DISTINCT bucket FROM nightlabel.run) AS b;
