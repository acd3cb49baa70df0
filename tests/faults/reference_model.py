"""The promises of the ledger as a program: what a bucket, its runs and the ledger are allowed to become.

This is the specification that ``test_ledger_states.py`` holds the product to, and it can be one for three reasons.

- It is small and plain: dicts and lists of one process, one step after the other. Nothing in it stores, locks, retries
  or knows SQL, so that whoever knows the design can read it through and agree with each line.
- It says *what* and not *how*. Where the product decides something by an anti-join, a fence in a statement or counts
  that are added up batch by batch, the model asks the question itself, of everything, anew: what of this listing is
  settled, may this attempt still write, what did this run record.
- It shares no code with the product. Time is a number of its own, identities are pairs, models are names.

Its rules, by the promise that they spell out:

1. An image is a key and the ETag under which it was read. The ledger holds at most one outcome for an image and a
   model. In every run ``discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished``.
2. Who recorded first stays, except that a dead letter gives way to the attempt that was planned to try it again. An
   attempt may write until a newer one claims its shard or a newer plan of its run takes over; a batch counts once.
3. What a run has to do follows from the bucket and the ledger alone. A key shows what the newest listing of it saw.
4. Nothing here ever writes to the bucket but the world.
5. A dead letter costs its image only; a run fails by its dead letters only by the ratio, or by what is unfinished.

What needs not be computed: an image with the ETag of another one that somebody has read, and that the run's model has
labelled. It gets that label when its chunk of the manifest is read, whether it can be read itself or not.

What is settled: an image with an outcome from a model of the production line (every model that ever held the alias),
or from the run's own; for the scope ``not_by_this_model`` only from the latter. A retryable dead letter settles its
image until its time has come, and for good at its last attempt. A run that tries dead letters again by hand looks at
those that ``dead_letter_open`` shows instead of at the bucket, and takes each of them, whatever its class, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

MAX_ATTEMPTS = 3
"""Attempts from which on a retryable dead letter is permanent."""

PERMANENCE = ("retryable", "permanent")
RETRYABLE = frozenset({"access_denied"})
"""Codes of dead letters that the following nights try again."""

EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"
"""ETag of an object without bytes."""

Content = int | str
"""What an object holds: which label a model sees in it, or the code with which it has to be refused."""


class Image(NamedTuple):
    """An image version."""

    key: str
    etag: str


class Version(NamedTuple):
    """What a key holds now."""

    etag: str
    content: Content
    modified: float
    """When it was stored, as the store says; seconds."""


class Ref(NamedTuple):
    """One line of a manifest."""

    image: Image
    prior: int
    """Attempts that the ledger held when the run was planned; above 0 for a dead letter to be tried again."""


class Result(NamedTuple):
    """What an attempt made of a ref: a label, a dead letter's code, or neither when the image version is gone."""

    ref: Ref
    label: int | None = None
    code: str | None = None
    is_copied: bool = False


@dataclass
class Outcome:
    """One line of the ledger."""

    label: int | None
    code: str | None
    attempts: int
    retry: Literal["never", "later", "now"]
    run: int
    is_copied: bool = False


class Listing(NamedTuple):
    """A complete listing: what was under a prefix when it was read."""

    began: int
    prefix: str
    shown: dict[str, Version]


@dataclass
class Shard:
    """A slice of a plan, and what became of it."""

    refs: tuple[Ref, ...]
    state: Literal["planned", "running", "done", "superseded"] = "planned"
    newest: int = 0
    """The newest attempt; only this one may write."""
    batches: int = 0
    labelled: int = 0
    copied: int = 0
    dead: int = 0
    gone: int = 0
    elsewhere: int = 0

    @property
    def unfinished(self) -> int:
        return len(self.refs) - self.labelled - self.dead - self.gone - self.elsewhere


@dataclass(frozen=True)
class Attempt:
    """One claim of a shard."""

    run: int
    model: str
    """The run's when it was claimed; a later plan of the run may pin another one."""
    shard: Shard
    number: int
    settled: frozenset[Image]
    """What had an outcome when it was claimed, and was counted then."""


