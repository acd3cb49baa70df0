"""A handle is followed over HTTPS alone, and what is only out of reach for now is told apart from what is wrong."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from email.message import Message

import pytest

from inference.errors import InferenceError, ModelSourceError, ModelSourceUnavailableError
from inference.models import hub

HANDLE = "https://models.example/m/1?token=secret"


def redirected(handle: str, to: str) -> urllib.request.Request | None:
    request = urllib.request.Request(handle)  # noqa: S310 - never opened
    return hub.SafeRedirects(handle).redirect_request(request, None, 302, "Found", Message(), to)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("http://models.example/m/1", "leads to plain HTTP, where anybody"),
        ("ftp://models.example/m/1", "leads to 'ftp'"),
        ("file:///etc/passwd", "leads to 'file'"),
    ],
)
def test_every_step_of_a_handle_over_https_is_over_https(to: str, why: str) -> None:
    with pytest.raises(ModelSourceError, match=why) as raised:
        redirected(HANDLE, to)
    assert "secret" not in str(raised.value)


def test_a_handle_is_followed_to_another_host() -> None:
    followed = redirected(HANDLE, "https://storage.example/m.tar.gz")
    assert followed is not None
    assert followed.full_url == "https://storage.example/m.tar.gz"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (ConnectionResetError(104, "reset by peer"), ModelSourceUnavailableError),
        (ConnectionRefusedError(111, "refused"), ModelSourceUnavailableError),
        (TimeoutError("timed out"), ModelSourceUnavailableError),
        (ssl.SSLEOFError(8, "EOF occurred"), ModelSourceUnavailableError),
        (socket.gaierror(socket.EAI_AGAIN, "temporary failure"), ModelSourceUnavailableError),
        (socket.gaierror(socket.EAI_NONAME, "not known"), ModelSourceError),
        (ssl.SSLCertVerificationError(1, "self-signed"), ModelSourceError),
    ],
)
def test_what_may_pass_is_told_apart_from_what_stays(reason: Exception, kind: type[InferenceError]) -> None:
    assert type(hub._unreachable(HANDLE, reason)) is kind


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_answers_that_ask_for_patience_are_tried_again(status: int) -> None:
    assert hub._is_passing(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_other_refusals_stay(status: int) -> None:
    assert not hub._is_passing(status)
