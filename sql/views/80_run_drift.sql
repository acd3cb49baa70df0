-- run_drift: how the labels of each run compare with those of the runs before it.
-- Grain:   one row per run that was judged at its end, or was not for a reason.
-- Rule:    compared with what the same model labelled in the 28 days before the run. A figure has moved when it is beyond
--          what an ordinary night reaches (`…_ordinary`) and beyond the threshold of the run. Figures are null where
--          nothing was judged. Counts are those of the run's end, less what was forgotten since.
-- Cost:    one run by run_id, or the newest by started_at, reads the rows of those runs alone.
-- Readers: operators, ML engineers.
CREATE OR REPLACE VIEW nightlabel.run_drift AS
SELECT
    q.run_id,
    r.dag_id,
    r.started_at,
    m.name AS model_name,
    m.version AS model_version,
    q.verdict,
    q.reason,
    q.images,
    q.dead,
    q.nights,
    q.images_before,
    q.js_distance,
    q.js_ordinary,
    q.psi,
    q.psi_ordinary,
    q.moved_share,
    (q.low_scores / nullif(q.images, 0)::double precision)::real AS low_score_share,
    q.low_score_share_before,
    q.low_score_share_ordinary,
    (q.score_sum / nullif(q.images, 0))::real AS mean_score,
    q.mean_score_before,
    q.mean_score_ordinary,
    (q.dead / nullif(q.images + q.dead, 0)::double precision)::real AS dead_ratio,
    q.dead_ratio_before,
    q.dead_ratio_ordinary,
    q.moved,
    q.moved_labels,
    q.shares_before,
    q.shares_now,
    q.judged_at
FROM nightlabel.run_quality AS q
JOIN nightlabel.run AS r ON r.run_id = q.run_id
JOIN nightlabel.model AS m ON m.model_id = q.model_id;
COMMENT ON VIEW nightlabel.run_drift IS
    'One row per run and model: label mix, scores and dead letters beside those of the same model in the 28 days before.';
COMMENT ON COLUMN nightlabel.run_drift.run_id IS 'The run; see run_summary for its books.';
COMMENT ON COLUMN nightlabel.run_drift.dag_id IS 'The Dag that it ran in; cli where Airflow did not start it.';
COMMENT ON COLUMN nightlabel.run_drift.started_at IS 'When the run began.';
COMMENT ON COLUMN nightlabel.run_drift.model_name IS 'Name of the model that gave the labels.';
COMMENT ON COLUMN nightlabel.run_drift.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.run_drift.verdict IS 'ordinary, moved or not_judged.';
COMMENT ON COLUMN nightlabel.run_drift.reason IS 'One sentence: what has moved, or why it was not judged; empty for an ordinary run.';
COMMENT ON COLUMN nightlabel.run_drift.images IS 'Labels that the run recorded.';
COMMENT ON COLUMN nightlabel.run_drift.dead IS 'Dead letters that the run recorded.';
COMMENT ON COLUMN nightlabel.run_drift.nights IS 'Runs before, of the same model and source, that it was compared with, or that are known if these are too few.';
COMMENT ON COLUMN nightlabel.run_drift.images_before IS 'Labels of these together.';
COMMENT ON COLUMN nightlabel.run_drift.js_distance IS 'Jensen-Shannon distance of the label mixes, 0 (the same) to 1; labels that are rare in a night of this size count as one.';
COMMENT ON COLUMN nightlabel.run_drift.js_ordinary IS 'An ordinary night of this size reaches this at most.';
COMMENT ON COLUMN nightlabel.run_drift.psi IS 'Population stability index of the label mixes, 0 and more; likewise over labels that are not rare.';
COMMENT ON COLUMN nightlabel.run_drift.psi_ordinary IS 'An ordinary night of this size reaches this at most.';
COMMENT ON COLUMN nightlabel.run_drift.moved_share IS 'Share of images with labels beyond what an ordinary night has of each, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_drift.low_score_share IS 'Share of labels with a low score, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_drift.low_score_share_before IS 'Likewise of the runs before; null where they were not counted.';
COMMENT ON COLUMN nightlabel.run_drift.low_score_share_ordinary IS 'An ordinary night of this size reaches this at most.';
COMMENT ON COLUMN nightlabel.run_drift.mean_score IS 'Mean probability of the labels, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_drift.mean_score_before IS 'Likewise of the runs before.';
COMMENT ON COLUMN nightlabel.run_drift.mean_score_ordinary IS 'An ordinary night of this size falls to this at most.';
COMMENT ON COLUMN nightlabel.run_drift.dead_ratio IS 'Share of dead letters among labels and dead letters, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_drift.dead_ratio_before IS 'Likewise of the runs before; null where they were not counted.';
COMMENT ON COLUMN nightlabel.run_drift.dead_ratio_ordinary IS 'An ordinary night of this size reaches this at most.';
COMMENT ON COLUMN nightlabel.run_drift.moved IS 'Which figures have moved: js_distance, psi, moved_share, low_score_share, mean_score, dead_ratio.';
COMMENT ON COLUMN nightlabel.run_drift.moved_labels IS 'Labels that moved most, first; at most ten, and empty unless something has moved.';
COMMENT ON COLUMN nightlabel.run_drift.shares_before IS 'Their shares of the images of the runs before, beside moved_labels.';
COMMENT ON COLUMN nightlabel.run_drift.shares_now IS 'Their shares of the images of this run, beside moved_labels.';
COMMENT ON COLUMN nightlabel.run_drift.judged_at IS 'When it was judged; again when its report is run again.';
