-- 0002: what a shard's next attempt has to know of the last one's end; which decoder condemned an image; which try
-- of discovery made a plan. Columns with constant defaults only: no row is rewritten, and code of 0001 runs on.

ALTER TABLE nightlabel.shard
    ADD COLUMN ended_attempt integer NOT NULL DEFAULT 0,
    ADD COLUMN unclean_ends  integer NOT NULL DEFAULT 0 CHECK (unclean_ends >= 0),
    ADD COLUMN in_flight     integer NOT NULL DEFAULT 0 CHECK (in_flight >= 0),
    ADD COLUMN is_isolated   boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN nightlabel.shard.ended_attempt IS 'The newest attempt that said that it ended; one that did not was killed, or its process died.';
COMMENT ON COLUMN nightlabel.shard.unclean_ends IS 'Attempts that ended without saying so.';
COMMENT ON COLUMN nightlabel.shard.in_flight IS 'Most refs without outcome that the present attempt may have begun: after an unclean end the first so many are suspects.';
COMMENT ON COLUMN nightlabel.shard.is_isolated IS 'Whether every image of the shard is decoded in a process apart, since one killed its decoder.';

ALTER TABLE nightlabel.outcome ADD COLUMN decoder text;
COMMENT ON COLUMN nightlabel.outcome.decoder IS 'Of a dead letter of the decode stage: the decoder that gave up; another one tries it again.';

ALTER TABLE nightlabel.run ADD COLUMN plan_attempt integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN nightlabel.run.plan_attempt IS 'Fencing token of discovery: a plan of an older try of the task is refused.';
