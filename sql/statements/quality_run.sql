-- What there is to know of a run before its labels are counted: its model, whether it labels what is new (no retry, no
-- run that labels again, no shadow), between which UTC days it recorded anything, and its dead letters, those under former plans as well.
SELECT
    r.model_id,
    coalesce(r.parameters ->> 'scope', 'unlabelled') = 'unlabelled'
        AND NOT r.parameters ?| ARRAY['dead_letters', 'labelled', 'shadow'] AS is_history,
    (min(s.started_at) AT TIME ZONE 'UTC')::date AS first_day,
    (max(s.heartbeat_at) AT TIME ZONE 'UTC')::date AS last_day,
    (coalesce(sum(s.dead) FILTER (WHERE s.plan_number = r.plan_number), 0) + r.carried_dead)::bigint AS dead
FROM nightlabel.run AS r
LEFT JOIN nightlabel.shard AS s ON s.run_id = r.run_id
WHERE r.run_id = %(run_id)s
GROUP BY r.run_id;
