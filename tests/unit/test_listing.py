"""A listing is counted and timed as it passes."""

from __future__ import annotations

import pytest

from inference.errors import BucketMissingError, StoreUnavailableError
from inference.listing import TimedListing
from tests.fakes import FakeClock, FakeStore


def test_objects_are_counted_while_pages_pass():
    listing = TimedListing(FakeStore({str(n): b"x" for n in range(7)}, page_size=3), "photos", "", FakeClock())

    seen = [([entry.key for entry in page], listing.discovered) for page in listing]

    assert seen == [(["0", "1", "2"], 3), (["3", "4", "5"], 6), (["6"], 7)]


def test_only_waiting_for_the_store_is_timed():
    clock = FakeClock(step_s=0.25)  # a quarter of a second for each wait: three pages and the end
    listing = TimedListing(FakeStore({str(n): b"x" for n in range(7)}, page_size=3), "photos", "", clock)

    for _ in listing:
        clock.advance(100)  # what is done with a page

    assert listing.list_s == 1.0


def test_an_empty_prefix_is_no_error():
    listing = TimedListing(FakeStore({"a": b"x"}), "photos", "none/", FakeClock())

    assert (list(listing), listing.discovered) == ([], 0)


def test_trouble_of_the_store_comes_through():
    store = FakeStore({"a": b"x"})
    with pytest.raises(BucketMissingError):
        list(TimedListing(store, "other", "", FakeClock()))
    store.trouble = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError):
        list(TimedListing(store, "photos", "", FakeClock()))
