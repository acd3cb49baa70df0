-- Give an attempt the run's next turns for some images: how many seconds until the first, and the rate at which they
-- follow. By the database's clock, so that no two hosts' clocks need agree. What the run has fallen behind it makes up
-- for, up to some seconds. No row for an attempt that a newer one has taken over, which is to begin nothing more.
UPDATE nightlabel.run_pace AS p
SET free_at = greatest(coalesce(p.free_at, clock_timestamp()), clock_timestamp() - %(catch_up)s::interval)
    + make_interval(secs => %(images)s / p.images_per_second)
FROM nightlabel.shard AS s
WHERE p.run_id = %(run_id)s
    AND s.run_id = p.run_id AND s.plan_number = %(plan_number)s AND s.shard_number = %(shard_number)s
    AND s.attempt = %(attempt)s
RETURNING
    extract(epoch FROM p.free_at - clock_timestamp())::double precision - %(images)s / p.images_per_second AS wait_s,
    p.images_per_second;
