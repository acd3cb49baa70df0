"""Checks, promotions and golden sets for entry points, as `wiring` is for runs. Nothing heavy until it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from inference import wiring
from inference.errors import PromotionRefusedError, SettingsError
from inference.gate.figures import (
    DEFAULT_GOLDEN_SET,
    EVERY_MODEL,
    CheckRequest,
    Comparison,
    GoldenSetSummary,
    ModelCheck,
    Thresholds,
)
from inference.models.registry import ALIASES, PRODUCTION, AliasSpan, Seen
from inference.settings import Settings
from inference.types import ModelId

if TYPE_CHECKING:
    from psycopg import Connection

    from inference.gate.checking import Gate
    from inference.models.store import ModelStore
    from inference.ports import ObjectStore
    from inference.sinks.postgres import PostgresSink

MAX_REASON: Final = 2_000
"""Longest reason, in characters."""


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """Which model an alias is to name, and why."""

    model: str
    """NAME@VERSION, or another alias that names it, such as ``candidate``."""
    reason: str
    alias: str = PRODUCTION
    expected: ModelId | Seen | None = Seen.WHATEVER
    """What the alias named when this was decided; by default what it names when the promotion begins."""
    force: bool = False
    """Whether the gate is overridden where it refuses."""
    approved_by: str | None = None
    """Who said yes, where that is not the login of the database."""
    check_id: int | None = None
    """The check that was approved, by which alone it may become ``production``; by default the model's last one."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did."""

    alias: str
    model: ModelId
    before: ModelId | None
    """What the alias named before."""
    is_moved: bool
    """False when it named the model already."""
    is_forced: bool
    """Whether the gate had refused it."""
    check_id: int | None
    """The check that it rests on, or was forced against."""


