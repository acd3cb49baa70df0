"""REST app: the routes, and what each may answer. A factory; nothing is loaded before the app starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from inference.api.bodies import DEFAULT_NAME, FIELD, MULTIPART, REQUESTS_IN_MEMORY, ByteBudget, read_uploads
from inference.api.classifying import Classifier, log_load_failure
from inference.api.errors import (
    PROBLEM_TYPE,
    BadParameterError,
    MethodNotAllowedError,
    RequestError,
    RouteUnknownError,
    problem,
)
from inference.api.guards import Guard, api_key_of
from inference.api.schemas import Classification, Health, Problem
from inference.errors import InferenceError
from inference.settings import Settings

if TYPE_CHECKING:
    from inference.ports import ModelHandle

DESCRIPTION = """
Labels images with the model, the preprocessing and the answers of the nightly job.

Every error is an `application/problem+json` document with a stable `code`. A request is refused as a whole when it is
too large, of the wrong kind or without an image; an image that cannot be read is an entry with `error` among the
results, also when it is the only one, and the status is 200.
"""

CLASSIFY_DESCRIPTION = """
Send a form with one or more files in fields named `image`, or the bytes of one image as the body
(`Content-Type: image/…` or `application/octet-stream`; its name by the query parameter `name`).

JPEG, PNG, WebP, GIF and BMP are read, the first frame of animations. Bounds: at most {images} images,
{request} bytes a request, {image} bytes and {pixels} pixels an image.
"""


def create_app(
    settings: Settings,
    load_handle: Callable[[], ModelHandle],
    *,
    on_load_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Build the service.

    Args:
        settings: Bounds and key.
        load_handle: Loads the model; called once, on the thread that the model will live on, when the app starts. Until
            it has answered, the service is live but not ready.
        on_load_failure: Called with why the model could not be loaded; by default that goes to the log.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        classifier = Classifier(settings, load_handle, on_load_failure or log_load_failure)
        app.state.classifier = classifier
        classifier.start()
        try:
            yield
        finally:
            await classifier.close()

    app = FastAPI(
        title="Nightlabel",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # A redirect would answer a path that is not documented, and not with a problem.
        redirect_slashes=False,
    )
    app.add_middleware(Guard, settings=settings)
    app.add_exception_handler(InferenceError, answer_inference_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_validation_error)
    add_health_routes(app)
    add_classify_route(app, settings)
    describe_key(app, settings)
    return app


def add_health_routes(app: FastAPI) -> None:
    """Add the two routes of the Open Inference Protocol that say whether to restart, and whether to send requests."""

    @app.get("/v2/health/live", tags=["health"], summary="Is the process alive?")
    async def live() -> Health:
        return Health(status="live")

    @app.get(
        "/v2/health/ready",
        tags=["health"],
        summary="Is the model loaded, and has it answered once?",
        responses=problems(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def ready(request: Request) -> Health:
        classifier_of(request).ready_handle()
        return Health(status="ready")


def add_classify_route(app: FastAPI, settings: Settings) -> None:
    """Add the route that labels images."""
    budget = ByteBudget(REQUESTS_IN_MEMORY * settings.api_max_request_bytes)

    @app.post(
        "/v1/classify",
        tags=["classify"],
        summary="Label one or more images",
        description=CLASSIFY_DESCRIPTION.format(
            images=settings.api_max_images,
            request=settings.api_max_request_bytes,
            image=settings.max_object_bytes,
            pixels=settings.max_pixels,
        ),
        responses=problems(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def classify(
        request: Request,
        name: Annotated[str, Query(max_length=1024, description="What a raw body is called.")] = DEFAULT_NAME,
        top_k: Annotated[
            int, Query(ge=1, le=100, description="Labels for each image; no more than the model has.")
        ] = settings.top_k,
    ) -> Classification:
        classifier = classifier_of(request)
        classifier.ready_handle()  # refuse before a body is read for nothing
        with budget.lease() as take:
            uploads = await read_uploads(request, name, settings, take)
            model_id, outcomes = await classifier.classify(uploads, top_k)
        return Classification.of(model_id, [upload.name for upload in uploads], outcomes)


BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "minItems": 1, "items": BINARY}},
            }
        },
        "image/*": {"schema": BINARY},
        "application/octet-stream": {"schema": BINARY},
    },
}
"""Described by hand: the body is read as it arrives, which FastAPI's own parameters cannot do."""


def problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route."""
    return {
        status.value: {
            "description": status.phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def describe_key(app: FastAPI, settings: Settings) -> None:
    """Put into the OpenAPI page what FastAPI cannot see: the schema of problems, and the key that the guard wants."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            page = generate()
            schemas = page.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            # FastAPI promises its own form of 422, which this service does not send.
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            if api_key_of(settings):
                page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                page["paths"]["/v1/classify"]["post"]["security"] = [{"key": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def classifier_of(request: Request) -> Classifier:
    """Return what the lifespan put there."""
    classifier: Classifier = request.app.state.classifier
    return classifier


async def answer_inference_error(_: Request, error: Exception) -> Response:
    """Answer with what the error's class says."""
    if not isinstance(error, InferenceError):
        raise error
    return problem(error)


async def answer_http_error(_: Request, error: Exception) -> Response:
    """Answer what the router refuses as a problem, too."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(RouteUnknownError("There is nothing under this path; /docs lists what there is."))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = dict(error.headers or {})
        return problem(MethodNotAllowedError("This path does not take this method; see Allow."), headers=allowed)
    return problem(RequestError("The request cannot be answered as it is."))


async def answer_validation_error(_: Request, error: Exception) -> Response:
    """Say which parameter is wrong and how, without repeating its value."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    return problem(BadParameterError(f"Parameter {first['loc'][-1]}: {str(first['msg']).lower()}."))
