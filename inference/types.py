"""The words of the product as values: what stages hand to each other. Pure, standard library only."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pixels: TypeAlias = "NDArray[np.uint8]"
"""One decoded image, shape (height, width, 3), RGB, 0 to 255."""

PixelBatch: TypeAlias = "NDArray[np.uint8]"
"""Decoded images of one batch, shape (batch, height, width, 3), RGB, 0 to 255."""

Scores: TypeAlias = "NDArray[np.float32]"
"""Class probabilities, shape (batch, n_labels); each row sums to 1."""

Device: TypeAlias = Literal["cpu", "gpu"]
ResizeFilter: TypeAlias = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Scope: TypeAlias = Literal["unlabelled", "not_by_this_model"]


class Stage(StrEnum):
    """Where in the pipeline something happened; the value goes to the ledger."""

    LIST = "list"
    PLAN = "plan"
    FETCH = "fetch"
    DECODE = "decode"
    BATCH = "batch"
    PREDICT = "predict"
    WRITE = "write"


def clean_etag(etag: str) -> str:
    """Return an ETag without its weak mark and quotes, as the ledger identifies it."""
    return etag.removeprefix("W/").strip('"')


FORGOTTEN_ETAG: Final = "(forgotten)"
"""ETag of the refs that migration 0008 puts into a manifest in place of forgotten ones; no object has one like it.

Nothing is under such a ref's key, and whether a store says so or refuses to say depends on the rights of who asks: so
that none is asked."""


_MD5 = re.compile(r"[0-9a-f]{32}")


def may_be_md5(etag: str) -> bool:
    """Return whether an ETag, without quotes, has the form of an MD5: of an object that came whole and in the clear."""
    return _MD5.fullmatch(etag) is not None


_ESCAPES: Final = 0x10F700
"""The character that stands for byte 0; the 255 behind it stand for the others. They are of a private use area, so that
no ordinary key holds one, and show their byte: U+10F7E9 is 0xE9."""

_TO_ESCAPE: Final = re.compile(f"[\x00\udc80-\udcff{chr(_ESCAPES)}-{chr(_ESCAPES + 255)}]")
_ESCAPED: Final = re.compile(f"[{chr(_ESCAPES)}-{chr(_ESCAPES + 255)}]+")


def stored_key(key: str) -> str:
    """Return a key as the ledger stores it: as it is, unless Postgres has no text for it.

    NUL, and bytes that are not UTF-8 (which Python holds as lone surrogates), become characters that stand for them; so
    do the bytes of such a character itself, so that no two keys are stored alike. What begins with a prefix is stored
    as what begins with the stored prefix.

    Args:
        key: An object's key, or a beginning of one.

    Raises:
        UnicodeEncodeError: the key cannot be: a surrogate in it stands for no byte.
    """
    if _TO_ESCAPE.search(key) is None:
        key.encode()
        return key
    escaped = _TO_ESCAPE.sub(
        lambda found: "".join(chr(_ESCAPES + byte) for byte in found[0].encode("utf-8", "surrogateescape")), key
    )
    escaped.encode()
    return escaped


def key_of(stored: str) -> str:
    """Return the key that ``stored_key`` made something to store of."""
    return _ESCAPED.sub(
        lambda found: bytes(ord(character) - _ESCAPES for character in found[0]).decode("utf-8", "surrogateescape"),
        stored,
    )


def image_id(bucket: str, key: str, etag: str) -> UUID:
    """Return the identity of an image version: the first 16 bytes of SHA-256 over bucket, key and ETag.

    Args:
        bucket: Name of the bucket.
        key: The object's key.
        etag: Its ETag; quotes and the weak mark are dropped.
    """
    text = b"\x00".join(part.encode("utf-8", "surrogateescape") for part in (bucket, key, clean_etag(etag)))
    return UUID(bytes=hashlib.sha256(text).digest()[:16])


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object as a listing shows it."""

    bucket: str
    key: str
    etag: str
    """Without quotes and weak mark."""
    size_bytes: int
    last_modified: datetime
    """Aware, UTC."""
    seen_at: datetime | None = None
    """Aware; when the key is known to have held this, where that is not when the listing began."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Enough to fetch one image version and to record its outcome."""

    bucket: str
    key: str
    etag: str
    """Without quotes and weak mark."""
    size_bytes: int
    prior_attempts: int = 0
    """Attempts that the ledger held when the run was planned; above 0 for a dead letter that is tried again."""

    @property
    def image_id(self) -> UUID:
        """The identity of this image version."""
        return image_id(self.bucket, self.key, self.etag)


