-- model_alias_history: what each alias named and names, who had it do so, when and why.
-- Grain:   one row per alias and span in which it named one model version; the row without valid_to holds now.
-- Rule:    a run takes what `production` names when it is planned; a later promotion does not change it.
-- Cost:    a handful of rows.
-- Readers: whoever asks which model labelled when, and who decided that.
CREATE OR REPLACE VIEW nightlabel.model_alias_history AS
SELECT
    a.alias,
    m.name AS model_name,
    m.version AS model_version,
    a.valid_from,
    a.valid_to,
    a.changed_by,
    a.approved_by,
    a.reason,
    a.is_forced,
    a.check_id,
    a.ended_by,
    a.ended_reason
FROM nightlabel.model_alias AS a
JOIN nightlabel.model AS m ON m.model_id = a.model_id;
COMMENT ON VIEW nightlabel.model_alias_history IS
    'One row per alias and span in which it named one model version: who moved it there, when, why, and by which check.';
COMMENT ON COLUMN nightlabel.model_alias_history.alias IS 'production, candidate or shadow.';
COMMENT ON COLUMN nightlabel.model_alias_history.model_name IS 'Name of the model that it named.';
COMMENT ON COLUMN nightlabel.model_alias_history.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.model_alias_history.valid_from IS 'Start of the span.';
COMMENT ON COLUMN nightlabel.model_alias_history.valid_to IS 'End of the span; null while the alias names this version.';
COMMENT ON COLUMN nightlabel.model_alias_history.changed_by IS 'Database user who moved the alias there.';
COMMENT ON COLUMN nightlabel.model_alias_history.approved_by IS 'Who said yes in Airflow; null where the login of changed_by did it by hand.';
COMMENT ON COLUMN nightlabel.model_alias_history.reason IS 'Why it was moved, in words.';
COMMENT ON COLUMN nightlabel.model_alias_history.is_forced IS 'Whether somebody overrode the gate.';
COMMENT ON COLUMN nightlabel.model_alias_history.check_id IS 'The check that the promotion rests on; see model_check.';
COMMENT ON COLUMN nightlabel.model_alias_history.ended_by IS 'Database user who moved the alias on or took it away; null while it holds.';
COMMENT ON COLUMN nightlabel.model_alias_history.ended_reason IS 'Why, in words; null while it holds.';
