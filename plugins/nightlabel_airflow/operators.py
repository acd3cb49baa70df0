"""The tasks of a labelling run. Light at import: every process that parses a Dag loads this module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from airflow.sdk import BaseOperator

from inference.errors import (
    InferenceError,
    PoolMissingError,
    RunInterruptedError,
    RunUnknownError,
    SettingsError,
    ShardsUnfinishedError,
    TooManyDeadError,
    TransientError,
)
from nightlabel_airflow.notes import NOTE_KEY
from nightlabel_airflow.params import SHARE_VARIABLE, share_in
from nightlabel_airflow.pools import MISSING_POOLS_KEY, MISSING_POOLS_TASK

if TYPE_CHECKING:
    from airflow.sdk import Context

    from inference.judging import Verdict
    from inference.ports import ObjectStore
    from inference.settings import Settings
    from inference.sinks.postgres import PostgresSink
    from inference.types import (
        DeadLetterFilter,
        Device,
        LabelFilter,
        Plan,
        QualityRules,
        RunRequest,
        RunSummary,
        Scope,
        ShadowSample,
        ShardStats,
    )

T = TypeVar("T")

PROGRESS_INTERVAL_S = 10.0
PLAN_KEY = "plan"
"""XCom with the counts of the plan, beside the shard numbers that ``discover`` returns."""
REPORT_TASK = "report"
SHADOW_TASK = "shadow"
SHADOW_DAG = "shadow_images"
SHADOW_RUN = "shadow_of__"
"""How the ids of the runs begin that ``classify_images`` starts there; those that somebody starts have others."""
LATEST_SHADOW = timedelta(days=1)
"""After the end of a night its shadow is not begun any more, unless somebody asks for it."""
LATE_KEY = "late"
"""XCom that says why ``discover`` was skipped, for the report."""
MOST_SHADOW_MINUTES = 300
"""Largest ``max_minutes`` of that Dag."""


def in_a_sentence(execute: Callable[..., T]) -> Callable[..., T]:
    """Log an error that we know as one line, its code first, before Airflow shows where it came from."""

    @wraps(execute)
    def told(self: BaseOperator, context: Context) -> T:
        try:
            return execute(self, context)
        except InferenceError as error:
            self.log.error("[%s] %s", error.code, error)  # noqa: TRY400 - the trace follows anyway
            raise error from None

    return told


class DiscoverOperator(BaseOperator):
    """Plan the run: find its objects, leave out what has an outcome, store the shards of the rest in Postgres.

    It lists the bucket, or reads the manifest or the inventory report that the run names.

    Returns the shard numbers, over which the tasks of both queues are mapped. The task of the device that was not
    chosen is skipped before it is mapped, so that nothing waits for a queue that no worker serves. Manifests stay in
    the database: XCom carries shard numbers and counts.

    Args:
        task_of_device: Ids of the mapped tasks by device, ``{"cpu": …, "gpu": …}``.
        shard_limit: How long a shard may take where a run keeps to a rate: its task's time-out, and well below that,
            over the tasks that share the rate. None where no run does.
    """

    # What `NotPreviouslySkippedDep` of the scheduler looks for: this task may skip tasks that follow it.
    inherits_from_skipmixin = True

    def __init__(
        self, *, task_of_device: Mapping[Device, str], shard_limit: timedelta | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.task_of_device = dict(task_of_device)
        self.shard_limit = shard_limit

    @in_a_sentence
    def execute(self, context: Context) -> list[int]:
        """Plan the run of this Dag run; again if it is tried again or cleared.

        Raises:
            AirflowSkipException: nobody needs it any more; says why.
            PoolMissingError: a task of this run would never be scheduled.
            ConfigurationError: somebody has to change something; see the message.
            StaleAttemptError: a newer try of this task has planned the run; nothing was written.
            TransientError: the store or the database does not answer.
        """
        from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_KEY, XCOM_SKIPMIXIN_SKIPPED
        from airflow.sdk.exceptions import AirflowSkipException

        from inference import wiring
        from nightlabel_airflow import connections

        ti = context["ti"]
        if missing := ti.xcom_pull(task_ids=MISSING_POOLS_TASK, key=MISSING_POOLS_KEY):
            raise PoolMissingError(missing_pools_message(missing))

        params = context["params"]
        check_conf(context["dag_run"].conf, context["dag"].params)  # Airflow has merged the run's into `params`
        if "shadow_share" in params and (warning := share_warning(os.environ)) is not None:
            self.log.warning("%s", warning)
        source = connections.default_source(bucket=params["bucket"], prefix=params["prefix"])
        request = self.request_of(params, bucket=source.bucket, prefix=source.prefix, context=context)
        settings = connections.open_settings()
        store = connections.open_store(settings)
        with connections.open_sink(settings) as sink:
            if (late := self.too_late(request, sink, context)) is not None:
                ti.xcom_push(key=LATE_KEY, value=late)
                raise AirflowSkipException(late)
            plan = wiring.discover(request, store=store, sink=sink)

        self.log.info("%s", plan_text(plan, request))
        others = [task_id for device, task_id in self.task_of_device.items() if device != plan.device]
        if "shadow_share" in params and (not params["shadow_share"] or request.dry_run):
            others.append(SHADOW_TASK)
        ti.xcom_push(key=XCOM_SKIPMIXIN_KEY, value={XCOM_SKIPMIXIN_SKIPPED: others})
        ti.xcom_push(key=PLAN_KEY, value=plan_counts(plan))
        if request.is_estimated:
            ti.xcom_push(key=NOTE_KEY, value=note_text(plan, request))
        return list(plan.shards)

    def request_of(self, params: Mapping[str, Any], *, bucket: str, prefix: str, context: Context) -> RunRequest:
        """Return what the trigger form asks for; arguments as of ``request_from``."""
        return request_from(params, bucket=bucket, prefix=prefix, context=context)

    def too_late(self, request: RunRequest, sink: PostgresSink, context: Context) -> str | None:
        """Return why the run is not to be planned any more, or None."""
        return None


class DiscoverDeadLettersOperator(DiscoverOperator):
    """Plan a run of open dead letters: find those that match, store their shards in Postgres. Lists no bucket."""

    def request_of(self, params: Mapping[str, Any], *, bucket: str, prefix: str, context: Context) -> RunRequest:
        """Return what the trigger form asks for.

        Raises:
            SettingsError: a time is none.
        """
        request = super().request_of(params, bucket=bucket, prefix=prefix, context=context)
        return replace(request, dead_letters=dead_letters_from(params))


class DiscoverLabelledOperator(DiscoverOperator):
    """Plan a run that labels existing objects again: find those that match, store their shards. Lists no bucket."""

    def request_of(self, params: Mapping[str, Any], *, bucket: str, prefix: str, context: Context) -> RunRequest:
        """Return what the trigger form asks for.

        Raises:
            SettingsError: a time is none.
        """
        request = super().request_of(params, bucket=bucket, prefix=prefix, context=context)
        return replace(
            request,
            labelled=labels_from(params),
            images_per_second=params["images_per_second"],
            longest_shard_s=None if self.shard_limit is None else self.shard_limit.total_seconds(),
        )


class DiscoverSampleOperator(DiscoverOperator):
    """Plan a shadow run: draw its sample of another run's images, store their shards. Lists no bucket."""

    def request_of(self, params: Mapping[str, Any], *, bucket: str, prefix: str, context: Context) -> RunRequest:
        """Return what the trigger form, or the nightly run, asks for.

        Raises:
            SettingsError: the run's id is none.
        """
        request = super().request_of(params, bucket=bucket, prefix=prefix, context=context)
        return replace(request, shadow=sample_from(params), time_budget_s=params["max_minutes"] * 60.0)

    def too_late(self, request: RunRequest, sink: PostgresSink, context: Context) -> str | None:
        """Return that its night is long over, if it was the night that asked: the run waited, as in a paused Dag.

        Raises:
            RunUnknownError: there is no such run to look at.
        """
        if request.shadow is None or not context["dag_run"].run_id.startswith(SHADOW_RUN):
            return None
        ended_at = sink.read_summary(request.shadow.run_id).finished_at
        if ended_at is None or datetime.now(UTC) - ended_at < LATEST_SHADOW:
            return None
        return (
            f"run {request.shadow.run_id} ended at {ended_at:%Y-%m-%d %H:%M} UTC, more than a day ago, so its shadow "
            "is left out; trigger this Dag with that run_id to have it all the same"
        )


