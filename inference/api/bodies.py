"""REST bodies: a request's bytes -> uploads, every bound kept while they arrive and not after. No decoding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from inference.api.errors import (
    MalformedRequestError,
    NoImageError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServerBusyError,
    TooManyImagesError,
    UnsupportedContentTypeError,
)
from inference.errors import ObjectTooLargeError
from inference.settings import Settings

FIELD = "image"
DEFAULT_NAME = "image"
MULTIPART = "multipart/form-data"
MAX_PART_HEADER_BYTES = 8 * 1024
MAX_PART_HEADERS = 16
IDLE_TIMEOUT_S = 30.0
"""Seconds that a body may stand still."""
REQUESTS_IN_MEMORY = 4
"""Bodies of full size that are held at once, whoever sent them; more callers are asked to come back."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as a caller sent it."""

    name: str
    data: bytes


@dataclass(slots=True)
class ByteBudget:
    """Bounds the bytes of all requests that are in memory at one time. Used on the event loop only."""

    limit_bytes: int
    used_bytes: int = 0

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes bytes from the budget; all of them go back at the end.

        Raises:
            ServerBusyError: out of that function, when the budget is used up.
        """
        taken = 0

        def take(size_bytes: int) -> None:
            nonlocal taken
            if self.used_bytes + size_bytes > self.limit_bytes:
                raise ServerBusyError("Too many requests are being read at this moment; try again in a few seconds.")
            self.used_bytes += size_bytes
            taken += size_bytes

        try:
            yield take
        finally:
            self.used_bytes -= taken


async def read_uploads(request: Request, name: str, settings: Settings, take: Callable[[int], None]) -> list[Upload]:
    """Read the images of a request, of whichever kind its body is.

    Args:
        request: Its body has not been touched.
        name: What a raw body is called in the answer.
        settings: The bounds.
        take: Of a ``ByteBudget``.

    Returns:
        At least one upload, in the order of the body.

    Raises:
        UnsupportedContentTypeError: neither a form nor an image, or a compressed body.
        RequestTooLargeError, TooManyImagesError, ObjectTooLargeError: over a bound; the rest is not read.
        NoImageError: nothing to classify.
        MalformedRequestError: not the form that it says it is.
        RequestTimeoutError: it stopped arriving.
        ServerBusyError: others fill the memory.
    """
    content_type, parameters = parse_options_header(request.headers.get("content-type"))
    kind = content_type.decode("latin-1")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedContentTypeError("The body is compressed; send it without a Content-Encoding.")
    is_raw = kind.startswith("image/") or kind == "application/octet-stream"
    if not is_raw and kind != MULTIPART:
        raise UnsupportedContentTypeError(
            f"The body is neither {MULTIPART} with fields named '{FIELD}' nor image/* nor application/octet-stream; "
            "set Content-Type to what it is."
        )
    check_announced_size(request, settings.api_max_request_bytes)
    chunks = bounded_chunks(request, settings.api_max_request_bytes, take)
    if is_raw:
        return [await read_raw(chunks, name, settings.max_object_bytes)]
    return await read_form(chunks, parameters.get(b"boundary", b""), settings)


def check_announced_size(request: Request, limit_bytes: int) -> None:
    """Refuse a body by its ``Content-Length``, before a byte of it is read; chunked bodies have none."""
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError:
        raise MalformedRequestError("Content-Length is not a number.") from None
    if announced > limit_bytes:
        raise request_too_large(limit_bytes)


def request_too_large(limit_bytes: int) -> RequestTooLargeError:
    """Return the error for a body over the bound."""
    return RequestTooLargeError(f"The request has more than {limit_bytes} bytes; send fewer images at a time.")


async def bounded_chunks(request: Request, limit_bytes: int, take: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, until it is over the bound or stands still for too long."""
    read_bytes = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestTimeoutError(f"No byte of the body arrived in {IDLE_TIMEOUT_S:.0f} s.") from None
        except ClientDisconnect:
            raise MalformedRequestError("The connection was closed before the end of the body.") from None
        read_bytes += len(chunk)
        if read_bytes > limit_bytes:
            raise request_too_large(limit_bytes)
        take(len(chunk))
        yield chunk


async def read_raw(chunks: AsyncIterator[bytes], name: str, max_object_bytes: int) -> Upload:
    """Read a body that is one image."""
    data = bytearray()
    async for chunk in chunks:
        check_image_size(len(data) + len(chunk), max_object_bytes)
        data += chunk
    if not data:
        raise NoImageError("The body is empty; send the bytes of an image.")
    return Upload(name, bytes(data))


def check_image_size(size_bytes: int, max_object_bytes: int) -> None:
    """Refuse an image over the bound that the nightly job has too."""
    if size_bytes > max_object_bytes:
        raise ObjectTooLargeError(f"An image has more than {max_object_bytes} bytes; send a smaller one.")


async def read_form(chunks: AsyncIterator[bytes], boundary: bytes, settings: Settings) -> list[Upload]:
    """Read the fields named ``image`` of a form; other fields are passed over."""
    if not boundary:
        raise MalformedRequestError("The Content-Type of the form lacks its boundary.")
    reader = FormReader(settings.max_object_bytes, settings.api_max_images)
    try:
        parser = MultipartParser(
            boundary,
            reader.callbacks(),  # type: ignore[arg-type]  # a TypedDict there, the same keys here
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError:
        raise MalformedRequestError("The form does not follow multipart/form-data (RFC 7578).") from None
    if not reader.is_complete:
        raise MalformedRequestError("The form ends before its closing boundary.")
    if not reader.uploads:
        raise NoImageError(f"The form has no file in a field named '{FIELD}'.")
    return reader.uploads


@dataclass(slots=True)
class FormReader:
    """Collects the images of a form from the parser's callbacks, and stops at the first bound that is passed."""

    max_object_bytes: int
    max_images: int
    uploads: list[Upload] = field(default_factory=list)
    is_complete: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _name: str | None = None
    """None in a field that is not an image."""
    _has_empty_name: bool = False
    _data: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return the parser's callbacks."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._disposition = b""
        self._name = None
        self._data = bytearray()

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name", b"").decode("utf-8", "replace") != FIELD:
            return
        file_name = options.get(b"filename")
        self._has_empty_name = file_name == b""
        self._name = (file_name or DEFAULT_NAME.encode()).decode("utf-8", "replace")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            return
        if len(self.uploads) >= self.max_images:
            raise TooManyImagesError(
                f"The request has more than {self.max_images} images; send fewer images at a time."
            )
        check_image_size(len(self._data) + end - start, self.max_object_bytes)
        self._data += data[start:end]

    def _end_part(self) -> None:
        # A browser sends a file input that was left empty as a file without name and bytes: that is no image.
        if self._name is None or (self._has_empty_name and not self._data):
            return
        if len(self.uploads) >= self.max_images:
            raise TooManyImagesError(
                f"The request has more than {self.max_images} images; send fewer images at a time."
            )
        self.uploads.append(Upload(self._name, bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.is_complete = True
