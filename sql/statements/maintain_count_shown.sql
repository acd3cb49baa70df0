-- What would be lost with the outcomes of a model: of existing objects' current versions, the labels that
-- latest_prediction shows, and the dead letters beside which no label of another model stands, whether dead_letter_open
-- shows them or not: without them the next run might label these images again. `dropped` are all models that go.
SELECT
    count(*) FILTER (WHERE c.label IS NOT NULL) AS labels,
    count(*) FILTER (WHERE c.label IS NULL) AS dead_letters
FROM nightlabel.outcome AS c
JOIN nightlabel.production_line AS mine ON mine.model_id = c.model_id
JOIN nightlabel.object AS o ON o.image_id = c.image_id AND o.gone_at IS NULL
WHERE c.model_id = %(model_id)s
    AND NOT EXISTS (
        SELECT FROM nightlabel.production_line AS p
        JOIN nightlabel.outcome AS other ON other.model_id = p.model_id AND other.image_id = c.image_id
        WHERE p.model_id <> ALL(%(dropped)s::integer[])
            AND other.label IS NOT NULL
            AND (c.label IS NULL OR p.rank < mine.rank)
    );
