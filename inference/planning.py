"""plan: how a backlog becomes shards. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Final, Literal

from inference.errors import SettingsError, dead_letter_codes
from inference.types import DeadLetterFilter, Device, ForgetRequest, ModelId, RunRequest

MAX_SHARDS: Final = 200
"""Mapped tasks of a run: the scheduler and the UI suffer from more long before Airflow's own limit of 1,024."""

MIN_SHARD_IMAGES: Final = 3_000
"""Starting a task and loading the model takes about 1.5 s; at 100 images/s that is 5 % of the time of so many."""

MAX_SHARD_IMAGES: Final = 180_000
"""Half of a task's two hours at 50 images/s, a third of what two cores do."""


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


def shard_size(backlog: int, *, wanted: int | None = None) -> int:
    """Return how many images a shard holds, at least 1.

    Args:
        backlog: Images to classify.
        wanted: The size that the run asks for, if any; grows when it would give more than ``MAX_SHARDS``.
    """
    least = math.ceil(backlog / MAX_SHARDS)
    size = wanted if wanted is not None else MIN_SHARD_IMAGES
    return max(1, min(max(size, least), MAX_SHARD_IMAGES))


def images_to_plan(pending: int, *, max_images: int | None) -> int:
    """Return how many of the pending images a run takes; the rest is deferred."""
    limit = MAX_SHARDS * MAX_SHARD_IMAGES
    return min(pending, limit if max_images is None else max_images, limit)


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
    if request.dead_letters is not None:
        _check_dead_letters(request.dead_letters)
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
