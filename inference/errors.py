"""Errors as the product knows them. Pure, standard library only, so that Dags may import it.

Two questions choose the class: can trying again help, and does it condemn one image or everything?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class InferenceError(Exception):
    """Base class. ``code`` is stable: it goes to logs, metrics, the ledger and REST answers.

    Subclasses add no ``__init__``, so that every error survives pickling between processes.
    """

    code: ClassVar[str] = "inference_error"


class TransientError(InferenceError):
    """Trouble outside that concerns every image: the shard is tried again, no image is condemned."""

    code = "transient"


class StoreUnavailableError(TransientError):
    """The object store does not answer, or asks for patience."""

    code = "store_unavailable"
    is_for_all: bool | None = None
    """Whether it gave no other object at that moment either; None if nobody asked."""


class SinkUnavailableError(TransientError):
    """The results database does not answer, or gave up on a statement."""

    code = "database_unavailable"


class MemoryLimitError(TransientError):
    """This process needs more memory than it may have; what was recorded stays, and a fresh process goes on."""

    code = "memory_limit"


class WorkerDiedError(TransientError):
    """The process that worked on a shard was killed, or died; what was recorded stays."""

    code = "worker_died"


class ModelSourceUnavailableError(TransientError):
    """Where a model is fetched from does not answer, asks for patience, or broke off; nothing is registered."""

    code = "model_source_unavailable"


class ImageGoneError(InferenceError):
    """This image version was deleted, overwritten or forgotten since the listing; the next one finds what is there."""

    code = "gone"


class ImageError(InferenceError):
    """Condemns one image only: it becomes a dead letter with this code."""

    code = "image_error"
    is_retryable: ClassVar[bool] = False
    """Whether the following nights try again (the ledger's ``retry_after``), or only a hand does."""


class EmptyObjectError(ImageError):
    """Zero bytes."""

    code = "empty_object"


class FolderPlaceholderError(ImageError):
    """Zero bytes under a key that ends in a slash, as consoles make for a folder."""

    code = "folder_placeholder"


class ObjectTooLargeError(ImageError):
    """More bytes than allowed."""

    code = "object_too_large"


class ObjectAccessDeniedError(ImageError):
    """The store refuses this one key."""

    code = "access_denied"
    is_retryable = True


class ObjectUnreadableError(ImageError):
    """The store fails on this one key, again and again, while it answers otherwise."""

    code = "fetch_failed"
    is_retryable = True


class NotAnImageError(ImageError):
    """The bytes are no image of any kind that is known here."""

    code = "not_an_image"


class FormatNotAllowedError(ImageError):
    """A known format that is not on the allow-list."""

    code = "format_not_allowed"


class UndecodableImageError(ImageError):
    """An allowed format, but broken."""

    code = "undecodable"


class TruncatedImageError(ImageError):
    """An allowed format that ends too early."""

    code = "truncated"


class ImageTooLargeError(ImageError):
    """More pixels than allowed, by the header; a small file can announce a huge image."""

    code = "too_many_pixels"


class DecoderOutOfMemoryError(ImageError):
    """The decoder asked for more memory than there was."""

    code = "decoder_out_of_memory"
    is_retryable = True


class DecoderCrashedError(ImageError):
    """The process that decoded this image, and nothing else, died of it."""

    code = "decoder_crashed"
    is_retryable = True


class DecoderTimeoutError(ImageError):
    """Decoding took longer than an image may take."""

    code = "decoder_timeout"
    is_retryable = True


class ConfigurationError(InferenceError):
    """Somebody has to change something before trying again can help."""

    code = "configuration"


class SettingsError(ConfigurationError):
    """A setting or parameter is missing or impossible."""

    code = "bad_setting"


class ManifestError(ConfigurationError):
    """A manifest or an inventory report is missing, damaged or not what it should be; nothing was planned."""

    code = "bad_manifest"


class ReviewError(ConfigurationError):
    """A reviewer's label cannot be recorded: there is nothing to review, or the model knows no such label."""

    code = "bad_review"


class OutputError(ConfigurationError):
    """What was asked for cannot be written where it was to go; nothing half written is left there."""

    code = "output_failed"


class BucketInUseError(ConfigurationError):
    """A run is at work on objects that are to be forgotten."""

    code = "bucket_in_use"


class OutcomesDetachedError(ConfigurationError):
    """A table of outcomes in the schema is no whole part of the ledger, so that it would not be looked through."""

    code = "outcomes_detached"


class BucketMissingError(ConfigurationError):
    """The bucket does not exist."""

    code = "bucket_missing"


class StoreCredentialsError(ConfigurationError):
    """The store refuses the credentials, or they lack a right that every image needs."""

    code = "store_credentials"


class SinkCredentialsError(ConfigurationError):
    """The results database refuses the user, or the user lacks a right."""

    code = "database_credentials"


class SchemaMissingError(ConfigurationError):
    """The results database was never migrated."""

    code = "schema_missing"


class SchemaOutdatedError(ConfigurationError):
    """The results database is older than this code."""

    code = "schema_outdated"


class SchemaNewerError(ConfigurationError):
    """The results database was migrated by newer code."""

    code = "schema_newer"


class PoolMissingError(ConfigurationError):
    """Airflow would never schedule a task whose pool does not exist."""

    code = "pool_missing"


class DeviceUnavailableError(ConfigurationError):
    """A device was demanded that no worker offers."""

    code = "device_unavailable"


class ModelError(ConfigurationError):
    """Something about a model; no image can be classified with it."""

    code = "model_error"


class ModelUnknownError(ModelError):
    """No model of that name, version or alias is registered."""

    code = "model_unknown"


class ModelInUseError(ModelError):
    """A model's outcomes are still needed, and cannot be dropped; or they are being dropped, and it cannot be used."""

    code = "model_in_use"

    @classmethod
    def being_dropped(cls, model: object) -> ModelInUseError:
        """Return the error of whoever wants to use a model while maintenance drops its outcomes."""
        return cls(f"{model} is being dropped; run `python -m inference maintain` to its end, then try this again")


class AliasMovedError(ModelError):
    """Somebody else moved the alias since this was decided on; nothing changed."""

    code = "alias_moved"


class PromotionRefusedError(ModelError):
    """The gate has not let this model through; the alias stays where it is."""

    code = "promotion_refused"


class GoldenSetError(ConfigurationError):
    """A golden set, or the file that it is loaded from, is not what it should be; nothing of it changed."""

    code = "golden_set"


class ModelFilesError(ModelError):
    """Files in the model store are missing, damaged or not those that were registered."""

    code = "model_files"


class ModelSourceError(ModelError):
    """What was given as a model's source, or said of it, cannot be registered: missing, altered, unsafe or unfit."""

    code = "model_source"


class ModelConversionError(ModelError):
    """A model could not be converted, or its conversion gives other answers."""

    code = "model_conversion"


class ModelExecutionError(ModelError):
    """An engine failed, or answered with scores that cannot be right."""

    code = "model_execution"


class ShardError(InferenceError):
    """Condemns a shard."""

    code = "shard_error"


class StaleAttemptError(ShardError):
    """A newer attempt of this shard, or a newer plan of its run, has taken over; nothing was written."""

    code = "stale_attempt"


class RunUnknownError(ShardError):
    """No such run or shard."""

    code = "run_unknown"


class RunInterruptedError(ShardError):
    """Somebody ended the run; what was recorded stays."""

    code = "interrupted"


class TooManyDeadError(ShardError):
    """More dead letters than the run allows; their outcomes are written all the same."""

    code = "too_many_dead"


class LabelsMovedError(ShardError):
    """The labels of a run are not like those of the nights before; every outcome is recorded all the same."""

    code = "labels_moved"


class ShardsUnfinishedError(ShardError):
    """Some shards ran out of retries; the next run finds their images again."""

    code = "shards_unfinished"


def error_of(code: str, message: str) -> InferenceError:
    """Return the error of a code, as another process reported it; a code that is not known here becomes the base."""
    classes = {cls.code: cls for cls in _family(InferenceError)}
    return classes.get(code, InferenceError)(message)


def dead_letter_codes() -> tuple[str, ...]:
    """Return the codes that a dead letter may have, in alphabetical order."""
    return tuple(sorted(cls.code for cls in _family(ImageError) if cls is not ImageError))


def _family(cls: type[InferenceError]) -> Iterator[type[InferenceError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)