class ShadowOperator(BaseOperator):
    """Start a shadow run of what this run has labelled, in a Dag of its own, and wait for nothing.

    Skipped where there is nothing to compare. It is a teardown task of its Dag, so that the Dag run's state never hangs
    on it: whatever becomes of the shadow, the night is what its report says.
    """

    @in_a_sentence
    def execute(self, context: Context) -> None:
        """Hand the shadow run to Airflow; the one that there is for this run begins anew if the task is cleared.

        Raises:
            AirflowSkipException: there is nothing to do; says why.
            TransientError: the database does not answer.
        """
        from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

        counts = context["ti"].xcom_pull(task_ids=REPORT_TASK)
        if not counts or counts.get("state") != "succeeded":
            raise AirflowSkipException("the run did not succeed; once it has, clear this task for its shadow")
        if not counts["labelled"]:
            raise AirflowSkipException("the run has labelled nothing, so there is nothing to compare")
        from inference import wiring
        from nightlabel_airflow import connections

        settings = connections.open_settings()
        with connections.open_sink(settings) as sink:
            model, main = wiring.find_shadow(sink), sink.read_summary(UUID(counts["run_id"]))
        if model is None:
            raise AirflowSkipException("no model holds the alias shadow")
        if str(model) == f"{main.model_name}@{main.model_version}":
            raise AirflowSkipException(f"the alias shadow names {model}, the model of the run itself")
        if context["ti"].get_dag(SHADOW_DAG).is_paused:  # its runs would pile up, and all begin when it goes on
            raise AirflowSkipException(
                f"the Dag {SHADOW_DAG} is paused; unpause it, then clear this task for its shadow"
            )
        params, dag_run = context["params"], context["dag_run"]
        source = connections.default_source(bucket=params["bucket"], prefix=params["prefix"])
        raise DagRunTriggerException(
            trigger_dag_id=SHADOW_DAG,
            dag_run_id=f"{SHADOW_RUN}{dag_run.run_id}",
            conf={
                "bucket": source.bucket, "prefix": source.prefix, "run_id": str(main.run_id),
                "share": params["shadow_share"], "max_minutes": min(settings.shadow_minutes, MOST_SHADOW_MINUTES),
                "model": str(model), "device": params["device"], "allow_cpu_fallback": params["allow_cpu_fallback"],
            },
            reset_dag_run=True,
            skip_when_already_exists=False,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=60,
            deferrable=False,
            note=f"The shadow of {dag_run.dag_id} {dag_run.run_id}",
        )  # fmt: skip


