"""What the stages need from the world: Protocols about us, not about a vendor. No implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Protocol
from uuid import UUID

from inference.types import (
    ImageRef,
    LabelMap,
    ListedObject,
    ManifestChunk,
    ModelId,
    ObjectContent,
    Outcome,
    PixelBatch,
    Pixels,
    Plan,
    Preprocessing,
    RunRequest,
    RunSummary,
    Scores,
    Shard,
    ShardStats,
    SharedFile,
    StageSeconds,
    Turns,
)


class ObjectSource(Protocol):
    """Shows objects: a store, a manifest or an inventory report."""

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        """Yield every object whose key begins with ``prefix``, page by page, memory bounded by a page.

        Keys come exactly as stored, whatever bytes they hold.

        Raises:
            SettingsError: no name of a bucket, or no address of a store.
            BucketMissingError: no such bucket.
            StoreCredentialsError: the store refuses us.
            StoreUnavailableError: no answer, a cut answer, or a listing that does not advance.
            ManifestError: what should name the objects does not.
        """
        ...


class ObjectStore(ObjectSource, Protocol):
    """Reads objects; never writes. Safe to share between threads. Its list is complete."""

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        """Return the object's bytes, whole, if it still is the version of ``ref``.

        Raises:
            ImageGoneError: deleted, or overwritten since the listing.
            ObjectAccessDeniedError: the store refuses this key.
            ObjectTooLargeError: more than ``max_bytes``, judged before the body is read.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``list_pages``.
        """
        ...


class ObjectReader(Protocol):
    """Looks objects up and reads them one by one; never writes. Safe to share between threads."""

    @property
    def connections(self) -> int:
        """How many objects can be looked up at a time, at least 1."""
        ...

    def head(self, bucket: str, key: str) -> ListedObject | None:
        """Return what a key holds now; None if it holds nothing.

        Raises:
            ObjectAccessDeniedError: the store refuses this key.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...

    def open(self, bucket: str, key: str) -> BufferedReader:
        """Return an object's bytes as a stream, to be closed.

        Raises, here and from every read:
            FileNotFoundError, PermissionError: no such object, or the store refuses it.
            OSError: it was overwritten while it was read.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...


class SharedFiles(Protocol):
    """Files that hosts share, by relative names with ``/``; each is there whole or not at all. Safe for threads."""

    @property
    def address(self) -> str:
        """Where they are, for people: ``s3://bucket/prefix``."""
        ...

    def list_files(self, beginning: str = "") -> Iterator[SharedFile]:
        """Yield every file, or those whose names have this beginning.

        Raises:
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes piece by piece.

        Raises:
            FileNotFoundError: no such file.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...

    def put(self, name: str, path: Path) -> None:
        """Keep a copy of a file on this machine's disk, in place of what has the name.

        Raises:
            OSError: the file cannot be read.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep a small file unless something has the name; of several at once exactly one does.

        Returns:
            Whether it was kept. False may also be the answer to one that was kept, and whose first answer was lost.

        Raises:
            SettingsError: whoever keeps the files knows no such condition.
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file; harmless when it is not there.

        Raises:
            BucketMissingError, StoreCredentialsError, StoreUnavailableError: as in ``ObjectSource.list_pages``.
        """
        ...


class Decoder(Protocol):
    """Decodes for several threads at a time; a context manager that ends what it started."""

    def __enter__(self) -> Decoder: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def decode(self, data: bytes) -> Pixels:
        """Return what ``decoding.decode_image`` does.

        Raises:
            ImageError: it condemns the image.
        """
        ...


class Turn(Protocol):
    """One image that is being decoded, as a watchdog sees it."""

    def pause(self) -> None:
        """Count no longer, until it is restarted."""
        ...

    def restart(self) -> None:
        """Count its time from now on."""
        ...


class Watchdog(Protocol):
    """Watches over the threads that decode."""

    def over(self, name: str) -> AbstractContextManager[Turn]:
        """Watch over the block; ``name`` is the image's, for the log."""
        ...


