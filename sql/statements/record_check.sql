-- Keep a check of a candidate with its verdict.
INSERT INTO nightlabel.gate_check (
    model_id, production_model_id, verdict, reasons, thresholds, model_sha256, golden_set, golden_sha256,
    golden_images, golden_unreadable, top1, top5, right_score,
    production_top1, production_top5, production_right_score,
    only_production_right, only_candidate_right, loss, loss_bound, golden_agreement,
    recent_days, recent_images, recent_unreadable, recent_agreement, score_shift,
    engine, images_per_second, production_images_per_second, label_shifts, flips
)
SELECT
    m.model_id, p.model_id, %(verdict)s, %(reasons)s, %(thresholds)s, %(model_sha256)s, %(golden_set)s, %(golden_sha256)s,
    %(golden_images)s, %(golden_unreadable)s, %(top1)s, %(top5)s, %(right_score)s,
    %(production_top1)s, %(production_top5)s, %(production_right_score)s,
    %(only_production_right)s, %(only_candidate_right)s, %(loss)s, %(loss_bound)s, %(golden_agreement)s,
    %(recent_days)s, %(recent_images)s, %(recent_unreadable)s, %(recent_agreement)s, %(score_shift)s,
    %(engine)s, %(images_per_second)s, %(production_images_per_second)s, %(label_shifts)s, %(flips)s
FROM nightlabel.model AS m
LEFT JOIN nightlabel.model AS p ON p.name = %(production_name)s AND p.version = %(production_version)s
WHERE m.name = %(model_name)s AND m.version = %(model_version)s
RETURNING check_id, checked_at;