class ClassifyShardOperator(BaseOperator):
    """Label the images of one shard and record an outcome for each. Safe to run again after any failure.

    Args:
        shard_number: Which shard of the run, from 0.
    """

    template_fields: Sequence[str] = ("shard_number",)
    _sink: PostgresSink | None = None

    def __init__(self, *, shard_number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard_number = shard_number

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, float]:
        """Classify what is left of the shard and return its counts and seconds.

        Raises:
            TransientError: the store or the database does not answer; the shard is tried again.
            StaleAttemptError: a newer attempt has taken over; nothing more was written.
            ConfigurationError: somebody has to change something; see the message.
        """
        from nightlabel_airflow import connections

        started = time.monotonic()
        settings = connections.open_settings()
        store = connections.open_store(settings)
        with connections.open_sink(settings) as sink:
            self._sink = sink
            try:
                stats = self._classify(context, store=store, sink=sink, settings=settings)
            finally:
                self._sink = None
        self.log.info(
            "Shard %d: labelled %d of %d images, %d of them copied; %d dead, %d gone, %d done elsewhere; %.1f s",
            self.shard_number,
            stats.labelled,
            stats.images,
            stats.copied,
            stats.dead,
            stats.gone,
            stats.done_elsewhere,
            time.monotonic() - started,
        )
        return {
            "images": stats.images,
            "labelled": stats.labelled,
            "copied": stats.copied,
            "dead": stats.dead,
            "gone": stats.gone,
            "done_elsewhere": stats.done_elsewhere,
            "fetch_s": round(stats.seconds.fetch_s, 3),
            "decode_s": round(stats.seconds.decode_s, 3),
            "predict_s": round(stats.seconds.predict_s, 3),
            "write_s": round(stats.seconds.write_s, 3),
        }

    def _classify(self, context: Context, *, store: ObjectStore, sink: PostgresSink, settings: Settings) -> ShardStats:
        """Classify the shard, and close the run's books if nobody else will: when it was cleared alone."""
        from inference import wiring
        from nightlabel_airflow import connections

        dag_run = context["dag_run"]
        run_id = sink.find_run(dag_run.dag_id, dag_run.run_id)
        try:
            stats = wiring.run_shard(
                run_id,
                self.shard_number,
                store=store,
                sink=sink,
                settings=settings,
                progress=self._progress(),
                models=connections.open_model_store(settings),
            )
        except TransientError:
            raise  # it is tried again, or the database is away
        except InferenceError:
            if was_reported(context):
                wiring.finish_run(run_id, sink=sink)
            raise
        if was_reported(context):
            wiring.finish_run(run_id, sink=sink)
        return stats

    def on_kill(self) -> None:
        """End soon: Airflow has asked this process to, and kills it if it does not.

        The attempt then has ended by itself, and the next one suspects no image of having killed it.
        """
        sink, self._sink = self._sink, None  # asked a second time, what is being put in order goes on
        if sink is None:
            return
        sink.give_up()
        if not sink.is_asking_here:  # else what it asks ends in this error
            raise RunInterruptedError("Airflow asked this task to end; what was recorded stays")

    def _progress(self) -> Progress:
        return Progress(lambda done: self.log.info("Shard %d: %d images so far", self.shard_number, done))


