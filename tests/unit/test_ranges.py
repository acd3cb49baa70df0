"""A large prefix is listed by ranges: every key once, and whatever the store does, no key is lost."""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import pytest

from inference.errors import StoreUnavailableError
from inference.stores import ranges
from inference.stores.ranges import Page, list_in_ranges
from inference.types import ListedObject

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def by_bytes(key: str) -> object:
    return key.encode()


def by_folders(key: str) -> object:
    """As a store sorts that keeps keys as files in folders: `a/b` before `a-b`."""
    return key.split("/")


def backwards(key: str) -> object:
    return [-byte for byte in key.encode()] + [1]


class Bucket:
    """Keys in memory, asked as S3 is, in the order of a store's choice."""

    def __init__(
        self,
        keys: Iterable[str],
        *,
        page_size: int = 10,
        order: Callable[[str], object] = by_bytes,
        knows_after: bool = True,
        knows_limit: bool = True,
    ) -> None:
        self.order = order
        self.keys = sorted(set(keys), key=order)
        self.page_size = page_size
        self.knows_after = knows_after
        self.knows_limit = knows_limit
        self.pages = self.probes = self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.befalls: Callable[[int, str | None], None] = lambda number, after: None
        """Called before each request with its number and what it asks to start after."""

    def ask(self, prefix: str, token: str | None, after: str | None, limit: int | None) -> Page:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.pages += limit is None
            self.probes += limit is not None
            number = self.pages + self.probes
        try:
            self.befalls(number, after)
            with self.lock:
                keys = [key for key in self.keys if key.startswith(prefix)]
            size = limit if limit is not None and self.knows_limit else self.page_size
            last = token if token is not None else after if self.knows_after else None
            start = 0 if last is None else bisect_right(keys, self.order(last), key=self.order)
            page = keys[start : start + size]
            entries = [ListedObject("photos", key, "e", 1, NOON) for key in page]
            return entries, page[-1] if start + size < len(keys) and page else None
        finally:
            with self.lock:
                self.at_once -= 1

    def list(self, prefix: str = "", *, threads: int = 4) -> list[str]:
        """Every key that a listing gives, in its order."""
        return [entry.key for page in self.list_pages(prefix, threads=threads) for entry in page]

    def list_pages(self, prefix: str = "", *, threads: int = 4) -> Iterable[Sequence[ListedObject]]:
        def ask(*, token: str | None = None, after: str | None = None, limit: int | None = None) -> Page:
            return self.ask(prefix, token, after, limit)

        return list_in_ranges(ask, prefix, threads=threads, does_not_advance=StoreUnavailableError)


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PLAIN_KEYS", 20)


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - keys, no secrets


ALPHABETS = {
    "hex": "0123456789abcdef",
    "two": "ab",
    "digits and slashes": "0123456789/",
    "odd": "/ +%\n\x01\x1f\x7f-.~!\\?&<",
    "any": "\x01aZ~\x7f\x80é߿ࠀ퟿\ufffd\ufffe\U00010000🐈\U0010ffff",
}


def any_keys(rng: random.Random, alphabet: str, count: int) -> set[str]:
    beginnings = ["", "in/", "in/2026/11/", "in/2026/11/25/" + alphabet[-1]]
    return {
        rng.choice(beginnings) + "".join(rng.choices(alphabet, k=rng.choice([1, 2, 3, 8, 30]))) for _ in range(count)
    }


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@pytest.mark.parametrize("prefix", ["", "in/", "in/2026/11/2"])
def test_every_key_comes_exactly_once(rng: random.Random, alphabet: str, prefix: str):
    for count in (0, 1, 25, 200, 1_500):
        keys = any_keys(rng, alphabet, count)
        bucket = Bucket(keys, page_size=rng.choice([1, 3, 10, 50]))

        found = bucket.list(prefix, threads=rng.choice([2, 4, 8]))

        assert sorted(found) == sorted(key for key in keys if key.startswith(prefix))


