"""Whatever happens in whatever order, bucket, ledger and views are what the reference model says, step by step.

A state machine drives the real thing (Postgres, an S3 server, decoding) and the model side by side, one protocol step
at a time, and compares everything that can be asked after each. An attempt is a generator that stops between its steps:
it can be left lying at any point, as if it had been killed, and go on after others have taken over.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import seed as seeded
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image as Picture
from psycopg.rows import dict_row

from inference.decoding import decode_image
from inference.errors import (
    ImageError,
    ImageGoneError,
    InferenceError,
    ObjectAccessDeniedError,
    StaleAttemptError,
    StoreUnavailableError,
)
from inference.fetching import fetch_image
from inference.listing import TimedListing
from inference.models import registry
from inference.predicting import predict_batch
from inference.runner import ShardRunner
from inference.settings import read_settings
from inference.sinks import postgres
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.sinks.statements import statement
from inference.stores.s3 import S3Store
from inference.types import (
    CopiedPrediction,
    DeadLetter,
    DeadLetterFilter,
    DecodedImage,
    ImageRef,
    ListedObject,
    ManifestChunk,
    ModelId,
    ObjectContent,
    Outcome,
    RunRequest,
    Shard,
    Stage,
    StageSeconds,
)
from inference.wiring import SystemClock
from local_stack.object_store import EmbeddedObjectStore
from tests.conftest import Bucket
from tests.fakes import FakeHandle
from tests.faults.reference_model import (
    Attempt,
    Content,
    Image,
    Ref,
    ReferenceModel,
    Result,
    StaleError,
    Version,
)
from tests.ledger import EPOCH, manifest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

KEYS = ("in/a", "in/a ", "in/b", "in/é 🌙", "in_2/a+b%", "in_2/c", "inn/z")
PREFIXES = ("", "in", "in/", "in_", "in/a")
"""Prefixes are strings, not folders, and the underscore means itself."""
CONTENTS: tuple[Content, ...] = (0, 1, 2, 3, "not_an_image", "truncated", "empty_object")
MODELS = ("tiny", "better", "best")
CHUNK = 2
"""Refs of a manifest's chunk, instead of a thousand, so that small shards have several."""
BATCH = 2
EXAMPLES_TO_FIND = 400
"""Within how many examples a planted defect has to be found."""
RATIO = {"max_dead_ratio": 0.5, "min_images_for_ratio": 2}


def body(content: Content) -> bytes:
    """An object in which every model sees the label of that number, or that has to be refused with that code."""
    if content == "empty_object":
        return b""
    if content == "not_an_image":
        return b"no picture"
    out = io.BytesIO()
    Picture.new("RGB", (6, 6), (255 - 85 * (content if isinstance(content, int) else 0), 0, 0)).save(out, "PNG")
    return out.getvalue()[:50] if content == "truncated" else out.getvalue()


def label(model: str, number: int) -> str:
    """What a model calls the label of a number; no two models agree, so that a mix-up shows."""
    return f"{model} {number}"


class PickyStore:
    """The real store, but for keys that it lets nobody read, and with a time of its own, so that examples repeat."""

    def __init__(self, store: S3Store, model: ReferenceModel) -> None:
        self.store, self.model = store, model

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        for page in self.store.list_pages(bucket, prefix):
            yield [
                replace(found, last_modified=EPOCH + timedelta(seconds=self.model.bucket[found.key].modified))
                for found in page
            ]

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        if ref.key in self.model.denied:
            raise ObjectAccessDeniedError("the object store refuses this object")
        return self.store.fetch(ref, max_bytes=max_bytes)


class Interrupted:
    """A real listing after whose last page something happens before planning goes on."""

    def __init__(self, listing: TimedListing, happening: Callable[[], None]) -> None:
        self.listing, self.happening = listing, happening

    @property
    def list_s(self) -> float:
        return self.listing.list_s

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        yield from self.listing
        self.happening()


