-- What tables and columns mean, where the file that made them does not say; `migrate` renews it after the views.
-- A test finds whatever in the schema has no comment. Comments of the further views are in their own files.

COMMENT ON SCHEMA nightlabel IS 'Nightlabel: labels of images, one outcome per image version and model version. Read the views; the tables are internal.';
COMMENT ON TABLE  nightlabel.alembic_version IS 'Which migration the schema is at; one row, written by `migrate`.';
COMMENT ON COLUMN nightlabel.alembic_version.version_num IS 'Number of the newest migration that was run.';

COMMENT ON COLUMN nightlabel.image.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.image.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.image.etag IS 'ETag of the version, without quotes and without W/.';
COMMENT ON COLUMN nightlabel.image.size_bytes IS 'Size of the version.';
COMMENT ON COLUMN nightlabel.image.last_modified IS 'When the version was written, as the store said when it was first seen.';
COMMENT ON COLUMN nightlabel.image.first_seen_at IS 'When a listing showed the version first.';

COMMENT ON COLUMN nightlabel.object.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.object.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.object.image_id IS 'The version that the key holds now, or held last.';
COMMENT ON COLUMN nightlabel.object.last_modified IS 'When the object was last written, as the store says.';

COMMENT ON COLUMN nightlabel.listing.bucket IS 'Bucket that was listed.';
COMMENT ON COLUMN nightlabel.listing.prefix IS 'Prefix that was listed; empty for the whole bucket.';

COMMENT ON COLUMN nightlabel.model.model_id IS 'Number of the model version in these tables; each has a partition of outcome.';
COMMENT ON COLUMN nightlabel.model.name IS 'Name of the model.';
COMMENT ON COLUMN nightlabel.model.version IS 'Version of the model; another precision is another version.';
COMMENT ON COLUMN nightlabel.model.source IS 'Where the weights are from.';
COMMENT ON COLUMN nightlabel.model.licence IS 'Licence of the weights.';
COMMENT ON COLUMN nightlabel.model.preprocessing IS 'What is done to the pixels before the model sees them, and what its output means.';
COMMENT ON COLUMN nightlabel.model.registered_at IS 'When the version was registered.';

COMMENT ON COLUMN nightlabel.model_alias.alias IS 'The name that moves, such as production.';
COMMENT ON COLUMN nightlabel.model_alias.model_id IS 'The model version that it named in this span.';
COMMENT ON COLUMN nightlabel.model_alias.valid_from IS 'Start of the span.';
COMMENT ON COLUMN nightlabel.model_alias.valid_to IS 'End of the span; null while the alias names this version.';
COMMENT ON COLUMN nightlabel.model_alias.changed_by IS 'Database user who moved the alias.';
COMMENT ON COLUMN nightlabel.model_alias.reason IS 'Why it was moved, in words.';

COMMENT ON COLUMN nightlabel.outcome.image_id IS 'The image version.';
COMMENT ON COLUMN nightlabel.outcome.model_id IS 'The model version.';
COMMENT ON COLUMN nightlabel.outcome.label IS 'Best label; null for a dead letter.';
COMMENT ON COLUMN nightlabel.outcome.label_id IS 'Stable id of the label; label names may repeat, ids do not.';
COMMENT ON COLUMN nightlabel.outcome.score IS 'Probability of the label, 0 to 1.';
COMMENT ON COLUMN nightlabel.outcome.top_labels IS 'Best labels, best first, beside top_scores.';
COMMENT ON COLUMN nightlabel.outcome.top_scores IS 'Probabilities of top_labels, in the same order.';
COMMENT ON COLUMN nightlabel.outcome.stage IS 'Of a dead letter: the stage that gave up; null for a label.';
COMMENT ON COLUMN nightlabel.outcome.error_code IS 'Of a dead letter: its stable code; null for a label.';
COMMENT ON COLUMN nightlabel.outcome.message IS 'Of a dead letter: what was found and what to do; null for a label.';
COMMENT ON COLUMN nightlabel.outcome.attempts IS 'How many runs tried the image with this model.';
COMMENT ON COLUMN nightlabel.outcome.engine IS 'What executed the model; null for most dead letters, which never got so far.';
COMMENT ON COLUMN nightlabel.outcome.run_id IS 'The run that recorded it.';
COMMENT ON COLUMN nightlabel.outcome.recorded_at IS 'When it was recorded, by the database''s clock; its UTC day is the day of label_daily.';