@dataclass
class Run:
    """One run: its newest plan and the verdict."""

    model: str
    discovered: int
    already_done: int
    deferred: int
    shards: list[Shard]
    tried: int
    """Which try of discovery made the plan; an older one is refused."""
    carried_labelled: int = 0
    carried_copied: int = 0
    carried_dead: int = 0
    state: Literal["planned", "running", "succeeded", "failed"] = "planned"
    former: list[Shard] = field(default_factory=list)
    """Shards of superseded plans."""


class StaleError(Exception):
    """The attempt was taken over; nothing changed."""


class ReferenceModel:
    """The bucket, the ledger and all runs.

    Args:
        production: The first production model.
        max_dead_ratio: Share of dead letters from which on a run fails.
        min_images_for_ratio: The share is judged from so many classified images on.
    """

    def __init__(self, production: str, *, max_dead_ratio: float, min_images_for_ratio: int) -> None:
        self.max_dead_ratio, self.min_images_for_ratio = max_dead_ratio, min_images_for_ratio
        self.bucket: dict[str, Version] = {}
        self.denied: set[str] = set()
        """Keys that the store lists but lets nobody read."""
        self.ledger: dict[tuple[Image, str], Outcome] = {}
        self.runs: dict[int, Run] = {}
        self.line = [production]
        """The production line, best first: who holds the alias, then by when each last held it."""
        self.listings: dict[str, int] = {}
        """Per prefix: when its newest complete listing began."""
        self.seen: dict[str, Version | None] = {}
        """What the newest listing of each key showed; None for a key that vanished."""
        self.stored: dict[Image, float] = {}
        """When each image version was stored, as the first listing that showed it says."""
        self.read: set[Image] = set()
        """Image versions of which somebody has read and labelled the bytes."""
        self.now = 0

    # The world

    def promote(self, model: str) -> None:
        self.line = [model, *(other for other in self.line if other != model)]

    def let_time_pass(self) -> None:
        """Every retryable dead letter's time has come."""
        for outcome in self.ledger.values():
            if outcome.retry == "later":
                outcome.retry = "now"

    # Discovery

    def list_bucket(self, prefix: str) -> Listing:
        self.now += 1
        return Listing(self.now, prefix, {key: v for key, v in self.bucket.items() if key.startswith(prefix)})

    def plan(self, number: int, listing: Listing, *, scope: str, model: str, **limits: Any) -> Run:
        """Plan a run of what a listing shows.

        Raises:
            StaleError: a newer try of its discovery has planned it.
        """
        self._refuse_older(number, limits["tried"])
        self._note(listing)
        settling = [model] if scope == "not_by_this_model" else [model, *self.line]
        looked_at = {Image(key, version.etag): version.modified for key, version in listing.shown.items()}
        return self._cut(number, looked_at, settling, lambda o: o.retry != "now", model=model, **limits)

    def retry(
        self, number: int, prefix: str, codes: Sequence[str], permanent: str, *, model: str, **limits: Any
    ) -> Run:
        """Plan a run of open dead letters, and of what the run itself has made of them before."""
        self._refuse_older(number, limits["tried"])
        line = self.line if model in self.line else [model]
        looked_at = {
            image: self.stored[image]
            for (image, by), outcome in self.ledger.items()
            if by == model and outcome.run == number
        }
        for image, (_, dead) in self._open(line).items():
            is_chosen = (not codes or dead.code in codes) and permanent in {"any", PERMANENCE[dead.retry == "never"]}
            if image.key.startswith(prefix) and is_chosen and dead.run != number:
                looked_at[image] = max(self._modified(image), looked_at.get(image, 0))
        newest = {image.key: image for image in sorted(looked_at, key=lambda i: (-looked_at[i], i.etag), reverse=True)}
        looked_at = {image: looked_at[image] for image in newest.values()}
        return self._cut(
            number, looked_at, line, lambda o: o.label is not None or o.run == number, model=model, **limits
        )

    def _cut(
        self,
        number: int,
        looked_at: dict[Image, float],
        settling: Sequence[str],
        is_settled: Callable[[Outcome], bool],
        *,
        model: str,
        max_images: int | None,
        shard_size: int,
        tried: int,
    ) -> Run:
        """Cut what is left to do into shards. A former plan of the run is void, and what it recorded stays its own."""
        pending: list[tuple[bool, float, bytes, Ref]] = []
        own: list[Outcome] = []
        for image, modified in looked_at.items():
            mine = self.ledger.get((image, model))
            if not any(is_settled(self.ledger[image, by]) for by in settling if (image, by) in self.ledger):
                prior = mine.attempts if mine else 0
                pending.append((prior > 0, modified, image.key.encode(), Ref(image, prior)))
            elif mine and mine.run == number:
                own.append(mine)
        refs = [ref for *_, ref in sorted(pending)]  # first what is new, then by age
        planned = refs[:max_images]
        former = self.runs.get(number)
        void = [*former.former, *former.shards] if former else []
        for shard in void:
            shard.state = "superseded"
        self.runs[number] = Run(
            model=model,
            discovered=len(looked_at),
            already_done=len(looked_at) - len(refs) - len(own),
            deferred=len(refs) - len(planned),
            shards=[Shard(tuple(planned[at : at + shard_size])) for at in range(0, len(planned), shard_size)],
            tried=tried,
            carried_labelled=sum(outcome.label is not None for outcome in own),
            carried_copied=sum(outcome.is_copied for outcome in own),
            carried_dead=sum(outcome.label is None for outcome in own),
            former=void,
        )
        return self.runs[number]

    def _refuse_older(self, number: int, tried: int) -> None:
        if number in self.runs and self.runs[number].tried > tried:
            raise StaleError

    def _note(self, listing: Listing) -> None:
        """Take over what a listing shows of each key, unless a newer listing has looked at that key already."""
        under = {key for key in self.seen if key.startswith(listing.prefix)}
        for key in {*listing.shown, *under}:
            if not any(key.startswith(prefix) and began > listing.began for prefix, began in self.listings.items()):
                self.seen[key] = listing.shown.get(key)
        for key, version in listing.shown.items():
            self.stored.setdefault(Image(key, version.etag), version.modified)
        self.listings[listing.prefix] = max(listing.began, self.listings.get(listing.prefix, 0))

    # Attempts

    def settles(self, model: str, ref: Ref) -> Outcome | None:
        """Return the outcome by a model that leaves nothing to do for a ref, if there is one."""
        outcome = self.ledger.get((ref.image, model))
        return None if outcome and outcome.label is None and outcome.attempts == ref.prior else outcome

    def claim(self, run: int, shard_number: int) -> Attempt:
        """Begin an attempt: the shard is counted anew, and every older attempt is stale."""
        model, shard = self.runs[run].model, self.runs[run].shards[shard_number]
        self.runs[run].state = shard.state = "running"
        shard.newest += 1
        shard.batches = 0
        found = {ref.image: outcome for ref in shard.refs if (outcome := self.settles(model, ref))}
        mine = [outcome for outcome in found.values() if outcome.run == run]
        shard.labelled = sum(outcome.label is not None for outcome in mine)
        shard.copied = sum(outcome.is_copied for outcome in mine)
        shard.dead = len(mine) - shard.labelled
        shard.elsewhere = len(found) - len(mine)
        shard.gone = 0
        return Attempt(run, model, shard, shard.newest, frozenset(found))

    def left(self, attempt: Attempt, refs: tuple[Ref, ...]) -> tuple[tuple[Ref, ...], int]:
        """Return what of some refs of a shard is left to do, and how many were settled since the claim."""
        todo = tuple(ref for ref in refs if not self.settles(attempt.model, ref))
        return todo, len(refs) - len(todo) - sum(ref.image in attempt.settled for ref in refs)

    def known(self, attempt: Attempt, ref: Ref) -> int | None:
        """Return the label that the attempt's model gave to the same bytes under another key, if it did."""
        of_same = (self.ledger.get((image, attempt.model)) for image in self.read if image.etag == ref.image.etag)
        return next((outcome.label for outcome in of_same if outcome and outcome.label is not None), None)

    def classify(self, ref: Ref) -> Result:
        """Return what reading and classifying a ref comes to at this moment."""
        version = self.bucket.get(ref.image.key)
        if ref.image.etag == EMPTY_ETAG:
            return Result(ref, code="empty_object")  # the listing said so; nobody reads it
        if ref.image.key in self.denied:
            return Result(ref, code="access_denied")
        if version is None or version.etag != ref.image.etag:
            return Result(ref)
        if isinstance(version.content, int):
            return Result(ref, label=version.content)
        return Result(ref, code=version.content)

    def record(self, attempt: Attempt, batch: int, results: list[Result], *, elsewhere: int = 0) -> None:
        """Record a batch, once however often it is sent.

        Raises:
            StaleError: the attempt was taken over.
        """
        shard = self._held(attempt)
        if batch <= shard.batches:
            return
        assert batch == shard.batches + 1
        shard.batches = batch
        shard.elsewhere += elsewhere
        for ref, label, code, is_copied in results:
            if label is None and code is None:
                shard.gone += 1
            elif self.settles(attempt.model, ref):
                shard.elsewhere += 1
            else:
                attempts = ref.prior + 1
                is_retried = code in RETRYABLE and attempts < MAX_ATTEMPTS
                retry: Literal["never", "later"] = "later" if is_retried else "never"
                self.ledger[ref.image, attempt.model] = Outcome(label, code, attempts, retry, attempt.run, is_copied)
                shard.labelled += label is not None
                shard.copied += is_copied
                if label is not None and not is_copied:
                    self.read.add(ref.image)
                shard.dead += label is None

    def finish_shard(self, attempt: Attempt) -> Shard:
        """Close a shard.

        Raises:
            StaleError: the attempt was taken over.
        """
        shard = self._held(attempt)
        shard.state = "done"
        return shard

    def _held(self, attempt: Attempt) -> Shard:
        if attempt.shard.state == "superseded" or attempt.number != attempt.shard.newest:
            raise StaleError
        return attempt.shard

    def finish_run(self, number: int) -> str:
        run = self.runs[number]
        dead, labelled = run.carried_dead, run.carried_labelled
        judged = [(shard.dead, shard.labelled) for shard in run.shards]
        judged.append((dead + sum(shard.dead for shard in run.shards), labelled + sum(s.labelled for s in run.shards)))
        too_many = any(
            dead + labelled >= max(self.min_images_for_ratio, 1) and dead > self.max_dead_ratio * (dead + labelled)
            for dead, labelled in judged
        )
        run.state = "failed" if too_many or any(shard.unfinished for shard in run.shards) else "succeeded"
        return run.state

    # What is asked

    def books(self, number: int) -> dict[str, int | str]:
        """Return a run's line of run_summary."""
        run = self.runs[number]
        return {
            "state": run.state,
            "model_name": run.model,
            "discovered": run.discovered,
            "already_done": run.already_done,
            "deferred": run.deferred,
            "labelled": run.carried_labelled + sum(shard.labelled for shard in run.shards),
            "copied": run.carried_copied + sum(shard.copied for shard in run.shards),
            "dead": run.carried_dead + sum(shard.dead for shard in run.shards),
            "gone": sum(shard.gone for shard in run.shards),
            "done_elsewhere": sum(shard.elsewhere for shard in run.shards),
            "unfinished": sum(shard.unfinished for shard in run.shards),
        }

    def latest_prediction(self) -> dict[Image, tuple[str, int]]:
        """Return model and label of every image that listings show: by the best model of the line that has one."""
        found = {image: self._by(image, self.line) for image in self._shown()}
        labels = {
            image: [(by, o.label) for by, o in by_model if o.label is not None] for image, by_model in found.items()
        }
        return {image: line[0] for image, line in labels.items() if line}

    def dead_letter_open(self) -> dict[Image, tuple[str, str, int, bool]]:
        """Return model, code, attempts and whether it is permanent, of shown images that no model labels."""
        return {
            image: (model, dead.code or "", dead.attempts, dead.retry == "never")
            for image, (model, dead) in self._open(self.line).items()
        }

    def _shown(self) -> list[Image]:
        return [Image(key, version.etag) for key, version in self.seen.items() if version]

    def _modified(self, image: Image) -> float:
        version = self.seen[image.key]
        return version.modified if version else 0

    def _by(self, image: Image, models: Sequence[str]) -> list[tuple[str, Outcome]]:
        return [(by, self.ledger[image, by]) for by in models if (image, by) in self.ledger]

    def _open(self, models: Sequence[str]) -> dict[Image, tuple[str, Outcome]]:
        """Return the best model's dead letter of each shown image that none of the models labels."""
        found = {image: self._by(image, models) for image in self._shown()}
        return {
            image: outcomes[0]
            for image, outcomes in found.items()
            if outcomes and all(outcome.label is None for _, outcome in outcomes)
        }