@dataclass(frozen=True, slots=True)
class ModelId:
    """Name and version of a model, exact enough to reproduce."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its name and its stable id. Names may repeat within a label map, ids may not."""

    name: str
    label_id: str


LabelMap: TypeAlias = tuple[Label, ...]
"""The label of each output column, in column order."""


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """A label with its probability, 0 to 1."""

    label: Label
    score: float


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels become the input that a model was trained on; part of the model's manifest."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    crop_fraction: float
    """Side of the centre crop, as a fraction of the shorter side of the image, in whole pixels; 0 to 1."""
    resize_filter: ResizeFilter


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that hosts share, as a listing shows it."""

    name: str
    """Relative, with ``/``."""
    size_bytes: int
    last_modified: datetime
    """In UTC, by the clock of who keeps it."""


@dataclass(frozen=True, slots=True)
class ObjectContent:
    """What a store gave for one image ref."""

    data: bytes
    """The object, whole."""
    is_etag_md5: bool
    """Whether the ETag was seen to be the MD5 of these bytes: then equal ETags and sizes mean equal bytes."""


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """What is kept of an image version's bytes."""

    sha256: bytes
    """32 bytes."""
    is_etag_md5: bool = False
    """As of ``ObjectContent``."""


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """The bytes of one image version."""

    ref: ImageRef
    data: bytes
    content: ContentDigest


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The pixels of one image version."""

    ref: ImageRef
    pixels: Pixels
    content: ContentDigest


@dataclass(frozen=True, slots=True)
class Prediction:
    """An outcome with a label."""

    ref: ImageRef
    top: tuple[ScoredLabel, ...]
    """Best first, at least one."""
    content: ContentDigest

    @property
    def label(self) -> Label:
        """The best label."""
        return self.top[0].label

    @property
    def score(self) -> float:
        """Probability of the best label, 0 to 1."""
        return self.top[0].score

    @property
    def top_labels(self) -> tuple[str, ...]:
        """Names, best first."""
        return tuple(scored.label.name for scored in self.top)

    @property
    def top_scores(self) -> tuple[float, ...]:
        """Their probabilities."""
        return tuple(scored.score for scored in self.top)


@dataclass(frozen=True, slots=True)
class CopiedPrediction:
    """A prediction that was not computed: the one that the same model made of the same bytes under another key."""

    ref: ImageRef
    label: Label
    score: float
    """Probability of the best label, 0 to 1."""
    top_labels: tuple[str, ...]
    """Names, best first."""
    top_scores: tuple[float, ...]
    engine: str
    """What executed the model when it was computed."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An outcome with an error: where, a stable code and a sentence."""

    ref: ImageRef
    stage: Stage
    error_code: str
    message: str
    is_retryable: bool
    content: ContentDigest | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """An image version that was deleted, overwritten or forgotten between listing and reading; not an outcome."""

    ref: ImageRef


@dataclass(frozen=True, slots=True)
class DoneElsewhere:
    """Images that another run settled since the shard was claimed; nothing is left to do for them."""

    images: int


Classified: TypeAlias = Prediction | DeadLetter
"""What becomes of bytes."""
Outcome: TypeAlias = Classified | CopiedPrediction
Prepared: TypeAlias = DecodedImage | CopiedPrediction | DeadLetter | Gone | DoneElsewhere
"""What becomes of refs before the model is asked."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One attempt at a fixed slice of a run's manifest, as the ledger granted it."""

    run_id: UUID
    plan_number: int
    shard_number: int
    attempt: int
    """Fencing token: the ledger refuses writes of every attempt but the newest."""
    model: ModelId
    """The model that the run pinned when it was planned."""
    model_key: int
    """The model's number in the ledger."""
    device: Device
    images: int
    """Refs in the whole shard, those with an outcome included."""
    settled: tuple[int, ...] = ()
    """Per chunk of the manifest: refs that had an outcome when the shard was claimed, and are counted."""
    suspects: int = 0
    """The first so many refs without outcome are decoded apart: the last attempt ended while it was busy with them."""
    is_isolated: bool = False
    """Whether every image is decoded apart, since one of the shard killed its decoder."""


@dataclass(frozen=True, slots=True)
class ManifestChunk:
    """What is left to do of one chunk of a shard's manifest."""

    refs: tuple[ImageRef, ...]
    """In manifest order."""
    done_elsewhere: int
    """Refs that another run settled since the shard was claimed; not counted yet."""
    copies: tuple[CopiedPrediction, ...] = ()
    """What needs not be computed; these refs are not among ``refs``."""