COMMENT ON COLUMN nightlabel.run.run_id IS 'Id of the run.';
COMMENT ON COLUMN nightlabel.run.dag_id IS 'The Dag that it ran in; cli or rest where Airflow did not start it.';
COMMENT ON COLUMN nightlabel.run.airflow_run_id IS 'Airflow''s own id of the run; null where Airflow did not start it.';
COMMENT ON COLUMN nightlabel.run.bucket IS 'Bucket that the run looked at.';
COMMENT ON COLUMN nightlabel.run.prefix IS 'Prefix that the run looked at; empty for the whole bucket.';
COMMENT ON COLUMN nightlabel.run.parameters IS 'The request in full, as it was given.';
COMMENT ON COLUMN nightlabel.run.model_id IS 'The model version that the run was planned with, whatever is promoted meanwhile.';
COMMENT ON COLUMN nightlabel.run.state IS 'planned, running, succeeded or failed.';
COMMENT ON COLUMN nightlabel.run.message IS 'Why the run failed; null otherwise.';
COMMENT ON COLUMN nightlabel.run.started_at IS 'When the run began.';
COMMENT ON COLUMN nightlabel.run.finished_at IS 'When it ended; null while it runs.';
COMMENT ON COLUMN nightlabel.run.max_dead_ratio IS 'Share of dead letters above which the run fails, 0 to 1.';
COMMENT ON COLUMN nightlabel.run.min_images_for_ratio IS 'From how many images on the share of dead letters is judged.';
COMMENT ON COLUMN nightlabel.run.discovered IS 'Objects that the listing, the manifest or the inventory showed.';
COMMENT ON COLUMN nightlabel.run.already_done IS 'Objects whose current version had an outcome before the run.';
COMMENT ON COLUMN nightlabel.run.deferred IS 'Left for a later run by max_images or the time budget.';
COMMENT ON COLUMN nightlabel.run.carried_copied IS 'Labels among carried_labelled that were copied from equal content.';
COMMENT ON COLUMN nightlabel.run.carried_dead IS 'Dead letters that the run recorded under former plans.';
COMMENT ON COLUMN nightlabel.run.list_s IS 'Seconds of the listing.';

COMMENT ON COLUMN nightlabel.shard.run_id IS 'The run.';
COMMENT ON COLUMN nightlabel.shard.plan_number IS 'The plan of the run that the shard belongs to.';
COMMENT ON COLUMN nightlabel.shard.shard_number IS 'Number of the shard in its plan, from 0.';
COMMENT ON COLUMN nightlabel.shard.device IS 'cpu or gpu: the queue that works on it.';
COMMENT ON COLUMN nightlabel.shard.state IS 'planned, running, done, or superseded: by a later plan, or since maintenance made one row of a plan''s shards.';
COMMENT ON COLUMN nightlabel.shard.images IS 'Image refs in the shard; without those that were deferred since the time was up.';
COMMENT ON COLUMN nightlabel.shard.labelled IS 'Labels recorded by the shard, the copied ones included.';
COMMENT ON COLUMN nightlabel.shard.copied IS 'Labels taken over from equal content instead of computed.';
COMMENT ON COLUMN nightlabel.shard.dead IS 'Dead letters recorded by the shard.';
COMMENT ON COLUMN nightlabel.shard.gone IS 'Deleted or overwritten between listing and reading.';
COMMENT ON COLUMN nightlabel.shard.done_elsewhere IS 'Recorded first by another run.';
COMMENT ON COLUMN nightlabel.shard.decode_s IS 'Seconds of decoding, added over the threads of the stage.';
COMMENT ON COLUMN nightlabel.shard.predict_s IS 'Seconds of the model, added over the threads of the stage.';
COMMENT ON COLUMN nightlabel.shard.write_s IS 'Seconds of writing outcomes, added over the threads of the stage.';
COMMENT ON COLUMN nightlabel.shard.started_at IS 'When its first attempt began.';
COMMENT ON COLUMN nightlabel.shard.heartbeat_at IS 'When an attempt last recorded something.';
COMMENT ON COLUMN nightlabel.shard.finished_at IS 'When it was done; null before.';

