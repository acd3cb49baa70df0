-- run_summary: the books of every run.
-- Grain:   one row per run.
-- Rule:    discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished.
--          Counts of the run's newest plan, with what the run itself recorded under former ones; stage seconds of
--          the newest plan, added over threads and shards, in the shards' order: maintenance adds them up likewise.
-- Readers: operators, analysts, the results gallery.
CREATE OR REPLACE VIEW nightlabel.run_summary AS
SELECT
    r.run_id,
    r.dag_id,
    r.airflow_run_id,
    r.state,
    r.started_at,
    r.finished_at,
    m.name AS model_name,
    m.version AS model_version,
    r.discovered,
    r.already_done,
    r.deferred,
    (s.labelled + r.carried_labelled) AS labelled,
    (s.copied + r.carried_copied) AS copied,
    (s.dead + r.carried_dead) AS dead,
    s.gone,
    s.done_elsewhere,
    s.images - s.labelled - s.dead - s.gone - s.done_elsewhere AS unfinished,
    ((s.labelled + s.dead + r.carried_labelled + r.carried_dead)
        / nullif(extract(epoch FROM coalesce(r.finished_at, clock_timestamp()) - r.started_at), 0))::real
        AS images_per_second,
    r.list_s,
    s.fetch_s,
    s.decode_s,
    s.predict_s,
    s.write_s,
    pace.images_per_second::real AS max_images_per_second,
    r.expected_s,
    r.shadow_of
FROM nightlabel.run AS r
JOIN nightlabel.model AS m ON m.model_id = r.model_id
LEFT JOIN nightlabel.run_pace AS pace ON pace.run_id = r.run_id
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(images), 0)::bigint AS images,
        coalesce(sum(labelled), 0)::bigint AS labelled,
        coalesce(sum(copied), 0)::bigint AS copied,
        coalesce(sum(dead), 0)::bigint AS dead,
        coalesce(sum(gone), 0)::bigint AS gone,
        coalesce(sum(done_elsewhere), 0)::bigint AS done_elsewhere,
        coalesce(sum(fetch_s ORDER BY shard_number), 0)::real AS fetch_s,
        coalesce(sum(decode_s ORDER BY shard_number), 0)::real AS decode_s,
        coalesce(sum(predict_s ORDER BY shard_number), 0)::real AS predict_s,
        coalesce(sum(write_s ORDER BY shard_number), 0)::real AS write_s
    FROM nightlabel.shard
    WHERE run_id = r.run_id AND plan_number = r.plan_number
) AS s;
COMMENT ON VIEW nightlabel.run_summary IS
    'One row per run; discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished.';
COMMENT ON COLUMN nightlabel.run_summary.already_done IS 'Objects whose current version had an outcome before the run.';
COMMENT ON COLUMN nightlabel.run_summary.deferred IS 'Left for a later run by max_images or the time budget.';
COMMENT ON COLUMN nightlabel.run_summary.labelled IS 'Labels recorded by this run, the copied ones included.';
COMMENT ON COLUMN nightlabel.run_summary.copied IS 'Labels taken over from equal content instead of computed.';
COMMENT ON COLUMN nightlabel.run_summary.gone IS 'Deleted or overwritten between listing and reading; the next run finds what is there.';
COMMENT ON COLUMN nightlabel.run_summary.done_elsewhere IS 'Recorded first by another run.';
COMMENT ON COLUMN nightlabel.run_summary.unfinished IS 'In shards that ran out of retries; zero in a successful run.';
COMMENT ON COLUMN nightlabel.run_summary.max_images_per_second IS 'The rate that the run keeps to, all of its workers together; null without a bound.';
COMMENT ON COLUMN nightlabel.run_summary.expected_s IS 'Seconds that its images were likely to take when it was planned; null if nobody knew, or asked.';
COMMENT ON COLUMN nightlabel.run_summary.shadow_of IS 'Of a shadow run: the run whose images it looks at; null for every other run.';
