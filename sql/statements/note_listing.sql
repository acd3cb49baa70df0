-- Note a complete listing; of two of one prefix the one that began later stays. One discovery of a bucket at a time
-- gets here.
INSERT INTO nightlabel.listing AS l (bucket, prefix, listed_at)
VALUES (%(bucket)s, %(prefix)s, %(listed_at)s)
ON CONFLICT (bucket, prefix) DO UPDATE SET listed_at = greatest(l.listed_at, excluded.listed_at);
