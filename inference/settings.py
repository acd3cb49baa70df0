"""Configuration: read once, at the edge, typed, with units. Nothing here is instantiated at import."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference.errors import SettingsError
from inference.types import QUALITY_THRESHOLDS, QualityAction, QualityRules

Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
Bytes: TypeAlias = Annotated[int, Field(ge=1, le=2**50)]
Seconds: TypeAlias = Annotated[float, Field(ge=1, le=366 * 86_400)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65_535)]


def available_cores() -> int:
    """Return the cores that this process may use: its CPU affinity, lowered by the cgroup's quota if there is one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def default_model_store() -> Path:
    """Return the model store under the user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("nightlabel", appauthor=False)) / "models"


def default_model_cache() -> Path:
    """Return the model cache under the user's folder for caches."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("nightlabel", appauthor=False)) / "models"


_SHARED_STORE: Final = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9])(?:/(?P<prefix>.*))?")
_ODD_IN_PREFIX: Final = re.compile(r"[\x00-\x20\x7f?#\\]")


def split_shared_store(address: str) -> tuple[str, str]:
    """Return bucket and prefix of an address ``s3://bucket/prefix``; the prefix without slashes at its end, or empty.

    Raises:
        ValueError: it is no such address.
    """
    match = _SHARED_STORE.fullmatch(address)
    if match is None:
        raise ValueError("expected a folder, or s3://bucket/prefix")
    prefix = (match["prefix"] or "").rstrip("/")
    if prefix and (_ODD_IN_PREFIX.search(prefix) or {"", ".", ".."} & set(prefix.split("/"))):
        raise ValueError("expected a prefix of plain names with single slashes between them, as in s3://bucket/a/b")
    return match["bucket"], prefix