@dataclass
class Stand:
    """The real servers, emptied before each example."""

    bucket: Bucket
    store: S3Store
    sink: PostgresSink
    other: PostgresSink
    """A second worker's connection."""
    computing: PostgresSink
    """Copies no labels: what the loop copies depends on how far it has got with its writing."""
    connection: psycopg.Connection[dict[str, Any]]
    examples: int = 0
    """Examples begun so far."""

    def reset(self) -> None:
        self.examples += 1
        self.connection.execute(
            "TRUNCATE nightlabel.outcome, nightlabel.shard, nightlabel.manifest_chunk, nightlabel.run, "
            "nightlabel.object, nightlabel.image, nightlabel.listing, nightlabel.model_alias"
        )
        with self.sink.asking() as connection:
            registry.name_alias(connection, "production", ModelId(MODELS[0], "1"), reason="a test")
        self.empty_bucket()

    def empty_bucket(self) -> None:
        for found in self.bucket.client.list_objects_v2(Bucket=self.bucket.name).get("Contents", ()):
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=found["Key"])

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return self.connection.execute(sql).fetchall()


@dataclass(eq=False)
class Live:
    """An attempt as it is under way, in the product and in the model."""

    shard: Shard
    attempt: Attempt
    steps: Iterator[None] = field(default_factory=lambda: iter(()))
    sent: list[Callable[[], None]] = field(default_factory=list)
    """What was sent to the ledger, to be sent again."""
    is_deaf: bool = False

    def go_on(self, steps: int) -> None:
        for _ in zip(range(steps), self.steps, strict=False):
            pass


class Todo(NamedTuple):
    """A ref that is left to do, as both sides have it."""

    given: ImageRef | CopiedPrediction
    ref: Ref
    known: int | None
    """The label that is copied."""