COMMENT ON COLUMN nightlabel.manifest_chunk.run_id IS 'The run.';
COMMENT ON COLUMN nightlabel.manifest_chunk.plan_number IS 'The plan of the run.';
COMMENT ON COLUMN nightlabel.manifest_chunk.shard_number IS 'The shard of the plan.';
COMMENT ON COLUMN nightlabel.manifest_chunk.chunk_number IS 'Place of the row in the shard''s manifest, from 0.';
COMMENT ON COLUMN nightlabel.manifest_chunk.bucket IS 'Bucket of the objects.';
COMMENT ON COLUMN nightlabel.manifest_chunk.image_id IS 'The image versions; the arrays are beside one another.';
COMMENT ON COLUMN nightlabel.manifest_chunk.object_key IS 'Their keys, exactly as stored.';
COMMENT ON COLUMN nightlabel.manifest_chunk.etag IS 'Their ETags, without quotes.';
COMMENT ON COLUMN nightlabel.manifest_chunk.size_bytes IS 'Their sizes.';

COMMENT ON COLUMN nightlabel.production_line.model_id IS 'The model version.';
COMMENT ON COLUMN nightlabel.production_line.rank IS '1 for the model that is production now; then by when each last was, newest first.';

COMMENT ON COLUMN nightlabel.latest_prediction.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.latest_prediction.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.latest_prediction.etag IS 'ETag of the version that was labelled, without quotes.';
COMMENT ON COLUMN nightlabel.latest_prediction.size_bytes IS 'Size of that version.';
COMMENT ON COLUMN nightlabel.latest_prediction.last_modified IS 'When the object was written, as the store says.';
COMMENT ON COLUMN nightlabel.latest_prediction.label IS 'Best label; names may repeat.';
COMMENT ON COLUMN nightlabel.latest_prediction.top_scores IS 'Probabilities of top_labels, in the same order.';
COMMENT ON COLUMN nightlabel.latest_prediction.model_name IS 'Name of the model that gave the label.';
COMMENT ON COLUMN nightlabel.latest_prediction.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.latest_prediction.engine IS 'What executed the model.';
COMMENT ON COLUMN nightlabel.latest_prediction.predicted_at IS 'When the label was recorded.';

COMMENT ON COLUMN nightlabel.dead_letter_open.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.dead_letter_open.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.dead_letter_open.etag IS 'ETag of the current version, without quotes.';
COMMENT ON COLUMN nightlabel.dead_letter_open.stage IS 'The stage that gave up: fetch or decode, mostly.';
COMMENT ON COLUMN nightlabel.dead_letter_open.error_code IS 'Stable code of the reason; see docs/errors.md.';
COMMENT ON COLUMN nightlabel.dead_letter_open.message IS 'One sentence: what was found and what to do.';
COMMENT ON COLUMN nightlabel.dead_letter_open.attempts IS 'How many runs tried the image with this model.';
COMMENT ON COLUMN nightlabel.dead_letter_open.model_name IS 'Name of the model of the run that gave up.';
COMMENT ON COLUMN nightlabel.dead_letter_open.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.dead_letter_open.run_id IS 'The run that recorded it; see run_summary.';
COMMENT ON COLUMN nightlabel.dead_letter_open.failed_at IS 'When it was recorded.';

COMMENT ON COLUMN nightlabel.run_summary.run_id IS 'Id of the run.';
COMMENT ON COLUMN nightlabel.run_summary.dag_id IS 'classify_images, retry_dead_letters, reclassify_images or shadow_images; cli for the command line.';
COMMENT ON COLUMN nightlabel.run_summary.airflow_run_id IS 'Airflow''s own id of the run; null where Airflow did not start it.';
COMMENT ON COLUMN nightlabel.run_summary.state IS 'planned, running, succeeded or failed.';
COMMENT ON COLUMN nightlabel.run_summary.started_at IS 'When the run began.';
COMMENT ON COLUMN nightlabel.run_summary.finished_at IS 'When it ended; null while it runs.';
COMMENT ON COLUMN nightlabel.run_summary.model_name IS 'Name of the model that the run was planned with.';
COMMENT ON COLUMN nightlabel.run_summary.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.run_summary.discovered IS 'Objects that the listing, the manifest or the inventory showed; in a retry, the dead letters that matched; where objects are labelled again, those that matched; in a shadow run, the sample.';
COMMENT ON COLUMN nightlabel.run_summary.dead IS 'Dead letters recorded by this run.';
COMMENT ON COLUMN nightlabel.run_summary.images_per_second IS 'Labelled and dead, over the time since the start of the run.';
COMMENT ON COLUMN nightlabel.run_summary.list_s IS 'Seconds of the listing.';
COMMENT ON COLUMN nightlabel.run_summary.fetch_s IS 'Seconds of fetching, added over threads and shards of the newest plan.';
COMMENT ON COLUMN nightlabel.run_summary.decode_s IS 'Seconds of decoding, likewise.';
COMMENT ON COLUMN nightlabel.run_summary.predict_s IS 'Seconds of the model, likewise.';
COMMENT ON COLUMN nightlabel.run_summary.write_s IS 'Seconds of writing outcomes, likewise.';

