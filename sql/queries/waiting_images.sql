-- What waits for its first outcome, where, and since when?
-- For: operators
-- Reads: all objects, read once
-- Parameters: none
-- Columns:
--   bucket      text                      the bucket
--   prefix      text                      the key up to its first slash; empty for keys without one
--   images      bigint                    existing objects that no run has looked at
--   size_bytes  bigint                    their bytes
--   oldest      timestamp with time zone  when a listing showed the first of them
-- Example:
--   bucket | prefix   | images | size_bytes | oldest
--   -------+----------+--------+------------+---------------------
--   photos | odd\n/   | 1      | 1800       | 2026-11-21 02:00:00Z
--   photos | /        | 3      | 5400       | 2026-11-22 02:00:00Z
--   photos | in/      | 1      | 1800       | 2026-11-22 02:00:00Z
--   scans  | archive/ | 2      | 3500       | 2026-11-22 02:00:00Z
SELECT
    bucket,
    left(object_key, strpos(object_key, '/')) AS prefix,
    count(*) AS images,
    sum(size_bytes)::bigint AS size_bytes,
    min(first_seen_at) AS oldest
FROM nightlabel.never_labelled
GROUP BY 1, 2
ORDER BY oldest, bucket, prefix;
