"""plan: how a backlog becomes shards. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Final, Literal

from inference.errors import SettingsError, dead_letter_codes
from inference.types import DeadLetterFilter, Device, ForgetRequest, LabelFilter, ModelId, Plan, RunRequest, Speed

MAX_SHARDS: Final = 200
"""Mapped tasks of a run: the scheduler and the UI suffer from more long before Airflow's own limit of 1,024."""

MIN_SHARD_IMAGES: Final = 3_000
"""Starting a task and loading the model takes about 1.5 s; at 100 images/s that is 5 % of the time of so many."""

MAX_SHARD_IMAGES: Final = 180_000
"""Half of a task's two hours at 50 images/s, a third of what two cores do."""


IMAGES_AT_UNKNOWN_SPEED: Final = 1_000
"""Most images of a run with a time budget where nobody knows how fast its model is."""

SHARE_OF_BUDGET: Final = 0.8
"""Of a time budget, for work: the rest is for starting, and for a machine that is slower than of late."""

LEAST_RATE: Final = 0.01
"""Images a second; slower than that, a run gives no sign of life for longer than its like are waited for."""

MOST_RATE: Final = 100_000.0

DECODER_REVISION: Final = 2
"""Raise it with every change of ``inference.decoding`` that lets an image through which was refused before."""

MAX_NUMBER: Final = 2**31 - 1
"""Largest number that a run may ask for; the ledger's integers end there."""


@cache
def decoder_version() -> str:
    """Return what decodes images here: a dead letter of the decode stage is tried again when it changes."""
    return f"pillow {version('pillow')}, revision {DECODER_REVISION}"


def is_storable(text: str) -> bool:
    """Return whether Postgres can store a text: UTF-8 without NUL."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def shard_size(backlog: int, *, wanted: int | None = None, largest: int = MAX_SHARD_IMAGES) -> int:
    """Return how many images a shard holds, at least 1.

    Args:
        backlog: Images to classify.
        wanted: The size that the run asks for, if any; grows when it would give more than ``MAX_SHARDS``.
        largest: Images that no shard may exceed, as of ``largest_shard``.
    """
    least = math.ceil(backlog / MAX_SHARDS)
    size = wanted if wanted is not None else MIN_SHARD_IMAGES
    return max(1, min(max(size, least), largest))


def largest_shard(request: RunRequest) -> int:
    """Return the most images that a shard of a run may hold, at least 1, so that its task ends before its time-out.

    At a slow rate it is the rate that says how many these are, and otherwise what a slow machine can do.
    """
    if request.images_per_second is None or request.longest_shard_s is None:
        return MAX_SHARD_IMAGES
    return max(1, min(MAX_SHARD_IMAGES, math.floor(request.images_per_second * request.longest_shard_s)))


def images_within(time_budget_s: float | None, speed: Speed | None) -> int | None:
    """Return how many images a time is likely to do for; None for no bound.

    Args:
        time_budget_s: Seconds from the start of the run.
        speed: How fast runs were of late. Where nobody knows how fast this model is, the run is kept small and finds it
            out: what other models did is no more than another bound.
    """
    if time_budget_s is None:
        return None
    if speed is None:
        return IMAGES_AT_UNKNOWN_SPEED
    likely = max(1, math.floor(speed.images_per_second * time_budget_s * SHARE_OF_BUDGET))
    return likely if speed.is_of_model else min(likely, IMAGES_AT_UNKNOWN_SPEED)


def images_to_plan(
    pending: int, *, max_images: int | None, largest_shard: int = MAX_SHARD_IMAGES, budget: int | None = None
) -> int:
    """Return how many of the pending images a run takes; the rest is deferred.

    Args:
        pending: Images that have to be classified.
        max_images: What the run asks for; None for no bound.
        largest_shard: Images that no shard may exceed, as of ``largest_shard``.
        budget: Images that its time is likely to do for, as of ``images_within``.
    """
    limit = MAX_SHARDS * largest_shard
    return min(bound for bound in (pending, max_images, budget, limit) if bound is not None)


def duration_text(plan: Plan) -> str:
    """Return how long a plan's images are likely to take, and how that is known, as the end of ``it takes …``."""
    rate = plan.images_per_second
    if plan.to_classify == 0:
        return "no time, since there is nothing to classify"
    if plan.speed is None:
        least = "" if rate is None else f", at least {_span(plan.least_s)} at the {rate:g} images/s that it keeps to"
        return f"an unknown time: no run on {plan.device} has ended here in the last 30 days{least}"
    seen = plan.speed.images_per_second
    whose = "of this model" if plan.speed.is_of_model else "of other models, as there were none of this one,"
    expected = _span(plan.expected_s or 0.0)
    if rate is not None and rate <= seen:
        return f"about {expected} at the {rate:g} images/s that it keeps to; runs {whose} did {seen:.3g} of late"
    return f"about {expected} at the {seen:.3g} images/s that runs {whose} did of late"


