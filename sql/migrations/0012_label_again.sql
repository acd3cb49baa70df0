-- 0012: how fast a run may go, how long it was likely to take, and whose images a shadow run looks at. Nothing that older
-- code reads or writes changes; a worker of older code does not know of a run's rate and goes on at its own.

ALTER TABLE nightlabel.run ADD COLUMN expected_s real, ADD COLUMN shadow_of uuid;
COMMENT ON COLUMN nightlabel.run.expected_s IS 'Seconds that the images to classify were likely to take when the run was planned; null if nobody knew, or asked.';
COMMENT ON COLUMN nightlabel.run.shadow_of IS 'The run whose images a shadow model looks at in this one, for comparison only; null for every other run.';

-- A shard that a run with a time budget has not got to by its end has no images left: they are the run's deferred.
-- shard_counts_are_within_images still keeps them from being fewer than none.
ALTER TABLE nightlabel.shard DROP CONSTRAINT shard_images_check;

-- One row a run and not one a worker, so that the workers need not know of each other: each takes a second's turns at a
-- time. Room on its page for the next version, so that no index is written.
CREATE TABLE nightlabel.run_pace (
    run_id             uuid              PRIMARY KEY,
    images_per_second  double precision  NOT NULL CHECK (images_per_second BETWEEN 0.01 AND 100000),
    free_at            timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE  nightlabel.run_pace IS 'Runs that keep to a rate: their workers take turns from here, whatever their number.';
COMMENT ON COLUMN nightlabel.run_pace.run_id IS 'The run.';
COMMENT ON COLUMN nightlabel.run_pace.images_per_second IS 'Most images that all of its workers together begin in a second; a change holds once the turns that its workers have taken are over: two seconds, or a turn for each at less than one a second.';
COMMENT ON COLUMN nightlabel.run_pace.free_at IS 'When the first image may begin that no worker has a turn for yet; null before the first turn.';

INSERT INTO nightlabel.schema_compatibility (revision, oldest_code) VALUES ('0012', '0009');
