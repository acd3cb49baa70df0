"""Notices a listing that does not advance: pages that repeat, go round in a circle, or stay empty. Pure."""

from __future__ import annotations

from typing import Final

_SAME_PAGE_AT_MOST: Final = 3
_EMPTY_PAGES_AT_MOST: Final = 1_000


class Course:
    """Where a listing has been, in memory that does not grow with the bucket.

    A page that comes again at once does no harm. Pages that go round in a circle would never end: one of them is
    remembered by its token and its first key, renewed at page 1, 2, 4, 8 …, which finds a circle of any length.
    No order of keys is relied on.
    """

    def __init__(self) -> None:
        self._pages = self._same = self._empty = 0
        self._token = self._seen_token = ""
        self._key: str | None = None
        self._seen_key: str | None = None

    def leads_astray(self, first_key: str | None, token: str) -> str | None:
        """Note a page by its first key (None if it is empty) and the token of the next one; return what is wrong."""
        if not token:
            return f"page {self._pages + 1:,} leads to no next one"
        if token == self._token or (first_key is not None and first_key == self._key):
            self._same += 1
            return f"the same page came {self._same + 1} times" if self._same >= _SAME_PAGE_AT_MOST else None
        if token == self._seen_token or (first_key is not None and first_key == self._seen_key):
            return f"page {self._pages + 1:,} leads in a circle, to a page already seen"

        self._pages += 1
        self._token = token
        if first_key is None:
            self._empty += 1
            if self._empty > _EMPTY_PAGES_AT_MOST:
                return f"{_EMPTY_PAGES_AT_MOST:,} empty pages came one after the other"
        else:
            self._empty = self._same = 0
            self._key = first_key
        if self._pages & (self._pages - 1) == 0:
            self._seen_token, self._seen_key = token, self._key
        return None
