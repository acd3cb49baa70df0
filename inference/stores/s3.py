"""The object store over the S3 protocol, by boto3: Amazon S3 and whatever speaks like it. Adapter, only reads."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError

from inference.errors import (
    BucketMissingError,
    ImageGoneError,
    InferenceError,
    ObjectAccessDeniedError,
    ObjectTooLargeError,
    SettingsError,
    StoreCredentialsError,
    StoreUnavailableError,
)
from inference.stores.odd_keys import named_to_boto3, send_odd_keys, text_of
from inference.stores.pages import listed_objects, read_fast
from inference.stores.quick_reads import LONGEST_READ_S, QuickRead, QuickReads
from inference.stores.ranges import Page, list_in_ranges
from inference.types import ImageRef, ListedObject, ObjectContent, clean_etag, may_be_md5

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2RequestTypeDef,
    )

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreWords:
    """What messages name when somebody has to set something right."""

    connection: str = "images_s3"
    """Airflow's, which may say where the store is and who asks."""
    rights: str = "s3:ListBucket and s3:GetObject"
    """What the credentials have to be allowed."""

    @property
    def where_to_set(self) -> str:
        """Where the store's address is set."""
        return f"AWS_ENDPOINT_URL_S3 or the connection {self.connection}"

    @property
    def where_to_set_keys(self) -> str:
        """Where credentials are set."""
        return f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or role, or the connection {self.connection}"


