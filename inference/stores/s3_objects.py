"""Single objects of a store over the S3 protocol: looked up, and read as streams of any length. Adapter, only reads."""

from __future__ import annotations

import errno
import io
import time
from datetime import UTC
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from inference.errors import InferenceError, ObjectAccessDeniedError, StoreUnavailableError
from inference.stores.odd_keys import named_to_boto3
from inference.stores.s3 import S3Store
from inference.types import ImageRef, ListedObject, clean_etag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

_BUFFER_BYTES: Final = 1024 * 1024
_CUTS_AT_MOST: Final = 6
"""How often a stream may be cut without a byte more than before."""
_SHORTEST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 4.0


class S3Objects:
    """Looks up and reads objects one by one, with the connection, the patience and the errors of an ``S3Store``."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    @property
    def connections(self) -> int:
        """Connections that are kept open: how many objects can be looked up at a time."""
        return int(self._store._config.max_pool_connections)  # type: ignore[attr-defined]  # botocore sets it by name

    def head(self, bucket: str, key: str) -> ListedObject | None:
        """Return what a key holds now; None if it holds nothing.

        Raises:
            ObjectAccessDeniedError: the store refuses this key.
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer.
        """
        return self._store._patiently(lambda client, _: self._head(client, bucket, key))

    def open(self, bucket: str, key: str) -> io.BufferedReader:
        """Return the bytes of an object as a stream to be closed; one that is cut goes on where it was.

        Raises, here and from every read:
            FileNotFoundError: no such object.
            PermissionError: the store refuses this key.
            OSError: the object was overwritten while it was read.
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, or it was cut again and again.
        """
        stream = _Stream(self._store, bucket, key)
        stream.connect()
        return io.BufferedReader(stream, _BUFFER_BYTES)

    def _head(self, client: S3Client, bucket: str, key: str) -> ListedObject | None:
        try:
            answer = client.head_object(Bucket=bucket, Key=named_to_boto3(key))
            return ListedObject(
                bucket=bucket,
                key=key,
                etag=clean_etag(answer.get("ETag", "")),
                size_bytes=answer["ContentLength"],
                last_modified=answer["LastModified"].astimezone(UTC),
            )
        except ClientError as error:
            if not 400 <= _status(error) < 500 or _status(error) in {408, 429}:
                raise self._store._refused(error, bucket, "read") from error
        except (BotoCoreError, RuntimeError) as error:
            raise self._store._refused(error, bucket, "read") from error
        except KeyError as error:
            raise StoreUnavailableError(
                f"{self._store._address} says neither size nor time of the object {key!r} of the bucket {bucket!r}; "
                "see whether it is an S3 service"
            ) from error
        return self._first_byte(client, bucket, key)

    def _first_byte(self, client: S3Client, bucket: str, key: str) -> ListedObject | None:
        """Look up by reading a byte what was refused otherwise: such an answer says why, where HEAD cannot."""
        try:
            answer = client.get_object(Bucket=bucket, Key=named_to_boto3(key), Range="bytes=0-0")
        except (BotoCoreError, ClientError, RuntimeError) as error:
            if _is_missing(error):
                return None
            raise self._store._refused_key(error, ImageRef(bucket, key, "", 0)) from error
        answer["Body"].close()
        size = answer.get("ContentRange", "").rpartition("/")[2]
        return ListedObject(
            bucket=bucket,
            key=key,
            etag=clean_etag(answer.get("ETag", "")),
            size_bytes=int(size) if size.isdecimal() else answer["ContentLength"],
            last_modified=answer["LastModified"].astimezone(UTC),
        )


class _Stream(io.RawIOBase):
    """An object's bytes from the first to the last, over as many answers as it takes."""

    def __init__(self, store: S3Store, bucket: str, key: str) -> None:
        self._store, self._bucket, self._key = store, bucket, key
        self._body: StreamingBody | None = None
        self._etag = ""
        self._offset = 0
        self._size: int | None = None
        self._cuts = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
        super().close()

    def readinto(self, into: WriteableBuffer, /) -> int:
        """Fill a buffer as far as bytes come; 0 at the end."""
        view = memoryview(into).cast("B")
        while True:
            body = self._body if self._body is not None else self.connect()
            try:
                data = body.read(len(view))
            except (BotoCoreError, HTTPError, OSError, ValueError) as error:
                self._go_on_after(error)
                continue
            if not data and self._size is not None and self._offset < self._size:
                self._go_on_after(EOFError("it ended early"))
                continue
            view[: len(data)] = data
            self._offset += len(data)
            if data:
                self._cuts = 0
            return len(data)

    def connect(self) -> StreamingBody:
        """Ask for what is left of the object."""
        answer = self._store._patiently(lambda client, _: self._ask(client))
        if self._size is None:
            self._etag, self._size = answer.get("ETag", ""), answer.get("ContentLength")
        elif self._offset and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            answer["Body"].close()
            raise StoreUnavailableError(f"{self._name} was cut, and the store does not send the rest of it; try again")
        self._body = answer["Body"]
        return self._body

    def _ask(self, client: S3Client) -> GetObjectOutputTypeDef:
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key}
        if self._offset:
            request["Range"] = f"bytes={self._offset}-"
        if self._etag:
            request["IfMatch"] = self._etag
        try:
            return client.get_object(**request)
        except (BotoCoreError, ClientError, RuntimeError) as error:
            raise self._refused(error) from error

    def _refused(self, error: BotoCoreError | ClientError | RuntimeError) -> OSError | InferenceError:
        if _is_missing(error):
            return FileNotFoundError(errno.ENOENT, "no such object", self._name)
        if isinstance(error, ClientError) and _status(error) == 412:
            return OSError(f"{self._name} was overwritten while it was read")
        refused = self._store._refused_key(error, ImageRef(self._bucket, self._key, "", 0))
        return PermissionError(str(refused)) if isinstance(refused, ObjectAccessDeniedError) else refused

    def _go_on_after(self, error: Exception) -> None:
        """Wait a little before the rest is asked for.

        Raises:
            StoreUnavailableError: too often in vain, or all bytes came and their checksum is wrong.
        """
        if self._body is not None:
            self._body.close()
            self._body = None
        self._cuts += 1
        if self._cuts >= _CUTS_AT_MOST or (self._size is not None and self._offset >= self._size):
            raise StoreUnavailableError(
                f"{self._store._address} did not send {self._name} whole ({error}); try again later"
            ) from error
        time.sleep(min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2 ** (self._cuts - 1)))

    @property
    def _name(self) -> str:
        return f"s3://{self._bucket}/{self._key}"


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_missing(error: Exception) -> bool:
    """Return whether there is no such key, in a bucket that there is."""
    if not isinstance(error, ClientError) or error.operation_name != "GetObject":
        return False
    return _status(error) == 404 and error.response.get("Error", {}).get("Code") != "NoSuchBucket"
