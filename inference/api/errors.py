"""REST errors: what only a request can get wrong, and the one table error class -> HTTP status. Pure."""

from __future__ import annotations

from http import HTTPStatus
from types import MappingProxyType

from fastapi.responses import JSONResponse

from inference.api.schemas import Problem
from inference.errors import (
    ConfigurationError,
    ImageError,
    InferenceError,
    ModelExecutionError,
    ObjectTooLargeError,
    TransientError,
)

PROBLEM_TYPE = "application/problem+json"
"""RFC 9457."""


class RequestError(InferenceError):
    """A request that cannot be answered as it is; the caller can correct it."""

    code = "bad_request"


class MalformedRequestError(RequestError):
    """The body is not what its content type says."""

    code = "malformed_request"


class BadParameterError(RequestError):
    """A query parameter is missing or out of its range."""

    code = "bad_parameter"


class NoImageError(RequestError):
    """There is no image in the body."""

    code = "no_image"


class UnsupportedContentTypeError(RequestError):
    """The body is of a kind that is not read here."""

    code = "unsupported_content_type"


class RequestTooLargeError(RequestError):
    """The body has more bytes than allowed."""

    code = "request_too_large"


class TooManyImagesError(RequestError):
    """The body holds more images than allowed."""

    code = "too_many_images"


class RequestTimeoutError(RequestError):
    """The body stopped arriving."""

    code = "request_timeout"


class RouteUnknownError(RequestError):
    """No such path."""

    code = "route_unknown"


class MethodNotAllowedError(RequestError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class UnauthorizedError(RequestError):
    """The key is missing or wrong."""

    code = "unauthorized"


class HostNotAllowedError(RequestError):
    """Without a key only this machine may ask, and this request came under another name."""

    code = "host_not_allowed"


class ServerBusyError(TransientError):
    """Requests in memory have reached their bound."""

    code = "server_busy"


class ModelNotReadyError(TransientError):
    """The model is still being loaded, or could not be."""

    code = "model_not_ready"


STATUS_BY_ERROR: MappingProxyType[type[InferenceError], HTTPStatus] = MappingProxyType(
    {
        RequestError: HTTPStatus.BAD_REQUEST,
        MalformedRequestError: HTTPStatus.BAD_REQUEST,
        HostNotAllowedError: HTTPStatus.BAD_REQUEST,
        UnauthorizedError: HTTPStatus.UNAUTHORIZED,
        RouteUnknownError: HTTPStatus.NOT_FOUND,
        MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
        RequestTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
        RequestTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        TooManyImagesError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ObjectTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        UnsupportedContentTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        BadParameterError: HTTPStatus.UNPROCESSABLE_ENTITY,
        NoImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
        # Only outside /v1/classify, which answers these image by image.
        ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
        TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
        ModelExecutionError: HTTPStatus.INTERNAL_SERVER_ERROR,
        ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
        InferenceError: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)
"""The HTTP status of each error class; a class that is not here has that of its nearest ancestor."""

SAFE_DETAIL = MappingProxyType(
    {
        HTTPStatus.INTERNAL_SERVER_ERROR: "The service failed to answer; its log says why.",
        HTTPStatus.SERVICE_UNAVAILABLE: "The service cannot answer at the moment; try again later.",
    }
)
"""What a caller reads instead of a message that was written for the operator and may name paths or hosts."""

PUBLIC_TRANSIENT = (ServerBusyError, ModelNotReadyError)
RETRY_AFTER_S = 2


def status_of(error: InferenceError) -> HTTPStatus:
    """Return the HTTP status of an error, by its class or the nearest ancestor in the table."""
    return next(STATUS_BY_ERROR[cls] for cls in type(error).__mro__ if cls in STATUS_BY_ERROR)


def problem(error: InferenceError, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as ``application/problem+json``.

    Nothing of the request is repeated in it, and nothing of the service's inside.

    Args:
        error: What happened. Its message is shown for the caller's own mistakes, replaced for the service's.
        headers: To add, such as ``Allow``.
    """
    status = status_of(error)
    is_public = status not in SAFE_DETAIL or isinstance(error, PUBLIC_TRANSIENT)
    extra = dict(headers or {})
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status is HTTPStatus.UNAUTHORIZED:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="nightlabel"')
    body = Problem(
        title=status.phrase,
        status=status.value,
        code=error.code,
        detail=str(error) if is_public else SAFE_DETAIL[status],
    )
    return JSONResponse(body.model_dump(), status_code=status.value, headers=extra, media_type=PROBLEM_TYPE)
