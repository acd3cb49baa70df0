-- What do 1,000 images cost, by model?
-- For: operators, whoever pays for the machines
-- Reads: the runs of the days asked for
-- Parameters:
--   price_per_hour  numeric  price of an hour of one busy thread
--   days            integer  how many days, the last one included
--   until           date     last UTC day that counts; empty: today
-- Columns:
--   model             text     name@version of the model
--   runs              bigint   runs that recorded anything
--   images            bigint   labels and dead letters
--   copied            bigint   labels among them that were copied
--   seconds_per_1000  numeric  seconds of workers' threads for 1,000 images
--   cost_per_1000     numeric  at the price given
-- Example: price_per_hour=0.05; days=30; until=2026-11-22
--   model       | runs | images | copied | seconds_per_1000 | cost_per_1000
--   ------------+------+--------+--------+------------------+--------------
--   candidate@1 | 5    | 56     | 10     | 690.6            | 0.0096
--   tiny@2      | 9    | 49     | 5      | 780.9            | 0.0108
--   tiny@1      | 12   | 46     | 12     | 692.9            | 0.0096
\if :{?price_per_hour} \else \set price_per_hour 0.05 \endif
\if :{?days} \else \set days 30 \endif
\if :{?until} \else \set until '' \endif
SELECT
    model_name || '@' || model_version AS model,
    count(*) AS runs,
    sum(images)::bigint AS images,
    sum(copied)::bigint AS copied,
    round((1000 * sum(worker_s) / sum(images))::numeric, 1) AS seconds_per_1000,
    round((1000 * sum(worker_s) / sum(images))::numeric / 3600 * CAST(:'price_per_hour' AS numeric), 4) AS cost_per_1000
FROM nightlabel.run_cost
CROSS JOIN (
    SELECT coalesce(CAST(nullif(CAST(:'until' AS text), '') AS date), (now() AT TIME ZONE 'UTC')::date) AS until
) AS asked
WHERE images > 0
    AND started_at >= (asked.until - CAST(:'days' AS integer) + 1)::timestamp AT TIME ZONE 'UTC'
    AND started_at < (asked.until + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY 1
ORDER BY images DESC, 1;
