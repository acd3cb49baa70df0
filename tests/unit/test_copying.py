"""Rows in Postgres' binary form say what the objects say; that Postgres reads them so, the tests of planning show."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from inference.sinks.copying import binary_rows
from inference.types import ListedObject, image_id, key_of

NOON = datetime(2026, 11, 1, 12, 30, 1, 250_000, tzinfo=UTC)


def rows_of(data: bytes) -> list[tuple[bytes | None, ...]]:
    """The values of each row."""
    rows, place = [], 0
    while place < len(data):
        [columns] = struct.unpack_from(">h", data, place)
        place += 2
        row = []
        for _ in range(columns):
            [length] = struct.unpack_from(">i", data, place)
            row.append(None if length < 0 else data[place + 4 : place + 4 + length])
            place += 4 + max(length, 0)
        rows.append(tuple(row))
    return rows


@pytest.mark.parametrize("key", ["a.jpg", "a//b", "new\nline", "\x01\x7f", "\N{CAT FACE}" * 256, "k" * 1024, "%+ "])
def test_a_row_has_identity_key_etag_size_and_time(key: str):
    found = ListedObject("photos", key, "9b2c", 2**40, NOON)

    [row] = rows_of(binary_rows([found]))

    assert UUID(bytes=row[0]) == image_id("photos", key, "9b2c")
    assert row[1:3] == (key.encode(), b"9b2c")
    size, micros = struct.unpack(">qq", row[3] + row[4])
    assert (size, datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)) == (2**40, NOON)
    assert row[5] is None


def test_when_a_key_was_seen_is_told_where_it_is_known():
    found = ListedObject("photos", "a", "e", 1, NOON, seen_at=NOON + timedelta(hours=1))

    [row] = rows_of(binary_rows([found]))

    [micros] = struct.unpack(">q", row[5])
    assert datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros) == NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    "time", [datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NOON]
)
def test_times_before_2000_and_in_other_zones_are_the_same_moment(time: datetime):
    for moment in (time, time.astimezone(timezone(timedelta(hours=-7)))):
        [row] = rows_of(binary_rows([ListedObject("photos", "a", "e", 1, moment)]))
        [micros] = struct.unpack(">q", row[4])
        assert datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros) == time


def test_what_no_store_can_hold_is_left_out_and_named(caplog: pytest.LogCaptureFixture):
    page = [ListedObject("photos", key, "e", 1, NOON) for key in ("a", "half\ud800", "b")]

    assert [row[1] for row in rows_of(binary_rows(page))] == [b"a", b"b"]
    assert [record.args for record in caplog.records] == [("half\ud800",)]


@pytest.mark.parametrize("key", ["nul\x00", "caf\udce9.jpg", "\U0010f7e9", "é\x00\udcff 🌙"])
def test_a_key_that_is_no_text_is_stored_as_what_stands_for_it_and_known_by_its_bytes(key: str):
    [row] = rows_of(binary_rows([ListedObject("photos", key, "e", 1, NOON)]))

    assert UUID(bytes=row[0]) == image_id("photos", key, "e")
    assert key_of(row[1].decode()) == key
    assert b"\0" not in row[1]


def test_an_empty_page_is_no_row():
    assert binary_rows([]) == b""
