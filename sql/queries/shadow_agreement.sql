-- How often does the shadow model agree with the production model, day by day?
-- For: ML engineers
-- Reads: the shadow model's labels of those days, and the other model's of the same images
-- Parameters:
--   days   integer  how many days
--   until  date     last UTC day that counts; empty: today
-- Columns:
--   day            date     UTC day on which the shadow model looked at the images
--   model          text     name@version of the model of the nightly run
--   shadow_model   text     name@version of the shadow model
--   images         bigint   images that both have labelled
--   percent        numeric  share of them with the same label id
--   score_change   real     mean probability of the shadow model's labels, less the other model's
--   shadow_dead    bigint   images that only the shadow model's run could not label
-- Example: days=7; until=2026-11-22
--   day        | model  | shadow_model | images | percent | score_change | shadow_dead
--   -----------+--------+--------------+--------+---------+--------------+------------
--   2026-11-17 | tiny@2 | candidate@1  | 1      | 100.0   | 0.265625     | 0
--   2026-11-20 | tiny@2 | candidate@1  | 1      | 0.0     | 0.21875      | 0
--   2026-11-21 | tiny@2 | candidate@1  | 3      | 66.7    | -0.109375    | 0
--   2026-11-22 | tiny@2 | candidate@1  | 3      | 100.0   | 0.0416667    | 0
\if :{?days} \else \set days 30 \endif
\if :{?until} \else \set until '' \endif
SELECT
    day,
    model_name || '@' || model_version AS model,
    shadow_model_name || '@' || shadow_model_version AS shadow_model,
    images,
    round((100 * same / nullif(images, 0)::numeric), 1) AS percent,
    (shadow_mean_score - mean_score)::real AS score_change,
    shadow_dead
FROM nightlabel.shadow_daily
CROSS JOIN (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
WHERE day BETWEEN asked.until - CAST(:'days' AS integer) + 1 AND asked.until
ORDER BY day, model, shadow_model;
