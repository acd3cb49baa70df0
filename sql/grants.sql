-- What each group role may do; run at the end of every migration where the roles exist.
GRANT USAGE ON SCHEMA nightlabel TO nightlabel_writer, nightlabel_reader;

GRANT SELECT ON
    nightlabel.latest_prediction, nightlabel.dead_letter_open, nightlabel.run_summary, nightlabel.label_daily
    TO nightlabel_reader;

GRANT SELECT ON ALL TABLES IN SCHEMA nightlabel TO nightlabel_writer;
REVOKE ALL ON nightlabel.forgetting FROM nightlabel_writer;
GRANT INSERT, UPDATE ON
    nightlabel.image, nightlabel.object, nightlabel.listing, nightlabel.outcome, nightlabel.run, nightlabel.shard, nightlabel.model_alias
    TO nightlabel_writer;
GRANT INSERT ON nightlabel.manifest_chunk, nightlabel.model TO nightlabel_writer;
GRANT EXECUTE ON FUNCTION nightlabel.add_outcome_partition(integer), nightlabel.drop_old_manifests(interval),
    nightlabel.fold_label_counts(), nightlabel.analyze_ledger()
    TO nightlabel_writer;
