-- Let a run keep to a rate. A repeated plan goes on with the turns that were given.
INSERT INTO nightlabel.run_pace (run_id, images_per_second)
VALUES (%(run_id)s, %(images_per_second)s)
ON CONFLICT (run_id) DO UPDATE SET images_per_second = excluded.images_per_second;