@dataclass(slots=True)
class StageSeconds:
    """Seconds that each stage of a shard was busy, added over its threads."""

    fetch_s: float = 0.0
    decode_s: float = 0.0
    predict_s: float = 0.0
    write_s: float = 0.0


@dataclass(slots=True)
class ShardStats:
    """What became of a shard's images."""

    images: int = 0
    labelled: int = 0
    copied: int = 0
    dead: int = 0
    gone: int = 0
    done_elsewhere: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def unfinished(self) -> int:
        """Images that no attempt brought to an end."""
        return self.images - self.labelled - self.dead - self.gone - self.done_elsewhere


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which open dead letters a run tries again; each part narrows the choice."""

    codes: tuple[str, ...] = ()
    """Error codes; none for every code."""
    failed_after: datetime | None = None
    """Aware; recorded at this time or later."""
    failed_before: datetime | None = None
    """Aware; recorded before this time."""
    permanent: Literal["any", "permanent", "retryable"] = "any"


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """Which existing objects a run labels again, by a label that another model than the run's gave them.

    That label is the one by ``labelled_by``; without it the one that ``latest_prediction`` would show if the run's own
    model had recorded nothing, so that the choice is the same before, during and after the run. Each other part
    narrows the choice.
    """

    label: str | None = None
    """Its name; names may repeat."""
    label_id: str | None = None
    """Its id."""
    since: datetime | None = None
    """Aware; recorded at this time or later."""
    until: datetime | None = None
    """Aware; recorded before this time."""
    labelled_by: str | None = None
    """NAME@VERSION, or an alias, which is resolved when the run is planned."""
    dead_letters_too: bool = False
    """Whether objects are chosen as well for which that model has a dead letter instead of a label."""


@dataclass(frozen=True, slots=True)
class ShadowSample:
    """Which images of a run another model looks at as well, for comparison only."""

    run_id: UUID
    """The run whose labels are compared with."""
    share: float
    """Of the images that it labelled, 0 to 1. Whether an image is among them hangs on the image alone."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked to do."""

    bucket: str
    prefix: str = ""
    model: str = "production"
    """A model alias, or NAME@VERSION."""
    scope: Scope = "unlabelled"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    allow_cpu_fallback: bool = False
    max_images: int | None = None
    """Most images to classify; the rest is deferred. None for no bound."""
    shard_size: int | None = None
    """Images a shard; None lets planning choose."""
    max_dead_ratio: float = 0.5
    """Share of classified images that may be dead letters, 0 to 1."""
    min_images_for_ratio: int = 20
    """The ratio is judged from this many classified images on."""
    dry_run: bool = False
    dead_letters: DeadLetterFilter | None = None
    """With a filter the run lists no bucket: it tries the open dead letters that match again."""
    manifest: str | None = None
    """With the address of a manifest the run lists no bucket: it takes the objects that the manifest names."""
    inventory: str | None = None
    """With the address of an S3 Inventory report's ``manifest.json`` the run takes the objects that it shows."""
    labelled: LabelFilter | None = None
    """With a filter the run lists no bucket: it labels existing objects that match again, unless its model has."""
    shadow: ShadowSample | None = None
    """With a sample the run lists no bucket: it takes images that another run labelled, and names that run."""
    images_per_second: float | None = None
    """Most images that all workers of the run together begin in a second; None for no bound."""
    longest_shard_s: float | None = None
    """Seconds that a shard may take at ``images_per_second`` alone; smaller ones are cut. None where no time-out is."""
    time_budget_s: float | None = None
    """Seconds after which no shard goes on; images for which the time is not likely to do are deferred."""
    dag_id: str = "cli"
    airflow_run_id: str | None = None
    plan_attempt: int = 0
    """Fencing token of discovery: a plan of an older try than the one that planned the run last is refused."""

    @property
    def is_by_ledger(self) -> bool:
        """Whether the results database names the run's images, so that nothing is listed or read to find them."""
        return self.dead_letters is not None or self.labelled is not None or self.shadow is not None

    @property
    def is_by_listing(self) -> bool:
        """Whether the bucket is listed, so that a key under the prefix that does not come is known to be gone."""
        return not self.is_by_ledger and self.manifest is None and self.inventory is None

    @property
    def is_estimated(self) -> bool:
        """Whether the plan says how long the run is going to take."""
        return self.labelled is not None or self.shadow is not None or self.images_per_second is not None


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast runs on the same device were of late."""

    images_per_second: float
    """Computed images a second, above 0."""
    is_of_model: bool
    """Whether they were runs of the very model, or of others."""


@dataclass(frozen=True, slots=True)
class Turns:
    """When the images may begin that a worker has asked for."""

    wait_s: float
    """Seconds until the first may; below 0 where it might have begun earlier."""
    images_per_second: float
    """The others follow one another at this rate."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """Which model to register, as which version, and how it wants its images. What is not given is never guessed."""

    source: str
    """A TensorFlow Hub or Kaggle handle, a path or an address ``s3://bucket/key``: a SavedModel's folder or archive, a
    ``.keras`` file or a ``.tflite`` file."""
    name: str
    version: str
    labels: str | None = None
    """``imagenet``, or the path or address of a file: CSV with label id and name, or a name on each line."""
    family: str | None = None
    """One of ``inference.models.families``; says of the fields below what is not given."""
    input_size: tuple[int, int] | None = None
    """(height, width) in pixels; None to take what the model's signature says."""
    crop_fraction: float | None = None
    """As of ``Preprocessing``."""
    resize_filter: ResizeFilter | None = None
    input_scale: tuple[float, float] | None = None
    """(mean, scale): a pixel, 0 to 255, enters the model as ``(pixel - mean) / scale``."""
    output: Literal["logits", "probabilities"] | None = None
    background_columns: int | None = None
    """Leading output columns without a label."""
    licence: str = "not stated"
    sha256: str | None = None
    """What the source's SHA-256 has to be, in hex; of a folder as ``sha256sum`` of its files, sorted, hashes."""
    int8: bool = False
    """Quantise: a version with 8-bit weights and activations, for LiteRT alone."""
    calibration: str | None = None
    """Folder or ``s3://bucket/prefix`` of photos to measure activations on; None for those of the installed wheels."""
    golden_photos: str | None = None
    """Folder or ``s3://bucket/prefix`` of photos on which conversion and original have to agree as well."""

    @property
    def model_id(self) -> ModelId:
        """The version that is to be registered."""
        return ModelId(self.name, self.version)


