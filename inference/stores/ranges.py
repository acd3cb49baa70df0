"""Lists a large prefix in parallel: by ranges of keys that are found while it is read. Pure but for the threads.

The first pages are read one after the other, as a small prefix is to its end. Then threads that have nothing to do take
over the far part of a range that others read: they look for a key about in its middle, with requests for one key each,
and nothing is assumed about how keys are spread.

**Why no key is lost, whatever order the store lists in.** Each range but the first begins at a key that the store gave
as the first one behind some point, and the range before it is read, page by page as the store leads, until it comes to
that very key, unless it was deleted. So the ranges put together are what reading from the start would have given. Where
that does not hold, or a page is not in the order of the keys' bytes (which is the order of their code points), or a
store does not know ``start-after``, the first range alone is read on to the very end: what others read is then given
twice, and nothing is missed. Whoever plans keeps one of each.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, lt
from typing import Final, Protocol, TypeAlias

from inference.errors import InferenceError
from inference.stores.course import Course
from inference.stores.odd_keys import is_text
from inference.types import ListedObject

Page: TypeAlias = tuple[Sequence[ListedObject], str | None]
"""The objects of a page, and the token of the next one; None after the last."""

PLAIN_KEYS: Final = 2_000
"""So many keys are read one page after the other before it is worth while to look for ranges."""

PAGES_BEFORE_CUT: Final = 2
"""Pages that are read of a range before it may be cut; doubled each time that looking for a cut was in vain."""

CHARACTERS_TRIED: Final = 6
"""Requests to find the middle of the characters that follow a common beginning."""

_LAST_ASCII: Final = 0x7F
_CODE_POINTS: Final = 0x110000

_key_of = attrgetter("key")


class Ask(Protocol):
    """Asks the store for one page of the prefix. Safe to call from several threads."""

    def __call__(self, *, token: str | None = None, after: str | None = None, limit: int | None = None) -> Page:
        """Return the page of a token, or the first one behind a key, of at most ``limit`` keys.

        Raises:
            InferenceError: there is none, after all attempts.
        """
        ...


class _NoRangesError(Exception):
    """The store does not answer as one that can be listed by ranges."""


class _Vain(Exception):  # noqa: N818 - no error
    """What was asked tells nothing."""


@dataclass(slots=True, eq=False)
class _Range:
    """Keys from one on, up to another one that begins the next range. Changed under the crew's lock."""

    after: str | None = None
    """Its first request asks for what lies behind this; None for the first range."""
    first: str | None = None
    """Smaller keys belong to the range before."""
    end: str | None = None
    """The first key of the next range; None for the last range."""
    end_after: str | None = None
    """The point behind which ``end`` was the first key."""
    bound: str | None = None
    """Nothing was found between this and ``end``."""
    at: str | None = None
    """The last key that was read."""
    page_first: str | None = None
    """The first key of the last page that was read."""
    token: str | None = None
    """Of the next page."""
    last_token: str | None = None
    """Of the last page that was read."""
    pages: int = 0
    """Read since it was last looked for a cut."""
    pages_before_cut: int = PAGES_BEFORE_CUT
    is_being_cut: bool = False
    course: Course = field(default_factory=Course)


def list_in_ranges(
    ask: Ask, prefix: str, *, threads: int, does_not_advance: Callable[[str], Exception]
) -> Iterator[Sequence[ListedObject]]:
    """Yield every object under the prefix, page by page; memory is bounded by two pages for each thread.

    Pages come in the order of the keys until there are threads, then in any order. A key may come twice when it changes
    meanwhile, or with a store that does not list in the order of bytes.

    Args:
        ask: Asks for a page.
        prefix: What every key begins with.
        threads: Most requests at a time; with 1 every page is read after the other.
        does_not_advance: Makes an error of the reason why a listing would never end.

    Raises:
        InferenceError: what ``ask`` raised, or ``does_not_advance`` made.
    """
    begun = _Range()
    keys, is_ordered = 0, True
    while True:
        page, token = ask(token=begun.token)
        is_ordered = is_ordered and _is_ascending(page, begun.at)
        keys += len(page)
        yield page
        if token is None:
            return
        _advance(begun, page, token, does_not_advance)
        if threads > 1 and keys >= PLAIN_KEYS and is_ordered:
            break
    crew = _Crew(ask, prefix, begun, does_not_advance)
    crew.start(threads)
    try:
        yield from crew.pages(2 * threads)
    finally:
        crew.stop()