COMMENT ON COLUMN nightlabel.label_daily.day IS 'UTC day on which the label was recorded.';
COMMENT ON COLUMN nightlabel.label_daily.model_name IS 'Name of the model that gave the label.';
COMMENT ON COLUMN nightlabel.label_daily.model_version IS 'Version of that model.';
COMMENT ON COLUMN nightlabel.label_daily.label IS 'The label; two classes of one name are counted together.';
COMMENT ON COLUMN nightlabel.label_daily.images IS 'Image versions that got the label.';
COMMENT ON COLUMN nightlabel.label_daily.mean_score IS 'Mean probability of the label, 0 to 1; weigh it by images when adding rows up.';

COMMENT ON COLUMN nightlabel.label_count.day IS 'UTC day on which the labels were recorded.';
COMMENT ON COLUMN nightlabel.label_count.model_id IS 'The model version that gave them.';
COMMENT ON COLUMN nightlabel.label_count.label IS 'The label; two classes of one name are counted together.';
COMMENT ON COLUMN nightlabel.label_count.images IS 'Image versions that got the label.';

COMMENT ON COLUMN nightlabel.label_count_delta.day IS 'UTC day on which the labels were recorded.';
COMMENT ON COLUMN nightlabel.label_count_delta.model_id IS 'The model version that gave them.';
COMMENT ON COLUMN nightlabel.label_count_delta.labels IS 'The labels, each once; the other arrays are beside it.';
COMMENT ON COLUMN nightlabel.label_count_delta.score_sums IS 'Sums of the scores, beside labels.';

COMMENT ON COLUMN nightlabel.schema_compatibility.revision IS 'Number of a migration.';

COMMENT ON COLUMN nightlabel.maintenance_position.step IS 'The step of maintenance.';
COMMENT ON COLUMN nightlabel.maintenance_position.stopped_at IS 'When its time was up.';

COMMENT ON COLUMN nightlabel.dropped_model.model_id IS 'The model version.';
COMMENT ON COLUMN nightlabel.dropped_model.dropped_at IS 'When the drop began.';
COMMENT ON COLUMN nightlabel.dropped_model.dropped_by IS 'The login that asked for it.';
COMMENT ON COLUMN nightlabel.dropped_model.outcomes IS 'Labels and dead letters that went with it.';

COMMENT ON COLUMN nightlabel.view_file.name IS 'The view.';
COMMENT ON COLUMN nightlabel.view_file.sha256 IS 'Of the file, in hexadecimal digits.';

