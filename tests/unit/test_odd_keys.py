"""Keys that are no text: each is stored as a text of its own, from which it comes back, and asked for by its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.stores.odd_keys import named_to_boto3, text_of
from inference.types import image_id, key_of, stored_key

ORDINARY = (
    "a.jpg",
    "a//b",
    "",
    "line\nbreak",
    "\x01\x7f",
    "emoji 🌙",
    "\ufffd",
    "a\\x00",
    "%00",
    "\ue000",
    "\U0010f6ff",
    "\U0010f800",
)

PIECES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\xe9",
        b"\xc3",
        b"\xa9",
        "é".encode(),
        "\U0010f700".encode(),
        "\U0010f7ff".encode(),
        b"\xf4\x8f",
        b"a",
        b"/",
    ]
)
KEYS = st.one_of(st.binary(max_size=12), st.lists(PIECES, max_size=12).map(b"".join)).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)


@pytest.mark.parametrize("key", ORDINARY)
def test_an_ordinary_key_is_stored_and_asked_for_as_it_is(key: str):
    assert stored_key(key) == key_of(key) == named_to_boto3(key) == text_of(key) == key


@given(KEYS)
def test_every_key_comes_back_from_what_is_stored_of_it(key: str):
    stored = stored_key(key)
    assert b"\0" not in stored.encode()
    assert key_of(stored) == key
    assert image_id("b", key_of(stored), "e") == image_id("b", key, "e")


@given(KEYS, KEYS)
def test_no_two_keys_are_stored_alike(one: str, other: str):
    assert (stored_key(one) == stored_key(other)) == (one == other)


@given(st.text(max_size=6).filter(str.isprintable), KEYS)
def test_what_begins_with_a_prefix_is_stored_as_what_begins_with_the_stored_one(prefix: str, rest: str):
    assert stored_key(prefix + rest).startswith(stored_key(prefix))


def test_what_stands_for_a_byte_shows_it():
    assert stored_key("caf\udce9\x00.jpg") == "caf\U0010f7e9\U0010f700.jpg"
    assert stored_key("\U0010f700") == "\U0010f7f4\U0010f78f\U0010f79c\U0010f780"


def test_a_key_that_no_store_can_hold_is_refused():
    for key in ("half\ud800", "\udbff", "\x00\ud800"):
        with pytest.raises(UnicodeEncodeError):
            stored_key(key)


def test_a_key_that_looks_like_what_stands_for_another_is_told_from_it():
    odd = named_to_boto3("caf\udce9")
    assert odd.isascii()
    assert named_to_boto3(odd) != odd
    assert named_to_boto3(f"in/{odd}") != f"in/{odd}"
    assert text_of("in/caf\udce9/b") == "in/caf"
