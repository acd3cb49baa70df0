-- 0004: labels that are copied for equal bytes. Columns with constant defaults: no row is rewritten, and code of 0002
-- runs on; a claim by such code counts the copied labels of its shard as computed, until newer code claims it again.

ALTER TABLE nightlabel.run ADD COLUMN carried_copied bigint NOT NULL DEFAULT 0 CHECK (carried_copied >= 0);

ALTER TABLE nightlabel.outcome ADD COLUMN is_copied boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN nightlabel.outcome.is_copied IS 'Whether the label was taken over from equal bytes under another key, and not computed.';
