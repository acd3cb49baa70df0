-- 0005: finds images by the MD5 that their ETag is. No image qualifies yet, but the table is read once, about a second
-- for each two million images, and writers of images wait meanwhile; readers do not.

SET LOCAL statement_timeout = 0;
-- A hash index, since only equality is asked for: half the size of a tree over 32 characters.
CREATE INDEX image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;
