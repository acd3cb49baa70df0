-- label_daily: how many images got which label on which day.
-- Grain:   one row per UTC day, model version and label.
-- Rule:    each outcome counted once, whatever happened to its object since.
-- Readers: analysts, dashboards.
-- Plans:   adds up what is counted already (label_count, by day) and what is not folded into it yet (label_count_delta);
--          both are written by the transactions that write the ledger, so that the sum is exact at every moment.
CREATE OR REPLACE VIEW nightlabel.label_daily AS
SELECT
    counted.day,
    m.name AS model_name,
    m.version AS model_version,
    counted.label,
    counted.images,
    counted.mean_score
FROM (
    SELECT
        day,
        model_id,
        label,
        sum(images)::bigint AS images,
        (sum(score_sum) / nullif(sum(images), 0))::real AS mean_score
    FROM (
        SELECT day, model_id, label, images, score_sum FROM nightlabel.label_count
        UNION ALL
        SELECT d.day, d.model_id, u.label, u.images, u.score_sum
        FROM nightlabel.label_count_delta AS d
        CROSS JOIN LATERAL unnest(d.labels, d.images, d.score_sums) AS u (label, images, score_sum)
    ) AS parts
    GROUP BY day, model_id, label
    HAVING sum(images) > 0
) AS counted
JOIN nightlabel.model AS m ON m.model_id = counted.model_id;
COMMENT ON VIEW nightlabel.label_daily IS 'Images and mean score by UTC day, model version and label; each outcome counted once.';
