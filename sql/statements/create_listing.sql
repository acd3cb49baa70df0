-- Stage for one listing, for what of it changed since it was noted last, and for what is pending of it; lives as long
-- as the planning transaction.
CREATE TEMPORARY TABLE listed (
    image_id       uuid        NOT NULL,
    object_key     text        NOT NULL COLLATE "C",
    etag           text        NOT NULL,
    size_bytes     bigint      NOT NULL,
    last_modified  timestamptz NOT NULL,
    seen_at        timestamptz
) ON COMMIT DROP;
CREATE TEMPORARY TABLE changed (LIKE listed, noted_at timestamptz) ON COMMIT DROP;
CREATE TEMPORARY TABLE pending (
    position        bigint  NOT NULL,
    image_id        uuid    NOT NULL,
    object_key      text    NOT NULL COLLATE "C",
    etag            text    NOT NULL,
    size_bytes      bigint  NOT NULL,
    prior_attempts  integer NOT NULL
) ON COMMIT DROP;
-- Sorting and hashing a million keys in four megabytes would write them to disk and read them back many times.
SELECT set_config(
    'work_mem', greatest(pg_size_bytes(current_setting('work_mem')), pg_size_bytes('64MB')) / 1024 || 'kB', true
);
SET LOCAL jit = off;
