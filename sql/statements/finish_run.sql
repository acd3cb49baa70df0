-- Close the books of a run: failed when images are unfinished or when too many of those classified are dead,
-- in the run or in one of its shards. Returns the state, the reason, and whether the dead ones are the reason.
WITH judged AS (
    SELECT
        coalesce(sum(s.images - s.labelled - s.dead - s.gone - s.done_elsewhere), 0) AS unfinished,
        coalesce(sum(s.dead), 0) + r.carried_dead AS dead,
        coalesce(sum(s.labelled + s.dead), 0) + r.carried_labelled + r.carried_dead AS classified,
        count(*) FILTER (WHERE is_dead) AS dead_shards,
        min(s.shard_number) FILTER (WHERE is_dead) AS dead_shard
    FROM nightlabel.run AS r
    LEFT JOIN nightlabel.shard AS s ON s.run_id = r.run_id AND s.plan_number = r.plan_number
    CROSS JOIN LATERAL (
        SELECT s.labelled + s.dead >= greatest(r.min_images_for_ratio, 1)
            AND s.dead > r.max_dead_ratio * (s.labelled + s.dead) AS is_dead
    ) AS judged_shard
    WHERE r.run_id = %(run_id)s
    GROUP BY r.run_id
),
verdict AS (
    SELECT
        j.unfinished > 0 AS is_unfinished,
        j.dead_shards > 0 AS has_dead_shard,
        j.classified >= greatest(r.min_images_for_ratio, 1) AND j.dead > r.max_dead_ratio * j.classified AS is_dead
    FROM judged AS j CROSS JOIN nightlabel.run AS r
    WHERE r.run_id = %(run_id)s
),
sentence AS (
    SELECT
        (v.is_dead OR v.has_dead_shard) AND NOT v.is_unfinished AS is_dead,
        CASE
            WHEN v.is_unfinished THEN j.unfinished || ' images have no outcome; the next run finds them again'
            WHEN v.is_dead THEN j.dead || ' of ' || j.classified
                || ' classified images are dead letters, and max_dead_ratio is ' || r.max_dead_ratio || '; see dead_letter_open'
            WHEN v.has_dead_shard THEN 'in ' || j.dead_shards || ' of the shards, shard ' || j.dead_shard
                || ' first, more images are dead letters than max_dead_ratio, ' || r.max_dead_ratio || ', allows; see dead_letter_open'
        END AS message
    FROM judged AS j CROSS JOIN verdict AS v CROSS JOIN nightlabel.run AS r
    WHERE r.run_id = %(run_id)s
)
UPDATE nightlabel.run AS r
SET state = CASE WHEN sentence.message IS NULL THEN 'succeeded' ELSE 'failed' END,
    message = sentence.message, finished_at = now()
FROM sentence
WHERE r.run_id = %(run_id)s
RETURNING r.state, r.message, sentence.is_dead;