def place_of_models(value: str | Path) -> str | Path:
    """Return a folder as a path, and the address of a model store in a bucket in one form.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and (value.startswith("s3:") or "://" in value):
        return "/".join(filter(None, ("s3:/", *split_shared_store(value))))
    return _folder(value)


def _folder(value: str | Path) -> Path:
    if value == "":
        raise ValueError("expected the name of a folder")
    return Path(value)


class Settings(BaseSettings):
    """Every setting of the library; the environment's name is ``NIGHTLABEL_`` and the field in capitals."""

    model_config = SettingsConfigDict(env_prefix="NIGHTLABEL_", frozen=True, extra="ignore")

    database_url: SecretStr | None = None
    """The results database, ``postgresql://user:password@host:port/database``; ``postgresql+psycopg://`` works too."""

    model_store: Annotated[Path | str, BeforeValidator(place_of_models)] = Field(default_factory=default_model_store)
    """Where the registered models' files are: a folder, or ``s3://bucket/prefix`` (docs/model-store.md)."""

    model_cache: Annotated[Path, BeforeValidator(_folder)] = Field(default_factory=default_model_cache)
    """Folder of this host's copies of a model store in a bucket; may be emptied at any time."""

    engine_threads: Count = Field(default_factory=available_cores)
    """Threads of the engine in one task; the default is every core of this process (docs/tuning.md)."""

    batch_size: Count | None = None
    """Images in one call of the model; the default is what the engine measured as its best."""

    fetch_threads: Count = 8
    """Threads that fetch from the store, and connections to it; each goes on to decode what it fetched."""

    list_threads: Count = 8
    """Pages of a large listing that are asked for at a time; 1 reads one page after the other (docs/tuning.md)."""

    decode_threads: Count = Field(default_factory=available_cores)
    """How many of these may decode at a time; the default is every core of this process."""

    window: Count = 64
    """Images between fetch and predict at most; with ``max_object_bytes`` it bounds a worker's memory."""

    max_object_bytes: Bytes = 64 * 1024 * 1024
    """Largest object that is read, in bytes; a larger one is a dead letter."""

    max_pixels: Count = 50_000_000
    """Largest width x height that is decoded; a larger image is a dead letter."""

    decode_timeout_s: Seconds = 30.0
    """Seconds that decoding one image may take; a thread that takes longer costs its process."""

    memory_limit: Bytes | None = None
    """Memory of one worker, in bytes; the default is four fifths of what its cgroup or machine has."""

    copy_labels: bool = True
    """Whether an image whose bytes the model has labelled under another key gets that label without being read."""

    shadow_share: Share = 0.0
    """Share of a nightly run's labelled images that the model with the alias ``shadow`` looks at as well, 0 to 1."""

    shadow_minutes: Count = 30
    """Minutes that a shadow run may take; what will not fit in is left out."""

    top_k: Count = 5
    """Labels kept for each image, best first."""

    dead_letter_retry_s: Seconds = 20 * 3600.0
    """Seconds until a retryable dead letter is tried again: the next night, however early that one starts."""

    dead_letter_attempts: Count = 3
    """Attempts after which a retryable dead letter is permanent."""

    database_connect_timeout_s: Seconds = 10.0
    """Seconds to wait for a connection to the results database."""

    database_statement_timeout_s: Seconds = 300.0
    """Seconds that one statement may take; planning a large bucket takes the longest."""

    database_patience_s: Seconds = 300.0
    """Seconds that a worker waits for a results database that went away, or is full, before its task fails."""

    store_connect_timeout_s: Seconds = 5.0
    """Seconds to wait for a connection to the object store."""

    store_read_timeout_s: Seconds = 30.0
    """Seconds to wait for the next bytes of the object store."""

    fetch_timeout_s: Seconds = 120.0
    """Seconds for one object, or one page of a listing, all attempts together."""

    manifest_retention_days: Count = 7
    """Days after which the manifest of a finished run is dropped."""

    run_retention_days: Count = 90
    """Days after which the shards of a finished run become one row; run_summary stays as it is."""

    outcome_retention_days: Count | None = None
    """Days after which outcomes of versions that no object holds any more are removed; the default keeps them."""

    quality_action: QualityAction = "warn"
    """What labels do that are not like those of the nights before: ``warn``, ``fail`` the report, or ``off``."""

    quality_thresholds: str | None = None
    """Thresholds that are not to be as delivered, ``js=0.15,score_drop=0.05`` (docs/watching-the-labels.md)."""

    quality_history_days: Count = 28
    """Days before a run with which its labels are compared."""

    low_score: Share = 0.3
    """Below this the score of a label counts as low."""

    api_host: str = "127.0.0.1"
    """Address that ``serve`` listens on; anything but loopback needs ``api_key``."""

    api_port: Port = 8000
    """Port that ``serve`` listens on; every request there is over plain HTTP."""

    api_key: SecretStr | None = None
    """Key that callers of the REST API send as ``Authorization: Bearer``."""

    api_max_request_bytes: Bytes = 128 * 1024 * 1024
    """Largest request that the REST API reads, in bytes."""

    api_max_images: Count = 64
    """Most images in one request of the REST API."""

    @field_validator("quality_thresholds")
    @classmethod
    def _check_thresholds(cls, text: str | None) -> str | None:
        _thresholds(text)
        return text

    def quality_rules(self) -> QualityRules:
        """Return when a run's labels have moved, as the settings say."""
        return replace(QualityRules(), action=self.quality_action, **_thresholds(self.quality_thresholds))

    def required_database_url(self) -> str:
        """Return the database's address.

        Raises:
            SettingsError: it is not set.
        """
        if self.database_url is None or not self.database_url.get_secret_value():
            raise SettingsError(
                "NIGHTLABEL_DATABASE_URL is not set; give the results database as "
                "postgresql://user:password@host:port/database"
            )
        return self.database_url.get_secret_value()


def _thresholds(text: str | None) -> dict[str, Any]:
    """Return the thresholds of a text such as ``js=0.15,min_images=500``.

    Raises:
        ValueError: a name that is none, or no number from 0 on.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, _, value = (side.strip() for side in part.partition("="))
        if name not in (*QUALITY_THRESHOLDS, "min_images"):
            raise ValueError(f"{name!r} is no threshold; there are {', '.join(QUALITY_THRESHOLDS)} and min_images")
        try:
            number = int(value) if name == "min_images" else float(value)
        except ValueError:
            number = -1
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} is {value!r}, which is no number from 0 on")
        found[name] = number
    return found


def read_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; ``overrides`` win.

    Raises:
        SettingsError: a value is impossible; names the variable and what is wrong with it.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks the values
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"NIGHTLABEL_{name.upper()} is {first.get('input')!r}: {first['msg'].lower()}; correct it or unset it"
        ) from error
