"""Lets boto3 ask for keys that are no text: whose bytes are not UTF-8, as an old program wrote `café` in Latin-1.

boto3 takes keys as text only. Such a key, which Python holds as text with lone surrogates, is named to boto3 by its
bytes in hex behind a mark, and put right in the address before that is signed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MARK: Final = "nightlabel-key-in-hex-"
_MARKED: Final = re.compile(_MARK + r"([0-9a-f]+)(?=$|\?)")


def text_of(prefix: str) -> str:
    """Return as much of the beginning of a key as UTF-8 can write."""
    try:
        prefix.encode()
    except UnicodeEncodeError as error:
        return prefix[: error.start]
    return prefix


def is_text(key: str) -> bool:
    """Return whether UTF-8 can write a key."""
    return text_of(key) == key


def named_to_boto3(key: str) -> str:
    """Return what to give boto3 for a key; the key itself unless it is no text, or looks like what stands for one."""
    if is_text(key) and _MARK not in key:
        return key
    return _MARK + key.encode("utf-8", "surrogateescape").hex()


def send_odd_keys(client: S3Client) -> None:
    """Make a client send what `named_to_boto3` stands for."""
    for operation in ("GetObject", "HeadObject"):
        client.meta.events.register(f"before-call.s3.{operation}", _before_call)


def _before_call(params: dict[str, Any], **_: object) -> None:
    """Handle botocore's event: the request is made and not yet signed."""
    for name in ("url_path", "url"):
        params[name] = _MARKED.sub(lambda found: quote(bytes.fromhex(found[1]), safe="/~"), params[name])