class LedgerStates(RuleBasedStateMachine):
    """The product and the model, side by side."""

    attempts = Bundle("attempts")

    def __init__(self, stand: Stand) -> None:
        super().__init__()
        stand.reset()
        self.stand = stand
        self.model = ReferenceModel(MODELS[0], **RATIO)
        self.store = PickyStore(stand.store, self.model)
        self.handles = {
            model: FakeHandle([label(model, number) for number in range(4)], model_id=ModelId(model, "1"))
            for model in MODELS
        }
        self.steps_today = 0
        """Steps since the last quiet night."""
        self.stored = 0
        """Objects stored so far."""
        self.numbers = 0
        """Runs numbered so far."""
        self.retries: set[int] = set()
        """Runs that try dead letters again, instead of listing."""
        self.tries: dict[int, int] = {}
        """Tries of discovery, by the run's number."""
        self.run_ids: dict[int, UUID] = {}
        """The product's name of each run, by its number."""
        self.history: dict[str, list[Content]] = {key: [] for key in KEYS}
        self.labels: dict[tuple[Image, str], str] = {}
        """Labels as they were first seen in the ledger."""

    # The world

    keys = st.sampled_from(KEYS)

    def put_object(self, key: str, content: Content) -> None:
        self.stand.bucket.put(key, body(content))
        self.look_at(key, content)

    def look_at(self, key: str, content: Content) -> None:
        """Tell the model what the store made of an object."""
        found = self.stand.bucket.client.list_objects_v2(Bucket=self.stand.bucket.name, Prefix=key)["Contents"]
        [etag] = [entry["ETag"].strip('"') for entry in found if entry["Key"] == key]
        self.stored += 1
        self.model.bucket[key] = Version(etag, content, self.stored // 2)  # some at the same time
        self.history[key].append(content)

    changes = st.dictionaries(
        keys,
        st.sampled_from((*CONTENTS, "delete", "delete", "restore", "copy", "deny or allow", "deny or allow")),
        min_size=1,
        max_size=4,
    )

    @rule(changes=changes, other=keys, promoted=st.sampled_from((None, *MODELS)), is_later=st.booleans())
    def change(self, changes: dict[str, Content], other: str, promoted: str | None, is_later: bool) -> None:
        """Change the bucket; perhaps promote a model, or let time pass until dead letters are to be tried again."""
        for key, change in changes.items():
            self.change_key(key, change, other)
        if promoted:
            with self.stand.sink.asking() as connection:
                registry.name_alias(connection, "production", ModelId(promoted, "1"), reason="a test")
            self.model.promote(promoted)
        if is_later:
            self.stand.connection.execute(
                "UPDATE nightlabel.outcome SET retry_after = now() - interval '1 hour' WHERE retry_after IS NOT NULL"
            )
            self.model.let_time_pass()

    def change_key(self, key: str, change: Content, other: str) -> None:
        """Store something, or what a key held before, or what another key holds; or delete; or turn readers away."""
        client, name = self.stand.bucket.client, self.stand.bucket.name
        if change == "deny or allow":
            self.model.denied.symmetric_difference_update({key})
        elif change == "delete":
            client.delete_object(Bucket=name, Key=key)
            self.model.bucket.pop(key, None)
        elif change == "restore":
            if former := self.history[key][:-1]:
                self.put_object(key, former[-1])
        elif change == "copy":
            if other in self.model.bucket and other != key:
                client.copy_object(Bucket=name, Key=key, CopySource={"Bucket": name, "Key": other})
                self.look_at(key, self.model.bucket[other].content)
        else:
            self.put_object(key, change)

    # Discovery

    common = {  # noqa: RUF012
        "prefix": st.sampled_from(("", "", "", *PREFIXES)),
        "model": st.sampled_from(("production", "production", "production", *MODELS)),
        "max_images": st.sampled_from((None, None, None, 1, 3)),
        "shard_size": st.integers(1, 5),
    }
    listing = st.fixed_dictionaries(
        {**common, "scope": st.sampled_from(("unlabelled", "unlabelled", "not_by_this_model"))}
    )
    retry = st.fixed_dictionaries(
        {
            **common,
            "dead_letters": st.builds(
                DeadLetterFilter,
                codes=st.sampled_from(((), (), ("access_denied",), ("truncated", "not_an_image"))),
                permanent=st.sampled_from(("any", "any", "permanent", "retryable")),
            ),
        }
    )
    """What a run asks for that lists the bucket, and what one that tries dead letters again."""

    def discover(
        self,
        number: int,
        asked: dict[str, Any],
        happening: Callable[[], None] = lambda: None,
        *,
        is_other: bool = False,
    ) -> int:
        """Plan a run, or plan it anew, in the product and in the model; something may happen while it lists.

        Raises:
            StaleError: both refuse it, since a newer try has planned the run.
        """
        name = self.model.line[0] if asked["model"] == "production" else asked["model"]
        limits = {name: asked[name] for name in ("max_images", "shard_size")}
        self.tries[number] = tried = self.tries.get(number, 0) + 1
        request = RunRequest(
            bucket=self.stand.bucket.name,
            prefix=asked["prefix"],
            model=asked["model"] if asked["model"] == "production" else f"{name}@1",
            scope=asked.get("scope", "unlabelled"),
            dead_letters=asked.get("dead_letters"),
            dag_id="classify_images",
            airflow_run_id=f"night {number}",
            plan_attempt=tried,
            **RATIO,
            **limits,
        )
        sink = self.stand.other if is_other else self.stand.sink
        if chosen := request.dead_letters:
            self.retries.add(number)
            product = partial(sink.plan_run, request, None)
            model = partial(self.model.retry, number, request.prefix, chosen.codes, chosen.permanent)
        else:
            timed = TimedListing(self.store, request.bucket, request.prefix, SystemClock())
            product = partial(sink.plan_run, request, Interrupted(timed, happening))
            model = partial(self.model.plan, number, self.model.list_bucket(request.prefix), scope=request.scope)
        model = partial(model, model=name, tried=tried, **limits)
        try:
            plan = product()
        except StaleAttemptError:
            model()
            raise AssertionError("the model does not refuse this plan") from None
        expected = model()
        assert plan.model == ModelId(name, "1")
        assert plan.shards == tuple(range(len(expected.shards)))
        assert (plan.discovered, plan.already_done, plan.deferred, plan.to_classify) == (
            expected.discovered,
            expected.already_done,
            expected.deferred,
            sum(len(shard.refs) for shard in expected.shards),
        )
        assert plan.run_id == self.run_ids.setdefault(number, plan.run_id)
        return number

    runs = st.integers(0, 9)
    """Which run, counted back from the newest."""

    def back(self, run: int) -> int:
        numbers = sorted(self.model.runs)
        return numbers[-1 - run % len(numbers)]

    @rule(run=st.one_of(st.none(), runs), listing=listing, retry=retry, is_retry=st.sampled_from((False, False, True)))
    def plan(self, run: int | None, listing: dict[str, Any], retry: dict[str, Any], is_retry: bool) -> None:
        """Plan a new run, or plan one again: attempts of its former plan may be alive."""
        number = self.new_run() if run is None else self.back(run)
        is_retry = is_retry if run is None else number in self.retries
        self.discover(number, retry if is_retry else listing)

    @rule(
        run=st.one_of(st.none(), runs),
        asked=listing,
        meanwhile=st.one_of(st.none(), listing),
        is_same=st.booleans(),
        changes=changes,
    )
    def plan_disturbed(
        self,
        run: int | None,
        asked: dict[str, Any],
        meanwhile: dict[str, Any] | None,
        is_same: bool,
        changes: dict[str, Content],
    ) -> None:
        """While a discovery lists, the bucket changes, and another discovery passes or the store goes away.

        If the other one is the next try of the same run, the slow one is refused; if the store goes away, nothing was
        planned and nothing is noted.
        """
        slow = self.new_run() if run is None else self.back(run)
        if slow in self.retries:
            return

        def happening() -> None:
            for key, change in changes.items():
                self.change_key(key, change, KEYS[0])
            if meanwhile is None:
                raise StoreUnavailableError("the store went away")
            self.discover(slow if is_same else self.new_run(), meanwhile, is_other=True)

        if meanwhile is None:
            must_raise(StoreUnavailableError, lambda: self.discover(slow, asked, happening))
        elif is_same:
            must_raise(StaleError, lambda: self.discover(slow, asked, happening))
        else:
            self.discover(slow, asked, happening)

    def new_run(self) -> int:
        self.numbers += 1
        return self.numbers

    # Shards

    steps = st.sampled_from((3, 1, 2, 4, 5, 6, 7, 100))
    """How far an attempt gets at a time; 3 steps are a batch."""

    @initialize(
        target=attempts,
        objects=st.dictionaries(keys, st.sampled_from((0, 1, 2, *CONTENTS)), min_size=4),
        denied=st.sets(keys, max_size=2),
        asked=listing,
        steps=steps,
    )
    def begin(
        self, objects: dict[str, Content], denied: set[str], asked: dict[str, Any], steps: int
    ) -> Live | MultipleResults[Live]:
        """Begin with objects, a run of them and an attempt that has come somewhere."""
        self.model.denied.update(denied)
        for key, content in objects.items():
            self.put_object(key, content)
        self.discover(self.new_run(), asked)
        return self.claim(0, 0, steps, is_deaf=False)

    @rule(target=attempts, run=runs, shard=st.integers(0, 4), steps=steps, is_deaf=st.booleans())
    def claim(self, run: int, shard: int, steps: int, is_deaf: bool) -> Live | MultipleResults[Live]:
        """Begin an attempt of a shard that was never begun, is under way, or is done, and let it do some steps.

        A deaf one hears no answer, as if the connection broke each time, and sends everything twice.
        """
        live = self.claimed(self.back(run), shard)
        if live is None:
            return multiple()
        live.is_deaf = is_deaf
        live.go_on(steps)
        return live

    @rule(
        target=attempts,
        objects=st.dictionaries(keys, st.sampled_from(CONTENTS), min_size=2, max_size=4),
        model=st.sampled_from(("production", "production", *MODELS)),
        first=steps,
        second=steps,
        is_deaf=st.booleans(),
    )
    def overlap(
        self, objects: dict[str, Content], model: str, first: int, second: int, *, is_deaf: bool
    ) -> MultipleResults[Live]:
        """Let two runs hold the same images, each with an attempt that has come somewhere."""
        for key, content in objects.items():
            self.put_object(key, content)
        asked = {"prefix": "", "model": model, "scope": "unlabelled", "max_images": None, "shard_size": 5}
        runs = [self.discover(self.new_run(), asked) for _ in range(2)]
        lives = [live for run in runs if (live := self.claimed(run, 0)) is not None]
        for live, steps in zip(lives, (first, second), strict=False):
            live.is_deaf = is_deaf
            live.go_on(steps)
        return multiple(*lives)

    def claimed(self, run: int, which: int) -> Live | None:
        """Claim a shard of a run; if it has none, of the newest that has some."""
        cut = [number for number in (run, *sorted(self.model.runs, reverse=True)) if self.model.runs[number].shards]
        if not cut:
            return None
        run, number = cut[0], which % len(self.model.runs[cut[0]].shards)
        attempt = self.model.claim(run, number)
        shard = self.stand.sink.claim_shard(self.run_ids[run], number)
        assert (shard.attempt, shard.images) == (attempt.number, len(attempt.shard.refs))
        assert shard.model.name == self.model.runs[run].model
        live = Live(shard, attempt)
        live.steps = self.work(live)
        return live

    def work(self, live: Live) -> Iterator[None]:
        """Do what a worker does for a shard, stopping wherever it may be killed or overtaken."""
        chunks = self.stand.sink.read_manifest(live.shard)
        elsewhere = 0
        for refs, fresh in self.chunks(live, chunks):
            elsewhere += fresh
            yield
            for start in range(0, len(refs), BATCH):
                outcomes, results = self.classify(live, refs[start : start + BATCH])
                yield
                if not self.send(live, partial(self.record, live, len(live.sent) + 1, outcomes, results, elsewhere)):
                    return
                elsewhere = 0
                yield
        if elsewhere:
            if not self.send(live, partial(self.record, live, len(live.sent) + 1, [], [], elsewhere)):
                return
            yield
        self.send(live, partial(self.finish, live))

    def chunks(self, live: Live, chunks: Iterator[ManifestChunk]) -> Iterator[tuple[list[Todo], int]]:
        """Read the manifest of a shard by both sides and compare."""
        whole = live.attempt.shard.refs
        for start in range(0, len(whole), CHUNK):
            chunk = next(chunks)
            todo, elsewhere = self.model.left(live.attempt, whole[start : start + CHUNK])
            known = {ref: number for ref in todo if (number := self.model.known(live.attempt, ref)) is not None}
            assert chunk.done_elsewhere == elsewhere
            assert [seen(ref) for ref in chunk.refs] == [ref for ref in todo if ref not in known]
            assert {seen(copy.ref): copy.label.name for copy in chunk.copies} == {
                ref: label(live.attempt.model, number) for ref, number in known.items()
            }
            given = {seen(ref): ref for ref in chunk.refs} | {seen(copy.ref): copy for copy in chunk.copies}
            yield [Todo(given[ref], ref, known.get(ref)) for ref in todo], elsewhere
        assert next(chunks, None) is None

    def classify(self, live: Live, todo: list[Todo]) -> tuple[list[Outcome], list[Result]]:
        """Fetch, decode and predict some refs, but for those whose label is copied."""
        handle = self.handles[live.shard.model.name]
        results = [
            self.model.classify(ref) if known is None else Result(ref, known, is_copied=True) for _, ref, known in todo
        ]
        copies: list[Outcome] = []
        images: list[DecodedImage] = []
        dead: list[DeadLetter] = []
        for ref, _, _ in todo:
            if isinstance(ref, CopiedPrediction):
                copies.append(ref)
                continue
            stage = Stage.FETCH
            try:
                fetched = fetch_image(ref, self.store, max_bytes=10_000)
                stage = Stage.DECODE
                pixels = decode_image(fetched.data, handle.preprocessing)
                images.append(DecodedImage(ref, pixels, fetched.content))
            except ImageGoneError:
                pass
            except ImageError as error:
                dead.append(DeadLetter(ref, stage, error.code, str(error), error.is_retryable))
        return [*predict_batch(images, handle), *copies, *dead], results

    def record(self, live: Live, batch: int, outcomes: list[Outcome], results: list[Result], elsewhere: int) -> None:
        def model() -> None:
            self.model.record(live.attempt, batch, results, elsewhere=elsewhere)

        def product() -> None:
            gone = sum(result.label is None and result.code is None for result in results)
            seconds = StageSeconds()
            self.stand.sink.record_batch(
                live.shard, batch, outcomes, engine="litert", seconds=seconds, gone=gone, done_elsewhere=elsewhere
            )

        agree(model, product)

    def finish(self, live: Live) -> None:
        agree(
            lambda: self.model.finish_shard(live.attempt),
            lambda: self.stand.sink.finish_shard(live.shard, StageSeconds()),
        )

    def send(self, live: Live, message: Callable[[], None]) -> bool:
        """Send something to the ledger; return whether the attempt may go on."""
        live.sent.append(message)
        try:
            for _ in range(1 + live.is_deaf):
                message()
        except StaleError:
            return False
        return True

    @rule(live=attempts, steps=steps, again=st.integers(0, 2))
    def go_on(self, live: Live, steps: int, again: int) -> None:
        """Let an attempt do its next steps, whoever has taken over meanwhile; one that never does was killed.

        Before that it may send again what it sent last, or before that.
        """
        if again and live.sent:
            with suppress(StaleError):
                live.sent[-min(again, len(live.sent))]()
        live.go_on(steps)

    @rule(run=runs, which=st.integers(0, 4), closes=st.booleans())
    def run_shard(self, run: int, which: int, closes: bool) -> None:
        """Let the product's own loop do a shard; perhaps close the books of the run, whatever is left of it."""
        number = self.back(run)
        self.run_to_its_end(number, which)
        if closes:
            self.close(number)

    @rule(run=runs)
    def close_the_books(self, run: int) -> None:
        self.close(self.back(run))

    def run_to_its_end(self, run: int, which: int) -> None:
        live = self.claimed(run, which)
        if live is None:
            return
        handle = self.handles[live.shard.model.name]
        runner = ShardRunner(
            store=self.store,
            handle=handle,
            sink=self.stand.computing,
            clock=SystemClock(),
            batch_size=BATCH,
            calls_a_batch=1,
            fetch_threads=2,
            decode_threads=2,
            window=4,
            max_object_bytes=10_000,
            max_pixels=10_000,
        )
        stats = runner.run(live.shard)
        todo, elsewhere = self.model.left(live.attempt, live.attempt.shard.refs)
        self.model.record(live.attempt, 1, [self.model.classify(ref) for ref in todo], elsewhere=elsewhere)
        shard = self.model.finish_shard(live.attempt)
        assert (stats.images, stats.labelled, stats.dead, stats.gone, stats.done_elsewhere) == (
            len(shard.refs),
            shard.labelled,
            shard.dead,
            shard.gone,
            shard.elsewhere,
        )

    def close(self, run: int) -> None:
        summary = self.stand.sink.finish_run(self.run_ids[run])
        assert summary.state == self.model.finish_run(run)
        assert summary.state == "failed" or summary.unfinished == 0

    @precondition(lambda self: self.steps_today >= 6)
    @rule()
    def a_quiet_night(self) -> None:
        """Whatever happened before: one undisturbed run, and everything in the bucket has a label or a reason."""
        self.steps_today = 0
        night = {"prefix": "", "model": "production", "scope": "unlabelled", "max_images": None, "shard_size": 3}
        run = self.discover(self.new_run(), night)
        for number in range(len(self.model.runs[run].shards)):
            self.run_to_its_end(run, number)
        self.close(run)
        shown = [*self.shown("latest_prediction"), *self.shown("dead_letter_open")]
        assert sorted(shown) == sorted((key, version.etag) for key, version in self.model.bucket.items())
        again = self.discover(self.new_run(), night)
        assert self.model.runs[again].shards == []
        self.close(again)

    # What has to hold after every step

    def shown(self, view: str) -> list[Image]:
        return [Image(row["object_key"], row["etag"]) for row in self.stand.rows(f"SELECT * FROM nightlabel.{view}")]

    @invariant()
    def a_step_was_done(self) -> None:
        self.steps_today += 1

    @invariant()
    def the_ledger_is_the_models(self) -> None:
        numbers = {run_id: number for number, run_id in self.run_ids.items()}
        rows = self.stand.rows(
            "SELECT i.object_key, i.etag, m.name, o.label, o.error_code, o.attempts, o.run_id, o.is_copied, "
            "CASE WHEN o.retry_after IS NULL THEN 'never' "
            "WHEN o.retry_after > now() THEN 'later' ELSE 'now' END AS retry "
            "FROM nightlabel.outcome o LEFT JOIN nightlabel.image i USING (image_id) "
            "LEFT JOIN nightlabel.model m USING (model_id)"
        )
        found = {
            (Image(row["object_key"], row["etag"]), row["name"]): (
                row["label"], row["error_code"], row["attempts"], row["retry"], numbers[row["run_id"]],
                row["is_copied"],
            )
            for row in rows
        }  # fmt: skip
        assert len(found) == len(rows)
        assert found == {
            (image, model): (
                None if o.label is None else label(model, o.label), o.code, o.attempts, o.retry, o.run, o.is_copied,
            )
            for (image, model), o in self.model.ledger.items()
        }  # fmt: skip
        # What was labelled stays labelled, whatever the model thinks of it.
        labels = {of: row[0] for of, row in found.items() if row[0] is not None}
        assert self.labels.items() <= labels.items()
        self.labels = labels

    @invariant()
    def the_views_are_the_models(self) -> None:
        latest = {
            Image(row["object_key"], row["etag"]): (row["model_name"], row["label"])
            for row in self.stand.rows("SELECT * FROM nightlabel.latest_prediction")
        }
        assert latest == {
            image: (model, label(model, number)) for image, (model, number) in self.model.latest_prediction().items()
        }
        assert {
            Image(row["object_key"], row["etag"]): (
                row["model_name"], row["error_code"], row["attempts"], row["permanent"],
            )
            for row in self.stand.rows("SELECT * FROM nightlabel.dead_letter_open")
        } == self.model.dead_letter_open()  # fmt: skip

    @invariant()
    def the_books_are_the_models_and_balance(self) -> None:
        rows = {row["run_id"]: row for row in self.stand.rows("SELECT * FROM nightlabel.run_summary")}
        assert set(rows) == set(self.run_ids.values())
        for number, run_id in self.run_ids.items():
            expected = self.model.books(number)
            assert {name: rows[run_id][name] for name in expected} == expected
            parts = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
            assert rows[run_id]["discovered"] == sum(rows[run_id][part] for part in parts)
            assert min(rows[run_id][part] for part in parts) >= 0

    @invariant()
    def the_shards_are_the_models(self) -> None:
        found: dict[UUID, list[tuple[Any, ...]]] = {run_id: [] for run_id in self.run_ids.values()}
        void = dict.fromkeys(self.run_ids.values(), 0)
        for row in self.stand.rows(
            "SELECT s.*, s.plan_number = r.plan_number AS is_present FROM nightlabel.shard s "
            "JOIN nightlabel.run r USING (run_id) ORDER BY shard_number"
        ):
            if row["is_present"]:
                counts = (row[name] for name in ("images", "labelled", "copied", "dead", "gone", "done_elsewhere"))
                found[row["run_id"]].append((row["state"], row["attempt"], *counts))
            else:
                assert row["state"] == "superseded"
                void[row["run_id"]] += 1
        for number, run_id in self.run_ids.items():
            run = self.model.runs[number]
            assert void[run_id] == len(run.former)
            assert found[run_id] == [
                (s.state, s.newest, len(s.refs), s.labelled, s.copied, s.dead, s.gone, s.elsewhere) for s in run.shards
            ]


def seen(ref: ImageRef) -> Ref:
    """What the model calls a ref."""
    return Ref(Image(ref.key, ref.etag), ref.prior_attempts)


def must_raise(kind: type[Exception], action: Callable[[], object]) -> None:
    """Do what has to be refused; unlike ``pytest.raises`` it fails with an ``AssertionError``, as all else here."""
    try:
        action()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def agree(model: Callable[[], object], product: Callable[[], object]) -> None:
    """Do something by both sides; if one refuses it as stale, so must the other.

    Raises:
        StaleError: both did.
    """
    try:
        model()
    except StaleError:
        must_raise(StaleAttemptError, product)
        raise
    product()


def small_chunks(name: str) -> str:
    """The product's statements, but for the size of a chunk."""
    text = statement(name)
    return changed(text, "/ 1000", f"/ {CHUNK}") if name == "store_manifest" else text


def changed(text: str, old: str, new: str) -> str:
    assert old in text, f"no {old!r} to change in {text}"
    return text.replace(old, new)


@pytest.fixture
def stand(
    database: str, object_store_server: EmbeddedObjectStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stand]:
    settings = read_settings(database_url=database)
    migrate(settings)
    monkeypatch.setattr(postgres, "statement", small_chunks)
    with (
        PostgresSink(settings) as sink,
        PostgresSink(settings) as other,
        PostgresSink(settings.model_copy(update={"copy_labels": False})) as computing,
        psycopg.connect(database, autocommit=True, row_factory=dict_row, options="-c timezone=UTC") as connection,
    ):
        with sink.asking() as asking:
            for model in MODELS:
                registry.register(asking, manifest(ModelId(model, "1")))
        store = S3Store(
            endpoint_url=bucket.environment["AWS_ENDPOINT_URL_S3"],
            access_key_id=bucket.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=bucket.environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        made = Stand(bucket, store, sink, other, computing, connection)
        yield made
        made.empty_bucket()


def drive(stand: Stand, seed: int, *, examples: int, steps: int, **more: Any) -> None:
    """Run the state machine; an example that fails is made small and printed as a program."""

    @seeded(seed)
    def machine() -> LedgerStates:
        return LedgerStates(stand)

    run_state_machine_as_test(
        machine,
        settings=how(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            **more,
        ),
    )


def test_product_and_reference_model_agree_after_every_step(stand: Stand, seed: int, is_full: bool):
    examples, steps = (120, 50) if is_full else (15, 25)
    drive(stand, seed, examples=examples, steps=steps)


class Defect(NamedTuple):
    """A change of a statement that breaks a promise."""

    where: str
    old: str
    new: str


DEFECTS = {
    "an attempt that was taken over still records": Defect("record_batch", "AND attempt = %(attempt)s AND", "AND"),
    "a batch that is sent twice counts twice": Defect("record_batch", "AND batches = %(batch)s - 1", ""),
    "the last writer wins": Defect(
        "record_batch", "WHERE o.error_code IS NOT NULL AND o.attempts = excluded.attempts - 1", ""
    ),
    "a dead letter stays though it was tried again": Defect(
        "record_batch", "WHERE o.error_code IS NOT NULL AND o.attempts = excluded.attempts - 1", "WHERE false"
    ),
    "what others recorded first is not counted": Defect(
        "record_batch", "(SELECT count(*) FROM given) - count(*) AS done_elsewhere", "0 AS done_elsewhere"
    ),
    "an attempt that was taken over still closes the shard": Defect(
        "finish_shard", "AND attempt = %(attempt)s", "AND %(attempt)s > 0"
    ),
    "a claim does not count anew": Defect(
        "recount_shard",
        "SET labelled = total.labelled, copied = total.copied, dead = total.dead,\n"
        "        gone = 0, done_elsewhere = total.done_elsewhere",
        "SET copied = total.copied",
    ),
    "a claim forgets which labels were copied": Defect("recount_shard", "copied = total.copied", "copied = 0"),
    "a new plan forgets which labels its run copied": Defect(
        "count_carried", "count(*) FILTER (WHERE o.is_copied)", "0::bigint"
    ),
    "copied labels are counted as computed": Defect("record_batch", "s.copied + counted.copied", "s.copied"),
    "labels are copied from another model": Defect(
        "find_copies", "c.model_id = %(model_id)s", "(c.model_id = %(model_id)s OR true)"
    ),
    "what was gone is counted by each attempt": Defect("recount_shard", "gone = 0, ", ""),
    "a claim takes what others recorded for its own": Defect(
        "recount_shard", "o.run_id = %(run_id)s AND o.label IS NOT NULL", "o.label IS NOT NULL"
    ),
    "a new attempt goes on numbering its batches": Defect("claim_shard", "batches = 0,", ""),
    "a manifest pairs keys with others' ETags": Defect(
        "store_manifest", "array_agg(etag ORDER BY position)", "array_agg(etag ORDER BY position DESC)"
    ),
    "attempts of a former plan still record": Defect(
        "supersede_plan", "SET state = 'superseded', attempt = attempt + 1", "SET state = 'superseded'"
    ),
    "a new plan forgets what its run recorded": Defect("count_carried", "ON o.image_id", "ON false AND o.image_id"),
    "a promotion labels the whole bucket again": Defect(
        "find_pending", "o.model_id = ANY(%(settled_by)s)", "o.model_id = %(model_id)s"
    ),
    "an old listing overwrites what a newer one saw": Defect(
        "note_objects",
        "WHERE (c.noted_at IS NULL OR c.noted_at <= %(listed_at)s)\n"
        "    AND NOT EXISTS (SELECT FROM newer WHERE c.object_key ^@ newer.prefix)",
        "",
    ),
    "a run succeeds with images unfinished": Defect("finish_run", "j.unfinished > 0 AS", "false AS"),
    "a run succeeds whatever is dead": Defect("finish_run", "WHEN v.is_dead THEN", "WHEN false THEN"),
    "an older try of discovery takes a run over": Defect(
        "begin_run", "WHERE r.plan_attempt <= excluded.plan_attempt", ""
    ),
}


@pytest.mark.full
def test_the_state_machine_finds_planted_defects(
    stand: Stand, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each of many ways of breaking a promise is noticed; how soon is printed."""
    missed: list[str] = []
    for name in sorted(DEFECTS):
        defect, before = DEFECTS[name], stand.examples
        cause: BaseException | None = None
        try:
            monkeypatch.setattr(postgres, "statement", partial(planted, defect))
            drive(stand, seed, examples=EXAMPLES_TO_FIND, steps=40, phases=[Phase.generate])
        except (AssertionError, InferenceError) as error:
            cause = error.__cause__
        else:
            missed.append(name)
        finally:
            monkeypatch.setattr(postgres, "statement", small_chunks)
        assert not isinstance(cause, psycopg.errors.SyntaxErrorOrAccessRuleViolation), f"{name}: {cause}"
        with capsys.disabled():
            print(f"\n{name}: {stand.examples - before - 1} examples", end="")  # noqa: T201
    assert missed == []


def planted(defect: Defect, name: str) -> str:
    """The product's statements with a defect."""
    text = small_chunks(name)
    return changed(text, defect.old, defect.new) if name == defect.where else text
