"""list: a bucket's prefix -> pages of objects, counted and timed. Pure but for the source it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inference.ports import Clock, ObjectSource
from inference.types import ListedObject


class TimedListing:
    """Pages of a listing, counted as they pass; holds one page at a time. To be iterated once."""

    def __init__(self, source: ObjectSource, bucket: str, prefix: str, clock: Clock) -> None:
        self._pages = source.list_pages(bucket, prefix)
        self._clock = clock
        self.discovered = 0
        """Objects seen so far."""
        self.list_s = 0.0
        """Seconds spent waiting for the source so far; what is done with a page meanwhile does not count."""

    def __iter__(self) -> Iterator[Sequence[ListedObject]]:
        """Yield the source's pages that hold anything; errors are those of ``ObjectSource.list_pages``."""
        while True:
            started = self._clock.monotonic()
            page = next(self._pages, None)
            self.list_s += self._clock.monotonic() - started
            if page is None:
                return
            if page:
                self.discovered += len(page)
                yield page
