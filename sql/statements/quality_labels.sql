-- Count a run's labels: images, sums of scores and of their squares, low scores. Reads the outcomes of the days on which the
-- run recorded any, by the index of days, and no others, however large the ledger is.
SELECT
    o.label,
    count(*) AS images,
    sum(o.score::double precision) AS score_sum,
    sum(o.score::double precision * o.score) AS score_square_sum,
    count(*) FILTER (WHERE o.score < %(low_score)s::real) AS low_scores
FROM nightlabel.outcome AS o
WHERE o.model_id = %(model_id)s AND o.run_id = %(run_id)s AND o.label IS NOT NULL
    AND (o.recorded_at AT TIME ZONE 'UTC')::date BETWEEN %(first_day)s AND %(last_day)s
GROUP BY o.label;
