-- How many objects, and how many bytes, are only copies of others?
-- For: data engineers, whoever pays for the bucket
-- Reads: all objects, read once
-- Parameters: none
-- Columns:
--   contents       bigint  contents that at least two objects hold
--   objects        bigint  objects that hold them
--   spare_objects  bigint  objects that would go if one of each stayed
--   spare_bytes    bigint  their bytes
-- Example:
--   contents | objects | spare_objects | spare_bytes
--   ---------+---------+---------------+------------
--   12       | 31      | 19            | 33100
SELECT
    count(*) AS contents,
    coalesce(sum(objects), 0)::bigint AS objects,
    coalesce(sum(objects - 1), 0)::bigint AS spare_objects,
    coalesce(sum(size_bytes - size_bytes / objects), 0)::bigint AS spare_bytes
FROM nightlabel.duplicate_content;
