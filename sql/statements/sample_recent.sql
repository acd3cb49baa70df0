-- Images that models of the production line, or the model that is named, labelled themselves in the last days and that
-- their key still holds, drawn by a seed. Four times as many are drawn as are wanted, since some are gone by now, and some
-- were labelled by two of the models; a draw is by hash, so that one seed draws the same ones again.
WITH drawn AS (
    SELECT o.image_id, hashtextextended(o.image_id::text, %(seed)s) AS lot
    FROM nightlabel.outcome AS o
    WHERE o.model_id = ANY (ARRAY(
            SELECT line.model_id FROM nightlabel.production_line AS line
            UNION ALL
            SELECT m.model_id FROM nightlabel.model AS m WHERE m.name = %(name)s AND m.version = %(version)s
        ))
        AND o.label IS NOT NULL AND NOT o.is_copied
        -- By day, for the index, and then to the hour.
        AND (o.recorded_at AT TIME ZONE 'UTC')::date >= (now() AT TIME ZONE 'UTC')::date - %(days)s::integer
        AND o.recorded_at >= now() - make_interval(days => %(days)s::integer)
    ORDER BY lot, o.image_id
    LIMIT 4 * %(images)s
)
SELECT i.bucket, i.object_key, i.etag, i.size_bytes
FROM (SELECT DISTINCT d.image_id, d.lot FROM drawn AS d) AS drawn
JOIN nightlabel.image AS i ON i.image_id = drawn.image_id
WHERE EXISTS (SELECT FROM nightlabel.object AS b WHERE b.image_id = drawn.image_id AND b.gone_at IS NULL)
ORDER BY drawn.lot, drawn.image_id
LIMIT %(images)s;
