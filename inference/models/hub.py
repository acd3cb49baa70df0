"""models: a TensorFlow Hub or Kaggle handle -> the file behind it, by tensorflow-hub. Needs TensorFlow; a child's part.

tensorflow-hub knows the protocol: what to ask for, redirects, certificates. What comes is not unpacked by it but kept
as it came, bounded and hashed, and unpacked like every other archive.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from inference.engines.tensorflow import import_tensorflow
from inference.errors import ModelError, ModelSourceError, ModelSourceUnavailableError
from inference.models.archives import MAX_BYTES
from inference.models.source_files import without_query

_TIMEOUT_S: Final = 60.0
"""Seconds to wait for the server's next bytes."""

_PIECE_BYTES: Final = 1024 * 1024
_SECONDS_BETWEEN_WORDS: Final = 1.0

_MEANINGS: Final = {
    401: "it wants a login: fetch the archive by hand and register the file",
    403: "it is refused, perhaps without a login or an agreement: fetch the archive by hand and register the file",
    404: "there is no such module: correct the handle, its version included",
    410: "there is no such module any more: find its present handle",
    429: "it was asked too often: try again later",
}

_PATIENCE: Final = frozenset({408, 429})
"""HTTP's words for trying again, besides 500 and above."""

_NO_SUCH_NAME: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL") if hasattr(socket, name)
)

OFFLINE: Final = (
    "on a machine without internet fetch the archive elsewhere (the handle with ?tf-hub-format=compressed) and "
    "register the file or its s3:// address; behind a proxy set HTTPS_PROXY"
)


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a handle over HTTPS alone, one step in the middle included; plain HTTP only from plain HTTP."""

    def __init__(self, handle: str) -> None:
        self._handle = handle

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,  # noqa: ANN401 - as urllib has it
        code: int,
        msg: str,
        headers: Any,  # noqa: ANN401
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return what to ask for next.

        Raises:
            ModelSourceError: it would be asked for over something less safe than the handle.
        """
        scheme = urllib.parse.urlsplit(newurl).scheme.lower()
        if scheme not in ({"http", "https"} if self._handle.startswith("http:") else {"https"}):
            way = "plain HTTP, where anybody on the way can change it" if scheme == "http" else f"{scheme[:20]!r}"
            raise ModelSourceError(f"{without_query(self._handle)} leads to {way}; fetch it by hand")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_handle(handle: str, target: Path, progress: Callable[[str], None], *, max_bytes: int = MAX_BYTES) -> str:
    """Let tensorflow-hub resolve a handle, keep what comes as a file, and return its SHA-256 in hex.

    Args:
        handle: ``https://…``, without the query that tensorflow-hub adds.
        target: Where the file goes.
        progress: Told how much has come.
        max_bytes: Most bytes that are taken.

    Raises:
        ModelSourceError: it is refused, not there, of a name that nobody knows, not to be trusted or too large.
        ModelSourceUnavailableError: it does not answer, asks for patience, or broke off; later it may work.
        ModelError: TensorFlow or tensorflow-hub is not installed.
    """
    import_tensorflow()
    shown = without_query(handle)
    try:
        import tensorflow_hub
        from tensorflow_hub.compressed_module_resolver import HttpCompressedFileResolver
        from tensorflow_hub.registry import resolver
    except ImportError as error:
        raise ModelError(f"tensorflow-hub cannot be loaded: {error}; pip install 'nightlabel[tensorflow]'") from error

    class KeepingResolver(HttpCompressedFileResolver):  # type: ignore[misc]  # tensorflow-hub has no types
        """Keeps what a handle leads to, and unpacks nothing."""

        digest = ""

        def __call__(self, handle: str) -> str:
            request = urllib.request.Request(self._append_compressed_format_query(handle))  # noqa: S310 - http(s) only
            with self._call_urlopen(request) as response:
                self.digest = _keep(response, target, handle, progress, max_bytes)
            return str(target)

        def is_supported(self, handle: str) -> bool:
            return bool(self.is_http_protocol(handle))

        def _call_urlopen(self, request: urllib.request.Request) -> Any:  # noqa: ANN401
            opener = urllib.request.build_opener(
                urllib.request.HTTPSHandler(context=self._context), SafeRedirects(handle)
            )
            return opener.open(request, timeout=_TIMEOUT_S)

    keeping = KeepingResolver()
    resolver.add_implementation(keeping)
    progress(f"fetching {shown}")
    try:
        tensorflow_hub.resolve(handle)
    except urllib.error.HTTPError as error:
        meaning = _MEANINGS.get(error.code, "try again later" if _is_passing(error.code) else "correct the handle")
        kind = ModelSourceUnavailableError if _is_passing(error.code) else ModelSourceError
        raise kind(f"{shown} answered with HTTP {error.code} {error.reason}; {meaning}") from error
    except urllib.error.URLError as error:
        raise _unreachable(handle, error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(handle, error) from error
    return keeping.digest


def _keep(response: Any, target: Path, handle: str, progress: Callable[[str], None], max_bytes: int) -> str:  # noqa: ANN401
    """Write an answer to a file, and return its SHA-256."""
    shown = without_query(handle)
    announced = response.headers.get("Content-Length", "")
    total = f" of {int(announced) / 1e6:.1f}" if announced.isdecimal() else ""
    digest, size, told = hashlib.sha256(), 0, time.monotonic()
    with target.open("wb") as file:
        while piece := response.read(_PIECE_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise ModelSourceError(f"{shown} sends more than {max_bytes:,} bytes, which no model has")
            digest.update(piece)
            file.write(piece)
            if time.monotonic() - told > _SECONDS_BETWEEN_WORDS:
                told = time.monotonic()
                progress(f"fetching {shown}: {size / 1e6:.1f}{total} MB")
    if announced.isdecimal() and size != int(announced):
        raise ModelSourceUnavailableError(
            f"{shown} sent {size:,} of the {int(announced):,} bytes that it announced; register it again"
        )
    kind = response.headers.get_content_type()
    if kind == "text/html":
        raise ModelSourceError(
            f"{shown} answered with a page (text/html) and no model; correct the handle, its version included"
        )
    return digest.hexdigest()


def _is_passing(status: int) -> bool:
    return status in _PATIENCE or status >= 500


def _unreachable(handle: str, reason: object) -> ModelSourceError | ModelSourceUnavailableError:
    host = urllib.parse.urlsplit(handle).hostname
    if isinstance(reason, ssl.SSLCertVerificationError):
        why = getattr(reason, "reason", None) or reason
        return ModelSourceError(
            f"the certificate of {host} does not hold ({why}); name the authority that signed it with SSL_CERT_FILE"
        )
    if isinstance(reason, socket.gaierror) and reason.errno in _NO_SUCH_NAME:
        return ModelSourceError(
            f"{host} cannot be reached for {without_query(handle)} (its name is not known here); {OFFLINE}"
        )
    words = str(reason) or type(reason).__name__
    return ModelSourceUnavailableError(f"{host} cannot be reached for {without_query(handle)} ({words}); {OFFLINE}")
