-- Which equal images have different labels?
-- For: analysts, ML engineers
-- Reads: all objects, read once
-- Parameters:
--   limit  bigint  how many
-- Columns:
--   content_sha256  text    SHA-256 of the bytes
--   objects         bigint  existing objects that hold them
--   object_keys     text[]  the first ten of their keys
--   labels          text[]  their labels
-- Example: limit=2
--   content_sha256                                                   | objects | object_keys                                                                                         | labels
--   -----------------------------------------------------------------+---------+-----------------------------------------------------------------------------------------------------+-------------------------
--   65c79c5e53eab47f999686d6b496ca40fb7592672efa6981dc58bd8e37bd2caa | 5       | {/a|b 18.jpg, archive//say "2".jpg, in/2026/a|b 24.jpg, in/2026/tab\t58\x01.jpg, odd\n/line\n1.jpg} | {jack-o'-lantern, tabby}
--   ecea79c042a8c25d4dd55f0ca4e073a0980e38e551eb41d9289011bca38f7cf6 | 3       | {archive//100%49\.jpg, a|b 74.jpg, in/2025/a|b 21.jpg}                                              | {crane, 😺 smiling cat}
\if :{?limit} \else \set limit 100 \endif
SELECT content_sha256, objects, object_keys, labels
FROM nightlabel.duplicate_content
WHERE cardinality(labels) > 1
ORDER BY objects DESC, content_sha256
LIMIT CAST(:'limit' AS bigint);
