-- What is in each folder now, at any depth?
-- For: analysts
-- Reads: every label that is there now, read once
-- Parameters:
--   bucket  text     the bucket
--   depth   integer  how many parts of the key make the folder
--   limit   bigint   how many rows
-- Columns:
--   folder  text    first parts of the key, without its last one
--   label   text    the label
--   images  bigint  images in the folder that have it
-- Example: bucket=photos; depth=2; limit=5
--   folder   | label         | images
--   ---------+---------------+-------
--            | crane         | 6
--   archive  | 😺 smiling cat | 4
--   in/2025  | crane         | 4
--            | 😺 smiling cat | 3
--   archive/ | crane         | 3
\if :{?bucket} \else \set bucket photos \endif
\if :{?depth} \else \set depth 2 \endif
\if :{?limit} \else \set limit 100 \endif
SELECT
    array_to_string(
        parts[1 : least(CAST(:'depth' AS integer), cardinality(parts) - 1)], '/'
    ) AS folder,
    label,
    count(*) AS images
FROM nightlabel.latest_prediction
CROSS JOIN LATERAL (SELECT string_to_array(object_key, '/') AS parts) AS split
WHERE bucket = CAST(:'bucket' AS text)
GROUP BY folder, label
ORDER BY images DESC, folder, label
LIMIT CAST(:'limit' AS bigint);