class ReportOperator(BaseOperator):
    """Close the books of the run: set its state, log every count, fail if the run failed."""

    @in_a_sentence
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the counts of the run.

        Raises:
            AirflowSkipException: nothing was to be planned any more.
            RunUnknownError: nothing was planned, since ``discover`` failed.
            ShardsUnfinishedError: some shards ran out of retries.
            TooManyDeadError: more dead letters than the run allows.
            LabelsMovedError: the labels are not like those of the nights before, and the run is to fail for that.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        plan = context["ti"].xcom_pull(task_ids="discover", key=PLAN_KEY)
        if plan is None and (late := context["ti"].xcom_pull(task_ids="discover", key=LATE_KEY)):
            raise AirflowSkipException(late)
        if plan is None:
            raise RunUnknownError(
                "Nothing was planned, so nothing was classified: the task 'discover' did not succeed, "
                "and its log says why; clear it to try again"
            )
        if context["params"]["dry_run"]:
            self.log.info("Dry run: nothing was classified; %d images would have been", plan["to_classify"])
            return dict(plan)

        from inference import wiring
        from nightlabel_airflow import connections

        dag_run = context["dag_run"]
        settings = connections.open_settings()
        rules = quality_rules_from(context["params"], settings.quality_rules())
        verdict: Verdict | None = None
        doubt: InferenceError | None = None
        with connections.open_sink(settings) as sink:
            summary = wiring.finish_run(sink.find_run(dag_run.dag_id, dag_run.run_id), sink=sink)
            message = sink.read_message(summary.run_id)
            self.log.info("%s", summary_text(summary))
            try:
                verdict = wiring.judge_run(summary.run_id, sink=sink, settings=settings, rules=rules)
            except InferenceError as error:
                doubt = error  # the books are closed all the same
            except Exception as error:  # noqa: BLE001 - a report is not red because of a night's figures
                verdict = wiring.judging_failed(summary.run_id, error)
        if verdict is not None:
            self.log.info("%s", verdict_text(verdict))
            if verdict.name == "moved":
                doubt = wiring.labels_moved(summary.run_id, verdict)
                context["ti"].xcom_push(key=NOTE_KEY, value=f"Labels unlike those before: {verdict.reason}")
        if summary.state == "failed":
            raise failure_of(summary, message)
        if doubt is not None and rules.action == "fail":
            raise doubt
        if doubt is not None:
            self.log.warning("[%s] %s", doubt.code, doubt)
        return {**summary_counts(summary), "quality": verdict_counts(verdict)}


