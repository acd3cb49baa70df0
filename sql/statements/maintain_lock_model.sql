-- Keep everybody who might take a model into use waiting until the transaction ends, promotions and plans, if none is at
-- it. Returns whether none was; whoever gets false lets go and comes again.
SELECT pg_try_advisory_xact_lock(hashtext('nightlabel.model_alias'))
    AND pg_try_advisory_xact_lock(hashtextextended('nightlabel.model ' || %(model_id)s, 0));
