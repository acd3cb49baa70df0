"""Reads pages of ListObjectsV2 several times faster than boto3, and leaves to it what is out of the ordinary."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from inference.types import ListedObject, clean_etag

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENTRIES: Final = "NightlabelEntries"
"""Where an answer of a client that reads fast has its entries; those that boto3 read are under ``Contents``."""

_ROOT: Final = "ListBucketResult"


def read_fast(client: S3Client) -> None:
    """Make a client read the answers to ListObjectsV2 itself; signing, sending and every error stay boto3's.

    boto3 builds a tree twice and walks it by the description of the service: 55 ms for 1,000 keys where this takes 7.
    An answer that is no plain page (an error, cut, another document, a time or number in another form) is left to it,
    so that it comes out as it always did.
    """
    # Handlers of this pattern are called before those of `s3.*`, of which one parses every answer to look for errors.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", _before_parse)


def listed_objects(bucket: str, answer: Any) -> list[ListedObject]:  # noqa: ANN401 - boto3's dictionary, with ours in it
    """Return the objects of an answer, whoever read it; keys exactly as stored, in the answer's order.

    Raises:
        KeyError: an entry lacks its key, size or time.
    """
    entries = answer.get(ENTRIES)
    if entries is not None:
        return [ListedObject(bucket, *entry) for entry in entries]
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


def _before_parse(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Handle botocore's event: put what was read into the answer, and leave nothing else to be parsed."""
    if response_dict["status_code"] != 200:
        return
    page = read_page(response_dict["body"])
    if page is not None:
        customized_response_dict.update(page)
        response_dict["body"] = b""


def read_page(body: bytes) -> dict[str, Any] | None:
    """Return what a page says, in the words of boto3 but for its entries; None if anything about it is unusual.

    Args:
        body: An XML document in UTF-8, as sent.

    Returns:
        ``IsTruncated``, ``NextContinuationToken`` if there is one, and under ``ENTRIES`` a list of (key, ETag without
        quotes, size in bytes, aware time in UTC).
    """
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - expat bounds the expansion of entities; boto3 does the same
        return _page(root)
    except (ElementTree.ParseError, KeyError, ValueError, LookupError):
        return None


def _page(root: ElementTree.Element) -> dict[str, Any]:
    """Return what a parsed page says; raise KeyError or ValueError where it is unusual."""
    space, is_listing, _ = root.tag.partition(_ROOT)
    if not is_listing or root.tag != space + _ROOT:
        raise ValueError
    contents = f"{space}Contents"
    found: list[ElementTree.Element] = []
    about: dict[str, str] = {}
    for child in root:
        if child.tag == contents:
            found.append(child)
            continue
        name = child.tag.removeprefix(space)
        if name.startswith("{") or name == "Contents":  # of another namespace: boto3 does not tell them apart
            raise ValueError
        about[name] = child.text or ""
    page: dict[str, Any] = {
        "IsTruncated": about["IsTruncated"] == "true",
        ENTRIES: list(_entries(found, space, is_encoded=about.get("EncodingType") == "url")),
    }
    if "NextContinuationToken" in about:
        page["NextContinuationToken"] = about["NextContinuationToken"]
    return page


def _entries(
    found: list[ElementTree.Element], space: str, *, is_encoded: bool
) -> Iterator[tuple[str, str, int, datetime]]:
    key_tag, time_tag, etag_tag, size_tag = (f"{space}{name}" for name in ("Key", "LastModified", "ETag", "Size"))
    for entry in found:
        said = {part.tag: part.text or "" for part in entry}
        key = said[key_tag]
        if is_encoded and ("%" in key or "+" in key):
            key = unquote_plus(key, errors="surrogateescape")
        last_modified = datetime.fromisoformat(said[time_tag])
        if last_modified.tzinfo is not UTC:
            if last_modified.tzinfo is None:
                raise ValueError
            last_modified = last_modified.astimezone(UTC)
        yield key, clean_etag(said[etag_tag]), int(said[size_tag]), last_modified
