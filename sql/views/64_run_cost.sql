-- run_cost: how fast each run was, and what its images cost by stage.
-- Grain:   one row per run.
-- Rule:    images are the run's labels and dead letters, as in run_summary. Seconds are added over threads, shards and
--          plans, since a superseded plan was paid for as well, in the order of plans and shards: maintenance adds them
--          up likewise. Stages overlap, so they may add up to more than the run took. The listing is one thread's and is
--          not among them. Shares are of the four stages and add up to 1.
-- Cost:    one run by run_id or a span of started_at reads the shards of those runs alone.
-- Readers: operators, whoever pays for the machines.
CREATE OR REPLACE VIEW nightlabel.run_cost AS
SELECT
    r.run_id,
    r.dag_id,
    r.state,
    r.started_at,
    r.finished_at,
    m.name AS model_name,
    m.version AS model_version,
    spent.images,
    spent.copied,
    spent.run_s,
    (spent.images / nullif(spent.run_s, 0))::real AS images_per_second,
    r.list_s,
    spent.fetch_s,
    spent.decode_s,
    spent.predict_s,
    spent.write_s,
    whole.worker_s,
    (whole.worker_s * 1000 / nullif(spent.images, 0))::real AS seconds_per_1000,
    (spent.fetch_s / nullif(whole.worker_s, 0))::real AS fetch_share,
    (spent.decode_s / nullif(whole.worker_s, 0))::real AS decode_share,
    (spent.predict_s / nullif(whole.worker_s, 0))::real AS predict_share,
    (spent.write_s / nullif(whole.worker_s, 0))::real AS write_share
FROM nightlabel.run AS r
JOIN nightlabel.model AS m ON m.model_id = r.model_id
CROSS JOIN LATERAL (
    SELECT
        (coalesce(sum(p.recorded) FILTER (WHERE p.plan_number = r.plan_number), 0)
            + r.carried_labelled + r.carried_dead)::bigint AS images,
        (coalesce(sum(p.copied) FILTER (WHERE p.plan_number = r.plan_number), 0) + r.carried_copied)::bigint AS copied,
        extract(epoch FROM coalesce(r.finished_at, clock_timestamp()) - r.started_at)::real AS run_s,
        coalesce(sum(p.fetch_s ORDER BY p.plan_number), 0)::real AS fetch_s,
        coalesce(sum(p.decode_s ORDER BY p.plan_number), 0)::real AS decode_s,
        coalesce(sum(p.predict_s ORDER BY p.plan_number), 0)::real AS predict_s,
        coalesce(sum(p.write_s ORDER BY p.plan_number), 0)::real AS write_s
    FROM (
        SELECT
            s.plan_number,
            sum(s.labelled + s.dead) AS recorded,
            sum(s.copied) AS copied,
            sum(s.fetch_s ORDER BY s.shard_number) AS fetch_s,
            sum(s.decode_s ORDER BY s.shard_number) AS decode_s,
            sum(s.predict_s ORDER BY s.shard_number) AS predict_s,
            sum(s.write_s ORDER BY s.shard_number) AS write_s
        FROM nightlabel.shard AS s
        WHERE s.run_id = r.run_id
        GROUP BY s.plan_number
    ) AS p
) AS spent
CROSS JOIN LATERAL (
    SELECT spent.fetch_s + spent.decode_s + spent.predict_s + spent.write_s AS worker_s
) AS whole;
COMMENT ON VIEW nightlabel.run_cost IS
    'One row per run: images per second, seconds of each stage added over threads and shards, seconds per 1,000 images.';
COMMENT ON COLUMN nightlabel.run_cost.run_id IS 'The run; see run_summary for its books.';
COMMENT ON COLUMN nightlabel.run_cost.dag_id IS 'The Dag that it ran in; cli or rest where Airflow did not start it.';
COMMENT ON COLUMN nightlabel.run_cost.state IS 'planned, running, succeeded or failed.';
COMMENT ON COLUMN nightlabel.run_cost.started_at IS 'When the run began.';
COMMENT ON COLUMN nightlabel.run_cost.finished_at IS 'When it ended; null while it runs.';
COMMENT ON COLUMN nightlabel.run_cost.model_name IS 'Name of the model that the run was planned with.';
COMMENT ON COLUMN nightlabel.run_cost.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.run_cost.images IS 'Labels and dead letters that the run recorded.';
COMMENT ON COLUMN nightlabel.run_cost.copied IS 'Labels among them that were taken over from equal content, which costs next to nothing.';
COMMENT ON COLUMN nightlabel.run_cost.run_s IS 'Seconds from the start of the run to its end, or to now while it runs.';
COMMENT ON COLUMN nightlabel.run_cost.images_per_second IS 'images over run_s.';
COMMENT ON COLUMN nightlabel.run_cost.list_s IS 'Seconds of the listing; not part of worker_s.';
COMMENT ON COLUMN nightlabel.run_cost.fetch_s IS 'Seconds of fetching, added over threads, shards and plans.';
COMMENT ON COLUMN nightlabel.run_cost.decode_s IS 'Seconds of decoding, likewise.';
COMMENT ON COLUMN nightlabel.run_cost.predict_s IS 'Seconds of the model, likewise.';
COMMENT ON COLUMN nightlabel.run_cost.write_s IS 'Seconds of writing outcomes, likewise.';
COMMENT ON COLUMN nightlabel.run_cost.worker_s IS 'The four stages added up; stages overlap, so it may be more than run_s.';
COMMENT ON COLUMN nightlabel.run_cost.seconds_per_1000 IS 'worker_s for each 1,000 images.';
COMMENT ON COLUMN nightlabel.run_cost.fetch_share IS 'Share of fetching in worker_s, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_cost.decode_share IS 'Share of decoding in worker_s, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_cost.predict_share IS 'Share of the model in worker_s, 0 to 1.';
COMMENT ON COLUMN nightlabel.run_cost.write_share IS 'Share of writing in worker_s, 0 to 1.';