def test_a_small_prefix_costs_not_one_request_more():
    for count, pages in ((0, 1), (5, 1), (10, 1), (11, 2), (20, 2)):
        bucket = Bucket(f"{number:04}" for number in range(count))

        assert bucket.list() == bucket.keys
        assert (bucket.pages, bucket.probes, bucket.most_at_once) == (pages, 0, 1)


def test_one_thread_reads_in_order_and_asks_for_nothing_else():
    bucket = Bucket(f"{number:04}" for number in range(500))

    assert bucket.list(threads=1) == bucket.keys
    assert (bucket.pages, bucket.probes, bucket.most_at_once) == (50, 0, 1)


SHAPES: dict[str, Callable[[int, random.Random], str]] = {
    "dates": lambda n, rng: f"in/2026/{n * 12 // 6_000 + 1:02}/{n % 28 + 1:02}/{n:06}.jpg",
    "numbers": lambda n, rng: f"photo{n}.jpg",
    "uuids": lambda n, rng: f"cam/{rng.getrandbits(128):032x}.png",
    "one day": lambda n, rng: f"in/2026/11/25/cam-{n % 3}/{n:09}.jpg",
    "a crowd at the end": lambda n, rng: f"{'a' if n < 30 else 'zz/zz'}{n:06}",
    "a crowd at the beginning": lambda n, rng: f"{'a' if n > 30 else 'zz/zz'}{n:06}",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_many_pages_are_asked_for_at_a_time_and_few_requests_are_spent_on_ranges(
    shape: Callable[[int, random.Random], str], rng: random.Random
):
    bucket = Bucket((shape(number, rng) for number in range(6_000)), page_size=20)
    waits = threading.Event()
    bucket.befalls = lambda number, after: waits.wait(0.002) and None

    found = bucket.list(threads=8)

    assert sorted(found) == bucket.keys
    assert bucket.most_at_once == 8
    assert bucket.pages < 300 * 1.35  # each range reads half a page too much
    assert bucket.probes < 300


@pytest.mark.parametrize("order", [by_folders, backwards], ids=["folders", "backwards"])
@pytest.mark.parametrize("late", [False, True], ids=["seen at once", "seen late"])
def test_a_store_that_lists_in_another_order_loses_no_key(
    order: Callable[[str], object], late: bool, rng: random.Random
):
    names = [f"{folder}{sign}{number:03}" for folder in "pqr" for sign in ("/", "-", "/x/", "") for number in range(60)]
    if late:
        names += [f"a{number:03}" for number in range(300)]
    bucket = Bucket(names, order=order)

    for _ in range(10):
        assert set(bucket.list()) == set(names)


def test_a_store_that_knows_no_start_after_is_read_page_by_page():
    bucket = Bucket((f"{number:04}" for number in range(500)), knows_after=False)

    assert bucket.list() == bucket.keys
    assert (bucket.pages, bucket.probes, bucket.most_at_once <= 2) == (50, 1, True)


def test_a_store_that_knows_no_max_keys_is_right_too():
    bucket = Bucket((f"{number:04}" for number in range(500)), knows_limit=False)

    assert sorted(bucket.list()) == bucket.keys


def test_a_store_that_starts_anywhere_loses_no_key(rng: random.Random):
    """It takes `start-after` for a hint, and skips some keys, or gives some that come before."""

    class Sloppy(Bucket):
        def ask(self, prefix: str, token: str | None, after: str | None, limit: int | None) -> Page:
            if after is not None and token is None:
                place = bisect_right(self.keys, after) + rng.choice([-30, -1, 0, 0, 1, 30])
                after = self.keys[min(max(place, 0), len(self.keys) - 1)]
            return super().ask(prefix, token, after, limit)

    for _ in range(20):
        bucket = Sloppy(f"{number:04}" for number in range(1_000))
        assert set(bucket.list()) == set(bucket.keys)


def test_keys_that_come_and_go_meanwhile_hide_no_other(rng: random.Random):
    for _ in range(20):
        stay = {f"{rng.getrandbits(40):010x}" for _ in range(1_000)}
        bucket = Bucket(stay | {f"{key}-goes" for key in list(stay)[::3]})

        def change(number: int, after: str | None, bucket: Bucket = bucket) -> None:
            with bucket.lock:
                place = rng.randrange(len(bucket.keys))
                if bucket.keys[place].endswith("-goes"):
                    del bucket.keys[place]
                else:
                    bucket.keys.append(f"{bucket.keys[place]}!new{number}")
                    bucket.keys.sort()

        bucket.befalls = change
        assert Counter(key for key in bucket.list() if key in stay) == Counter(stay)


def test_the_key_that_begins_a_range_may_be_deleted():
    bucket = Bucket(f"{number:04}" for number in range(2_000))
    inner = bucket.ask
    deleted: set[str] = set()

    def ask(prefix: str, token: str | None, after: str | None, limit: int | None) -> Page:
        page, following = inner(prefix, token, after, limit)
        if limit == 1 and page and len(deleted) < 20:
            with bucket.lock:
                deleted.add(page[0].key)
                bucket.keys.remove(page[0].key)
        return page, following

    bucket.ask = ask  # type: ignore[method-assign]
    found = Counter(bucket.list())

    assert set(bucket.keys) <= set(found)
    assert sum(found.values()) < 2_000 * 1.2, "it was not read anew for that"


@pytest.mark.parametrize("number", [3, 10, 60, 150])
def test_trouble_with_a_page_ends_the_listing(number: int):
    bucket = Bucket(f"{number:04}" for number in range(2_000))
    read: list[object] = []

    def trouble(_: int, after: str | None) -> None:
        if bucket.pages >= number:
            raise StoreUnavailableError("down")

    bucket.befalls = trouble
    with pytest.raises(StoreUnavailableError, match="down"):
        read.extend(bucket.list_pages())
    assert len(read) < number


def test_trouble_with_looking_for_ranges_does_not():
    bucket = Bucket(f"{number:04}" for number in range(500))
    inner = bucket.ask

    def ask(prefix: str, token: str | None, after: str | None, limit: int | None) -> Page:
        if limit is not None:
            raise StoreUnavailableError("the store refuses max-keys=1")
        return inner(prefix, token, after, limit)

    bucket.ask = ask  # type: ignore[method-assign]
    assert bucket.list() == bucket.keys


def test_a_range_that_goes_in_a_circle_is_an_error():
    bucket = Bucket(f"{number:04}" for number in range(2_000))
    inner = bucket.ask

    def ask(prefix: str, token: str | None, after: str | None, limit: int | None) -> Page:
        return inner(prefix, "1000" if token is not None and token > "1500" else token, after, limit)

    bucket.ask = ask  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError, match=r"circle|same page"):
        bucket.list()


def test_whoever_reads_no_further_leaves_no_thread_behind():
    bucket = Bucket(f"{number:06}" for number in range(20_000))
    before = threading.active_count()
    pages = iter(bucket.list_pages())
    for _ in range(10):
        next(pages)
    asked = bucket.pages
    pages.close()  # type: ignore[attr-defined]

    for thread in threading.enumerate():
        if thread.name.startswith("list-range"):
            thread.join(10)
    assert threading.active_count() == before
    assert asked < 40, "no more is read ahead than a few pages for each thread"


def test_a_slow_reader_holds_the_threads_up():
    bucket = Bucket(f"{number:06}" for number in range(20_000))
    pages = iter(bucket.list_pages(threads=4))
    read = [entry.key for _ in range(20) for entry in next(pages)]
    threading.Event().wait(0.2)

    assert bucket.pages <= 20 + 2 * 4 + 4 + 1
    assert sorted(read + [entry.key for page in pages for entry in page]) == bucket.keys
