-- not in one transaction
-- 0005: finds images by the MD5 that their ETag is. No image qualifies yet, but the table is read twice, about two
-- seconds for each two million images; readers and writers go on meanwhile.

-- A hash index, since only equality is asked for: half the size of a tree over 32 characters.
CREATE INDEX CONCURRENTLY IF NOT EXISTS image_etag_md5 ON nightlabel.image USING hash (etag) WHERE is_etag_md5;
