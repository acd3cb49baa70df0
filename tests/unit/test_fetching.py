"""What the listing already condemns costs no request; everything else is read whole, with its hash."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from inference.errors import (
    EmptyObjectError,
    FolderPlaceholderError,
    ImageGoneError,
    ObjectAccessDeniedError,
    ObjectTooLargeError,
    StoreUnavailableError,
)
from inference.fetching import fetch_image
from inference.types import FORGOTTEN_ETAG, ImageRef, may_be_md5
from tests.fakes import FakeStore


def test_an_image_comes_with_its_bytes_and_their_hash():
    store = FakeStore({"a.jpg": b"pixels"})

    fetched = fetch_image(store.ref("a.jpg"), store, max_bytes=6)

    assert (fetched.ref, fetched.data) == (store.ref("a.jpg"), b"pixels")
    assert fetched.content.sha256 == hashlib.sha256(b"pixels").digest()


@pytest.mark.parametrize(
    ("key", "body", "error"),
    [
        ("empty.jpg", b"", EmptyObjectError),
        ("folder/", b"", FolderPlaceholderError),
        ("large.jpg", b"1234567", ObjectTooLargeError),
    ],
)
def test_what_the_listing_condemns_is_not_asked_for(key, body, error):
    store = FakeStore({key: body})

    with pytest.raises(error):
        fetch_image(store.ref(key), store, max_bytes=6)

    assert store.fetched == []


def test_what_was_forgotten_is_gone_and_no_store_is_asked():
    store = FakeStore()
    store.trouble = StoreUnavailableError("down")
    assert not may_be_md5(FORGOTTEN_ETAG), "else a label of equal bytes might be looked for"
    for size_bytes in (0, 1, 7):
        with pytest.raises(ImageGoneError, match="was forgotten"):
            fetch_image(ImageRef("photos", "nightlabel-forgotten/1", FORGOTTEN_ETAG, size_bytes), store, max_bytes=6)


def test_an_object_with_bytes_under_a_key_that_ends_in_a_slash_is_an_image_like_any_other():
    store = FakeStore({"folder/": b"pixels"})

    assert fetch_image(store.ref("folder/"), store, max_bytes=6).data == b"pixels"


def test_what_the_store_says_comes_through():
    store = FakeStore({"a.jpg": b"x", "b.jpg": b"x"})
    store.denied.add("b.jpg")

    with pytest.raises(ImageGoneError):
        fetch_image(replace(store.ref("a.jpg"), etag="older"), store, max_bytes=6)
    with pytest.raises(ObjectAccessDeniedError):
        fetch_image(store.ref("b.jpg"), store, max_bytes=6)
    store.trouble = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError):
        fetch_image(store.ref("a.jpg"), store, max_bytes=6)
