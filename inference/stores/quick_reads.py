"""The short way to the bytes of most objects: one request by obstore, at a fraction of boto3's cost. Adapter.

It is taken where its answer can be judged by itself and nothing depends on how it fails: the object is no larger than
a photo, its ETag is the MD5 of its bytes, and its key is one that obstore sends as it is. Whatever else comes of it, be
it a refusal, an outage or other bytes, is no answer: ``stores.s3`` then asks the long way, and says what is wrong.

obstore's threads are the process's: a fork that came after the first read has none, and would wait for ever.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import obstore
from botocore.credentials import RefreshableCredentials
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from inference.planning import is_storable
from inference.types import ImageRef, clean_etag, may_be_md5

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import ClientConfig, S3Credential

logger = logging.getLogger(__name__)

LARGEST_BYTES: Final = 8 * 1024 * 1024
"""Beyond it boto3's share of the time is small, and for a while the bytes are there twice."""

LONGEST_READ_S: Final = 10.0
"""For one object in all: the long way has its full time afterwards."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
"""Named in the path, so a dot in the name is none in a host's."""
_ODD: Final = re.compile(r'[\x00-\x1f\x7f\\{}^%`\[\]"<>~#|*?]')
"""Characters that obstore writes differently than S3 reads them, or that it refuses."""

_FAILURES_AT_MOST: Final = 3
"""So many in a row, of all threads, and the short way rests: it is not the object then. Afterwards one more will do."""

_FIRST_REST_S: Final = 5.0
_LONGEST_REST_S: Final = 600.0
"""For how long it rests; twice as long each time that follows."""

_IS_WELL_AFTER: Final = 100
"""So many objects that came since it rested, and the next rest is a first one again."""

_STRANGERS_AT_MOST: Final = 8
"""So many objects in a row whose ETag looks like an MD5 and is none, and the short way rests. If they are the first of
their bucket, that is left alone for good."""

_CREDENTIALS_KEPT_S: Final = 360.0
"""obstore asks for credentials anew five minutes before the end that it is told; botocore renews its own by itself."""


def is_plain(bucket: str, key: str) -> bool:
    """Return whether obstore sends a bucket's and key's names as they are."""
    return (
        _BUCKET.fullmatch(bucket) is not None
        and _ODD.search(key) is None
        and all(part not in {"", ".", ".."} for part in key.split("/"))
        and is_storable(key)
    )


class QuickRead(NamedTuple):
    """What came of it."""

    data: bytes | None = None
    """None if the bytes did not come, or were not asked for."""
    has_failed: bool = False
    """The store was asked, and neither answered nor refused: it may do so later."""


_NOTHING: Final = QuickRead()


@dataclass(slots=True)
class _Bucket:
    store: S3Store | None
    """None if the bucket is left alone for good."""
    strangers: int = 0
    """Objects in a row that had another MD5."""
    has_md5s: bool = False
    """An object came that had the MD5 its ETag names."""


