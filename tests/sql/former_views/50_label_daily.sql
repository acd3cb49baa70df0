-- label_daily: how many images got which label on which day.
-- Grain:   one row per UTC day, model version and label.
-- Rule:    each outcome counted once, whatever happened to its object since.
-- Readers: analysts, dashboards.
CREATE OR REPLACE VIEW nightlabel.label_daily AS
SELECT
    (o.recorded_at AT TIME ZONE 'UTC')::date AS day,
    m.name AS model_name,
    m.version AS model_version,
    o.label,
    count(*) AS images,
    avg(o.score)::real AS mean_score
FROM nightlabel.outcome AS o
JOIN nightlabel.model AS m ON m.model_id = o.model_id
WHERE o.label IS NOT NULL
GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW nightlabel.label_daily IS 'Images and mean score by UTC day, model version and label; each outcome counted once.';