def check_model(
    request: CheckRequest,
    *,
    settings: Settings,
    store: ObjectStore | None = None,
    models: ModelStore | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelCheck:
    """Judge a model by its golden set and beside production, and record the verdict. Labels nothing.

    Args:
        request: Which model, and on how much.
        settings: Database, object store, model store.
        store: The object store, where the settings do not say it.
        models: The model store, likewise.
        progress: Called with the images of a batch, and how many answers there are to be in all.

    Raises:
        InferenceError: there is no verdict; see ``gate.checking.Gate``.
    """
    with _gate(settings, store, models, progress) as (gate, sink):
        return gate.check(sink.resolve_model(request.model), request)


def compare_models(
    before: str,
    after: str,
    request: CheckRequest,
    *,
    settings: Settings,
    store: ObjectStore | None = None,
    models: ModelStore | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Hold two models side by side as a check does; nothing is judged or recorded.

    Args:
        before: The one in the place of production, by alias or NAME@VERSION.
        after: The one in the place of the candidate.
        request: On how much; its ``model`` is not looked at.
        settings: As of ``check_model``, and likewise the rest.
        store: See there.
        models: See there.
        progress: See there.

    Raises:
        InferenceError: as of ``check_model``.
    """
    with _gate(settings, store, models, progress) as (gate, sink):
        return gate.compare(sink.resolve_model(before), sink.resolve_model(after), request)


@contextmanager
def _gate(
    settings: Settings,
    store: ObjectStore | None,
    models: ModelStore | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Gate, PostgresSink]]:
    from inference.gate.checking import Gate
    from inference.memory import give_freed_memory_back

    images = store or wiring.open_store(settings)
    files = models or wiring.open_model_store(settings)
    give_freed_memory_back()
    with wiring.open_sink(settings) as sink:
        gate = Gate(
            asking=sink.asking,
            store=images,
            objects=wiring.reader_of(images),
            load=lambda model: wiring.load_model(model, sink, settings, device="cpu", models=files),
            settings=settings,
            clock=wiring.SystemClock(),
            progress=progress,
        )
        yield gate, sink


def promote_model(request: PromotionRequest, *, settings: Settings, models: ModelStore | None = None) -> Promotion:
    """Let an alias name a model from now on. Labels nothing: the next run that begins takes it.

    To become ``production`` a model needs a check that it passed: its last one, beside the present production model,
    by the present golden set and thresholds. Not where nothing is in production, unless the request names a check, and
    not by force; but even then a check that was approved has to be the last one, and of the model as it is registered.

    Args:
        request: Which, and why.
        settings: The database, by a login of ``nightlabel_owner``.
        models: The model store, which has to hold it; the settings' if not given.

    Raises:
        SettingsError: the request cannot mean anything.
        ModelUnknownError, ModelFilesError: it is not registered, or the store does not hold it as it was registered.
        ModelInUseError: its outcomes are being dropped.
        AliasMovedError: somebody moved the alias meanwhile.
        PromotionRefusedError: the gate does not let it through.
        SinkCredentialsError: the login may not move aliases.
    """
    _check_reason(request.reason)
    _check_alias(request.alias)
    from inference.gate.checking import find_check, require_passing_check
    from inference.models import registry

    with wiring.open_sink(settings) as sink:
        model = sink.resolve_model(request.model)
        expected = request.expected
        with sink.asking() as connection:
            if expected is Seen.WHATEVER:
                expected = registry.find_alias(connection, request.alias)
        store = models or wiring.open_model_store(settings)
        with sink.asking() as connection:
            registered = registry.find_registered(connection, model)
        manifest = store.read_manifest(model, registered.matches)
        registry.refuse_unregistered(registered, manifest)
        store.check_files(manifest)  # a model that no worker can load would fail the next night
        with _as_owner(sink) as connection, connection.transaction():
            registry.lock_aliases(connection)
            before = registry.find_alias(connection, request.alias)
            check_id, is_forced = None, False
            if before == model:
                return Promotion(request.alias, model, before, is_moved=False, is_forced=False, check_id=None)
            registry.check_seen(connection, request.alias, expected)
            if request.alias == PRODUCTION and (before is not None or request.check_id is not None):
                last = find_check(connection, model, request.check_id)
                check_id = None if last is None else last.check_id
                try:
                    require_passing_check(connection, model, before, last)
                except PromotionRefusedError:
                    if not request.force:
                        raise
                    is_forced = True
            registry.name_alias(
                connection,
                request.alias,
                model,
                reason=request.reason,
                expected=before,
                approved_by=request.approved_by,
                check_id=check_id,
                is_forced=is_forced,
            )
    return Promotion(request.alias, model, before, is_moved=True, is_forced=is_forced, check_id=check_id)


def remove_alias(
    alias: str, *, reason: str, settings: Settings, expected: ModelId | Seen | None = Seen.WHATEVER
) -> ModelId | None:
    """Let an alias name nothing from now on, as to turn a shadow model off; return what it named.

    Raises:
        SettingsError: there is no such alias, it is ``production``, or there is no reason.
        AliasMovedError: somebody moved the alias meanwhile.
        SinkCredentialsError: the login may not move aliases.
    """
    _check_reason(reason)
    _check_alias(alias)
    from inference.models import registry

    with wiring.open_sink(settings) as sink, _as_owner(sink) as connection:
        return registry.take_alias_away(connection, alias, reason=reason, expected=expected)


def model_history(
    settings: Settings, *, alias: str | None = None, model: str | None = None, limit: int | None = None
) -> list[AliasSpan]:
    """Return what aliases named and name, the newest first.

    Args:
        settings: The database.
        alias: Only this one.
        model: Only spans of this model, by NAME@VERSION or an alias that names it now.
        limit: Most spans.
    """
    from inference.models import registry

    with wiring.open_sink(settings) as sink:
        wanted = None if model is None else sink.resolve_model(model)
        with sink.asking() as connection:
            return registry.alias_history(connection, alias=alias, model=wanted, limit=limit)


def load_golden_set(
    address: str,
    *,
    settings: Settings,
    name: str = DEFAULT_GOLDEN_SET,
    bucket: str | None = None,
    model: str = PRODUCTION,
    replace_all: bool = False,
    store: ObjectStore | None = None,
) -> tuple[int, int]:
    """Load images with their right labels from a CSV file into a golden set; whole or not at all.

    Args:
        address: ``s3://bucket/key``, or a path.
        settings: The database (to replace a set, by a login of ``nightlabel_owner``) and the object store.
        name: The golden set.
        bucket: Bucket of rows that name none.
        model: Whose label map the labels have to be in.
        replace_all: Whether the set is to hold these images and no others.
        store: The object store, where the settings do not say it.

    Returns:
        How many images were added or changed, and how many taken out.

    Raises:
        GoldenSetError, ManifestError: the file is not what it should be; nothing changed.
        InferenceError: the store or the database is away, or refuses.
    """
    _check_set_name(name)
    from inference.gate import tables
    from inference.gate.golden_files import read_golden_file
    from inference.models import registry

    objects = wiring.reader_of(store or wiring.open_store(settings))
    with wiring.open_sink(settings) as sink:
        chosen = sink.resolve_model(model)
        with sink.asking() as connection:
            labels = registry.read_label_map(connection, chosen)
        images = read_golden_file(address, objects, labels, bucket=bucket)
        with _as_owner(sink) if replace_all else sink.asking() as connection:
            return tables.write_golden_images(connection, name, images, origin="csv", replace=replace_all)


def list_golden_sets(settings: Settings) -> list[GoldenSetSummary]:
    """Return every golden set, by name."""
    from inference.gate import tables

    with wiring.open_sink(settings) as sink, sink.asking() as connection:
        return tables.list_golden_sets(connection)


def remove_golden_images(settings: Settings, *, name: str, bucket: str | None = None, prefix: str | None = None) -> int:
    """Take images out of a golden set, by default all of them, and return how many there were.

    Raises:
        GoldenSetError: there are none.
        SinkCredentialsError: the login is none of ``nightlabel_owner``.
    """
    from inference.gate import tables

    with wiring.open_sink(settings) as sink, _as_owner(sink) as connection:
        return tables.remove_golden_images(connection, name, bucket=bucket, prefix=prefix)


def list_thresholds(settings: Settings) -> list[Thresholds]:
    """Return the thresholds of every model first, then those of single models."""
    from inference.gate import tables

    with wiring.open_sink(settings) as sink, sink.asking() as connection:
        return tables.list_thresholds(connection)


def set_thresholds(
    settings: Settings, changes: dict[str, Any], *, model_name: str = EVERY_MODEL, reason: str
) -> Thresholds:
    """Change thresholds and return all of them as they are now.

    Args:
        settings: The database, by a login of ``nightlabel_owner``.
        changes: Name of a field of ``Thresholds`` -> value. What is not named stays; for a model that has none of its
            own yet, as it is for every model.
        model_name: Whose; ``*`` for every model without its own.
        reason: Why, for the record.

    Raises:
        SettingsError: a value is out of its range, or there is no reason.
        SinkCredentialsError: the login may not change them.
    """
    _check_reason(reason)
    if not changes:
        raise SettingsError("no threshold is named; give at least one, such as --max-loss 0.01")
    from inference.gate import tables

    with wiring.open_sink(settings) as sink:
        with sink.asking() as connection:
            present = tables.read_thresholds(connection, model_name)
        thresholds = check_thresholds(replace(present, **(changes | {"model_name": model_name})))
        with _as_owner(sink) as connection:
            tables.write_thresholds(connection, thresholds, reason=reason)
    return thresholds


RANGES: Final[dict[str, tuple[float, float, str]]] = {
    "min_golden_images": (0, 1_000_000, "a number of images"),
    "max_unreadable": (0, 0.999999, "a share from 0 to below 1"),
    "min_top1": (0, 1, "a share from 0 to 1"),
    "max_loss": (0.0001, 0.2, "a share from 0.0001 to 0.2"),
    "confidence": (0.8, 0.9999, "a share from 0.8 to 0.9999"),
    "min_compared_images": (30, 1_000_000, "a number of images, at least 30"),
    "min_agreement": (0, 1, "a share from 0 to 1"),
    "max_slowdown": (0, 0.9999, "a share from 0 to below 1"),
}
"""Threshold -> least, most and in words. Within these each can stop a model; the database has the same bounds."""

ENOUGH_GOLDEN_IMAGES: Final = 100
LEAST_AGREEMENT_WITHOUT: Final = 0.5
"""Where fewer golden images than that are needed, agreement has to guard, and has to be at least so much."""


def check_thresholds(thresholds: Thresholds) -> Thresholds:
    """Return thresholds that can be met and missed.

    Raises:
        SettingsError: names the one that cannot.
    """
    for name, (least, most, words) in RANGES.items():
        value = getattr(thresholds, name)
        if not least <= value <= most:
            raise SettingsError(f"{name} is {value}; give {words}")
    if thresholds.min_golden_images < ENOUGH_GOLDEN_IMAGES and thresholds.min_agreement < LEAST_AGREEMENT_WITHOUT:
        raise SettingsError(
            f"min_golden_images is {thresholds.min_golden_images} and min_agreement is {thresholds.min_agreement}, so "
            f"that little could stop a model; give at least {ENOUGH_GOLDEN_IMAGES} of the former, or "
            f"{LEAST_AGREEMENT_WITHOUT} of the latter"
        )
    _check_set_name(thresholds.golden_set)
    if not thresholds.model_name or "@" in thresholds.model_name:
        raise SettingsError(
            f"the thresholds are for {thresholds.model_name!r}; give the name of a model without a version, or "
            f"{EVERY_MODEL} for every model"
        )
    return thresholds


@contextmanager
def _as_owner(sink: PostgresSink) -> Iterator[Connection[Any]]:
    """Lend the connection as ``nightlabel_owner``, where its user may act as that."""
    from inference.sinks.connecting import act_as_owner

    with sink.asking() as connection:
        act_as_owner(connection)
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.execute("RESET ROLE")


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise SettingsError("no reason is given; say why with --why, for the history")
    if len(reason) > MAX_REASON or "\x00" in reason:
        raise SettingsError(f"the reason has {len(reason):,} characters; give text of at most {MAX_REASON:,}")


def _check_alias(alias: str) -> None:
    if alias not in ALIASES:
        raise SettingsError(f"there is no alias {alias!r}; there are {', '.join(ALIASES)}")


def _check_set_name(name: str) -> None:
    if not name.strip() or len(name) > 100 or "\x00" in name:
        raise SettingsError(f"the golden set is called {name[:40]!r}; give a name of 1 to 100 characters")