class QuickReads:
    """Reads objects with one request each. Safe to share between threads.

    Args:
        endpoint_url: Address of the store; buckets are named in the path.
        region_name: Region to sign for.
        credentials: botocore's, which renew themselves if they can.
        connections: Connections kept open.
        connect_timeout_s: Seconds to wait for a connection.
        read_timeout_s: Seconds to wait for the next bytes.
        timeout_s: Seconds for one object in all.
        root_certificates: PEM of authorities to trust besides the usual ones.
        clock: Seconds that never go back.
    """

    _process: ClassVar[int | None] = None
    """Of the first read of all; a fork of it cannot read."""

    def __init__(
        self,
        *,
        endpoint_url: str,
        region_name: str,
        credentials: Credentials,
        connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        timeout_s: float,
        root_certificates: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint_url = endpoint_url
        self._region_name = region_name
        self._credentials = credentials
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._timeout_s = timeout_s
        self._root_certificates = root_certificates
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._failures = 0
        self._came_since_rest = 0
        self._rest_s = _FIRST_REST_S
        self._not_before = 0.0

    def read(self, ref: ImageRef, *, max_bytes: int) -> QuickRead:
        """Return the object's bytes if they came and have the MD5 that the ETag of ``ref`` names."""
        most = min(max_bytes, LARGEST_BYTES)
        if ref.size_bytes > most or not may_be_md5(ref.etag) or not is_plain(ref.bucket, ref.key):
            return _NOTHING
        if self._clock() < self._not_before or not self._is_at_home():
            return _NOTHING
        bucket = self._bucket(ref.bucket)
        store = bucket.store
        if store is None:
            return _NOTHING
        try:
            answer = obstore.get(store, ref.key, options={"if_match": f'"{ref.etag}"'})
            if answer.meta["size"] > most or clean_etag(answer.meta["e_tag"] or ref.etag) != ref.etag:
                return _NOTHING
            data = answer.bytes().to_bytes()
        except (NotFoundError, PermissionDeniedError, PreconditionError, UnauthenticatedError):
            return _NOTHING
        except (BaseError, OSError) as error:
            self._note_failure(error)
            return QuickRead(has_failed=True)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != ref.etag:
            # Damaged, or encrypted so that the ETag says nothing: the long way tells.
            self._note_stranger(ref.bucket, bucket)
            return _NOTHING
        self._note_success(bucket)
        return QuickRead(data)

    @staticmethod
    def _is_at_home() -> bool:
        if QuickReads._process is None:
            QuickReads._process = os.getpid()
        return QuickReads._process == os.getpid()

    def _bucket(self, name: str) -> _Bucket:
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = _Bucket(self._open_or_leave(name))
            return self._buckets[name]

    def _open_or_leave(self, bucket: str) -> S3Store | None:
        try:
            return self._open(bucket)
        except (BaseError, OSError, ValueError) as error:  # it does not like an AWS_* variable, say
            logger.warning("Objects of the bucket %r are read the long way: %s", bucket, _said(error))
            return None

    def _open(self, bucket: str) -> S3Store:
        options: ClientConfig = {
            "allow_http": self._endpoint_url.startswith("http://"),
            "connect_timeout": timedelta(seconds=self._connect_timeout_s),
            "read_timeout": timedelta(seconds=self._read_timeout_s),
            "timeout": timedelta(seconds=self._timeout_s),
            "pool_max_idle_per_host": str(self._connections),
            "user_agent": "nightlabel",
        }
        if self._root_certificates is not None:
            options["root_certificate"] = self._root_certificates
        # What is given here goes before the AWS_* variables, which obstore reads by itself.
        return S3Store(
            bucket,
            endpoint=self._endpoint_url,
            aws_endpoint_url_s3=self._endpoint_url,  # that variable would go before ``endpoint``
            region=self._region_name,
            virtual_hosted_style_request=False,
            skip_signature=False,
            credential_provider=self._current_credentials,
            client_options=options,
            retry_config={"max_retries": 0},
        )

    def _current_credentials(self) -> S3Credential:
        frozen = self._credentials.get_frozen_credentials()
        renews = isinstance(self._credentials, RefreshableCredentials)
        return {
            "access_key_id": frozen.access_key or "",
            "secret_access_key": frozen.secret_key or "",
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_CREDENTIALS_KEPT_S) if renews else None,
        }

    def _note_success(self, bucket: _Bucket) -> None:
        with self._lock:
            bucket.strangers, bucket.has_md5s = 0, True
            self._failures = 0
            self._came_since_rest += 1
            if self._came_since_rest >= _IS_WELL_AFTER:
                self._rest_s = _FIRST_REST_S

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= _FAILURES_AT_MOST:
                self._rest(_said(error))

    def _note_stranger(self, name: str, bucket: _Bucket) -> None:
        with self._lock:
            bucket.strangers += 1
            if bucket.strangers < _STRANGERS_AT_MOST or bucket.store is None:
                return
            if bucket.has_md5s:
                bucket.strangers = 0
                self._rest(f"objects of the bucket {name!r} have other MD5s than their ETags")
                return
            bucket.store = None
            logger.warning(
                "Objects of the bucket %r are read the long way: the first %d had other MD5s than their ETags, "
                "as encrypted ones have",
                name,
                _STRANGERS_AT_MOST,
            )

    def _rest(self, why: str) -> None:
        """Begin a rest, unless one was begun for the same trouble; called under the lock."""
        now = self._clock()
        if now < self._not_before:
            return
        logger.info("Objects are read the long way for %g seconds: %s", self._rest_s, why)
        self._not_before = now + self._rest_s
        self._rest_s = min(_LONGEST_REST_S, 2 * self._rest_s)
        self._came_since_rest = 0


def _said(error: Exception) -> str:
    """Return what obstore said on one line, without what follows for its developers."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300]
