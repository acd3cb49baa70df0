-- Which labels are the name of more than one class, so that counting by name mixes them?
-- For: analysts
-- Reads: every label that is there now, read once
-- Parameters: none
-- Columns:
--   label     text    the name
--   label_id  text    stable id of the class
--   images    bigint  existing objects that have it
-- Example:
--   label | label_id  | images
--   ------+-----------+-------
--   crane | n02012849 | 12
--   crane | n03126707 | 7
SELECT label, label_id, images
FROM (
    SELECT label, label_id, count(*) AS images, count(*) OVER (PARTITION BY label) AS classes
    FROM nightlabel.latest_prediction
    GROUP BY label, label_id
) AS counted
WHERE classes > 1
ORDER BY label, label_id;
