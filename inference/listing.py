"""list: a bucket's prefix -> pages of objects, counted and timed. Pure but for the store it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inference.ports import Clock, ObjectStore
from inference.types import ListedObject


class TimedListing:
    """Pages of a listing, counted as they pass; holds one page at a time. To be iterated once."""

    def __init__(self, store: ObjectStore, bucket: str, prefix: str, clock: Clock) -> None:
        self._pages = store.list_pages(bucket, prefix)
        self._clock = clock
        self.discovered = 0
        """Objects seen so far."""
        self.list_s = 0.0
        """Seconds spent waiting for the store so far; what is done with a page meanwhile does not count."""

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        """Yield the store's pages that hold anything; errors are those of ``ObjectStore.list_pages``."""
        while True:
            started = self._clock.monotonic()
            page = next(self._pages, None)
            self.list_s += self._clock.monotonic() - started
            if page is None:
                return
            if page:
                self.discovered += len(page)
                yield page