@dataclass(frozen=True, slots=True)
class RunRules:
    """What a run's parameters say about its shards."""

    max_dead_ratio: float
    min_images_for_ratio: int
    allow_cpu_fallback: bool
    images_per_second: float | None = None
    """The rate that all of its shards share; None for no bound."""
    seconds_left: float | None = None
    """Until its time is up, below 0 when it is; None for no bound."""

    def allows(self, stats: ShardStats) -> bool:
        """Return whether a shard has few enough dead letters."""
        classified = stats.labelled + stats.dead
        return classified < max(self.min_images_for_ratio, 1) or stats.dead <= self.max_dead_ratio * classified


@dataclass(frozen=True, slots=True)
class Plan:
    """What discovery decided for a run. With a dry run nothing of it is kept and ``shards`` is empty."""

    run_id: UUID
    plan_number: int
    model: ModelId
    device: Device
    discovered: int
    already_done: int
    deferred: int
    to_classify: int
    to_classify_bytes: int
    shards: tuple[int, ...]
    """Shard numbers, from 0."""
    list_s: float
    images_per_second: float | None = None
    """The rate that the run keeps to; None for no bound."""
    speed: Speed | None = None
    """How fast it is likely to be without that; None if nobody knows, or nobody has asked."""

    @property
    def expected_s(self) -> float | None:
        """Seconds that the images to classify are likely to take; None if nobody knows."""
        if self.to_classify == 0:
            return 0.0
        if self.speed is None:
            return None
        return self.to_classify / min(self.speed.images_per_second, self.images_per_second or math.inf)

    @property
    def least_s(self) -> float:
        """Seconds that the images to classify take at least, by the rate that the run keeps to; 0 without one."""
        return 0.0 if self.images_per_second is None else self.to_classify / self.images_per_second


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The row of ``run_summary`` of one run."""

    run_id: UUID
    dag_id: str
    airflow_run_id: str | None
    state: Literal["planned", "running", "succeeded", "failed"]
    started_at: datetime
    finished_at: datetime | None
    model_name: str
    model_version: str
    discovered: int
    already_done: int
    deferred: int
    labelled: int
    copied: int
    dead: int
    gone: int
    done_elsewhere: int
    unfinished: int
    images_per_second: float | None
    list_s: float
    fetch_s: float
    decode_s: float
    predict_s: float
    write_s: float
    max_images_per_second: float | None = None
    """The rate that the run keeps to; None without a bound."""
    expected_s: float | None = None
    """Seconds that its images were likely to take when it was planned; None if nobody knew, or asked."""
    shadow_of: UUID | None = None
    """The run whose images a shadow run looks at; None for every other run."""

    @property
    def is_balanced(self) -> bool:
        """Whether every discovered image is accounted for exactly once."""
        accounted = (
            self.already_done
            + self.deferred
            + self.labelled
            + self.dead
            + self.gone
            + self.done_elsewhere
            + self.unfinished
        )
        return self.discovered == accounted


@dataclass(frozen=True, slots=True)
class MaintenanceRequest:
    """What of the results database is no longer needed. By default only what nobody can miss."""

    keep_manifest_days: int | None = None
    """Manifests of runs that ended earlier go; None for the setting."""
    keep_run_days: int | None = None
    """The shards of runs that ended earlier become one row a plan; None for the setting."""
    keep_outcome_days: int | None = None
    """Outcomes of versions that no object holds any more go when they are older, and so do objects that are gone for
    longer; None for the setting, and without that they are kept."""
    drop_models: tuple[str, ...] = ()
    """Superseded model versions, ``NAME@VERSION`` each, all of whose outcomes go."""
    time_budget_minutes: int = 60
    """No step begins another batch after that; the next maintenance goes on there."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class MaintenanceStep:
    """What one step of maintenance did, or would do."""

    name: str
    rows: int
    is_complete: bool
    """Whether it got to its end within the time."""
    seconds: float


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What maintenance did, in the order in which it did it; with a dry run nothing of it was done."""

    steps: tuple[MaintenanceStep, ...]
    dry_run: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left for the next one."""
        return all(step.is_complete for step in self.steps)


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Which objects to forget."""

    bucket: str
    prefix: str
    """Beginning of the keys; any string, not a folder. Empty for the whole bucket."""
    reason: str = ""
    """For the record; it is kept."""


@dataclass(frozen=True, slots=True)
class Forgettable:
    """How many rows of each kind there are to forget, or were forgotten."""

    images: int = 0
    objects: int = 0
    outcomes: int = 0
    manifest_refs: int = 0
    listings: int = 0
    runs: int = 0
    examples: tuple[str, ...] = ()
    """Some of the keys, in their order; none of what is forgotten."""

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing at all."""
        return not any((self.images, self.objects, self.outcomes, self.manifest_refs, self.listings, self.runs))