_CREDENTIAL_CODES: Final = frozenset(
    {
        "AccountProblem",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
"""Codes that concern us and not a key: no other request would fare better."""

_NEVER_BETTER: Final = frozenset({"AccountProblem", "NotSignedUp", "RequestTimeTooSkewed"})
"""Those of them that other keys of the same account would meet as well."""

_REGION_CODES: Final = frozenset(
    {"301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)

_PATIENCE_CODES: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "IncompleteBody",
        "InternalError",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes that may come with a status below 500."""

_OUR_OPERATIONS: Final = frozenset({"DeleteObject", "GetObject", "ListObjectsV2", "PutObject"})
"""Others are asked on the way to credentials, such as AssumeRole."""

_NO_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


_SHORTEST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 4.0
_SMALL_BYTES: Final = 1024 * 1024
"""Largest object that is read once more to learn whether the store answers."""
_CONTROL_S: Final = 30.0
"""Seconds for that."""
_VAIN_RENEWAL_S: Final = 10.0
"""Seconds for which credentials that came back unchanged are not looked up again."""


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    client: S3Client
    session: boto3.Session
    quick: QuickReads | None


class S3Store:
    """Reads a bucket. Connects when it is first used; then safe to share between threads.

    What is not given comes from where boto3 looks for it: the ``AWS_*`` variables, profiles, roles, instance metadata.
    Credentials from there that the store refuses, such as expired ones, are looked up again once for each request.

    **What is tried again, and how often.** No answer, an answer that asks for patience (503, 429 …) and a body that
    does not come whole are tried again, up to ``attempts`` requests in all, after pauses of 0.25, 0.5, 1, 2 and 4
    seconds of which a random half is waited or more: a burst of four seconds is ridden out, and threads do not come
    back all at once. All threads together may repeat 100 requests at once and two a second in the long run; over
    that budget, and ``fetch_timeout_s`` after the first attempt, trouble is reported as it comes. boto3 itself repeats
    nothing. An object that does not come in the end is tried three times more as long as the store gives another one
    just before and just after, which tells trouble with the object from trouble with the store. A read by
    ``stores.quick_reads`` that failed is the first of an object's requests, though even then, and whatever the budget,
    it is asked for once by boto3, at once, to learn what is wrong.

    Args:
        session: A session that already knows its credentials, such as Airflow's hook for AWS makes.
        endpoint_url: Address of a store other than Amazon's; buckets are then named in the path.
        access_key_id: Key to sign requests with.
        secret_access_key: Its secret.
        session_token: Token of temporary credentials.
        region_name: Region of the bucket.
        profile_name: Profile in the AWS configuration files.
        connections: Connections kept open; as many as there are threads that fetch.
        connect_timeout_s: Seconds to wait for a connection.
        read_timeout_s: Seconds to wait for the next bytes.
        fetch_timeout_s: Seconds for one object, or one page of a listing, all attempts together. What is being read
            then is cut off, however regularly bytes come; between two of them, and before the first of an answer, it
            waits ``read_timeout_s``. They begin after the read by ``stores.quick_reads``, which takes a quarter of
            them, ``read_timeout_s`` or 10 seconds at most, whichever is least.
        attempts: Requests for the same thing, the first included.
        list_threads: Pages of a listing that are asked for at a time.
        words: What messages name.
    """

    def __init__(
        self,
        *,
        session: boto3.Session | None = None,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        region_name: str | None = None,
        profile_name: str | None = None,
        connections: int = 16,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        fetch_timeout_s: float = 120.0,
        attempts: int = 6,
        list_threads: int = 8,
        words: StoreWords = StoreWords(),
    ) -> None:
        self._session = session
        self._words = words
        self._profile_name = profile_name
        self._credentials: dict[str, str | None] = {
            "endpoint_url": endpoint_url,
            "aws_access_key_id": access_key_id,
            "aws_secret_access_key": secret_access_key,
            "aws_session_token": session_token,
            "region_name": region_name,
        }
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._config = Config(
            max_pool_connections=connections,
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},  # see _patiently
            user_agent_extra="nightlabel",
        )
        self._fetch_timeout_s = fetch_timeout_s
        self._attempts = attempts
        self._list_threads = list_threads
        self._lock = threading.Lock()
        self._opened: _Connection | None = None
        self._no_renewal_before = 0.0
        self._budget = _RetryBudget()
        self._last_read: ImageRef | None = None
        self._watch = _Watch(min(1.0, fetch_timeout_s / 4))

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        """Yield every object whose key begins with the string ``prefix``, in pages of at most 1,000.

        Keys are asked for in URL encoding, since XML cannot carry every key. After the first 2,000 keys up to
        ``list_threads`` pages are asked for at a time, and come in any order; a key that changes meanwhile may come
        twice. Memory is bounded by two pages for each thread.

        Raises:
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, no listing for an answer, or a listing that does not advance.
        """
        # No store lists by what is no text; what it lists by less is chosen from here.
        sent = text_of(prefix)

        def ask(*, token: str | None = None, after: str | None = None, limit: int | None = None) -> Page:
            request: ListObjectsV2RequestTypeDef = {"Bucket": bucket, "Prefix": sent}
            if token is not None:
                request["ContinuationToken"] = token
            if after is not None:
                request["StartAfter"] = after
            if limit is not None:
                request["MaxKeys"] = limit
            page, following = self._patiently(lambda client, _: self._list_page(client, bucket, request))
            if sent != prefix:
                page = [entry for entry in page if entry.key.startswith(prefix)]
            return page, following

        def does_not_advance(why: str) -> Exception:
            return StoreUnavailableError(
                f"the listing of the bucket {bucket!r} by {self._address} does not advance ({why}); try again, "
                "and if it stays so, the store is faulty"
            )

        return list_in_ranges(ask, prefix, threads=self._list_threads, does_not_advance=does_not_advance)

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> ObjectContent:
        """Return the object's bytes, whole, if it still is the version of ``ref``.

        Most objects come by one request of ``stores.quick_reads``. What does not is asked for as the class says, and
        has the full ``fetch_timeout_s`` for that, however long the first request took.

        Raises:
            ImageGoneError: deleted, or overwritten since the listing.
            ObjectAccessDeniedError: the store refuses this key.
            ObjectTooLargeError: more than ``max_bytes``; the body was not read.
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, or every one of them was cut short, stalled, took too long or did not
                match its checksum.
        """
        quick = self._connection().quick
        got = QuickRead() if quick is None else quick.read(ref, max_bytes=max_bytes)
        if got.data is not None:
            self._remember(ref, got.data)
            return ObjectContent(got.data, is_etag_md5=True)
        end = time.monotonic() + self._fetch_timeout_s
        try:
            data = self._patiently(
                lambda client, give_up_at: self._get(client, ref, max_bytes, give_up_at),
                end,
                asked_before=int(got.has_failed),
            )
        except StoreUnavailableError as error:
            if self._attempts == 1:
                raise
            data = self._try_beside_another(ref, max_bytes, end, error)
        except ObjectAccessDeniedError as error:
            self._check_still_allowed(ref, error)
            raise
        self._remember(ref, data)
        is_md5 = may_be_md5(ref.etag) and hashlib.md5(data, usedforsecurity=False).hexdigest() == ref.etag
        return ObjectContent(data, is_md5)

    def _remember(self, ref: ImageRef, data: bytes) -> None:
        if len(data) <= _SMALL_BYTES:
            self._last_read = ref

    def _try_beside_another(self, ref: ImageRef, max_bytes: int, end: float, error: StoreUnavailableError) -> bytes:
        """Try an object that did not come for the last times, each time between two reads of another one.

        Trouble of the store that comes and goes can meet every attempt at one object by chance; it hardly ever fits
        between such reads, which follow each other within milliseconds.

        Raises:
            StoreUnavailableError: ``error``, which now says whether the store gave the other object.
        """
        for _ in range(3):
            if not self._gives_another(ref):
                error.is_for_all = True
                raise error
            while (now := time.monotonic()) < end and not self._budget.take(now):
                time.sleep(0.1)
            if now >= end:
                break
            with suppress(StoreUnavailableError):
                return self._get(self._client, ref, max_bytes, end)
        error.is_for_all = not self._gives_another(ref)
        raise error

    def _gives_another(self, ref: ImageRef) -> bool:
        """Return whether the store answers now; asks once, for the last object that came, or for a listing."""
        other = self._last_read
        try:
            if other is not None and other.key != ref.key:
                self._get(self._client, other, _SMALL_BYTES, time.monotonic() + _CONTROL_S)
            else:
                self._list_page(self._client, ref.bucket, {"Bucket": ref.bucket, "MaxKeys": 1})
        except StoreUnavailableError:
            return False
        except InferenceError:
            return True  # it is gone, say, but somebody answered
        return True

    def _check_still_allowed(self, ref: ImageRef, error: ObjectAccessDeniedError) -> None:
        """Find out whether a refusal is for one key, or the right to read was taken away.

        Raises:
            StoreCredentialsError: an object that came before is refused as well.
        """
        other = self._last_read
        if other is None or other.key == ref.key:
            return
        try:
            self._get(self._client, other, _SMALL_BYTES, time.monotonic() + _CONTROL_S)
        except ObjectAccessDeniedError:
            said = _said(error.__cause__) if isinstance(error.__cause__, ClientError) else "refused"
            raise StoreCredentialsError(
                f"{self._address} refuses objects of the bucket {ref.bucket!r} that it gave before ({said}); "
                f"allow s3:GetObject again, or check {self._words.where_to_set_keys}"
            ) from error
        except InferenceError:
            return

    def _patiently(
        self, ask: Callable[[S3Client, float], T], give_up_at: float | None = None, *, asked_before: int = 0
    ) -> T:
        """Return what ``ask`` returns; try again as the class promises.

        Args:
            ask: Called with a client and with the time (monotonic) when the last attempt has to be over.
            give_up_at: That time; by default ``fetch_timeout_s`` from now.
            asked_before: Requests for the same thing that failed before this is called; ``ask`` is called all the same.
        """
        if give_up_at is None:
            give_up_at = time.monotonic() + self._fetch_timeout_s
        attempt, has_renewed = 1 + asked_before, False
        while True:
            connection = self._connection()
            try:
                return ask(connection.client, give_up_at)
            except StoreCredentialsError as error:
                if has_renewed or not _may_be_stale(error) or not self._renew(connection):
                    raise
                has_renewed = True
            except StoreUnavailableError as error:
                pause = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1)  # noqa: S311 - spreads the load
                if (
                    attempt >= self._attempts
                    or time.monotonic() + pause >= give_up_at
                    or not self._budget.take(time.monotonic())
                ):
                    if attempt == 1:
                        raise
                    raise StoreUnavailableError(f"{error} (asked {attempt} times)") from error.__cause__
                time.sleep(pause)
                attempt += 1

    def _list_page(
        self, client: S3Client, bucket: str, request: ListObjectsV2RequestTypeDef
    ) -> tuple[list[ListedObject], str | None]:
        """Return one page and the token of the next one; None after the last."""
        try:
            answer = _bounded(lambda: client.list_objects_v2(**request), self._fetch_timeout_s)
            page = listed_objects(bucket, answer)
            return page, answer.get("NextContinuationToken", "") if answer["IsTruncated"] else None
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"{self._address} did not send a page of the listing of the bucket {bucket!r} whole in "
                f"{self._fetch_timeout_s:g} seconds; try again later, or raise NIGHTLABEL_FETCH_TIMEOUT_S"
            ) from error
        except (BotoCoreError, ClientError, RuntimeError) as error:
            raise self._refused(error, bucket, "listed") from error
        except (KeyError, ValueError) as error:
            raise StoreUnavailableError(
                f"{self._address} answered with something else than a listing of the bucket {bucket!r}; "
                f"check that {self._words.where_to_set} names an S3 service"
            ) from error

    def _get(self, client: S3Client, ref: ImageRef, max_bytes: int, give_up_at: float) -> bytes:
        request: GetObjectRequestTypeDef = {"Bucket": ref.bucket, "Key": named_to_boto3(ref.key)}
        if ref.etag:
            request["IfMatch"] = f'"{ref.etag}"'
        try:
            answer = client.get_object(**request)
        except (BotoCoreError, ClientError, RuntimeError) as error:
            raise self._refused_key(error, ref) from error

        reading = _Reading(give_up_at)
        why: object = f"cut off after {self._fetch_timeout_s:g} seconds, see NIGHTLABEL_FETCH_TIMEOUT_S"
        cause: Exception | None = None
        try:
            with answer["Body"] as stream, self._watch.over(reading, stream):
                data = _read(answer, ref, max_bytes)
            # A connection that was shut down under TLS could go on to give what is not decrypted.
            if not reading.is_over:
                return data
        except (BotoCoreError, HTTPError, OSError, ValueError) as error:
            cause = error
            if not reading.is_over:
                why = error
        raise StoreUnavailableError(
            f"{self._address} did not send the object {ref.key!r} of the bucket {ref.bucket!r} whole ({why}); "
            "try again later"
        ) from cause

    @property
    def _client(self) -> S3Client:
        return self._connection().client

    def _connection(self) -> _Connection:
        with self._lock:
            if self._opened is None:
                self._opened = self._connect()
            return self._opened

    def _renew(self, refused: _Connection) -> bool:
        """Replace a connection whose credentials were refused; return whether there are others to ask with."""
        with self._lock:
            if self._opened is not refused:
                return True  # another thread was here first
            if self._credentials["aws_access_key_id"] is not None or time.monotonic() < self._no_renewal_before:
                return False
            if self._session is not None:
                _expire(self._session)
            fresh = self._connect()
            found, before = fresh.session.get_credentials(), refused.session.get_credentials()
            if not isinstance(found, RefreshableCredentials) and _keys(found) == _keys(before):
                self._no_renewal_before = time.monotonic() + _VAIN_RENEWAL_S
                return False
            self._opened = fresh
            return True

    def _connect(self) -> _Connection:
        arguments: dict[str, Any] = {name: value for name, value in self._credentials.items() if value is not None}
        try:
            session = self._session or boto3.Session(profile_name=self._profile_name)
            client: S3Client = session.client("s3", config=self._config, **arguments)
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            if "amazonaws.com" not in host:
                # Other stores are rarely reachable under a host name for each bucket.
                by_path = self._config.merge(Config(s3={"addressing_style": "path"}))
                client = session.client("s3", config=by_path, **arguments)
            read_fast(client)
            send_odd_keys(client)
            return _Connection(client, session, self._quick_reads(client, session))
        except _NO_CREDENTIALS as error:
            raise self._no_credentials(error) from error
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(
                f"the object store cannot be addressed ({error}); correct {self._words.where_to_set}, or the region"
            ) from error

    def _quick_reads(self, client: S3Client, session: boto3.Session) -> QuickReads | None:
        given = self._credentials
        key, secret = given["aws_access_key_id"], given["aws_secret_access_key"]
        if key is not None:
            credentials = None if secret is None else Credentials(key, secret, given["aws_session_token"])
        else:
            credentials = session.get_credentials()
        endpoint_url, region_name = client.meta.endpoint_url, client.meta.region_name
        # No region of its own: botocore knows which one signs, and where FIPS has its endpoints.
        is_pseudo = region_name == "aws-global" or "aws-global" in (urlsplit(endpoint_url).hostname or "")
        if credentials is None or is_pseudo:
            return None
        # As botocore does it. An authority that is named here is trusted besides the usual ones, not in their place.
        bundle = session._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        try:
            certificates = Path(bundle).read_bytes() if bundle else None
        except (OSError, ValueError):
            return None
        return QuickReads(
            endpoint_url=endpoint_url,
            region_name=region_name,
            credentials=credentials,
            connections=self._connections,
            connect_timeout_s=self._connect_timeout_s,
            read_timeout_s=self._read_timeout_s,
            timeout_s=min(self._read_timeout_s, self._fetch_timeout_s / 4, LONGEST_READ_S),
            root_certificates=certificates,
        )

    @property
    def _address(self) -> str:
        return f"the object store at {self._client.meta.endpoint_url}"

    def _refused_key(self, error: BotoCoreError | ClientError | RuntimeError, ref: ImageRef) -> InferenceError:
        """Return our error for a request for one key."""
        if isinstance(error, ClientError) and error.operation_name == "GetObject":
            code, status = _code(error), _status(error)
            if status == 412 or (status == 404 and code != "NoSuchBucket"):
                change = "overwritten" if status == 412 else "deleted"
                return ImageGoneError(
                    f"the object was {change} after it was listed; the next run finds what is there now"
                )
            if 400 <= status < 500 and not _concerns_every_key(code, status):
                return ObjectAccessDeniedError(
                    f"the object store refuses this object ({_said(error)}); allow s3:GetObject for it, "
                    "and the use of the key that it is encrypted with"
                )
        return self._refused(error, ref.bucket, "read")

    def _refused(self, error: BotoCoreError | ClientError | RuntimeError, bucket: str, action: str) -> InferenceError:
        """Return our error for a request that failed for a reason that concerns the whole bucket."""
        words = self._words
        # A RuntimeError is what botocore raises when credentials were renewed and are out of date all the same.
        if isinstance(error, (*_NO_CREDENTIALS, RuntimeError)):
            return self._no_credentials(error)
        if isinstance(error, ParamValidationError):
            return SettingsError(
                f"the bucket {bucket!r} cannot be {action}: {' '.join(str(error).split())}; correct it"
            )
        if not isinstance(error, ClientError):
            return StoreUnavailableError(
                f"{self._address} does not answer ({error}); check that it runs and that {words.where_to_set} is right"
            )

        code, status = _code(error), _status(error)
        if status >= 500 or status in {408, 429} or code in _PATIENCE_CODES:
            return StoreUnavailableError(f"{self._address} asks for patience ({_said(error)}); try again later")
        if error.operation_name not in _OUR_OPERATIONS:
            return self._no_credentials(error)
        if code in _REGION_CODES or status in {301, 307}:
            return SettingsError(
                f"the bucket {bucket!r} is not in the region that was asked ({_said(error)}); correct AWS_REGION "
                f"or {words.where_to_set}"
            )
        if status == 404:
            return BucketMissingError(
                f"there is no bucket {bucket!r} in {self._address}; create it, or correct the name or "
                f"{words.where_to_set}"
            )
        if status in {401, 403} or code in _CREDENTIAL_CODES:
            return StoreCredentialsError(
                f"{self._address} refuses that the bucket {bucket!r} is {action} with these credentials "
                f"({_said(error)}); check {words.where_to_set_keys}, and that {words.rights} are allowed"
            )
        return SettingsError(
            f"{self._address} refuses that the bucket {bucket!r} is {action} ({_said(error)}); "
            f"check the bucket, the prefix and {words.where_to_set}"
        )

    def _no_credentials(self, error: Exception) -> StoreCredentialsError:
        said = " ".join(str(error).split())
        return StoreCredentialsError(
            f"there are no credentials for the object store ({said}); set {self._words.where_to_set_keys}"
        )


class _RetryBudget:
    """Bounds how often all threads together ask again, so that a store in trouble is not asked all the more."""

    def __init__(self, *, at_once: float = 100.0, per_second: float = 2.0) -> None:
        self._most, self._per_second = at_once, per_second
        self._left = at_once
        self._taken_at = 0.0
        self._lock = threading.Lock()

    def take(self, now: float) -> bool:
        """Return whether a request may be repeated; ``now`` is in seconds and never goes back."""
        with self._lock:
            self._left = min(self._most, self._left + (now - self._taken_at) * self._per_second)
            self._taken_at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class _Reading:
    """A body that is being read."""

    __slots__ = ("give_up_at", "is_over", "stream")

    def __init__(self, give_up_at: float) -> None:
        self.give_up_at = give_up_at
        self.is_over = False
        self.stream: Any = None


class _Watch:
    """Cuts off bodies that are read for too long: one thread for all of them, which ends when nothing is read.

    A time-out of the socket cannot do that, since each byte that comes begins it anew.
    """

    def __init__(self, look_every_s: float) -> None:
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._readings: set[_Reading] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, reading: _Reading, stream: Any) -> Iterator[None]:  # noqa: ANN401 - urllib3's answer, or what wraps it
        reading.stream = stream
        with self._lock:
            self._readings.add(reading)
            if self._thread is None or not self._thread.is_alive():  # it does not survive a fork
                self._thread = threading.Thread(target=self._look, name="watch-reads", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._readings.discard(reading)

    def _look(self) -> None:
        idle = 0
        while True:
            time.sleep(self._look_every_s)
            now = time.monotonic()
            with self._lock:
                late = [reading for reading in self._readings if now >= reading.give_up_at]
                self._readings.difference_update(late)
                idle = 0 if self._readings or late else idle + 1
                if idle > 10:
                    self._thread = None
                    return
            for reading in late:
                reading.is_over = True
                with suppress(Exception):  # it came to its end meanwhile
                    reading.stream.shutdown()


def _bounded(work: Callable[[], T], timeout_s: float) -> T:
    """Return what ``work`` returns; raise TimeoutError when that takes longer, and leave it to end by itself."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - goes to who waits for it
            answer.set_exception(error)

    threading.Thread(target=run, name="list", daemon=True).start()
    return answer.result(timeout_s)


def _may_be_stale(error: StoreCredentialsError) -> bool:
    """Return whether other credentials may fare better: those that were refused were good once, or may be now."""
    cause = error.__cause__
    return isinstance(cause, ClientError) and _code(cause) in _CREDENTIAL_CODES - _NEVER_BETTER


def _expire(session: boto3.Session) -> None:
    """Make a session fetch its credentials anew, if it can, though it takes those that it has for good ones."""
    credentials = session.get_credentials()
    if isinstance(credentials, RefreshableCredentials):
        credentials._expiry_time = datetime.now(UTC) - timedelta(seconds=1)  # type: ignore[attr-defined]  # no public way


def _keys(credentials: Any) -> object:  # noqa: ANN401 - botocore's, or None
    return credentials and credentials.get_frozen_credentials()


def _read(answer: GetObjectOutputTypeDef, ref: ImageRef, max_bytes: int) -> bytes:
    """Read the body of an answer; boto3 compares length and checksum."""
    body = answer["Body"]
    etag = clean_etag(answer.get("ETag", ""))
    if ref.etag and etag and etag != ref.etag:  # some stores do not know If-Match
        raise ImageGoneError("the object was overwritten after it was listed; the next run finds what is there now")
    announced = answer["ResponseMetadata"]["HTTPHeaders"].get("content-length")
    if announced is not None:
        if int(announced) > max_bytes:
            raise _too_large(f"{int(announced):,}", max_bytes)
        return body.read()
    data = body.read(max_bytes + 1)  # nobody said how much comes
    if len(data) > max_bytes:
        raise _too_large("more", max_bytes)
    if len(data) != ref.size_bytes:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=ref.size_bytes)
    return data


def _too_large(size: str, max_bytes: int) -> ObjectTooLargeError:
    than = "than" if size == "more" else "bytes, more than"
    return ObjectTooLargeError(
        f"the object has {size} {than} the {max_bytes:,} bytes allowed; raise NIGHTLABEL_MAX_OBJECT_BYTES to accept it"
    )


def _concerns_every_key(code: str, status: int) -> bool:
    return status in {404, 408, 429} or code in _CREDENTIAL_CODES or code in _REGION_CODES or code in _PATIENCE_CODES


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _said(error: ClientError) -> str:
    """Return what the store said: status, code and sentence, on one line."""
    message = str(error.response.get("Error", {}).get("Message", ""))
    return " ".join(f"{_status(error)} {_code(error)} {message}".split())[:300]
