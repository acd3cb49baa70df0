"""A check from its beginning to its verdict, and what a promotion asks of it. Knows tables, store and models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from inference.errors import ObjectAccessDeniedError, PromotionRefusedError, SettingsError
from inference.gate import tables
from inference.gate.answering import answer, with_speed
from inference.gate.comparing import compare, judge
from inference.gate.figures import Answers, CheckRequest, Comparison, GoldenImage, GoldenSet, ModelCheck
from inference.gate.tables import LastCheck
from inference.models import registry
from inference.ports import Clock, ModelHandle, ObjectReader, ObjectStore
from inference.settings import Settings
from inference.types import ImageRef, ModelId

if TYPE_CHECKING:
    from psycopg import Connection

logger = logging.getLogger(__name__)

Asking: TypeAlias = "Callable[[], AbstractContextManager[Connection[Any]]]"
"""Lends a connection to the results database, for as long as the block lasts."""

MAX_RECENT_IMAGES = 100_000
MAX_DAYS = 3_660


@dataclass(frozen=True, slots=True)
class Gate:
    """What a check needs of the world."""

    asking: Asking
    store: ObjectStore
    objects: ObjectReader
    load: Callable[[ModelId], ModelHandle]
    """Loads a registered model, after checking its files."""
    settings: Settings
    clock: Clock
    progress: Callable[[int, int], None] | None = None
    """Called with the images of a batch, and how many answers there are to be in all."""
    speed_s: float = 1.0
    """How long each model's speed is measured, in seconds."""

    def check(self, candidate: ModelId, request: CheckRequest) -> ModelCheck:
        """Judge a candidate by its golden set and beside production, and record the verdict.

        Raises:
            SettingsError: the request cannot mean anything.
            InferenceError: there is no verdict: a model cannot be loaded or fails, the store or the database is away.
        """
        _refuse_nonsense(request)
        with self.asking() as connection:
            digest = tables.model_digest(connection, candidate)
            production = registry.find_alias(connection, registry.PRODUCTION)
            thresholds = tables.read_thresholds(connection, candidate.name)
            golden_set = tables.read_golden_set(connection, thresholds.golden_set)
        comparison = self._compare(production, candidate, golden_set, thresholds.confidence, production, request)
        reasons = judge(comparison, thresholds)
        with self.asking() as connection:
            return tables.record_check(
                connection, comparison, reasons, thresholds=thresholds, golden_set=golden_set, model_sha256=digest
            )

    def compare(self, before: ModelId, after: ModelId, request: CheckRequest) -> Comparison:
        """Hold two models side by side, as a check does with production and a candidate; nothing is recorded.

        Recent images are those that production labelled, whichever two are compared.

        Raises:
            SettingsError, InferenceError: as of ``check``.
        """
        _refuse_nonsense(request)
        with self.asking() as connection:
            thresholds = tables.read_thresholds(connection, after.name)
            golden_set = tables.read_golden_set(connection, thresholds.golden_set)
            production = registry.find_alias(connection, registry.PRODUCTION)
        return self._compare(before, after, golden_set, thresholds.confidence, production or before, request)

    def _compare(
        self,
        before: ModelId | None,
        after: ModelId,
        golden_set: GoldenSet,
        confidence: float,
        labelled_by: ModelId | None,
        request: CheckRequest,
    ) -> Comparison:
        """Ask both models about golden images, and about images that one of them, or another model, labelled."""
        golden, reviewed = self._golden_refs(golden_set.images), self._golden_refs(golden_set.reviewed)
        recent: tuple[ImageRef, ...] = ()
        if labelled_by is not None and request.days:
            with self.asking() as connection:
                drawn = tables.sample_recent(
                    connection, labelled_by, days=request.days, images=request.images, seed=request.seed
                )
            recent = tuple(ref for ref in drawn if ref not in golden)
        models = [model for model in (before, after) if model is not None]
        logger.info(
            "Asking %s about %d golden images, %d reviewed ones and %d of the last %d days",
            " and ".join(map(str, models)),
            len(golden),
            len(reviewed),
            len(recent),
            request.days,
        )
        # A reviewed image may be a recent one too: it is asked about once, and counts among both.
        answers = self._ask(models, golden | reviewed, [ref for ref in recent if ref not in reviewed])
        return compare(
            answers[after],
            None if before is None else answers[before],
            golden=golden,
            reviewed=reviewed,
            recent=recent,
            days=request.days,
            confidence=confidence,
        )

    def _ask(
        self, models: Sequence[ModelId], golden: dict[ImageRef, str], recent: Sequence[ImageRef]
    ) -> dict[ModelId, Answers]:
        """Return what each model says; one model is in memory at a time."""
        total = len(set(models)) * (len(golden) + len(recent))
        found: dict[ModelId, Answers] = {}
        for model in models:
            if model in found:
                continue
            handle = self.load(model)
            answers = answer(
                handle,
                golden,
                recent,
                store=self.store,
                settings=self.settings,
                clock=self.clock,
                progress=None if self.progress is None else lambda images: self.progress(images, total),  # type: ignore[misc]
            )
            found[model] = with_speed(answers, handle, self.clock, for_s=self.speed_s)
            del handle
        return found

    def _golden_refs(self, images: Sequence[GoldenImage]) -> dict[ImageRef, str]:
        """Return the golden images as refs with the id of their label; sizes are looked up where no run noted them."""
        refs = {ImageRef(image.bucket, image.key, image.etag, size_bytes=1): image.label_id for image in images}
        if not refs:
            return {}
        with self.asking() as connection:
            sizes = tables.find_sizes(connection, [ref.image_id for ref in refs])
        sized = {replace(ref, size_bytes=sizes[ref.image_id]) for ref in refs if ref.image_id in sizes}
        sized |= set(self._looked_up([ref for ref in refs if ref.image_id not in sizes]))
        labels = {ref.image_id: label_id for ref, label_id in refs.items()}
        return {ref: labels[ref.image_id] for ref in sorted(sized, key=lambda ref: (ref.bucket, ref.key))}

    def _looked_up(self, refs: Sequence[ImageRef]) -> Iterator[ImageRef]:
        def size_of(ref: ImageRef) -> int:
            try:
                found = self.objects.head(ref.bucket, ref.key)
            except ObjectAccessDeniedError:
                return ref.size_bytes  # fetching it says so, and it is counted
            return ref.size_bytes if found is None else found.size_bytes

        if refs:
            with ThreadPoolExecutor(self.objects.connections, "look-up") as pool:
                for ref, size_bytes in zip(refs, pool.map(size_of, refs), strict=True):
                    yield replace(ref, size_bytes=size_bytes)


