-- What each group role may do; run at the end of every migration where the roles exist. Every table, view and function
-- of the schema is named here, those that nobody but the owner changes as well; a test compares.
GRANT USAGE ON SCHEMA nightlabel TO nightlabel_writer, nightlabel_reader;

GRANT SELECT ON
    nightlabel.latest_prediction, nightlabel.dead_letter_open, nightlabel.run_summary, nightlabel.label_daily,
    nightlabel.label_by_prefix, nightlabel.object_outcome, nightlabel.label_change, nightlabel.dead_letter_reason,
    nightlabel.run_cost, nightlabel.never_labelled, nightlabel.duplicate_content, nightlabel.model_alias_history,
    nightlabel.model_check, nightlabel.model_check_flip, nightlabel.run_drift, nightlabel.review_queue,
    nightlabel.image_review, nightlabel.shadow_daily
    TO nightlabel_reader;

-- Workers read everything, also what nobody grants a right to below (nightlabel.alembic_version,
-- nightlabel.schema_compatibility, nightlabel.view_file, nightlabel.production_line, nightlabel.maintenance_position,
-- nightlabel.dropped_model, nightlabel.gate_threshold, nightlabel.review, to which record_review adds, and
-- nightlabel.label_count with nightlabel.label_count_delta, which the ledger's triggers write), but for the record of what
-- was forgotten: that is the owner's.
GRANT SELECT ON ALL TABLES IN SCHEMA nightlabel TO nightlabel_writer;
REVOKE ALL ON nightlabel.forgetting FROM nightlabel_writer;
GRANT INSERT, UPDATE ON
    nightlabel.image, nightlabel.object, nightlabel.listing, nightlabel.outcome, nightlabel.run, nightlabel.shard,
    nightlabel.golden_image, nightlabel.run_quality, nightlabel.run_label, nightlabel.run_pace
    TO nightlabel_writer;
GRANT INSERT ON nightlabel.manifest_chunk, nightlabel.model, nightlabel.gate_check TO nightlabel_writer;
-- Moving an alias is the owner's right: no worker promotes a model.
REVOKE INSERT, UPDATE ON nightlabel.model_alias FROM nightlabel_writer;
GRANT EXECUTE ON FUNCTION nightlabel.add_outcome_partition(integer), nightlabel.drop_old_manifests(interval),
    nightlabel.fold_label_counts(), nightlabel.analyze_ledger(),
    nightlabel.record_review(text, text, text, text, text, text, text)
    TO nightlabel_writer;
-- Called by the ledger's triggers and by migrations.
REVOKE ALL ON FUNCTION
    nightlabel.count_inserted_labels(), nightlabel.count_updated_labels(), nightlabel.count_deleted_labels(),
    nightlabel.count_labels_of(regclass)
    FROM PUBLIC, nightlabel_writer, nightlabel_reader;
-- Forgetting is the owner's, and of whom the owner lets do it.
REVOKE ALL ON FUNCTION
    nightlabel.forgettable_images(text, text), nightlabel.outcomes_detached(),
    nightlabel.forgettable_chunks(text, text), nightlabel.runs_at_work(text, text),
    nightlabel.count_forgettable(text, text), nightlabel.begin_forgetting(text, text, text),
    nightlabel.forget_in_chunk(uuid, text, text, uuid, integer, integer, integer),
    nightlabel.forget_images(uuid, text, text, uuid[]), nightlabel.forget_names(uuid, text, text),
    nightlabel.finish_forgetting(uuid, text, text), nightlabel.forgotten(uuid),
    nightlabel.count_other_keys(text, text), nightlabel.forget_other_keys(text, text),
    nightlabel.forget_flips(text, text)
    FROM PUBLIC, nightlabel_writer, nightlabel_reader;
