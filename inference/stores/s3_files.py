"""Files that hosts share below a prefix of a bucket, over the S3 protocol: listed, read and written. Adapter.

The bucket is one of ours, such as the model store's; that of the images is only read, by ``stores.s3``.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from inference.errors import InferenceError, SettingsError, StoreCredentialsError, StoreUnavailableError
from inference.stores.s3 import S3Store, StoreWords, _code, _status
from inference.stores.s3_objects import S3Objects
from inference.types import SharedFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL_STORE: Final = StoreWords("model_store_s3", "s3:ListBucket and s3:GetObject (to register also s3:PutObject)")
"""What messages about the model store name."""

_PIECE_BYTES: Final = 1024 * 1024
_PUT_AT_MOST_BYTES: Final = 5 * 1024**3
"""What S3 takes in one request."""
_PUT_S: Final = 1800.0
"""Seconds from the first attempt at a file until none is begun any more; a request that is sent goes on."""
_CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""Somebody else is writing the same key; who asks again learns how it ended."""


class S3Files:
    """Files below a prefix, with the connection, the patience and the errors of an ``S3Store``.

    Args:
        store: Whose connection is used; opened when something is asked for.
        bucket: Name of the bucket.
        prefix: Of the keys, without the slash at its end; empty for the whole bucket.
    """

    def __init__(self, store: S3Store, bucket: str, prefix: str) -> None:
        self._store, self._bucket = store, bucket
        self._before = f"{prefix}/" if prefix else ""
        self._objects = S3Objects(store)

    @property
    def address(self) -> str:
        """Where they are: ``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._before}".rstrip("/")

    def list_files(self, beginning: str = "") -> Iterator[SharedFile]:
        """Yield every file below the prefix, or those of this beginning; errors are those of ``S3Store.list_pages``."""
        for page in self._store.list_pages(self._bucket, self._before + beginning):
            for entry in page:
                yield SharedFile(entry.key.removeprefix(self._before), entry.size_bytes, entry.last_modified)

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes piece by piece; a stream that is cut goes on where it was.

        Raises:
            FileNotFoundError: no such file.
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, it was cut again and again, or overwritten meanwhile.
        """
        with self._translated(name):
            stream = self._objects.open(self._bucket, self._before + name)
        with stream:
            while True:
                with self._translated(name):
                    piece = stream.read1(_PIECE_BYTES)
                if not piece:
                    return
                yield piece

    def put(self, name: str, path: Path) -> None:
        """Keep a copy of a file on this machine's disk, in place of what has the name; the store compares its SHA-256.

        Raises:
            OSError: the file cannot be read.
            SettingsError: it is larger than what S3 takes in one request, or the store refuses it.
            BucketMissingError, StoreCredentialsError: somebody has to change something.
            StoreUnavailableError: no answer.
        """
        size_bytes = path.stat().st_size
        if size_bytes > _PUT_AT_MOST_BYTES:
            raise SettingsError(
                f"{path.name} has {size_bytes:,} bytes, and S3 takes {_PUT_AT_MOST_BYTES:,} at once; "
                "use a folder that the hosts share as the model store"
            )
        with path.open("rb") as file:
            digest = b64encode(file_digest(file, "sha256").digest()).decode()

        def send(client: S3Client, _: float) -> None:
            try:
                with path.open("rb") as file:
                    client.put_object(Bucket=self._bucket, Key=self._before + name, Body=file, ChecksumSHA256=digest)
            except (BotoCoreError, ClientError, RuntimeError) as error:
                raise self._refused(error) from error

        self._store._patiently(send, time.monotonic() + _PUT_S)

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep a small file unless something has the name; whether it was kept.

        Raises:
            SettingsError: the store knows no conditional requests.
            BucketMissingError, StoreCredentialsError: somebody has to change something.
            StoreUnavailableError: no answer.
        """

        def send(client: S3Client, _: float) -> bool:
            try:
                client.put_object(Bucket=self._bucket, Key=self._before + name, Body=data, IfNoneMatch="*")
            except ClientError as error:
                code, status = _code(error), _status(error)
                if status == 412:
                    return False
                if code in _CONFLICT_CODES:
                    raise StoreUnavailableError(
                        f"{self._name(name)} is being written by somebody else as well; try again"
                    ) from error
                if status == 501:
                    raise SettingsError(
                        f"{self._store._address} knows no conditional requests (If-None-Match), which keep two hosts "
                        f"from writing {self._name(name)} at once; use a newer version of it, or a shared folder"
                    ) from error
                raise self._refused(error) from error
            except (BotoCoreError, RuntimeError) as error:
                raise self._refused(error) from error
            return True

        return self._store._patiently(send)

    def remove(self, name: str) -> None:
        """Remove a file; harmless when it is not there.

        Raises:
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer.
        """

        def send(client: S3Client, _: float) -> None:
            try:
                client.delete_object(Bucket=self._bucket, Key=self._before + name)
            except (BotoCoreError, ClientError, RuntimeError) as error:
                raise self._refused(error) from error

        self._store._patiently(send)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Translate what ``S3Objects`` says of one key: a refusal condemns no image here, it wants a right."""
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise StoreCredentialsError(f"{self._name(name)} must not be read: {error}") from error
        except OSError as error:
            raise StoreUnavailableError(f"{error}; try again") from error

    def _refused(self, error: BotoCoreError | ClientError | RuntimeError) -> InferenceError:
        return self._store._refused(error, self._bucket, "written")

    def _name(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._before}{name}"