def find_check(connection: Connection[Any], candidate: ModelId, approved: int | None = None) -> LastCheck | None:
    """Return the check that a promotion rests on, or is forced against: the last one; None if there is none.

    Args:
        connection: Within the transaction that moves the alias, with aliases locked.
        candidate: The model.
        approved: The check that somebody has approved, who did not see any later one; None if nobody was asked.

    Raises:
        PromotionRefusedError: the check was of another registration, or is not the approved one. Force is no help.
    """
    last = tables.find_last_check(connection, candidate)
    if approved is not None and (last is None or last.check_id != approved):
        found = "none of it" if last is None else f"{last.check_id} of {last.checked_at:%Y-%m-%d %H:%M} UTC"
        raise PromotionRefusedError(
            f"check {approved} of {candidate} was approved, and its last one is {found}; check it anew and ask again"
        )
    if last is not None and last.model_sha256 != tables.model_digest(connection, candidate):
        raise _refusal(candidate, f"{_name_of(candidate, last)} was of another registration of it")
    return last


def require_passing_check(
    connection: Connection[Any], candidate: ModelId, production: ModelId | None, last: LastCheck | None
) -> int:
    """Return the number of the check that lets a model be promoted, if it passed and nothing has changed since.

    Args:
        connection: Within the transaction that moves the alias, with aliases locked.
        candidate: The model.
        production: What is in production now.
        last: Its check, as of ``find_check``.

    Raises:
        PromotionRefusedError: says which check is missing, or what it found.
    """
    if last is None:
        raise _refusal(candidate, f"{candidate} was never checked")
    of = _name_of(candidate, last)
    thresholds = tables.read_thresholds(connection, candidate.name)
    if last.production != production:
        beside, present = last.production or "no model", production or "no model"
        raise _refusal(candidate, f"{of} was beside {beside}, and production is {present}")
    if last.thresholds != asdict(thresholds):
        raise _refusal(candidate, f"{of} was by other thresholds than hold now")
    if last.golden_sha256 != tables.read_golden_set(connection, thresholds.golden_set).sha256:
        raise _refusal(candidate, f"{of} was on another golden set {thresholds.golden_set!r} than there is now")
    if last.verdict != "passed":
        reasons = "; ".join(reason.message for reason in last.reasons if not reason.is_warning)
        raise PromotionRefusedError(
            f"{of} stopped it: {reasons}. Promote another model, or override the gate with --force and a reason"
        )
    return last.check_id


def _name_of(candidate: ModelId, last: LastCheck) -> str:
    return f"the last check of {candidate}, {last.check_id} of {last.checked_at:%Y-%m-%d %H:%M} UTC,"


def _refusal(candidate: ModelId, why: str) -> PromotionRefusedError:
    return PromotionRefusedError(f"{why}; check it first with `python -m inference models check {candidate}`")


def _refuse_nonsense(request: CheckRequest) -> None:
    if not 0 <= request.days <= MAX_DAYS:
        raise SettingsError(f"days is {request.days}; give a number from 0 to {MAX_DAYS:,}")
    if not 0 <= request.images <= MAX_RECENT_IMAGES:
        raise SettingsError(f"the sample is of {request.images} images; give a number from 0 to {MAX_RECENT_IMAGES:,}")
