-- Note a complete listing, unless a newer one of keys that it shares was noted meanwhile: then no row comes back, and
-- what this one shows is out of date. One discovery of a bucket at a time gets here.
INSERT INTO nightlabel.listing (bucket, prefix, listed_at)
SELECT %(bucket)s, %(prefix)s, %(listed_at)s
WHERE NOT EXISTS (
    SELECT FROM nightlabel.listing
    WHERE bucket = %(bucket)s
        AND (prefix ^@ %(prefix)s OR %(prefix)s ^@ prefix)
        AND listed_at > %(listed_at)s
)
ON CONFLICT (bucket, prefix) DO UPDATE SET listed_at = excluded.listed_at
RETURNING listed_at;
