-- Count a claimed shard anew from the ledger, so that nothing is counted twice whatever ended the last attempt:
-- outcomes of this run are its own, other ones were recorded elsewhere; what had vanished is looked at again.
-- Returns how many refs of each chunk are settled, in chunk order.
WITH per_chunk AS MATERIALIZED (
    SELECT
        c.chunk_number,
        count(*) FILTER (WHERE o.run_id = %(run_id)s AND o.label IS NOT NULL) AS labelled,
        count(*) FILTER (WHERE o.run_id = %(run_id)s AND o.is_copied) AS copied,
        count(*) FILTER (WHERE o.run_id = %(run_id)s AND o.label IS NULL) AS dead,
        count(*) FILTER (WHERE o.run_id <> %(run_id)s) AS done_elsewhere
    FROM nightlabel.manifest_chunk AS c
    CROSS JOIN LATERAL unnest(c.image_id, c.prior_attempts) AS ref (image_id, prior_attempts)
    LEFT JOIN nightlabel.outcome AS o
        ON o.model_id = %(model_id)s AND o.image_id = ref.image_id
        AND (o.error_code IS NULL OR o.attempts <> ref.prior_attempts)
    WHERE c.run_id = %(run_id)s AND c.plan_number = %(plan_number)s AND c.shard_number = %(shard_number)s
    GROUP BY c.chunk_number
),
counted AS (
    UPDATE nightlabel.shard AS s
    SET labelled = total.labelled, copied = total.copied, dead = total.dead,
        gone = 0, done_elsewhere = total.done_elsewhere
    FROM (
        SELECT coalesce(sum(labelled), 0) AS labelled, coalesce(sum(copied), 0) AS copied,
            coalesce(sum(dead), 0) AS dead, coalesce(sum(done_elsewhere), 0) AS done_elsewhere
        FROM per_chunk
    ) AS total
    WHERE s.run_id = %(run_id)s AND s.plan_number = %(plan_number)s AND s.shard_number = %(shard_number)s
)
SELECT labelled + dead + done_elsewhere AS settled FROM per_chunk ORDER BY chunk_number;
