-- Record what a run counted and how it compares, all or nothing; again when its report is run again. `labels` and `counts`
-- are arrays beside one another; a label that was counted before and is no more stays with no images.
WITH given AS MATERIALIZED (
    SELECT g.label, g.images FROM unnest(%(labels)s::text[], %(counts)s::bigint[]) AS g (label, images)
),
counted AS (
    INSERT INTO nightlabel.run_label AS l (run_id, model_id, label, images)
    SELECT %(run_id)s, %(model_id)s, label, images FROM given
    ON CONFLICT (run_id, model_id, label) DO UPDATE SET images = excluded.images
),
emptied AS (
    UPDATE nightlabel.run_label AS l
    SET images = 0
    WHERE l.run_id = %(run_id)s AND l.model_id = %(model_id)s AND l.images > 0
        AND NOT EXISTS (SELECT FROM given WHERE given.label = l.label)
)
INSERT INTO nightlabel.run_quality AS q (
    run_id, model_id, is_history, verdict, reason, images, dead, score_sum, score_square_sum, low_score, low_scores, nights,
    images_before, js_distance, js_ordinary, psi, psi_ordinary, moved_share, low_score_share_before,
    low_score_share_ordinary, mean_score_before, mean_score_ordinary, dead_ratio_before, dead_ratio_ordinary, moved,
    moved_labels, shares_before, shares_now, thresholds
)
VALUES (
    %(run_id)s, %(model_id)s, %(is_history)s, %(verdict)s, %(reason)s, %(images)s, %(dead)s, %(score_sum)s,
    %(score_square_sum)s, %(low_score)s, %(low_scores)s, %(nights)s, %(images_before)s, %(js_distance)s, %(js_ordinary)s,
    %(psi)s, %(psi_ordinary)s, %(moved_share)s, %(low_score_share_before)s, %(low_score_share_ordinary)s,
    %(mean_score_before)s, %(mean_score_ordinary)s, %(dead_ratio_before)s, %(dead_ratio_ordinary)s, %(moved)s::text[],
    %(moved_labels)s::text[], %(shares_before)s::real[], %(shares_now)s::real[], %(thresholds)s
)
ON CONFLICT (run_id, model_id) DO UPDATE
SET judged_at = clock_timestamp(), is_history = excluded.is_history, verdict = excluded.verdict, reason = excluded.reason,
    images = excluded.images, dead = excluded.dead, score_sum = excluded.score_sum,
    score_square_sum = excluded.score_square_sum, low_score = excluded.low_score, low_scores = excluded.low_scores,
    nights = excluded.nights, images_before = excluded.images_before, js_distance = excluded.js_distance,
    js_ordinary = excluded.js_ordinary, psi = excluded.psi, psi_ordinary = excluded.psi_ordinary,
    moved_share = excluded.moved_share, low_score_share_before = excluded.low_score_share_before,
    low_score_share_ordinary = excluded.low_score_share_ordinary, mean_score_before = excluded.mean_score_before,
    mean_score_ordinary = excluded.mean_score_ordinary, dead_ratio_before = excluded.dead_ratio_before,
    dead_ratio_ordinary = excluded.dead_ratio_ordinary, moved = excluded.moved, moved_labels = excluded.moved_labels,
    shares_before = excluded.shares_before, shares_now = excluded.shares_now, thresholds = excluded.thresholds;