class Progress:
    """Adds up the images that are done and tells the sum, at most every ten seconds."""

    def __init__(
        self,
        tell: Callable[[int], None],
        *,
        interval_s: float = PROGRESS_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._interval_s = interval_s
        self._clock = clock
        self._told_at = clock()
        self._done = 0

    def __call__(self, images: int) -> None:
        """Add the images of a batch, and tell how many are done by now if it is time."""
        self._done += images
        if (now := self._clock()) - self._told_at >= self._interval_s:
            self._told_at = now
            self._tell(self._done)


def was_reported(context: Context) -> bool:
    """Whether the run's report is done and will not come again: somebody cleared a shard and not what follows it.

    That shard has opened the books again, and has to close them itself.
    """
    dag_run = context["dag_run"]
    states = context["ti"].get_task_states(dag_id=dag_run.dag_id, task_ids=[REPORT_TASK], run_ids=[dag_run.run_id])
    return states.get(dag_run.run_id, {}).get(REPORT_TASK) in {"success", "failed"}


def request_from(params: Mapping[str, Any], *, bucket: str, prefix: str, context: Context) -> RunRequest:
    """Return what the trigger form asks for.

    Args:
        params: The Dag's parameters, which Airflow has checked against their bounds.
        bucket: Where the images are.
        prefix: Which keys, by their beginning.
        context: The task's; names the run. No date of it is used, since a manual run has none.
    """
    from inference.types import RunRequest

    dag_run = context["dag_run"]
    return RunRequest(
        bucket=bucket,
        prefix=prefix,
        model=params["model"],
        scope=cast("Scope", params.get("scope", "unlabelled")),
        device=params["device"],
        allow_cpu_fallback=params["allow_cpu_fallback"],
        max_images=whole(params["max_images"]),
        shard_size=whole(params["shard_size"]),
        max_dead_ratio=params["max_dead_ratio"],
        min_images_for_ratio=int(params["min_images_for_ratio"]),
        dry_run=params["dry_run"],
        manifest=params.get("manifest") or None,
        inventory=params.get("inventory") or None,
        dag_id=dag_run.dag_id,
        airflow_run_id=dag_run.run_id,
        plan_attempt=context["ti"].try_number,
    )


def dead_letters_from(params: Mapping[str, Any]) -> DeadLetterFilter:
    """Return which dead letters the trigger form asks for.

    Raises:
        SettingsError: a time is none.
    """
    from inference.planning import parse_time
    from inference.types import DeadLetterFilter

    times = {name: parse_time(name, params[name]) for name in ("failed_after", "failed_before") if params[name]}
    return DeadLetterFilter(codes=tuple(params["codes"]), permanent=params["permanent"], **times)


def labels_from(params: Mapping[str, Any]) -> LabelFilter:
    """Return which objects the trigger form wants labelled again.

    Raises:
        SettingsError: a time is none.
    """
    from inference.planning import parse_time
    from inference.types import LabelFilter

    times = {name: parse_time(name, params[name]) for name in ("since", "until") if params[name]}
    texts = {name: params[name] for name in ("label", "label_id", "labelled_by") if params[name]}
    return LabelFilter(**texts, **times, dead_letters_too=params["dead_letters_too"])


def sample_from(params: Mapping[str, Any]) -> ShadowSample:
    """Return which sample of which run the trigger form asks for.

    Raises:
        SettingsError: the run's id is none.
    """
    from inference.types import ShadowSample

    try:
        run_id = UUID(params["run_id"])
    except ValueError:
        raise SettingsError(
            f"run_id is {params['run_id']!r}; give the run_id of run_summary, such as "
            "cf2ebf3f-eb23-a16e-82e2-108fa59fc7e5"
        ) from None
    return ShadowSample(run_id, params["share"])


def whole(value: float | None) -> int | None:
    """Return a whole number as one: to a JSON schema 2.0 is an integer."""
    return None if value is None else int(value)


def check_conf(conf: Mapping[str, Any] | None, params: Mapping[str, Any]) -> None:
    """Refuse a run whose configuration names what is no parameter, instead of running without it.

    Raises:
        SettingsError: names it, and what there is.
    """
    if unknown := sorted(set(conf or {}) - set(params)):
        raise SettingsError(
            f"the run's configuration names {', '.join(map(repr, unknown))}, which is no parameter of this Dag; "
            f"there are {', '.join(params)}"
        )


def share_warning(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the share of scheduled runs that the environment names, or None."""
    if share_in(environment) is not None:
        return None
    return (
        f"{SHARE_VARIABLE} is {environment[SHARE_VARIABLE]!r} and counts as 0, so that no scheduled run has a shadow; "
        "give a share from 0 to 1, or unset it"
    )


def missing_pools_message(pools: Sequence[str]) -> str:
    """Return the sentence for pools that do not exist."""
    commands = " && ".join(f"airflow pools set {pool} 1 'One task at a time'" for pool in pools)
    noun = "pool" if len(pools) == 1 else "pools"
    return (
        f"The {noun} {', '.join(pools)} did not exist when this run started, and Airflow would never start a task in "
        f"one; create what is missing under Admin > Pools or with `{commands}`, then clear this task"
    )


def plan_counts(plan: Plan) -> dict[str, Any]:
    """Return the counts of a plan, for XCom."""
    return {
        "run_id": str(plan.run_id),
        "model": str(plan.model),
        "device": plan.device,
        "shards": len(plan.shards),
        "discovered": plan.discovered,
        "already_done": plan.already_done,
        "deferred": plan.deferred,
        "to_classify": plan.to_classify,
    }


def plan_text(plan: Plan, request: RunRequest) -> str:
    """Return the plan in one sentence."""
    begin = "A dry run would" if request.dry_run else "Planned to"
    work = work_text(request)
    named_by = request.manifest or request.inventory
    source = f"s3://{request.bucket}/{request.prefix}{f', named by {named_by},' if named_by else ''}"
    return (
        f"{begin} {work.format(plan.to_classify)} ({plan.to_classify_bytes / 1e6:.1f} MB) of {source} with "
        f"{plan.model} on {plan.device} in {len(plan.shards)} shards; discovered "
        f"{plan.discovered} in {plan.list_s:.1f} s, already done {plan.already_done}, deferred {plan.deferred}"
        f"{f'; it takes {_duration(plan)}' if request.is_estimated else ''}"
    )


def work_text(request: RunRequest) -> str:
    """Return what a run does with its images, with a place for their number."""
    if request.dead_letters is not None:
        return "try {} dead letters again"
    if request.labelled is not None:
        return "label {} images again"
    return "classify {} images" if request.shadow is None else "classify {} images for comparison"


def note_text(plan: Plan, request: RunRequest) -> str:
    """Return what a Dag run's note says of its plan: how much it is, and how long it takes."""
    begin = "A dry run would" if request.dry_run else "Planned to"
    work = work_text(request).format(f"{plan.to_classify:,}")
    return (
        f"{begin} {work} with {plan.model}, which takes {_duration(plan)}. {plan.discovered:,} match, of which it has "
        f"done {plan.already_done:,} already and defers {plan.deferred:,}."
    )


def _duration(plan: Plan) -> str:
    from inference.planning import duration_text

    return duration_text(plan)


COUNTS = ("discovered", "already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")


def summary_counts(summary: RunSummary) -> dict[str, Any]:
    """Return the counts of a run, for XCom."""
    counts = {name: getattr(summary, name) for name in COUNTS}
    return {"run_id": str(summary.run_id), "state": summary.state, **counts, "copied": summary.copied}


def summary_text(summary: RunSummary) -> str:
    """Return a block of lines with every count of the run, as an operator reads it."""
    speed = "no speed" if summary.images_per_second is None else f"{summary.images_per_second:.1f} images/s"
    stages = ("list", "fetch", "decode", "predict", "write")
    seconds = ", ".join(f"{stage} {getattr(summary, f'{stage}_s'):.1f}" for stage in stages)
    lines = [f"Run {summary.run_id} {summary.state}, model {summary.model_name}@{summary.model_version}, {speed}"]
    lines += [f"  {name.replace('_', ' '):<15}{getattr(summary, name):>12,}" for name in COUNTS]
    lines.append(f"  of the labelled, {summary.copied:,} copied from an equal image; seconds busy: {seconds}")
    return "\n".join(lines)


def quality_rules_from(params: Mapping[str, Any], rules: QualityRules) -> QualityRules:
    """Return when labels have moved, as the trigger form asks for, else as the settings say.

    Args:
        params: The Dag's parameters; one that has none of ``quality_params`` leaves the rules as they are.
        rules: Those of the settings.
    """
    from inference.types import QUALITY_THRESHOLDS

    chosen = {name: params.get(f"quality_{name}") for name in ("action", *QUALITY_THRESHOLDS)}
    chosen["min_images"] = whole(params.get("quality_min_images"))
    return replace(rules, **{name: value for name, value in chosen.items() if value is not None})


def verdict_counts(verdict: Verdict | None) -> dict[str, Any] | None:
    """Return what was found of a run's labels, for XCom; the labels that moved are in the log and in run_drift."""
    if verdict is None:
        return None
    return {
        "verdict": verdict.name,
        "reason": verdict.reason,
        **{measure.name: round(measure.value, 6) for measure in verdict.measures},
    }


def verdict_text(verdict: Verdict) -> str:
    """Return a block of lines with every figure of a run's labels, and the labels that moved."""
    if verdict.name == "not_judged":
        return f"Labels not judged: {verdict.reason}"
    is_said = "are like" if verdict.name == "ordinary" else "are NOT like"
    lines = [f"The labels {is_said} those of the {verdict.nights} runs before ({verdict.images_before:,} labels)"]
    for measure in verdict.measures:
        before = "" if measure.before is None else f", before {measure.before:.3f}"
        mark = "  <-- moved" if measure.is_moved else ""
        lines.append(
            f"  {measure.name.replace('_', ' '):<16}{measure.value:>7.3f}{before}, "
            f"ordinary to {measure.ordinary_to:.3f}, threshold {measure.threshold:g}{mark}"
        )
    lines += [f"  {moved.label}: {moved.before:.1%} before, {moved.now:.1%} now" for moved in verdict.moved_labels]
    return "\n".join(lines)


def failure_of(summary: RunSummary, message: str | None) -> TooManyDeadError | ShardsUnfinishedError:
    """Return why a run failed, with the counts.

    Args:
        summary: The run's.
        message: What the ledger says of it; names the most frequent codes.
    """
    if summary.unfinished:
        return ShardsUnfinishedError(
            f"{summary.unfinished} of {summary.discovered} images were left unfinished ({summary.labelled} labelled, "
            f"{summary.dead} dead); the logs of the failed shards say why, and the next run finds these images again"
        )
    return TooManyDeadError(f"{message}; every outcome is recorded all the same")