COMMENT ON COLUMN nightlabel.run_quality.run_id IS 'The run.';
COMMENT ON COLUMN nightlabel.run_quality.model_id IS 'The model version whose labels were judged: the run''s own.';
COMMENT ON COLUMN nightlabel.run_quality.judged_at IS 'When it was judged last.';
COMMENT ON COLUMN nightlabel.run_quality.is_history IS 'Whether it labelled what was new, so that later runs are compared with it; not a retry, and no run that labels again.';
COMMENT ON COLUMN nightlabel.run_quality.verdict IS 'ordinary, moved or not_judged.';
COMMENT ON COLUMN nightlabel.run_quality.reason IS 'What has moved, or why it was not judged; empty for an ordinary run.';
COMMENT ON COLUMN nightlabel.run_quality.images IS 'Labels that the run recorded.';
COMMENT ON COLUMN nightlabel.run_quality.dead IS 'Dead letters that the run recorded.';
COMMENT ON COLUMN nightlabel.run_quality.score_sum IS 'Sum of the labels'' scores.';
COMMENT ON COLUMN nightlabel.run_quality.score_square_sum IS 'Sum of the squares of the scores, by which their spread is known.';
COMMENT ON COLUMN nightlabel.run_quality.low_score IS 'Below this a score counted as low.';
COMMENT ON COLUMN nightlabel.run_quality.low_scores IS 'Labels with a low score.';
COMMENT ON COLUMN nightlabel.run_quality.nights IS 'Runs before, of the same model and source, that it was compared with, or that are known if these are too few.';
COMMENT ON COLUMN nightlabel.run_quality.images_before IS 'Labels of these together.';
COMMENT ON COLUMN nightlabel.run_quality.js_distance IS 'Jensen-Shannon distance of the label mixes; null where nothing was judged, as all that follows.';
COMMENT ON COLUMN nightlabel.run_quality.js_ordinary IS 'How far an ordinary night goes.';
COMMENT ON COLUMN nightlabel.run_quality.psi IS 'Population stability index of the label mixes.';
COMMENT ON COLUMN nightlabel.run_quality.psi_ordinary IS 'How far an ordinary night goes.';
COMMENT ON COLUMN nightlabel.run_quality.moved_share IS 'Share of images with labels beyond what an ordinary night has of each.';
COMMENT ON COLUMN nightlabel.run_quality.low_score_share_before IS 'Share of low scores in the runs before.';
COMMENT ON COLUMN nightlabel.run_quality.low_score_share_ordinary IS 'How far an ordinary night goes.';
COMMENT ON COLUMN nightlabel.run_quality.mean_score_before IS 'Mean score of the runs before.';
COMMENT ON COLUMN nightlabel.run_quality.mean_score_ordinary IS 'How low an ordinary night goes.';
COMMENT ON COLUMN nightlabel.run_quality.dead_ratio_before IS 'Share of dead letters in the runs before.';
COMMENT ON COLUMN nightlabel.run_quality.dead_ratio_ordinary IS 'How far an ordinary night goes.';
COMMENT ON COLUMN nightlabel.run_quality.moved IS 'Which figures have moved.';
COMMENT ON COLUMN nightlabel.run_quality.moved_labels IS 'Labels that moved most, first; the two columns that follow are beside it.';
COMMENT ON COLUMN nightlabel.run_quality.shares_before IS 'Their shares in the runs before.';
COMMENT ON COLUMN nightlabel.run_quality.shares_now IS 'Their shares in this run.';
COMMENT ON COLUMN nightlabel.run_quality.thresholds IS 'The thresholds of that moment.';

COMMENT ON COLUMN nightlabel.run_label.run_id IS 'The run.';
COMMENT ON COLUMN nightlabel.run_label.model_id IS 'The model version that gave the labels.';
COMMENT ON COLUMN nightlabel.run_label.label IS 'The label; two classes of one name are counted together.';
COMMENT ON COLUMN nightlabel.run_label.images IS 'Image versions that got the label; fewer once some were forgotten.';

COMMENT ON COLUMN nightlabel.review.review_id IS 'Number of the review; later ones have higher numbers.';
COMMENT ON COLUMN nightlabel.review.image_id IS 'The image version.';
COMMENT ON COLUMN nightlabel.review.bucket IS 'Bucket of the object.';
COMMENT ON COLUMN nightlabel.review.object_key IS 'The key, exactly as stored.';
COMMENT ON COLUMN nightlabel.review.etag IS 'ETag of the version, without quotes.';
COMMENT ON COLUMN nightlabel.review.label IS 'The reviewer''s label.';
COMMENT ON COLUMN nightlabel.review.label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.review.reviewer IS 'Who reviewed it, as was said.';
COMMENT ON COLUMN nightlabel.review.note IS 'What was said about it; empty if nothing was.';
COMMENT ON COLUMN nightlabel.review.reviewed_at IS 'When it was recorded.';
COMMENT ON COLUMN nightlabel.review.recorded_by IS 'The login that recorded it.';
COMMENT ON COLUMN nightlabel.review.superseded_at IS 'When a later review of the same version took its place; null while it holds.';
COMMENT ON COLUMN nightlabel.review.model_id IS 'The model version whose label was shown.';
COMMENT ON COLUMN nightlabel.review.seen_label IS 'The model''s label.';
COMMENT ON COLUMN nightlabel.review.seen_label_id IS 'Stable id of that label.';
COMMENT ON COLUMN nightlabel.review.seen_score IS 'Its probability, 0 to 1.';
