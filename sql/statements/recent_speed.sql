-- How fast runs on a device were in the last 30 days: of a model if there were any, else of others. Images computed a
-- second, from the first shard's beginning to the last one's end, over the five largest: a night of three images says
-- little of an hour's work. Runs whose time was up count as well, by what they got to; those that kept to a rate say
-- nothing of it. At most one row.
WITH run AS (
    SELECT r.run_id, r.plan_number, r.model_id = %(model_id)s AS is_of_model
    FROM nightlabel.run AS r
    WHERE r.state = 'succeeded' AND r.started_at > now() - interval '30 days'
        AND NOT EXISTS (SELECT FROM nightlabel.run_pace AS p WHERE p.run_id = r.run_id)
    ORDER BY r.started_at DESC
    LIMIT 1000
),
timed AS (
    SELECT run.is_of_model, work.images, work.seconds,
        row_number() OVER (PARTITION BY run.is_of_model ORDER BY work.images DESC) AS place
    FROM run
    CROSS JOIN LATERAL (
        SELECT sum(s.labelled - s.copied + s.dead) AS images,
            extract(epoch FROM max(s.finished_at) - min(s.started_at))::double precision AS seconds
        FROM nightlabel.shard AS s
        WHERE s.run_id = run.run_id AND s.plan_number = run.plan_number AND s.device = %(device)s
            AND s.labelled + s.dead > 0 -- not one that only found the time up
    ) AS work
    WHERE work.images > 0 AND work.seconds > 0
)
SELECT (sum(images) / sum(seconds))::double precision AS images_per_second, is_of_model
FROM timed
WHERE place <= 5
GROUP BY is_of_model
ORDER BY is_of_model DESC
LIMIT 1;
