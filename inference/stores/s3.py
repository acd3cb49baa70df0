"""The object store over the S3 protocol, by boto3: Amazon S3 and whatever speaks like it. Adapter, only reads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
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
from inference.types import ImageRef, ListedObject, clean_etag

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
    )

WHERE_TO_SET: Final = "AWS_ENDPOINT_URL_S3 or the connection images_s3"
WHERE_TO_SET_KEYS: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or role, or the connection images_s3"

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

_NO_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


class S3Store:
    """Reads a bucket. Connects when it is first used; then safe to share between threads.

    What is not given comes from where boto3 looks for it: the ``AWS_*`` variables, profiles, roles, instance metadata.

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
        attempts: Tries of one request, the first included, with growing pauses between them.
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
        attempts: int = 4,
    ) -> None:
        self._session = session
        self._profile_name = profile_name
        self._credentials: dict[str, str | None] = {
            "endpoint_url": endpoint_url,
            "aws_access_key_id": access_key_id,
            "aws_secret_access_key": secret_access_key,
            "aws_session_token": session_token,
            "region_name": region_name,
        }
        self._config = Config(
            max_pool_connections=connections,
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            user_agent_extra="nightlabel",
        )
        self._attempts = attempts
        self._lock = threading.Lock()
        self._opened: S3Client | None = None

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[ListedObject]]:
        """Yield every object whose key begins with the string ``prefix``, in pages of at most 1,000.

        boto3 asks for keys in URL encoding, since XML cannot carry every key, and decodes them.

        Raises:
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, no listing for an answer, or a listing that does not advance.
        """
        request: ListObjectsV2RequestTypeDef = {"Bucket": bucket, "Prefix": prefix}
        seen_token, seen_key, pages = "", None, 0
        while True:
            try:
                answer = self._client.list_objects_v2(**request)
            except (BotoCoreError, ClientError) as error:
                raise self._refused(error, bucket, "listed") from error
            if "IsTruncated" not in answer:
                raise StoreUnavailableError(
                    f"{self._address} answered with something else than a listing of the bucket {bucket!r}; "
                    f"check that {WHERE_TO_SET} names an S3 service"
                )

            page = _listed(bucket, answer)
            pages += 1
            if page and page[0].key == seen_key:
                raise self._stuck(bucket, f"page {pages:,} begins like the one before")
            yield page
            if not answer["IsTruncated"]:
                return

            # A token that was seen before leads round in a circle. One is remembered, renewed at page 1, 2, 4, 8 …:
            # that finds a circle of any length, and needs no memory that grows with the bucket.
            token = answer.get("NextContinuationToken", "")
            if not token or token in {seen_token, request.get("ContinuationToken")}:
                raise self._stuck(
                    bucket, f"page {pages:,} leads to {'a page already seen' if token else 'no next one'}"
                )
            if pages & (pages - 1) == 0:
                seen_token = token
            request["ContinuationToken"] = token
            seen_key = page[0].key if page else seen_key

    def fetch(self, ref: ImageRef, *, max_bytes: int) -> bytes:
        """Return the object's bytes, whole, if it still is the version of ``ref``.

        Raises:
            ImageGoneError: deleted, or overwritten since the listing.
            ObjectAccessDeniedError: the store refuses this key.
            ObjectTooLargeError: more than ``max_bytes``; the body was not read.
            BucketMissingError, StoreCredentialsError, SettingsError: somebody has to change something.
            StoreUnavailableError: no answer, or every one of them was cut short, stalled or did not match its checksum.
        """
        for attempt in range(1, self._attempts + 1):
            answer = self._open(ref)
            try:
                return _read(answer, ref, max_bytes)
            except (
                BotoCoreError,
                HTTPError,
                OSError,
            ) as error:  # boto3 retries what comes before the body, but not the body
                if attempt == self._attempts:
                    raise StoreUnavailableError(
                        f"{self._address} did not send the object {ref.key!r} of the bucket {ref.bucket!r} whole in "
                        f"{attempt} attempts ({error}); try again later"
                    ) from error
            time.sleep(random.uniform(0, min(2.0, 0.1 * 2**attempt)))  # noqa: S311 - only spreads the load
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _open(self, ref: ImageRef) -> GetObjectOutputTypeDef:
        request: GetObjectRequestTypeDef = {"Bucket": ref.bucket, "Key": ref.key}
        if ref.etag:
            request["IfMatch"] = f'"{ref.etag}"'
        try:
            return self._client.get_object(**request)
        except (BotoCoreError, ClientError) as error:
            raise self._refused_key(error, ref) from error

    @property
    def _client(self) -> S3Client:
        with self._lock:
            if self._opened is None:
                self._opened = self._connect()
            return self._opened

    def _connect(self) -> S3Client:
        arguments: dict[str, Any] = {name: value for name, value in self._credentials.items() if value is not None}
        try:
            session = self._session or boto3.Session(profile_name=self._profile_name)
            client: S3Client = session.client("s3", config=self._config, **arguments)
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            if "amazonaws.com" in host:
                return client
            # Other stores are rarely reachable under a host name for each bucket.
            by_path = self._config.merge(Config(s3={"addressing_style": "path"}))
            return session.client("s3", config=by_path, **arguments)
        except _NO_CREDENTIALS as error:
            raise self._no_credentials(error) from error
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(
                f"the object store cannot be addressed ({error}); correct {WHERE_TO_SET}, or the region"
            ) from error

    @property
    def _address(self) -> str:
        return f"the object store at {self._client.meta.endpoint_url}"

    def _refused_key(self, error: BotoCoreError | ClientError, ref: ImageRef) -> InferenceError:
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

    def _refused(self, error: BotoCoreError | ClientError, bucket: str, action: str) -> InferenceError:
        """Return our error for a request that failed for a reason that concerns the whole bucket."""
        if isinstance(error, _NO_CREDENTIALS):
            return self._no_credentials(error)
        if isinstance(error, ParamValidationError):
            return SettingsError(
                f"the bucket {bucket!r} cannot be {action}: {' '.join(str(error).split())}; correct it"
            )
        if not isinstance(error, ClientError):
            return StoreUnavailableError(
                f"{self._address} does not answer ({error}); check that it runs and that {WHERE_TO_SET} is right"
            )

        code, status = _code(error), _status(error)
        if status >= 500 or status in {408, 429} or code in _PATIENCE_CODES:
            return StoreUnavailableError(
                f"{self._address} asks for patience ({_said(error)}) after {self._attempts} attempts; try again later"
            )
        if error.operation_name not in {"GetObject", "ListObjectsV2"}:  # such as AssumeRole, on the way to credentials
            return self._no_credentials(error)
        if code in _REGION_CODES or status in {301, 307}:
            return SettingsError(
                f"the bucket {bucket!r} is not in the region that was asked ({_said(error)}); correct AWS_REGION "
                f"or {WHERE_TO_SET}"
            )
        if status == 404:
            return BucketMissingError(
                f"there is no bucket {bucket!r} in {self._address}; create it, or correct the name or {WHERE_TO_SET}"
            )
        if status in {401, 403} or code in _CREDENTIAL_CODES:
            return StoreCredentialsError(
                f"{self._address} refuses that the bucket {bucket!r} is {action} with these credentials "
                f"({_said(error)}); check {WHERE_TO_SET_KEYS}, and that s3:ListBucket and s3:GetObject are allowed"
            )
        return SettingsError(
            f"{self._address} refuses that the bucket {bucket!r} is {action} ({_said(error)}); "
            f"check the bucket, the prefix and {WHERE_TO_SET}"
        )

    def _no_credentials(self, error: Exception) -> StoreCredentialsError:
        said = " ".join(str(error).split())
        return StoreCredentialsError(f"there are no credentials for the object store ({said}); set {WHERE_TO_SET_KEYS}")

    def _stuck(self, bucket: str, why: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the listing of the bucket {bucket!r} by {self._address} does not advance ({why}); try again, "
            "and if it stays so, the store is faulty"
        )


def _listed(bucket: str, answer: ListObjectsV2OutputTypeDef) -> list[ListedObject]:
    return [
        ListedObject(
            bucket=bucket,
            key=entry["Key"],
            etag=clean_etag(entry.get("ETag", "")),
            size_bytes=entry["Size"],
            last_modified=entry["LastModified"].astimezone(UTC),
        )
        for entry in answer.get("Contents", ())
    ]


def _read(answer: GetObjectOutputTypeDef, ref: ImageRef, max_bytes: int) -> bytes:
    """Read the body of an answer, which is closed in any case; boto3 compares length and checksum."""
    with closing(answer["Body"]) as body:
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
