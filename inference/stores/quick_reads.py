"""The short way to the bytes of most objects: one request by obstore, at a fraction of boto3's cost. Adapter.

It is taken where its answer can be judged by itself and nothing depends on how it fails: the object is no larger than
a photo, its ETag is the MD5 of its bytes, and its key is one that obstore sends as it is. Whatever else comes of it, be
it a refusal, an outage or other bytes, is no answer: ``stores.s3`` then asks the long way, and says what is wrong.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

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

from inference.types import ImageRef, clean_etag, may_be_md5

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import S3Credential

logger = logging.getLogger(__name__)

LARGEST_BYTES: Final = 8 * 1024 * 1024
"""Beyond it boto3's share of the time is small, and for a while the bytes are there twice."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_ODD: Final = re.compile(r'[\x00-\x1f\x7f\\{}^%`\[\]"<>~#|*?]')
"""Characters that obstore writes differently than S3 reads them, or that it refuses."""

_FIRST_REST_S: Final = 5.0
_LONGEST_REST_S: Final = 600.0
"""For how long the short way is left alone after it has failed; twice as long after each time that follows."""

_STRANGERS_AT_MOST: Final = 8
"""So many objects in a row whose ETag looks like an MD5 and is none, and their bucket is left alone for good."""

_CREDENTIALS_KEPT_S: Final = 360.0
"""obstore asks for credentials anew five minutes before the end that it is told; botocore renews its own by itself."""


def is_plain(bucket: str, key: str) -> bool:
    """Return whether obstore sends a bucket's and key's names as they are."""
    return (
        _BUCKET.fullmatch(bucket) is not None
        and _ODD.search(key) is None
        and all(part not in {"", ".", ".."} for part in key.split("/"))
        and _is_text(key)
    )


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(slots=True)
class _Bucket:
    store: S3Store
    strangers: int = 0


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
    """

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
    ) -> None:
        self._endpoint_url = endpoint_url
        self._region_name = region_name
        self._credentials = credentials
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._rest_s = _FIRST_REST_S
        self._not_before = 0.0

    def read(self, ref: ImageRef, *, max_bytes: int) -> bytes | None:
        """Return the object's bytes if they have the MD5 that the ETag of ``ref`` names; None if they did not come."""
        most = min(max_bytes, LARGEST_BYTES)
        if ref.size_bytes > most or not may_be_md5(ref.etag) or not is_plain(ref.bucket, ref.key):
            return None
        if time.monotonic() < self._not_before:
            return None
        bucket = self._bucket(ref.bucket)
        if bucket.strangers >= _STRANGERS_AT_MOST:
            return None
        try:
            answer = obstore.get(bucket.store, ref.key, options={"if_match": f'"{ref.etag}"'})
            if answer.meta["size"] > most or clean_etag(answer.meta["e_tag"] or ref.etag) != ref.etag:
                return None
            data = answer.bytes().to_bytes()
        except (NotFoundError, PermissionDeniedError, PreconditionError, UnauthenticatedError):
            return None
        except (BaseError, OSError) as error:
            self._rest(error)
            return None
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != ref.etag:
            # Cut short, damaged, or encrypted so that the ETag says nothing: the long way tells.
            bucket.strangers += 1
            return None
        bucket.strangers = 0
        self._rest_s = _FIRST_REST_S
        return data

    def _bucket(self, name: str) -> _Bucket:
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = _Bucket(self._open(name))
            return self._buckets[name]

    def _open(self, bucket: str) -> S3Store:
        # What is given here goes before the AWS_* variables, which obstore reads by itself.
        return S3Store(
            bucket,
            endpoint=self._endpoint_url,
            region=self._region_name,
            virtual_hosted_style_request=False,
            skip_signature=False,
            credential_provider=self._current_credentials,
            client_options={
                "allow_http": self._endpoint_url.startswith("http://"),
                "connect_timeout": timedelta(seconds=self._connect_timeout_s),
                "read_timeout": timedelta(seconds=self._read_timeout_s),
                "timeout": timedelta(seconds=self._timeout_s),
                "pool_max_idle_per_host": str(self._connections),
                "user_agent": "nightlabel",
            },
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

    def _rest(self, error: Exception) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._not_before:
                return  # another thread met the same trouble
            self._not_before = now + self._rest_s
            self._rest_s = min(_LONGEST_REST_S, 2 * self._rest_s)
        logger.debug("Objects are read the long way for a while", exc_info=error)
