-- 0003: labels that are copied for equal bytes. Columns with constant defaults only: no row is rewritten, and code of
-- 0002 runs on.

ALTER TABLE nightlabel.image ADD COLUMN is_etag_md5 boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN nightlabel.image.is_etag_md5 IS 'Whether the ETag was seen to be the MD5 of the bytes that were read.';
-- A hash index, since only equality is asked for: half the size of a tree over 32 characters.
CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;

ALTER TABLE nightlabel.outcome ADD COLUMN is_copied boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN nightlabel.outcome.is_copied IS 'Whether the label was taken over from equal bytes under another key, and not computed.';

ALTER TABLE nightlabel.run ADD COLUMN carried_copied bigint NOT NULL DEFAULT 0 CHECK (carried_copied >= 0);
