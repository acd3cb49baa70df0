-- What the run's model labelled by day, from before its runs were counted one by one: until a month after an upgrade the
-- runs that are counted are few. One row a day, with its labels as arrays beside one another.
WITH this AS MATERIALIZED (
    SELECT
        r.model_id,
        (r.started_at AT TIME ZONE 'UTC')::date - %(days)s::integer AS first_day,
        coalesce(
            (
                SELECT min((c.started_at AT TIME ZONE 'UTC')::date)
                FROM nightlabel.run_quality AS q
                JOIN nightlabel.run AS c ON c.run_id = q.run_id
                WHERE q.model_id = r.model_id AND q.run_id <> r.run_id
            ),
            (r.started_at AT TIME ZONE 'UTC')::date
        ) AS counted_from
    FROM nightlabel.run AS r
    WHERE r.run_id = %(run_id)s
),
counted AS (
    SELECT part.day, part.label, sum(part.images)::bigint AS images, sum(part.score_sum) AS score_sum
    FROM this
    CROSS JOIN LATERAL (
        SELECT c.day, c.label, c.images, c.score_sum
        FROM nightlabel.label_count AS c
        WHERE c.day >= this.first_day AND c.day < this.counted_from AND c.model_id = this.model_id
        UNION ALL
        SELECT d.day, u.label, u.images, u.score_sum
        FROM nightlabel.label_count_delta AS d
        CROSS JOIN LATERAL unnest(d.labels, d.images, d.score_sums) AS u (label, images, score_sum)
        WHERE d.day >= this.first_day AND d.day < this.counted_from AND d.model_id = this.model_id
    ) AS part
    GROUP BY part.day, part.label
    HAVING sum(part.images) > 0
)
SELECT sum(score_sum) AS score_sum, array_agg(label) AS labels, array_agg(images) AS images
FROM counted
GROUP BY day
ORDER BY day;
