-- Which few images of every label should a person look at? The same ones at each asking.
-- For: analysts, ML engineers
-- Reads: every label that is there now, read once
-- Parameters:
--   each  bigint  how many of each label
-- Columns:
--   label       text  the label
--   bucket      text  bucket of the object
--   object_key  text  the key, exactly as stored
--   score       real  probability of the label
-- Example: each=1
--   label             | bucket | object_key              | score
--   ------------------+--------+-------------------------+---------
--   100% wool: {grey} | photos | /100%53\.jpg            | 0.40625
--   12" ruler         | scans  | a|b 33.jpg              | 0.578125
--   Egyptian cat      | scans  | tab\t59\x01.jpg         | 0.609375
--   crane             | photos | /photo70.jpg            | 0.8125
--   jack-o'-lantern   | photos | odd\n/line\n1.jpg       | 0.671875
--   tabby             | scans  | /line\n71.jpg           | 0.46875
--   😺 smiling cat     | photos | archive/tab\t41\x01.jpg | 0.828125
\if :{?each} \else \set each 5 \endif
SELECT label, bucket, object_key, score
FROM (
    SELECT
        label, bucket, object_key, score,
        row_number() OVER (PARTITION BY label ORDER BY md5(bucket || '/' || object_key), object_key) AS place
    FROM nightlabel.latest_prediction
) AS shuffled
WHERE place <= CAST(:'each' AS bigint)
ORDER BY label, place;
