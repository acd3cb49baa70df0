-- dead_letter_reason: why images have no label, and how many for each reason.
-- Grain:   one row per bucket, stage, error code and whether it is permanent.
-- Rule:    what dead_letter_open shows, counted. The example is the newest one, so that its bytes are still there to look at.
-- Cost:    that of dead_letter_open.
-- Readers: operators, dashboards.
CREATE OR REPLACE VIEW nightlabel.dead_letter_reason AS
SELECT
    bucket,
    stage,
    error_code,
    permanent,
    count(*) AS objects,
    min(failed_at) AS first_failed_at,
    max(failed_at) AS last_failed_at,
    min(retry_after) AS next_retry_after,
    (array_agg(object_key ORDER BY failed_at DESC, object_key COLLATE "C"))[1] AS example_key,
    (array_agg(message ORDER BY failed_at DESC, object_key COLLATE "C"))[1] AS example_message
FROM nightlabel.dead_letter_open
GROUP BY bucket, stage, error_code, permanent;
COMMENT ON VIEW nightlabel.dead_letter_reason IS
    'dead_letter_open counted by bucket, stage, error code and whether it is permanent, with the newest example.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.bucket IS 'Bucket of the objects.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.stage IS 'The stage that gave up.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.error_code IS 'Stable code of the reason.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.permanent IS 'True when only a hand, a new decoder or a new version of the object tries again.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.objects IS 'Existing objects without a label for this reason.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.first_failed_at IS 'When the oldest of them was recorded.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.last_failed_at IS 'When the newest of them was recorded.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.next_retry_after IS 'When the first of them may be tried again; null when permanent.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.example_key IS 'Key of the newest of them.';
COMMENT ON COLUMN nightlabel.dead_letter_reason.example_message IS 'Message of the newest of them.';
