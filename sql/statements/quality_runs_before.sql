-- The runs that a run is compared with: of its model and of its source, which is its bucket, prefix and Dag, in so many days
-- before it, that labelled what was new; the newest 500. One row each, with its labels as arrays beside one another. What
-- was counted by another low score is no count of low scores.
WITH past AS MATERIALIZED (
    SELECT q.run_id, q.model_id, q.verdict <> 'moved' AS is_ordinary, q.score_sum, q.score_square_sum,
        CASE WHEN q.low_score = %(low_score)s::real THEN q.low_scores END AS low_scores, q.dead
    FROM nightlabel.run AS this
    JOIN nightlabel.run AS r
        ON r.bucket = this.bucket AND r.prefix = this.prefix AND r.dag_id = this.dag_id AND r.run_id <> this.run_id
        AND r.started_at >= this.started_at - make_interval(days => %(days)s) AND r.started_at <= this.started_at
    JOIN nightlabel.run_quality AS q ON q.run_id = r.run_id AND q.model_id = this.model_id
    WHERE this.run_id = %(run_id)s AND q.is_history AND q.images > 0
    ORDER BY r.started_at DESC
    LIMIT 500
)
SELECT p.is_ordinary, p.score_sum, p.score_square_sum, p.low_scores, p.dead, array_agg(l.label) AS labels,
    array_agg(l.images) AS images
FROM past AS p
JOIN nightlabel.run_label AS l ON l.run_id = p.run_id AND l.model_id = p.model_id AND l.images > 0
GROUP BY p.run_id, p.is_ordinary, p.score_sum, p.score_square_sum, p.low_scores, p.dead;
