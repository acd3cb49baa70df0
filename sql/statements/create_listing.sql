-- Stage for one listing and for what is pending of it; lives as long as the planning transaction.
CREATE TEMPORARY TABLE listed (
    image_id       uuid        NOT NULL,
    object_key     text        NOT NULL COLLATE "C",
    etag           text        NOT NULL,
    size_bytes     bigint      NOT NULL,
    last_modified  timestamptz NOT NULL,
    seen_at        timestamptz
) ON COMMIT DROP;
CREATE TEMPORARY TABLE pending (
    position        bigint  NOT NULL,
    image_id        uuid    NOT NULL,
    object_key      text    NOT NULL COLLATE "C",
    etag            text    NOT NULL,
    size_bytes      bigint  NOT NULL,
    prior_attempts  integer NOT NULL
) ON COMMIT DROP;