class Listing(Protocol):
    """The objects of a run, to be read once: every one under a prefix, or those of a manifest or an inventory."""

    list_s: float
    """Seconds spent waiting for their source so far."""

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        """Yield the objects page by page; errors are those of ``ObjectSource.list_pages``."""
        ...


class ModelHandle(Protocol):
    """A loaded model. Serves ``parallel_calls`` callers at a time; more of them wait, or are not allowed."""

    @property
    def model_id(self) -> ModelId:
        """Which model this is."""
        ...

    @property
    def labels(self) -> LabelMap:
        """The label of each column of the scores."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What pixels ``predict`` expects."""
        ...

    @property
    def engine(self) -> str:
        """What executes the model: ``litert`` or ``tensorflow``; goes to the ledger."""
        ...

    @property
    def best_batch_size(self) -> int:
        """Images a call at which this engine is fastest."""
        ...

    @property
    def parallel_calls(self) -> int:
        """Calls of ``predict`` that this engine can serve at a time, and is fastest with; at least 1."""
        ...

    def predict(self, pixels: PixelBatch) -> Scores:
        """Score one batch; scaling to the model's own range is the handle's business.

        Raises:
            ModelExecutionError: the engine failed.
        """
        ...


class ShardSink(Protocol):
    """What the loop over one claimed shard needs: its refs, and somewhere to put what becomes of them."""

    def note_in_flight(self, shard: Shard, refs: int) -> None:
        """Note how many refs an attempt may have begun at a time: the suspects of the next one if this is killed."""
        ...

    def isolate_shard(self, shard: Shard) -> None:
        """Note that an image killed its decoder: this attempt and later ones decode each image apart."""
        ...

    def release_shard(self, shard: Shard) -> None:
        """Note that an attempt has failed and ended by itself. Raises nothing: it is the last word of a failure."""
        ...

    def read_manifest(self, shard: Shard) -> Iterator[ManifestChunk]:
        """Yield the refs of a shard that have no outcome yet, in manifest order, a chunk at a time.

        Those whose bytes the model has labelled before, under another key, come as copies.
        """
        ...

    def record_batch(
        self,
        shard: Shard,
        batch_number: int,
        outcomes: Sequence[Outcome],
        *,
        engine: str,
        seconds: StageSeconds,
        gone: int = 0,
        done_elsewhere: int = 0,
    ) -> None:
        """Record a batch and add up the shard's counts, in one transaction.

        Args:
            shard: The attempt that writes.
            batch_number: 1 for the attempt's first batch, then one more each; makes sending again harmless.
            outcomes: What to record, each image once.
            engine: What executed the model.
            seconds: Busy seconds of the stages since the last batch.
            gone: Images that vanished since the last batch.
            done_elsewhere: Images that the manifest showed as settled by another run.

        Raises:
            StaleAttemptError: a newer attempt has taken over; nothing was written.
            SinkUnavailableError: the database does not answer.
            RunInterruptedError: somebody has given up; nothing was written.
        """
        ...

    def give_up(self) -> None:
        """Stop waiting, in whatever thread: what is being asked is cancelled, and no batch is recorded any more."""
        ...

    def finish_shard(self, shard: Shard, seconds: StageSeconds) -> ShardStats:
        """Mark the shard as done and return its counts over all attempts."""
        ...


class OutcomeSink(ShardSink, Protocol):
    """The ledger as a worker sees it: plan a run, claim a shard, record its batches, close the books."""

    def plan_run(self, request: RunRequest, listing: Listing | None) -> Plan:
        """Compare a listing, or the open dead letters, with the ledger and store the shards of what is left."""
        ...

    def claim_shard(self, run_id: UUID, shard_number: int) -> Shard:
        """Start a new attempt of a shard; every older attempt of it can write no more."""
        ...

    def reserve_turns(self, shard: Shard, images: int) -> Turns:
        """Return when so many images of an attempt may begin, by the rate that all workers of its run share.

        Raises:
            StaleAttemptError: a newer attempt has taken over.
        """
        ...

    def finish_run(self, run_id: UUID) -> RunSummary:
        """Judge the run by its shards, set its state and return its summary."""
        ...


class Clock(Protocol):
    """Time, so that tests can turn it."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...
