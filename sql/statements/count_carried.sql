-- Count what the run itself recorded under former plans, of what is settled in this one.
SELECT
    count(*) FILTER (WHERE o.label IS NOT NULL) AS labelled,
    count(*) FILTER (WHERE o.is_copied) AS copied,
    count(*) FILTER (WHERE o.label IS NULL) AS dead
FROM listed AS l
JOIN nightlabel.outcome AS o ON o.image_id = l.image_id AND o.run_id = %(run_id)s AND o.model_id = %(model_id)s
WHERE NOT EXISTS (SELECT FROM pending AS p WHERE p.image_id = l.image_id);
