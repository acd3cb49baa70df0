"""What every object store must do, the fake one included; run by the tests of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from typing import Protocol

import pytest

from inference.errors import BucketMissingError, ImageGoneError, ObjectTooLargeError
from inference.ports import ObjectStore
from inference.types import ImageRef, ListedObject

MIB = 1024 * 1024

PLAIN_KEYS = (
    *("plain.jpg", "a b.jpg", "a+b.jpg", "a%2Bb.jpg", "a%20b.jpg", "a%25b.jpg", "100%.jpg", "&<>\"'.jpg", "?q=1#f.jpg"),
    *(
        "*'()!~;:@=,$[]{}|^`.jpg",
        "café.jpg",
        "cafe\N{COMBINING ACUTE ACCENT}.jpg",
        "\N{CAT FACE}\N{ZERO WIDTH JOINER}.jpg",
    ),
    *("tab\there.jpg", "return\rhere.jpg", "delete\x7f.jpg", "control\x01\x1f.jpg", "not in XML \ufffe.jpg"),
)
"""Keys that every store tried here keeps as they are."""


class Writable(Protocol):
    """A bucket with somebody who may write to it."""

    name: str

    def put(self, key: str, body: bytes) -> str:
        """Store an object and return its ETag without quotes."""
        ...

    def delete(self, key: str) -> None: ...


@dataclass(frozen=True)
class Case:
    store: ObjectStore
    bucket: Writable


def listed(case: Case, prefix: str = "") -> list[ListedObject]:
    return [entry for page in case.store.list_pages(case.bucket.name, prefix) for entry in page]


def keys(case: Case, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in listed(case, prefix))


def ref_of(entry: ListedObject) -> ImageRef:
    return ImageRef(entry.bucket, entry.key, entry.etag, entry.size_bytes)


class ObjectStoreContract:
    """Subclasses give the fixture ``case``."""

    keys = PLAIN_KEYS

    def test_every_key_is_listed_and_read_as_it_was_stored(self, case: Case):
        for key in self.keys:
            case.bucket.put(key, key.encode())

        found = listed(case)

        assert sorted(entry.key for entry in found) == sorted(self.keys)
        assert {e.key: case.store.fetch(ref_of(e), max_bytes=MIB).data for e in found} == {
            k: k.encode() for k in self.keys
        }

    def test_an_entry_tells_size_version_and_time(self, case: Case):
        etag = case.bucket.put("a.jpg", b"four")

        [entry] = listed(case)

        assert (entry.bucket, entry.key, entry.etag, entry.size_bytes) == (case.bucket.name, "a.jpg", etag, 4)
        assert '"' not in entry.etag
        assert entry.last_modified.utcoffset() == timedelta(0)
        assert entry.last_modified.tzinfo is UTC

    def test_a_prefix_is_the_beginning_of_a_key_and_not_a_folder(self, case: Case):
        for key in ("in/a.jpg", "in/b.jpg", "in-between.jpg", "inside/c.jpg", "out.jpg", "a+b/1.jpg", "a b/2.jpg"):
            case.bucket.put(key, b"x")

        assert keys(case, "in") == ["in-between.jpg", "in/a.jpg", "in/b.jpg", "inside/c.jpg"]
        assert keys(case, "in/") == ["in/a.jpg", "in/b.jpg"]
        assert keys(case, "in/a") == ["in/a.jpg"]
        assert keys(case, "a+") == ["a+b/1.jpg"]
        assert keys(case, "a b") == ["a b/2.jpg"]

    def test_a_prefix_under_which_nothing_is_gives_nothing(self, case: Case):
        case.bucket.put("in/a.jpg", b"x")

        assert keys(case, "2099/") == []

    def test_a_folder_placeholder_is_listed_with_zero_bytes(self, case: Case):
        case.bucket.put("folder/", b"")
        case.bucket.put("folder/a.jpg", b"x")

        assert {entry.key: entry.size_bytes for entry in listed(case)} == {"folder/": 0, "folder/a.jpg": 1}

    def test_a_deleted_object_is_gone(self, case: Case):
        case.bucket.put("a.jpg", b"x")
        [entry] = listed(case)
        case.bucket.delete("a.jpg")

        with pytest.raises(ImageGoneError, match="deleted"):
            case.store.fetch(ref_of(entry), max_bytes=MIB)

    def test_an_overwritten_object_is_gone_until_it_is_listed_again(self, case: Case):
        case.bucket.put("a.jpg", b"first")
        [before] = listed(case)
        case.bucket.put("a.jpg", b"later")
        [after] = listed(case)

        with pytest.raises(ImageGoneError, match="overwritten"):
            case.store.fetch(ref_of(before), max_bytes=MIB)
        assert case.store.fetch(ref_of(after), max_bytes=MIB).data == b"later"
        assert ref_of(before).image_id != ref_of(after).image_id

    def test_the_limit_on_bytes_is_exact(self, case: Case):
        case.bucket.put("a.jpg", bytes(1000))
        [entry] = listed(case)

        assert case.store.fetch(ref_of(entry), max_bytes=1000).data == bytes(1000)
        with pytest.raises(ObjectTooLargeError, match="999 bytes allowed"):
            case.store.fetch(ref_of(entry), max_bytes=999)

    def test_a_missing_bucket_is_named(self, case: Case):
        with pytest.raises(BucketMissingError, match="no bucket 'nobody-made-this'"):
            next(iter(case.store.list_pages("nobody-made-this", "")))
        # Some stores look for the object first, and say that it is gone.
        with pytest.raises((BucketMissingError, ImageGoneError)):
            case.store.fetch(ImageRef("nobody-made-this", "a.jpg", "e", 1), max_bytes=MIB)

    def test_a_version_of_unknown_etag_is_read_as_it_is(self, case: Case):
        case.bucket.put("a.jpg", b"x")
        [entry] = listed(case)

        assert case.store.fetch(replace(ref_of(entry), etag=""), max_bytes=MIB).data == b"x"

    def test_threads_share_a_store(self, case: Case):
        for number in range(20):
            case.bucket.put(f"{number}.jpg", str(number).encode() * 100)
        refs = [ref_of(entry) for entry in listed(case)] * 5

        with ThreadPoolExecutor(8) as pool:
            bodies = list(pool.map(lambda ref: case.store.fetch(ref, max_bytes=MIB).data, refs))

        assert bodies == [ref.key.removesuffix(".jpg").encode() * 100 for ref in refs]