def _span(seconds: float) -> str:
    """Return a length of time in its two largest units, as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def choose_device(request: RunRequest) -> Device:
    """Return where the run's shards go: to the GPU queue only when that was demanded."""
    return "gpu" if request.device == "gpu" else "cpu"


def engine_of(device: Device) -> Literal["litert", "tensorflow"]:
    """Return the engine that executes models on a device."""
    return "tensorflow" if device == "gpu" else "litert"


def parse_model(model: str) -> ModelId | str:
    """Return the model version that ``NAME@VERSION`` names, or the alias as it is.

    Raises:
        SettingsError: neither an alias nor NAME@VERSION.
    """
    name, at, version = model.partition("@")
    if not at and name:
        return name
    if name and version:
        return ModelId(name, version)
    raise SettingsError(f"the model is {model!r}; give an alias such as production, or NAME@VERSION")


def parse_address(name: str, address: str) -> tuple[str, str] | None:
    """Return bucket and key of an address ``s3://bucket/key``; None for a path on this machine's disk.

    Args:
        name: Whose value it is, for the message.
        address: What was given.

    Raises:
        SettingsError: it is neither.
    """
    scheme, mark, rest = address.partition("://")
    if not mark and address:
        return None
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise SettingsError(f"{name} is {address!r}; give an object as s3://bucket/key, or the path of a file")
    return bucket, key


