-- label_by_prefix: how many images below which prefix got which label on which day.
-- Grain:   one row per UTC day, bucket, prefix, model version and label.
-- Rule:    prefix is the key up to and including its first slash, empty for a key without one. Each outcome that the
--          ledger holds counted once, whatever happened to its object since. The prefixes of a day add up to label_daily
--          until maintenance removes outcomes of that day, by age or with their model: label_daily goes on counting them.
-- Cost:    name the days; a day is read by itself (index outcome_day), all days are the whole ledger.
-- Readers: analysts, dashboards.
CREATE OR REPLACE VIEW nightlabel.label_by_prefix AS
SELECT
    (o.recorded_at AT TIME ZONE 'UTC')::date AS day,
    i.bucket::text AS bucket,
    k.prefix,
    m.name AS model_name,
    m.version AS model_version,
    o.label,
    count(*) AS images,
    avg(o.score)::real AS mean_score
FROM nightlabel.outcome AS o
JOIN nightlabel.image AS i ON i.image_id = o.image_id
JOIN nightlabel.model AS m ON m.model_id = o.model_id
-- OFFSET keeps a filter on the prefix from being tried on every image there is before the days are looked at.
CROSS JOIN LATERAL (SELECT left(i.object_key, strpos(i.object_key, '/')) AS prefix OFFSET 0) AS k
WHERE o.label IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6;
COMMENT ON VIEW nightlabel.label_by_prefix IS
    'Images and mean score by UTC day, bucket, first part of the key, model version and label; each outcome counted once.';
COMMENT ON COLUMN nightlabel.label_by_prefix.day IS 'UTC day on which the label was recorded; name the days, since all of them are the whole ledger.';
COMMENT ON COLUMN nightlabel.label_by_prefix.bucket IS 'Bucket of the images.';
COMMENT ON COLUMN nightlabel.label_by_prefix.prefix IS 'The key up to and including its first slash; empty for a key without one.';
COMMENT ON COLUMN nightlabel.label_by_prefix.model_name IS 'Name of the model that gave the label.';
COMMENT ON COLUMN nightlabel.label_by_prefix.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.label_by_prefix.label IS 'The label; names may repeat, and two classes of one name are counted together.';
COMMENT ON COLUMN nightlabel.label_by_prefix.images IS 'Image versions that got the label.';
COMMENT ON COLUMN nightlabel.label_by_prefix.mean_score IS 'Mean probability of the label, 0 to 1; weigh it by images when adding rows up.';
