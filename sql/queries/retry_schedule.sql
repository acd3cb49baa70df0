-- When are dead letters tried again, and how many on which day?
-- For: operators
-- Reads: the dead letters that are there now
-- Parameters: none
-- Columns:
--   day         date                      UTC day from which they may be tried; a nightly run after it does
--   error_code  text                      stable code of the reason
--   objects     bigint                    existing objects
--   first_at    timestamp with time zone  the first of them
-- Example:
--   day        | error_code    | objects | first_at
--   -----------+---------------+---------+---------------------
--   2026-11-14 | access_denied | 1       | 2026-11-14 22:01:00Z
--   2026-11-19 | access_denied | 1       | 2026-11-19 22:01:02Z
--   2026-11-20 | access_denied | 1       | 2026-11-20 22:01:00Z
--   2026-11-21 | access_denied | 2       | 2026-11-21 08:01:00Z
SELECT
    (retry_after AT TIME ZONE 'UTC')::date AS day,
    error_code,
    count(*) AS objects,
    min(retry_after) AS first_at
FROM nightlabel.dead_letter_open
WHERE NOT permanent
GROUP BY 1, 2
ORDER BY 1, 2;