class _Crew:
    """Threads that read ranges. Everything it holds is changed under one lock."""

    def __init__(self, ask: Ask, prefix: str, begun: _Range, does_not_advance: Callable[[str], Exception]) -> None:
        self._ask = ask
        self._prefix = prefix
        self._does_not_advance = does_not_advance
        self._changed = threading.Condition()
        self._base = begun
        self._unread = deque([begun])
        """Ranges that wait for a thread."""
        self._reading: set[_Range] = set()
        self._made: deque[Sequence[ListedObject]] = deque()
        self._most_made = 1
        self._is_plain = False
        """Whether only the first range is read, to the very end."""
        self._may_cut = True
        self._is_stopped = False
        self._error: BaseException | None = None

    def start(self, threads: int) -> None:
        for number in range(threads):
            threading.Thread(target=self._work, name=f"list-range-{number}", daemon=True).start()

    def pages(self, at_once: int) -> Iterator[Sequence[ListedObject]]:
        """Yield what the threads read, until they have read everything.

        Args:
            at_once: Pages that may wait for the caller.
        """
        self._most_made = at_once
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._made or self._error or self._is_over)
                if self._error is not None:
                    raise self._error
                if not self._made:
                    return
                page = self._made.popleft()
                self._changed.notify_all()
            yield page

    def stop(self) -> None:
        """Let the threads end; those that wait for the store do so after its answer."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._is_stopped or self._error is not None or not (self._unread or self._reading)

    def _work(self) -> None:
        try:
            while (found := self._next_range()) is not None:
                self._read(found)
        except BaseException as error:  # noqa: BLE001 - goes to who waits for the pages
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _next_range(self) -> _Range | None:
        """Return a range to read: one that waits, or the far part of another; None when there is nothing to do."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._unread or self._to_cut() is not None)
                if self._is_over:
                    return None
                if self._unread:
                    found = self._unread.popleft()
                    self._reading.add(found)
                    return found
                near = self._to_cut()
                if near is None:
                    continue
                near.is_being_cut = True
            far = self._cut(near)
            if far is not None:
                return far

    def _to_cut(self) -> _Range | None:
        """Return the range that has gone on for longest without being cut, of those that have gone on for a while."""
        if self._is_plain or not self._may_cut:
            return None
        long = [near for near in self._reading if near.pages >= near.pages_before_cut and not near.is_being_cut]
        return max(long, key=lambda near: near.pages, default=None)

    def _cut(self, near: _Range) -> _Range | None:
        """Cut a range in two and return the far part, or None if it is not worth while."""
        found: tuple[str, str] | None = None
        try:
            found = self._find_cut(near)
        except _Vain:
            pass
        except _NoRangesError:
            with self._changed:
                self._fall_back()
        except InferenceError:
            with self._changed:
                self._may_cut = False  # the pages themselves are what matters
        with self._changed:
            near.is_being_cut = False
            near.pages = 0
            self._changed.notify_all()
            if found is None or self._is_plain or near not in self._reading:
                near.pages_before_cut *= 2
                return None
            point, key = found
            if near.at is None or key <= near.at or (near.end is not None and key >= near.end):
                return None  # it has come that far meanwhile
            near.pages_before_cut = PAGES_BEFORE_CUT
            far = _Range(after=point, first=key, end=near.end, end_after=near.end_after, bound=near.bound)
            near.end, near.end_after, near.bound = key, point, point
            self._reading.add(far)
            return far

    def _find_cut(self, near: _Range) -> tuple[str, str] | None:
        """Return a point about in the middle of what is left of a range, and the first key behind it."""
        at = near.at or ""

        def first_behind(point: str | None) -> str | None:
            """Return the range's first key behind a point."""
            if point is None or (near.bound is not None and point >= near.bound):
                return None
            if self._is_over or self._is_plain:
                raise _Vain
            key = self._first_behind(point)
            if key is None or (near.end is not None and key >= near.end):
                near.bound = point
                return None
            return key

        # The shortest beginning of the present key behind whose kin there is something; most often a short one.
        shared = len(self._prefix) if near.bound is None else max(len(self._prefix), _common_length(at, near.bound))
        low, high, step = shared + 1, len(at), 1
        found: tuple[str, str] | None = None
        length = 0
        while low <= high:
            middle = min(low + step - 1, high) if found is None else (low + high) // 2
            point = _after_kin(at[:middle])
            key = first_behind(point)
            if point is not None and key is not None:
                found, length = (point, key), middle
                high = middle - 1
            else:
                low, step = middle + 1, step * 2
        if found is None:
            return None
        stem = at[: length - 1]
        if not found[1].startswith(stem) or len(found[1]) < length:  # the bound itself is a key, and the only one left
            return found

        # All that is left shares what comes before; of the characters that follow there, one in the middle.
        low = ord(found[1][length - 1])
        high = _LAST_ASCII if low < _LAST_ASCII else _CODE_POINTS
        if near.bound is not None and near.bound.startswith(stem) and len(near.bound) >= length:
            high = ord(near.bound[length - 1]) + 1
        for _ in range(CHARACTERS_TRIED):
            middle = (low + high) // 2
            if middle <= low:
                break
            point = stem + _character(middle)
            key = first_behind(point)
            if key is not None:
                return point, key
            high = middle
        return found

    def _first_behind(self, point: str) -> str | None:
        """Return the prefix's first key behind a point; None if there is none.

        Raises:
            _NoRangesError: the store does not know ``start-after``, or knows another order; or the point is no text.
            _Vain: an empty page that is not the last.
        """
        if not is_text(point):
            raise _NoRangesError  # it cannot be asked for
        page, token = self._ask(after=point, limit=1)
        if not page:
            if token is not None:
                raise _Vain
            return None
        if page[0].key <= point:
            raise _NoRangesError
        return page[0].key

    def _read(self, reading: _Range) -> None:
        """Read a range to its end, or until there is nothing to read any more."""
        while True:
            with self._changed:
                if self._is_over or (self._is_plain and reading is not self._base):
                    self._finish(reading)
                    return
                token = reading.token
            page, following = self._ask(token=token) if token is not None else self._ask(after=reading.after)
            with self._changed:
                mine, beyond = self._take(reading, page)
                end, end_after = reading.end, reading.end_after
                reading.last_token = token
                if beyond is None and following is not None:
                    _advance(reading, page, following, self._does_not_advance)
                elif page:
                    reading.at = page[-1].key  # nothing is left to cut
            self._hand_on(mine)
            if beyond is not None and end_after is not None and beyond != end and not self._is_gone(end, end_after):
                with self._changed:
                    self._fall_back()
            with self._changed:
                if self._is_plain and reading is self._base and beyond is not None:
                    reading.token = token  # what was left off of this page is read after all
                elif beyond is not None or following is None:
                    self._finish(reading)
                    return

    def _is_gone(self, key: str | None, point: str) -> bool:
        """Return whether the key that was the first one behind a point is not there any more, but others are."""
        try:
            return self._first_behind(point) not in {None, key}
        except (_NoRangesError, _Vain):
            return False

    def _take(self, reading: _Range, page: Sequence[ListedObject]) -> tuple[Sequence[ListedObject], str | None]:
        """Return what of a page belongs to a range, and the first key that belongs to the next one."""
        if not page or self._is_plain:
            return page, None
        is_repeated = page[0].key == reading.page_first
        low_end = reading.at if reading.at is not None else reading.after
        if not _is_ascending(page, None if is_repeated else low_end):
            self._fall_back()
            return page, None
        start = 0 if reading.first is None else bisect_left(page, reading.first, key=_key_of)
        stop = len(page) if reading.end is None else bisect_left(page, reading.end, key=_key_of)
        return page[start:stop], page[stop].key if stop < len(page) else None

    def _fall_back(self) -> None:
        """Read on from where the first range is, to the very end, and nothing else."""
        if self._is_plain:
            return
        self._is_plain = True
        self._base.end = None
        if self._base not in self._reading and self._base not in self._unread:
            self._base.token = self._base.last_token
            self._unread.append(self._base)
        self._changed.notify_all()

    def _finish(self, reading: _Range) -> None:
        self._reading.discard(reading)
        self._changed.notify_all()

    def _hand_on(self, page: Sequence[ListedObject]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or len(self._made) < self._most_made)
            self._made.append(page)
            self._changed.notify_all()


def _advance(
    reading: _Range, page: Sequence[ListedObject], token: str, does_not_advance: Callable[[str], Exception]
) -> None:
    """Note that a page was read and another one follows."""
    astray = reading.course.leads_astray(page[0].key if page else None, token)
    if astray:
        raise does_not_advance(astray)
    reading.token = token
    reading.pages += 1
    if page:
        reading.page_first = page[0].key
        reading.at = page[-1].key


def _is_ascending(page: Sequence[ListedObject], after: str | None) -> bool:
    """Return whether the keys of a page grow, from above ``after`` on."""
    keys = [entry.key for entry in page]
    return all(map(lt, keys, keys[1:])) and (after is None or not keys or after < keys[0])


def _common_length(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return length
    return min(len(one), len(other))


def _character(code_point: int) -> str:
    """Return a character; the next one that UTF-8 can write for a surrogate."""
    return chr(0xE000 if 0xD800 <= code_point < 0xE000 else code_point)


def _after_kin(beginning: str) -> str | None:
    """Return the smallest text that is larger than everything with this beginning; None if there is none as short."""
    following = ord(beginning[-1]) + 1
    return None if following >= _CODE_POINTS else beginning[:-1] + _character(following)
