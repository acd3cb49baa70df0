-- Store what discovery counted.
UPDATE nightlabel.run
SET discovered = %(discovered)s, already_done = %(already_done)s, deferred = %(deferred)s,
    carried_labelled = %(carried_labelled)s, carried_copied = %(carried_copied)s,
    carried_dead = %(carried_dead)s, list_s = %(list_s)s, expected_s = %(expected_s)s, shadow_of = %(shadow_of)s
WHERE run_id = %(run_id)s;