QualityAction: TypeAlias = Literal["off", "warn", "fail"]
"""What labels that have moved do: nothing is looked at, it is said, or it fails the run's report."""


@dataclass(frozen=True, slots=True)
class QualityRules:
    """When a run's labels have moved. Each threshold is what is too little to care for, however sure it is."""

    action: QualityAction = "warn"
    min_images: int = 300
    """Labels that the run, and the nights before together, must have to be judged."""
    js: float = 0.1
    """Jensen-Shannon distance of the label mixes, 0 to 1."""
    psi: float = 0.1
    """Population stability index of the label mixes, 0 and more."""
    moved_share: float = 0.03
    """Share of images with labels beyond what an ordinary night has of them, 0 to 1."""
    low_score_rise: float = 0.03
    """Rise of the share of low scores, 0 to 1."""
    score_drop: float = 0.03
    """Fall of the mean score, 0 to 1."""
    dead_rise: float = 0.03
    """Rise of the share of dead letters, 0 to 1."""


QUALITY_THRESHOLDS: Final = ("js", "psi", "moved_share", "low_score_rise", "score_drop", "dead_rise")
"""The thresholds of ``QualityRules``."""


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """The label that a person gives to what an object holds now."""

    bucket: str
    key: str
    """As the views show it."""
    label: str
    """Name or id of a label of the model that labelled it."""
    reviewer: str
    note: str = ""
    etag: str | None = None
    """The version that was looked at; None for whichever is there."""
    golden_set: str = "review"
    """The golden set that the label goes to; what a set has from a CSV file is never overwritten."""


@dataclass(frozen=True, slots=True)
class QueuedImage:
    """A row of ``review_queue``."""

    bucket: str
    object_key: str
    etag: str
    label: str
    label_id: str
    score: float
    top_labels: list[str]
    top_scores: list[float]
    model_name: str
    model_version: str
    run_id: UUID
    predicted_at: datetime