def parse_time(name: str, text: str) -> datetime:
    """Return a moment that somebody wrote down; without an offset it is UTC.

    Args:
        name: Whose value it is, for the message.
        text: A date or a time in ISO 8601.

    Raises:
        SettingsError: it is no such thing.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{name} is {text!r}; give a date or time such as 2026-11-24 or 2026-11-24T02:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def check_request(request: RunRequest) -> None:
    """Refuse a run that cannot mean anything.

    Raises:
        SettingsError: names the parameter, what it is and what it may be.
    """
    if not request.bucket:
        raise SettingsError("no bucket is given; name one with --bucket or in the run's parameters")
    if request.scope not in {"unlabelled", "not_by_this_model"}:
        raise SettingsError(f"scope is {request.scope!r}; it is unlabelled or not_by_this_model")
    if request.device not in {"auto", "cpu", "gpu"}:
        raise SettingsError(f"device is {request.device!r}; it is auto, cpu or gpu")
    if not 0 <= request.max_dead_ratio <= 1:
        raise SettingsError(f"max_dead_ratio is {request.max_dead_ratio}; it is a share from 0 to 1")
    for name, value, least in (
        ("max_images", request.max_images, 0),
        ("shard_size", request.shard_size, 1),
        ("min_images_for_ratio", request.min_images_for_ratio, 0),
    ):
        if value is not None and not least <= value <= MAX_NUMBER:
            raise SettingsError(f"{name} is {value}; it is from {least} to {MAX_NUMBER}")
    for name, text in (("bucket", request.bucket), ("prefix", request.prefix), ("model", request.model)):
        if not is_storable(text):
            raise SettingsError(f"{name} is {text!r}; it has to be text in UTF-8, without a NUL")
    if sum(chosen is not None for chosen in (request.dead_letters, request.labelled, request.shadow)) > 1:
        raise SettingsError(
            "of dead letters to try again, objects to label again and a shadow's sample more than one is given; a run "
            "takes its images from one of them"
        )
    if request.dead_letters is not None:
        _check_dead_letters(request.dead_letters)
    if request.labelled is not None:
        _check_labelled(request.labelled)
    if request.shadow is not None and not 0 <= request.shadow.share <= 1:
        raise SettingsError(f"the share of a shadow is {request.shadow.share}; it is from 0 to 1")
    rate = request.images_per_second
    if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
        raise SettingsError(f"images_per_second is {rate}; it is from {LEAST_RATE:g} to {MOST_RATE:g}")
    for name, seconds in (("longest_shard_s", request.longest_shard_s), ("time_budget_s", request.time_budget_s)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise SettingsError(f"{name} is {seconds}; it is above 0")
    _check_source(request)
    parse_model(request.model)


def check_forgetting(request: ForgetRequest) -> None:
    """Refuse a request to forget that cannot mean anything.

    Raises:
        SettingsError: names what is wrong.
    """
    if not request.bucket:
        raise SettingsError("no bucket is given; name one with --bucket")
    for name, text in (("bucket", request.bucket), ("prefix", request.prefix), ("reason", request.reason)):
        if not is_storable(text):
            raise SettingsError(f"{name} is {text!r}; it has to be text in UTF-8, without a NUL")


def _check_source(request: RunRequest) -> None:
    sources = {"manifest": request.manifest, "inventory": request.inventory}
    given = {name: address for name, address in sources.items() if address is not None}
    if len(given) > 1:
        raise SettingsError("both a manifest and an inventory are given; a run takes its objects from one of them")
    for name, address in given.items():
        if request.dead_letters is not None:
            raise SettingsError(
                f"dead letters are tried again, and a run of these takes no {name}; leave out {address!r}"
            )
        if request.is_by_ledger:
            raise SettingsError(
                f"the results database names the images of this run, which takes no {name}; leave out {address!r}"
            )
        if not is_storable(address):
            raise SettingsError(f"{name} is {address!r}; it has to be text in UTF-8, without a NUL")
        place = parse_address(name, address)
        if place is None and name == "inventory":
            raise SettingsError(
                f"inventory is {address!r}; give the manifest.json of a report in its bucket, as "
                "s3://bucket/…/manifest.json"
            )
        if place is None and request.airflow_run_id is not None:
            raise SettingsError(
                f"manifest is {address!r}, which a worker would look for on its own disk; put it into a bucket and "
                "give it as s3://bucket/key"
            )


def _check_labelled(chosen: LabelFilter) -> None:
    for name in ("label", "label_id", "labelled_by"):
        text = getattr(chosen, name)
        if text is not None and not (text and is_storable(text)):
            raise SettingsError(f"{name} is {text!r}; give text in UTF-8, without a NUL, or leave it out")
    if chosen.label is not None and chosen.label_id is not None:
        raise SettingsError("both a label and a label id are given; choose by one of them, the id where names repeat")
    if chosen.dead_letters_too and (chosen.label is not None or chosen.label_id is not None):
        raise SettingsError("dead letters have no label, so none of them matches one; leave out dead_letters_too")
    if chosen.labelled_by is not None:
        parse_model(chosen.labelled_by)
    if chosen.since is not None and chosen.until is not None and chosen.since >= chosen.until:
        raise SettingsError(
            f"since is {chosen.since.isoformat()}, which is not before until, {chosen.until.isoformat()}; nothing can "
            "match"
        )


def _check_dead_letters(chosen: DeadLetterFilter) -> None:
    known = dead_letter_codes()
    if unknown := [code for code in chosen.codes if code not in known]:
        raise SettingsError(
            f"no dead letter has the code {', '.join(map(repr, unknown))}; the codes are {', '.join(known)}"
        )
    if chosen.permanent not in {"any", "permanent", "retryable"}:
        raise SettingsError(f"permanent is {chosen.permanent!r}; it is any, permanent or retryable")
    after, before = chosen.failed_after, chosen.failed_before
    if after is not None and before is not None and after >= before:
        raise SettingsError(
            f"failed_after is {after.isoformat()}, which is not before failed_before, {before.isoformat()}; "
            "nothing can match"
        )
