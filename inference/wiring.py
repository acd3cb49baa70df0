"""Puts the adapters behind the stages: the one module that entry points call. Nothing heavy until it is called."""

from __future__ import annotations

import hashlib
import importlib
import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from inference.errors import (
    AliasMovedError,
    DeviceUnavailableError,
    InferenceError,
    LabelsMovedError,
    ModelError,
    RunInterruptedError,
    SettingsError,
    ShardError,
    ShardsUnfinishedError,
    TooManyDeadError,
    TransientError,
    WorkerDiedError,
)
from inference.settings import Settings, place_of_models, split_shared_store
from inference.supervising import ShardWorker
from inference.types import (
    Device,
    ForgetRequest,
    Forgettable,
    MaintenanceReport,
    MaintenanceRequest,
    ModelId,
    Plan,
    QualityRules,
    QueuedImage,
    RegistrationRequest,
    ReviewRequest,
    RunRequest,
    RunRules,
    RunSummary,
    ShadowSample,
    Shard,
    ShardStats,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import boto3

    from inference.exporting import ExportRequest
    from inference.judging import Verdict
    from inference.models.manifest import Manifest
    from inference.models.registry import RegisteredModel
    from inference.models.store import ModelStore
    from inference.ports import ModelHandle, ObjectReader, ObjectSource, ObjectStore
    from inference.sinks.postgres import PostgresSink
    from inference.stores.s3 import S3Store

logger = logging.getLogger(__name__)

SHARD_ATTEMPTS = 5
"""Attempts at a shard where no scheduler retries it."""

SHARD_RETRY_PAUSE_S = 5.0

CALLS_A_BATCH = 4
"""Calls of the model whose outcomes are recorded at once: enough to make the round trip a small part of it, and few
enough that little is computed again after a crash."""


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()


def open_store(settings: Settings, *, session: boto3.Session | None = None, endpoint_url: str | None = None) -> S3Store:
    """Return the object store of the standard ``AWS_*`` variables.

    Args:
        settings: Time-outs and the number of connections.
        session: A boto3 session to use instead, as Airflow's connections give one.
        endpoint_url: The store's address where the variables or the session do not name it.
    """
    from inference.stores.s3 import S3Store

    return S3Store(
        session=session,
        endpoint_url=endpoint_url,
        connect_timeout_s=settings.store_connect_timeout_s,
        read_timeout_s=settings.store_read_timeout_s,
        fetch_timeout_s=settings.fetch_timeout_s,
        connections=max(settings.fetch_threads, settings.list_threads),
        list_threads=settings.list_threads,
    )


def open_model_store(
    settings: Settings,
    *,
    session: boto3.Session | None = None,
    endpoint_url: str | None = None,
    place: Path | str | None = None,
) -> ModelStore:
    """Return the model store: a folder, or what a bucket holds with this host's cache of it. Nothing is read yet.

    Args:
        settings: Where it is, the cache, and the time-outs.
        session: A boto3 session for a store in a bucket; by default the standard ``AWS_*`` variables, profiles and
            roles say who asks.
        endpoint_url: The address of its service where the variables or the session do not name it.
        place: Another folder or ``s3://bucket/prefix`` than the settings'.

    Raises:
        SettingsError: ``place`` is neither.
    """
    from inference.models.store import ModelStore

    try:
        where = settings.model_store if place is None else place_of_models(place)
    except ValueError as error:
        raise SettingsError(f"the model store is {place!r}: {error}") from None
    if not isinstance(where, str):
        return ModelStore(where)

    from inference.models.shared_store import SharedModelStore
    from inference.stores.s3 import S3Store
    from inference.stores.s3_files import MODEL_STORE, S3Files

    bucket, prefix = split_shared_store(where)
    store = S3Store(
        session=session,
        endpoint_url=endpoint_url,
        connect_timeout_s=settings.store_connect_timeout_s,
        read_timeout_s=settings.store_read_timeout_s,
        fetch_timeout_s=settings.fetch_timeout_s,
        connections=2,
        list_threads=1,
        words=MODEL_STORE,
    )
    # Models of one name lie in several stores, and are not the same.
    cache = settings.model_cache / f"{bucket}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"
    return SharedModelStore(cache, S3Files(store, bucket, prefix))


def open_sink(settings: Settings) -> PostgresSink:
    """Connect to the results database and check that its schema is the one that this code knows.

    Raises:
        SettingsError, SinkUnavailableError, SinkCredentialsError: no connection.
        SchemaMissingError, SchemaOutdatedError, SchemaNewerError: another schema.
    """
    from inference.sinks.postgres import PostgresSink

    return PostgresSink(settings)


def load_model(
    model: ModelId,
    sink: PostgresSink,
    settings: Settings,
    *,
    device: Device,
    parallel_calls: int | None = None,
    models: ModelStore | None = None,
) -> ModelHandle:
    """Load a registered model, after checking its files against what was registered.

    Args:
        model: Which one.
        sink: Knows what was registered.
        settings: The model store, and the engine's threads.
        device: Decides the engine.
        parallel_calls: Calls that share the threads; None for what the engine is fastest with.
        models: Where its files are; the settings' store if not given.

    Raises:
        ModelUnknownError: it is not registered, or the model store does not hold it.
        ModelFilesError: its files are damaged, or not those that were registered.
        StoreUnavailableError: the model store is in a bucket that does not answer, and this host's copy is not whole.
    """
    from inference.models import registry
    from inference.models.resolve import engine_for, load_handle

    store = open_model_store(settings) if models is None else models
    with sink.asking() as connection:
        registered = registry.find_registered(connection, model)
    manifest = store.read_manifest(model, registered.matches)
    registry.refuse_unregistered(registered, manifest)
    engine = engine_for(manifest, device)
    folder = store.check_files(manifest, engine)
    try:
        return load_handle(manifest, folder, engine, settings.engine_threads, parallel_calls=parallel_calls)
    except ModelError as error:
        if store.is_lasting:
            raise
        logger.warning("Reading %s again, in case its copy was removed just then: %s", model, error)
    folder = store.check_files(manifest, engine)
    return load_handle(manifest, folder, engine, settings.engine_threads, parallel_calls=parallel_calls)


def available_device(wanted: Device, *, allow_cpu_fallback: bool) -> Device:
    """Return the device to classify on here.

    Raises:
        DeviceUnavailableError: a GPU is wanted, there is none, and the CPU is not allowed instead.
    """
    if wanted == "cpu":
        return wanted
    from inference.engines.tensorflow import count_gpus

    if count_gpus():
        return wanted
    if allow_cpu_fallback:
        logger.warning("There is no GPU here; classifying on the CPU, as the run allows")
        return "cpu"
    raise DeviceUnavailableError(
        "the run wants a GPU and TensorFlow sees none on this worker; give the queue gpu to workers with one, "
        "or run with device=cpu or allow_cpu_fallback=true"
    )


def discover(request: RunRequest, *, store: ObjectStore, sink: PostgresSink) -> Plan:
    """Find the run's objects and plan the run; with ``dry_run`` only say what it is.

    The objects are those that a listing, a manifest or an inventory shows, or what the results database chooses: dead
    letters to try again, objects to label again, a sample for a shadow model.

    Raises:
        SettingsError, ModelUnknownError: the request cannot be met.
        ManifestError: its manifest or inventory is missing or damaged; nothing was planned.
        StaleAttemptError: a newer try of discovery has planned this run.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: no listing; nothing was planned.
    """
    from inference.listing import TimedListing

    listing = None
    if not request.is_by_ledger:
        listing = TimedListing(_source_of(request, store), request.bucket, request.prefix, SystemClock())
    plan = sink.plan_run(request, listing)
    logger.info(
        "Found %d %s in %.1f s: %d already done, %d to classify in %d shards, %d deferred",
        plan.discovered,
        "dead letters" if request.dead_letters is not None else "objects",
        plan.list_s,
        plan.already_done,
        plan.to_classify,
        len(plan.shards),
        plan.deferred,
    )
    return plan


def _source_of(request: RunRequest, store: ObjectStore) -> ObjectSource:
    """Return what shows the run's objects; nothing is read yet."""
    if request.manifest is not None:
        from inference.sources.manifest import ManifestSource

        return ManifestSource(request.manifest, reader_of(store))
    if request.inventory is not None:
        from inference.sources.inventory import InventorySource

        return InventorySource(request.inventory, reader_of(store))
    return store


def reader_of(store: ObjectStore) -> ObjectReader:
    """Return what looks up and reads single objects of a store, such as a manifest."""
    from inference.stores.s3 import S3Store
    from inference.stores.s3_objects import S3Objects

    if not isinstance(store, S3Store):
        raise TypeError(f"{type(store).__name__} reads no single objects, which a manifest or an inventory needs")
    return S3Objects(store)


def run_shard(
    run_id: UUID,
    shard_number: int,
    *,
    store: ObjectStore,
    sink: PostgresSink,
    settings: Settings,
    progress: Callable[[int], None] | None = None,
    load: Callable[[ModelId, Device], ModelHandle] | None = None,
    models: ModelStore | None = None,
) -> ShardStats:
    """Classify what is left of one shard of a planned run; safe to call again after any failure.

    Once the run's time is up nothing more of it is begun; what it has not got to is counted as deferred.

    Args:
        run_id: The run.
        shard_number: Which of its shards.
        store: Where the objects are.
        sink: Where the outcomes go.
        settings: Sizes and limits.
        progress: Called with the number of images after each batch was written.
        load: Gives the model handle; loads it anew if not given.
        models: Where the models' files are, if ``load`` is not given; the settings' store by default.

    Raises:
        TooManyDeadError: more dead letters than the run allows; their outcomes are written.
        DeviceUnavailableError: the run wants a GPU and this worker has none.
        InferenceError: as ``ShardRunner.run``.
    """
    from inference.isolation import IsolatedDecoders
    from inference.memory import Memory, give_freed_memory_back
    from inference.pacing import Pacer, at_pace
    from inference.runner import ShardRunner
    from inference.sinks.postgres import reasons_text
    from inference.watchdog import Watchdog

    rules = sink.read_rules(run_id)
    shard = sink.claim_shard(run_id, shard_number)
    if not has_time_left(rules):
        return cut_shard(shard, sink)
    rate = rules.images_per_second

    def count(images: int) -> None:
        if progress is not None:
            progress(images)
        if rules.seconds_left is not None and not has_time_left(sink.read_rules(run_id)):
            raise _TimeIsUp

    try:
        device = available_device(shard.device, allow_cpu_fallback=rules.allow_cpu_fallback)
        handle = (
            load(shard.model, device) if load else load_model(shard.model, sink, settings, device=device, models=models)
        )
        give_freed_memory_back()
        memory = Memory.of_process(settings.memory_limit)
    except BaseException:
        sink.release_shard(shard)
        raise
    batch_size = at_pace(settings.batch_size or handle.best_batch_size, rate)
    with Watchdog(settings.decode_timeout_s) as watchdog:
        runner = ShardRunner(
            store=store,
            handle=handle,
            sink=sink,
            clock=SystemClock(),
            batch_size=batch_size,
            calls_a_batch=max(1, at_pace(CALLS_A_BATCH * batch_size, rate) // batch_size),
            fetch_threads=settings.fetch_threads,
            decode_threads=settings.decode_threads,
            window=settings.window,
            max_object_bytes=settings.max_object_bytes,
            max_pixels=settings.max_pixels,
            top_k=settings.top_k,
            progress=count,
            decoder=lambda: IsolatedDecoders(
                memory.processes(settings.decode_threads),
                handle.preprocessing,
                max_pixels=settings.max_pixels,
                timeout_s=settings.decode_timeout_s,
                reserve=memory.decoding.reserve,
            ),
            watchdog=watchdog,
            memory=memory,
            pacer=None if rate is None else Pacer(partial(sink.reserve_turns, shard), SystemClock(), time.sleep),
        )
        try:
            stats = runner.run(shard)
        except _TimeIsUp:
            stats = cut_shard(shard, sink)
    if not rules.allows(stats):
        reasons = reasons_text(sink.top_reasons(run_id, shard_number))
        raise TooManyDeadError(
            f"{stats.dead} of {stats.labelled + stats.dead} classified images of shard {shard_number} are dead letters "
            f"and max_dead_ratio is {rules.max_dead_ratio:g}{reasons}; dead_letter_open has each one's reason"
        )
    return stats


class _TimeIsUp(Exception):  # noqa: N818 - no error: another run does the rest
    """The run has used up its time budget in the middle of a shard."""


def has_time_left(rules: RunRules) -> bool:
    """Return whether a run may begin, or go on with, a shard: it has no time budget, or has not used it up."""
    return rules.seconds_left is None or rules.seconds_left > 0


def cut_shard(shard: Shard, sink: PostgresSink) -> ShardStats:
    """Close a shard of a run whose time is up; see ``PostgresSink.cut_shard``."""
    stats = sink.cut_shard(shard)
    logger.info(
        "The time that the run was given is up: %d images of shard %d are deferred, and what was recorded stays",
        shard.images - stats.images,
        shard.shard_number,
    )
    return stats


def finish_run(run_id: UUID, *, sink: PostgresSink) -> RunSummary:
    """Close the books of a run: set its state and return its summary."""
    return sink.finish_run(run_id)


def judge_run(
    run_id: UUID, *, sink: PostgresSink, settings: Settings, rules: QualityRules | None = None
) -> Verdict | None:
    """Compare the labels of a run that has ended with those before it, record how they compare, and say it in the log.

    Args:
        run_id: The run; its books are closed.
        sink: Where its outcomes are.
        settings: What a low score is, how far back to look, and the rules if none are given.
        rules: Thresholds, and what to do.

    Returns:
        What was found; None where the rules say ``off``.

    Raises:
        RunUnknownError: no such run.
        SinkUnavailableError, SinkCredentialsError: it could not be judged, which changes nothing of the run.
    """
    rules = rules or settings.quality_rules()
    if rules.action == "off":
        return None
    from inference.sinks import quality

    with sink.asking() as connection:
        verdict = quality.judge_run(
            connection, run_id, rules, low_score=settings.low_score, days=settings.quality_history_days
        )
    if verdict.name == "not_judged":
        logger.info("The labels were not judged: %s", verdict.reason)
    elif verdict.name == "ordinary":
        logger.info("The labels are like those of the %d runs before", verdict.nights)
    return verdict


def judging_failed(run_id: UUID, error: Exception) -> Verdict:
    """Say in the log what nobody foresaw while a run was judged, and return that it was not: its books hold anyway."""
    from inference.judging import failed

    logger.error("The labels of run %s were not judged", run_id, exc_info=error)
    return failed(error)


def labels_moved(run_id: UUID, verdict: Verdict) -> LabelsMovedError:
    """Return the error that says how a run's labels have moved."""
    return LabelsMovedError(
        f"the labels of run {run_id} are not like those of the {verdict.nights} runs of the model before it, "
        f"{verdict.images_before:,} labels: {verdict.reason}. Every outcome is recorded and the run's books are whole; "
        "run_drift has the figures, docs/watching-the-labels.md says what to do"
    )


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run in this process ended."""

    plan: Plan
    summary: RunSummary | None
    """None for a dry run."""
    problem: InferenceError | None
    """Why the run failed; None when it succeeded."""
    verdict: Verdict | None = None
    """How its labels compare with those before; None where that was not looked at."""
    warning: InferenceError | None = None
    """What somebody should look at though the run succeeded."""


def classify(
    request: RunRequest,
    *,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    rules: QualityRules | None = None,
) -> RunResult:
    """Run everything on this machine, as ``python -m inference classify`` does; shards in a process of their own.

    Args:
        request: What to do.
        settings: Database, model store, sizes and limits.
        rules: When its labels are not like those before; None for the settings.
        progress: Called with the images of a batch that are through and the images to classify in all.

    Raises:
        InferenceError: nothing was planned, or the books could not be closed.
    """
    store = open_store(settings)
    rules = rules or settings.quality_rules()
    with open_sink(settings) as sink, ShardWorker(settings) as worker:
        if not request.dry_run:
            worker.start()  # it gets ready while the store is listed
        plan = discover(request, store=store, sink=sink)
        if request.dry_run:
            return RunResult(plan, None, None)

        def count(images: int) -> None:
            if progress is not None:
                progress(images, plan.to_classify)

        problem: InferenceError | None = None
        for shard_number in plan.shards:
            try:
                _with_attempts(lambda number=shard_number: worker.run(plan.run_id, number, count))  # type: ignore[misc]
            except ShardError as error:
                problem = error  # the other shards are not to blame
            except InferenceError as error:
                problem = error
                break
            except KeyboardInterrupt:
                problem = RunInterruptedError("interrupted; what was recorded stays, and the next run does the rest")
                break
        summary = finish_run(plan.run_id, sink=sink)
        if problem is None and summary.state == "failed":
            reason = TooManyDeadError if summary.unfinished == 0 else ShardsUnfinishedError
            problem = reason(sink.read_message(plan.run_id))
        if isinstance(problem, RunInterruptedError):
            return RunResult(plan, summary, problem)  # whoever ends a run does not wait for more
        verdict, doubt = _judged(plan.run_id, sink=sink, settings=settings, rules=rules)
        if doubt is not None and problem is None and rules.action == "fail":
            return RunResult(plan, summary, doubt, verdict)
        return RunResult(plan, summary, problem, verdict, warning=doubt)


def _judged(
    run_id: UUID, *, sink: PostgresSink, settings: Settings, rules: QualityRules
) -> tuple[Verdict | None, InferenceError | None]:
    """Judge a run's labels; returns the verdict and what there is to say: that they moved, or cannot be judged."""
    try:
        verdict = judge_run(run_id, sink=sink, settings=settings, rules=rules)
    except InferenceError as error:
        return None, error
    except Exception as error:  # noqa: BLE001 - the books are closed: the summary is printed all the same
        return judging_failed(run_id, error), None
    is_moved = verdict is not None and verdict.name == "moved"
    return verdict, labels_moved(run_id, verdict) if is_moved and verdict is not None else None


def shadow(
    main: RunSummary,
    request: RunRequest,
    share: float,
    *,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> RunResult | None:
    """Let the shadow model look at a share of the images that a run has labelled: a run of its own, for comparison.

    Args:
        main: The run, which has ended.
        request: What it was asked to do.
        share: Of the images that it labelled, 0 to 1.
        settings: As of ``classify``, and how long it may take.
        progress: As of ``classify``.

    Returns:
        None where there is nothing to do: no model holds the alias ``shadow``, or it is the run's own, or the run has
        labelled nothing, or no share is wanted.

    Raises:
        InferenceError: nothing was planned, or the books could not be closed; nothing of ``main`` changes by that.
    """
    if share == 0 or main.labelled == 0:
        return None
    with open_sink(settings) as sink:
        model = find_shadow(sink)
    if model is None or model == ModelId(main.model_name, main.model_version):
        return None
    asked = RunRequest(
        bucket=request.bucket,
        prefix=request.prefix,
        model=str(model),
        device=request.device,
        allow_cpu_fallback=request.allow_cpu_fallback,
        max_dead_ratio=1.0,
        shadow=ShadowSample(main.run_id, share),
        time_budget_s=settings.shadow_minutes * 60.0,
    )
    return classify(asked, settings=settings, progress=progress)


def find_shadow(sink: PostgresSink) -> ModelId | None:
    """Return the model that holds the alias ``shadow``, or None."""
    from inference.models import registry

    with sink.asking() as connection:
        return registry.find_alias(connection, registry.SHADOW)


def _with_attempts(run: Callable[[], ShardStats]) -> ShardStats:
    """Run a shard, again after transient trouble; at once if it was its process that died."""
    for _ in range(SHARD_ATTEMPTS - 1):
        try:
            return run()
        except WorkerDiedError as error:
            logger.warning("A shard failed (%s); trying again", error)
        except TransientError as error:
            logger.warning("A shard failed (%s); trying again in %.0f s", error, SHARD_RETRY_PAUSE_S)
            time.sleep(SHARD_RETRY_PAUSE_S)
    return run()


def load_libraries() -> None:
    """Load what classifying on a CPU takes, before anybody waits for it."""
    for name in ("inference.runner", "inference.stores.s3", "inference.sinks.postgres", "inference.engines.litert"):
        importlib.import_module(name)


def migrate(settings: Settings) -> tuple[str | None, str, ModelId]:
    """Bring the results database to this code's schema and leave a model registered as ``production``.

    Where no model holds the alias, the bundled one gets it; what somebody promotes meanwhile stays. The bundled model
    is built into the model store when it is the production model and the store lacks it.

    Returns:
        The revision before (None for an empty database), the revision now, and the production model.

    Raises:
        SchemaNewerError, SinkCredentialsError, SinkUnavailableError: the schema stays as it was.
        ModelError: the bundled model is needed and cannot be built.
    """
    from inference.models import registry
    from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
    from inference.sinks.migrating import migrate as migrate_schema

    before, after = migrate_schema(settings)
    with open_sink(settings) as sink:
        with sink.asking() as connection:
            production = registry.find_alias(connection, registry.PRODUCTION)
        if production is None or production == BUNDLED_MODEL:
            manifest = ensure_default_model(open_model_store(settings))
            with sink.asking() as connection:
                registry.register(connection, manifest)
                if production is None:
                    reason = "the bundled model, as the first"
                    with suppress(AliasMovedError):  # building takes a minute: who promoted meanwhile has the word
                        registry.name_alias(
                            connection, registry.PRODUCTION, manifest.model_id, reason=reason, expected=None
                        )
                production = registry.find_alias(connection, registry.PRODUCTION) or manifest.model_id
    return before, after, production


def maintain(settings: Settings, request: MaintenanceRequest) -> MaintenanceReport:
    """Remove from the results database what is no longer needed, or count it; see ``sinks.maintaining``.

    Raises:
        ConfigurationError: somebody has to change something; nothing was done.
        SinkUnavailableError: the database does not answer, or another maintenance is at work.
    """
    from inference.sinks.maintaining import maintain as maintain_results

    return maintain_results(settings, request)


def list_models(settings: Settings) -> list[RegisteredModel]:
    """Return every registered model version with its aliases, oldest first."""
    from inference.models import registry

    with open_sink(settings) as sink, sink.asking() as connection:
        return registry.list_models(connection)


def check_models(settings: Settings, models: Sequence[RegisteredModel]) -> dict[ModelId, str | None]:
    """Read every file of registered models in the model store, and compare it with what was registered.

    Returns:
        Model version -> what is wrong with it, in a sentence; None where everything is whole.

    Raises:
        InferenceError: neither the database nor the model store can be asked.
    """
    from inference.models import registry

    store = open_model_store(settings)
    with open_sink(settings) as sink, sink.asking() as connection:
        registered = [registry.find_registered(connection, model.model_id) for model in models]
    found: dict[ModelId, str | None] = {}
    for facts in registered:
        try:
            manifest = store.read_manifest(facts.model_id)
            registry.refuse_unregistered(facts, manifest)
            store.check_store(manifest)
        except ModelError as error:
            found[facts.model_id] = str(error)
        else:
            found[facts.model_id] = None
    return found


def read_model_card(settings: Settings, model: str) -> str:
    """Return the model card of a version in the model store, as Markdown.

    Args:
        settings: The model store; for an alias, the database too.
        model: NAME@VERSION or an alias.

    Raises:
        ModelError: no such model, or its manifest is damaged.
        InferenceError: the model store, or the database that is asked for an alias, does not answer.
    """
    from inference.planning import parse_model

    chosen = parse_model(model)
    if not isinstance(chosen, ModelId):
        with open_sink(settings) as sink:
            chosen = sink.resolve_model(chosen)
    return open_model_store(settings).read_card(chosen)


def copy_model(settings: Settings, model: ModelId, *, source: str) -> Manifest:
    """Copy a version from another model store into the settings'; also heals what is damaged there.

    Args:
        settings: The model store to copy to.
        model: Which version.
        source: A folder or ``s3://bucket/prefix``; asked with the same ``AWS_*`` variables.

    Raises:
        SettingsError: ``source`` is no place of models.
        ModelError: it does not hold the version whole, or the store holds another one under its name.
        InferenceError: one of the two does not answer.
    """
    origin, store = open_model_store(settings, place=source), open_model_store(settings)
    manifest = origin.read_manifest(model)
    folder = origin.check_files(manifest)
    with store.workspace() as built:
        for path in manifest.files:
            (built / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, built / path)
        return store.add(built, manifest)


def register_model(
    settings: Settings,
    request: RegistrationRequest,
    *,
    store: S3Store | None = None,
    models: ModelStore | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Fetch a model, convert and check it, put it into the model store and make it known; no alias names it yet.

    Registering the same again does nothing. Whatever ends it midway, the version is registered whole or not at all.

    Args:
        settings: Name the database and the model store.
        request: Which model, and how it wants its images.
        store: Where addresses ``s3://…`` lead; None for the store of the standard ``AWS_*`` variables.
        models: Where the version goes; the settings' model store if not given.
        progress: Told in a few words what is being done.

    Raises:
        SettingsError: what was said of the model is not enough, or does not fit it.
        ModelSourceError: the source, its labels or photos cannot be fetched, or cannot be used.
        ModelConversionError: the conversion gives other answers than the original.
        ModelExecutionError: the model answers with what cannot be right, such as NaN.
        ModelFilesError: another model is registered under this name and version, or the store cannot be written.
        ModelError: TensorFlow is not installed, or its process died.
        BucketMissingError, StoreCredentialsError, StoreUnavailableError: an ``s3://`` address cannot be read.
        SchemaMissingError, SinkUnavailableError, SinkCredentialsError: no database to make it known to.
    """
    from inference.models import registry
    from inference.models.registering import check_registration, prepared

    check_registration(request)  # what cannot mean anything needs neither database nor store to say so
    with (
        open_sink(settings) as sink,
        prepared(
            request,
            models or open_model_store(settings),
            lambda: _SourceObjects(store or open_store(settings)),
            progress=progress or _no_progress,
        ) as version,
        sink.asking() as connection,
        connection.transaction(),
    ):
        registry.claim(connection, version.manifest)
        manifest = version.put()
        registry.register(connection, manifest)
    logger.info("Registered %s from %s", manifest.model_id, manifest.source)
    return manifest


def _no_progress(_: str) -> None:
    """Say nothing."""


class _SourceObjects:
    """Objects of a store, listed and read one by one."""

    def __init__(self, store: S3Store) -> None:
        from inference.stores.s3_objects import S3Objects

        self.list_pages = store.list_pages
        self.open = S3Objects(store).open


def export(request: ExportRequest, *, settings: Settings, progress: Callable[[int], None] | None = None) -> int:
    """Write the rows of a public view to a file and return how many there were; a reader's rights are enough.

    Args:
        request: Which view, which of its rows, and where to.
        settings: Names the database.
        progress: Called with the number of rows every now and then.

    Raises:
        SettingsError: the export cannot mean anything.
        OutputError: the file cannot be written; nothing of it is left.
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: the view cannot be read.
    """
    from inference.exporting import check_export, whole_file

    form = check_export(request)  # what cannot be written needs no database to say so
    from inference.sinks.views import ViewExport

    with ViewExport(settings, request) as view, whole_file(request.output) as file:
        return view.write(file, form, progress)


def count_forgettable(request: ForgetRequest, *, settings: Settings) -> Forgettable:
    """Return how many rows of the results database `forget` would take out; changes nothing.

    Raises:
        SettingsError: the request cannot mean anything.
        OutcomesDetachedError: there are outcomes that are out of reach.
        SchemaMissingError, SchemaOutdatedError, SinkCredentialsError, SinkUnavailableError: it cannot be told.
    """
    from inference.planning import check_forgetting

    check_forgetting(request)
    from inference.sinks.forgetting import Forgetting

    with Forgetting(settings) as forgetting:
        return forgetting.count(request)


def forget(request: ForgetRequest, *, settings: Settings, progress: Callable[[int], None] | None = None) -> Forgettable:
    """Take every trace of the objects under a prefix out of the results database; what is in the bucket stays.

    Args:
        request: Which objects, and why.
        settings: Names the database; its user is a member of ``nightlabel_owner``.
        progress: Called with the number of image versions after each transaction.

    Raises:
        BucketInUseError: a run is at work on the objects; what was forgotten before stays so.
        OutcomesDetachedError: there are outcomes that are out of reach; what was forgotten before stays so.
        SettingsError: the request cannot mean anything.
        SchemaMissingError, SchemaOutdatedError, SinkCredentialsError, SinkUnavailableError: nothing, or not all, was
            forgotten; called again it goes on.
    """
    from inference.planning import check_forgetting

    check_forgetting(request)
    from inference.sinks.forgetting import Forgetting

    with Forgetting(settings) as forgetting:
        return forgetting.forget(request, progress)


def list_review_queue(
    settings: Settings,
    *,
    below: float,
    bucket: str | None = None,
    prefix: str = "",
    model: str | None = None,
    limit: int = 20,
) -> list[QueuedImage]:
    """Return labels that the model is unsure of and nobody has reviewed, the lowest score first.

    Args:
        settings: Names the database; a reader's rights are enough.
        below: Only scores below this, 0 to 0.5.
        bucket: Only of this bucket.
        prefix: Only keys that begin with this.
        model: Only labels by this model, ``NAME@VERSION``.
        limit: How many at most.

    Raises:
        SettingsError: the queue does not reach so far up.
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: it cannot be read.
    """
    from inference.sinks import reviewing

    if not 0 < below <= 0.5:
        raise SettingsError(
            f"below is {below:g}, and review_queue holds scores below 0.5; give at most that, or ask latest_prediction"
        )

    return reviewing.list_queue(settings, below=below, bucket=bucket, prefix=prefix, model=model, limit=limit)


def record_review(settings: Settings, request: ReviewRequest) -> int:
    """Record a reviewer's label and put it into the golden set; returns the review's number.

    Raises:
        SettingsError: the request cannot mean anything.
        ReviewError: the object has no label, was overwritten since, or its model knows no such label.
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: nothing was recorded.
    """
    from inference.planning import is_storable
    from inference.sinks import reviewing

    for name in ("bucket", "key", "label", "reviewer", "note", "golden_set"):
        if not is_storable(text := getattr(request, name)):
            raise SettingsError(f"{name} is {text!r}; it has to be text in UTF-8, without a NUL")
    if not request.reviewer.strip():
        raise SettingsError("reviewer is empty; give the name of who looked at the image")
    return reviewing.record_review(settings, request)


def load_served_model(settings: Settings, model: str) -> ModelHandle:
    """Load a registered model for answering over REST, on the CPU.

    Args:
        settings: Names the database that knows the model, and the model store.
        model: An alias or NAME@VERSION; an alias is resolved now.

    Raises:
        ModelError: not registered, or it cannot be loaded.
        SinkUnavailableError, SinkCredentialsError, SchemaMissingError: no database to ask.
    """
    with open_sink(settings) as sink:
        # One call with every core: whoever waits for an answer wants it soon.
        return load_model(sink.resolve_model(model), sink, settings, device="cpu", parallel_calls=1)
