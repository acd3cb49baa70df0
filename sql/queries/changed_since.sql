-- Which images came or were overwritten since a moment, and what are they?
-- For: analysts
-- Reads: every label that is there now, read once
-- Parameters:
--   since  timestamptz  the moment, by the store's clock; empty: a day ago
--   limit  bigint       how many
-- Columns:
--   bucket         text                      bucket of the object
--   object_key     text                      the key, exactly as stored
--   last_modified  timestamp with time zone  when it was written, as the store says
--   label          text                      its label
--   score          real                      probability of the label
-- Example: since=2026-11-19T12:00:00Z; limit=5
--   bucket | object_key         | last_modified        | label         | score
--   -------+--------------------+----------------------+---------------+---------
--   photos | a|b 76.jpg         | 2026-11-21 00:56:00Z | crane         | 0.546875
--   photos | a|b 74.jpg         | 2026-11-21 00:12:00Z | 😺 smiling cat | 0.796875
--   photos | odd\n/say "75".jpg | 2026-11-20 09:03:00Z | crane         | 0.546875
--   photos | in/2025/a|b 69.jpg | 2026-11-19 19:04:00Z | crane         | 0.734375
--   scans  | /line\n71.jpg      | 2026-11-19 17:56:00Z | tabby         | 0.46875
\if :{?since} \else \set since '' \endif
\if :{?limit} \else \set limit 100 \endif
SELECT bucket, object_key, last_modified, label, score
FROM nightlabel.latest_prediction
WHERE last_modified > coalesce(CAST(nullif(CAST(:'since' AS text), '') AS timestamptz), now() - interval '1 day')
ORDER BY last_modified DESC, bucket, object_key
LIMIT CAST(:'limit' AS bigint);
