-- Which images need a person, since nothing tries them again by itself?
-- For: operators
-- Reads: the dead letters that are there now
-- Parameters:
--   limit  bigint  how many
-- Columns:
--   bucket      text                      bucket of the object
--   object_key  text                      the key, exactly as stored
--   error_code  text                      stable code of the reason
--   message     text                      what was found and what to do
--   attempts    integer                   how often it was tried
--   failed_at   timestamp with time zone  when it was recorded
-- Example: limit=3
--   bucket | object_key            | error_code      | message                                                       | attempts | failed_at
--   -------+-----------------------+-----------------+---------------------------------------------------------------+----------+---------------------
--   photos | in/2026/line\n64.jpg  | undecodable     | in/2026/line\n64.jpg is no image; upload it again             | 1        | 2026-11-20 02:02:00Z
--   photos | in/2025/line\n57.jpg  | image_too_large | in/2025/line\n57.jpg has 300 megapixels, and 100 are allowed  | 1        | 2026-11-19 02:01:00Z
--   scans  | archive//say "52".jpg | image_too_large | archive//say "52".jpg has 300 megapixels, and 100 are allowed | 1        | 2026-11-18 02:01:01Z
\if :{?limit} \else \set limit 100 \endif
SELECT bucket, object_key, error_code, message, attempts, failed_at
FROM nightlabel.dead_letter_open
WHERE permanent
ORDER BY failed_at DESC, bucket, object_key
LIMIT CAST(:'limit' AS bigint);
