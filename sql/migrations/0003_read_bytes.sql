-- 0003: whether an image's ETag was seen to be the MD5 of its bytes. A column with a constant default: no row is
-- rewritten, and code of 0002 runs on. What was read before vouches for nobody until it is read again. One table a
-- migration, since workers and discovery lock the tables in different orders.

ALTER TABLE nightlabel.image ADD COLUMN is_etag_md5 boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN nightlabel.image.is_etag_md5 IS 'Whether the ETag was seen to be the MD5 of the bytes that were read.';
