-- shadow_daily: how the shadow model compares with the model of the nightly runs, on the same images.
-- Grain:   one row per UTC day, nightly run's model and shadow model.
-- Rule:    images that a shadow run looked at, of those that the run which it names labelled with its own model. Labels
--          are the same when their ids are, since names repeat. The day is that of the shadow's outcome. Each image
--          version counted once, whatever happened to its object since, as long as the ledger holds both outcomes.
-- Cost:    name the days; a day reads the shadow model's outcomes of that day (index outcome_day), and the other model's
--          by their key.
-- Readers: ML engineers before a promotion.
CREATE OR REPLACE VIEW nightlabel.shadow_daily AS
SELECT
    (s.recorded_at AT TIME ZONE 'UTC')::date AS day,
    m.name AS model_name,
    m.version AS model_version,
    sm.name AS shadow_model_name,
    sm.version AS shadow_model_version,
    count(s.label) AS images,
    count(*) FILTER (WHERE s.label_id = p.label_id) AS same,
    (count(*) FILTER (WHERE s.label_id = p.label_id) / nullif(count(s.label), 0)::double precision)::real AS agreement,
    (avg(p.score) FILTER (WHERE s.label IS NOT NULL))::real AS mean_score,
    avg(s.score)::real AS shadow_mean_score,
    count(s.error_code) AS shadow_dead
FROM nightlabel.run AS sr
JOIN nightlabel.run AS r ON r.run_id = sr.shadow_of
JOIN nightlabel.outcome AS s ON s.model_id = sr.model_id AND s.run_id = sr.run_id
JOIN nightlabel.outcome AS p ON p.image_id = s.image_id AND p.model_id = r.model_id AND p.label IS NOT NULL
JOIN nightlabel.model AS m ON m.model_id = r.model_id
JOIN nightlabel.model AS sm ON sm.model_id = sr.model_id
GROUP BY 1, 2, 3, 4, 5;
COMMENT ON VIEW nightlabel.shadow_daily IS
    'One row per UTC day, model and shadow model: how often they agreed on the images that both looked at.';
COMMENT ON COLUMN nightlabel.shadow_daily.day IS 'UTC day on which the shadow model''s outcomes were recorded.';
COMMENT ON COLUMN nightlabel.shadow_daily.model_name IS 'Name of the model whose labels are compared with.';
COMMENT ON COLUMN nightlabel.shadow_daily.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.shadow_daily.shadow_model_name IS 'Name of the shadow model.';
COMMENT ON COLUMN nightlabel.shadow_daily.shadow_model_version IS 'Version of the shadow model.';
COMMENT ON COLUMN nightlabel.shadow_daily.images IS 'Image versions that both have labelled.';
COMMENT ON COLUMN nightlabel.shadow_daily.same IS 'Those with the same label id.';
COMMENT ON COLUMN nightlabel.shadow_daily.agreement IS 'Their share, 0 to 1; null while there is no image.';
COMMENT ON COLUMN nightlabel.shadow_daily.mean_score IS 'Mean probability of the model''s labels on these images, 0 to 1.';
COMMENT ON COLUMN nightlabel.shadow_daily.shadow_mean_score IS 'Mean probability of the shadow model''s labels on them, 0 to 1.';
COMMENT ON COLUMN nightlabel.shadow_daily.shadow_dead IS 'Image versions that the model has labelled, and the shadow model''s run could not; not among images.';
