-- model_check: every check of a candidate, what it found, and the verdict.
-- Grain:   one row per check.
-- Rule:    only a check that passed lets a model become production without force, and only while the production model, the
--          golden set and the thresholds are what they were then.
-- Cost:    a handful of rows.
-- Readers: ML engineers, whoever asks why a model was or was not promoted.
CREATE OR REPLACE VIEW nightlabel.model_check AS
SELECT
    c.check_id,
    m.name AS model_name,
    m.version AS model_version,
    p.name AS production_name,
    p.version AS production_version,
    c.checked_at,
    c.checked_by,
    c.verdict,
    ARRAY(
        SELECT r.reason ->> 'threshold' FROM jsonb_array_elements(c.reasons) WITH ORDINALITY AS r (reason, place)
        WHERE NOT (r.reason ->> 'is_warning')::boolean ORDER BY r.place
    ) AS stopped_by,
    ARRAY(
        SELECT r.reason ->> 'message' FROM jsonb_array_elements(c.reasons) WITH ORDINALITY AS r (reason, place)
        ORDER BY r.place
    ) AS messages,
    c.golden_set,
    c.golden_images,
    c.golden_unreadable,
    c.top1,
    c.top5,
    c.right_score,
    c.production_top1,
    c.production_top5,
    c.production_right_score,
    c.only_production_right,
    c.only_candidate_right,
    c.loss,
    c.loss_bound,
    c.golden_agreement,
    c.recent_days,
    c.recent_images,
    c.recent_unreadable,
    c.recent_agreement,
    c.score_shift,
    c.engine,
    c.images_per_second,
    c.production_images_per_second,
    c.thresholds,
    c.label_shifts
FROM nightlabel.gate_check AS c
JOIN nightlabel.model AS m ON m.model_id = c.model_id
LEFT JOIN nightlabel.model AS p ON p.model_id = c.production_model_id;
COMMENT ON VIEW nightlabel.model_check IS
    'One row per check of a candidate by the golden set and beside production: what was found, and the verdict.';
COMMENT ON COLUMN nightlabel.model_check.check_id IS 'Number of the check; later ones have higher numbers.';
COMMENT ON COLUMN nightlabel.model_check.model_name IS 'Name of the candidate.';
COMMENT ON COLUMN nightlabel.model_check.model_version IS 'Version of the candidate.';
COMMENT ON COLUMN nightlabel.model_check.production_name IS 'Name of what was production then; null if nothing was.';
COMMENT ON COLUMN nightlabel.model_check.production_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.model_check.checked_at IS 'When the check ended.';
COMMENT ON COLUMN nightlabel.model_check.checked_by IS 'Database user who recorded it.';
COMMENT ON COLUMN nightlabel.model_check.verdict IS 'passed or failed.';
COMMENT ON COLUMN nightlabel.model_check.stopped_by IS 'The thresholds that failed it; empty when it passed.';
COMMENT ON COLUMN nightlabel.model_check.messages IS 'What was missed, a sentence each, warnings too.';
COMMENT ON COLUMN nightlabel.model_check.golden_set IS 'Name of the golden set.';
COMMENT ON COLUMN nightlabel.model_check.golden_images IS 'Golden images that were judged, by both models where there was a production model.';
COMMENT ON COLUMN nightlabel.model_check.golden_unreadable IS 'Golden images that were missing, overwritten or undecodable.';
COMMENT ON COLUMN nightlabel.model_check.top1 IS 'Share of golden images whose best label by the candidate is right, 0 to 1.';
COMMENT ON COLUMN nightlabel.model_check.top5 IS 'Share with the right label among its best five.';
COMMENT ON COLUMN nightlabel.model_check.right_score IS 'Mean probability that the candidate gives the right label, 0 to 1.';
COMMENT ON COLUMN nightlabel.model_check.production_top1 IS 'Likewise of production, on the same images.';
COMMENT ON COLUMN nightlabel.model_check.production_top5 IS 'Likewise of production, on the same images.';
COMMENT ON COLUMN nightlabel.model_check.production_right_score IS 'Likewise of production, on the same images.';
COMMENT ON COLUMN nightlabel.model_check.only_production_right IS 'Golden images that production labels rightly and the candidate wrongly.';
COMMENT ON COLUMN nightlabel.model_check.only_candidate_right IS 'The other way round.';
COMMENT ON COLUMN nightlabel.model_check.loss IS 'production_top1 - top1; negative when the candidate is better.';
COMMENT ON COLUMN nightlabel.model_check.loss_bound IS 'The largest that the loss may be in truth, at the confidence of the thresholds.';
COMMENT ON COLUMN nightlabel.model_check.golden_agreement IS 'Share of golden images that both models give the same label, 0 to 1.';
COMMENT ON COLUMN nightlabel.model_check.recent_days IS 'Of how many days back production''s labels were sampled.';
COMMENT ON COLUMN nightlabel.model_check.recent_images IS 'Images of those days that both models labelled for the check.';
COMMENT ON COLUMN nightlabel.model_check.recent_unreadable IS 'Images among the sample that were gone, or could not be read any more.';
COMMENT ON COLUMN nightlabel.model_check.recent_agreement IS 'Share of recent images that both models give the same label, 0 to 1.';
COMMENT ON COLUMN nightlabel.model_check.score_shift IS 'Mean probability of the candidate''s best label less that of production''s.';
COMMENT ON COLUMN nightlabel.model_check.engine IS 'What executed both models.';
COMMENT ON COLUMN nightlabel.model_check.images_per_second IS 'Images per second of the candidate''s engine alone, decoding left out.';
COMMENT ON COLUMN nightlabel.model_check.production_images_per_second IS 'Likewise of production, on the same machine.';
COMMENT ON COLUMN nightlabel.model_check.thresholds IS 'The thresholds of that moment, by name.';
COMMENT ON COLUMN nightlabel.model_check.label_shifts IS 'Which label of production became which of the candidate on how many images, the most frequent first.';
