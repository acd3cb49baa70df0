"""Manifests: what their rows mean, what is looked up, what is left out, and what every kind of damage is called."""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import json
import logging
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import InferenceError, ManifestError, StoreCredentialsError, StoreUnavailableError
from inference.sources.manifest import ManifestSource
from inference.types import ListedObject, stored_key
from tests.fakes import FAKE_TIME, FakeObjects, etag_of

TIME = datetime(2026, 11, 24, 2, tzinfo=UTC)
ODD_KEYS = [
    *(
        "with space",
        "100%",
        "a+b",
        "a%2Bb",
        "a,b",
        'q"uo"te',
        "'",
        "a;b",
        "a\\b",
        "\\n",
        "a//b",
        "/leading",
        "trailing/",
    ),
    *(
        "line\nbreak",
        "windows\r\nbreak",
        "return\r",
        " blank ends ",
        "tab\t\x01",
        "emoji 🌙",
        "é" * 512,
        "null",
        "0",
        "#",
    ),
]


def as_csv(rows: Sequence[dict[str, Any]], *names: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, names or list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: Sequence[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file, **options)
    return file.getvalue()


def read(
    body: bytes, name: str = "new.csv", *, prefix: str = "", objects: FakeObjects | None = None
) -> list[ListedObject]:
    """What a manifest in a bucket shows of the bucket ``photos``."""
    store = objects or FakeObjects()
    store.objects["lists", name] = body
    return [
        found for page in ManifestSource(f"s3://lists/{name}", store).list_pages("photos", prefix) for found in page
    ]


def full(key: str, **changes: Any) -> dict[str, Any]:
    """A row that says everything, in text."""
    return {"key": key, "etag": "e1", "size": "4", "last_modified": "2026-11-24T02:00:00Z"} | changes


FORMS = [("new.csv", as_csv), ("new.jsonl", as_json), ("new.parquet", as_parquet)]


@pytest.mark.parametrize(("name", "written"), FORMS)
def test_every_key_that_s3_allows_comes_out_as_it_was_given(name, written):
    assert [found.key for found in read(written([full(key) for key in ODD_KEYS]), name)] == ODD_KEYS


@pytest.mark.parametrize(("name", "written"), FORMS)
def test_a_row_that_says_everything_is_taken_as_it_is_and_as_of_its_own_time(name, written):
    objects = FakeObjects()
    assert read(written([full("a", bucket="photos")]), name, objects=objects) == [
        ListedObject("photos", "a", "e1", 4, TIME, seen_at=TIME)
    ]
    assert objects.looked_up == []


@pytest.mark.parametrize("missing", ["etag", "size", "last_modified"])
@pytest.mark.parametrize(("name", "written"), FORMS)
def test_what_a_row_does_not_say_is_looked_up_and_what_the_key_holds_now_counts(name, written, missing):
    objects = FakeObjects({("photos", "a"): b"four", ("photos", "b"): b"five!"})
    rows = [{field: value for field, value in full(key).items() if field != missing} for key in "ab"]
    assert read(written(rows), name, objects=objects) == [
        ListedObject("photos", "a", etag_of(b"four"), 4, FAKE_TIME),
        ListedObject("photos", "b", etag_of(b"five!"), 5, FAKE_TIME),
    ]


def test_plain_text_holds_a_key_on_each_line():
    objects = FakeObjects({("photos", key): b"x" for key in ("a b", " c", "d,e", "é")})
    assert [found.key for found in read("a b\r\n c\n\nd,e\né".encode(), "new.txt", objects=objects)] == [
        "a b",
        " c",
        "d,e",
        "é",
    ]


@pytest.mark.parametrize("name", ["new.csv", "NEW.CSV", "new.csv.gz", "2026.11.24.csv.GZ"])
def test_text_may_be_gzip_whatever_its_name_says(name):
    body = as_csv([full("a"), full("b")])
    assert [found.key for found in read(gzip.compress(body), name)] == ["a", "b"]
    assert [found.key for found in read(body, name)] == ["a", "b"]
    assert [found.key for found in read(gzip.compress(body[:20]) + gzip.compress(body[20:]), name)] == ["a", "b"]


def test_columns_are_known_by_the_names_of_our_views_and_of_s3_and_others_do_not_matter():
    ours = b"bucket,object_key,etag,size_bytes,last_modified,label\nphotos,a,e1,4,2026-11-24 02:00:00+00,cat\n"
    theirs = b'\xef\xbb\xbfETag,Key,"Size",LastModified,StorageClass\n"""e1""",a,4,2026-11-24T03:00:00+01:00,STANDARD\n'
    expected = [ListedObject("photos", "a", "e1", 4, TIME, seen_at=TIME)]
    assert read(ours) == read(theirs) == expected
    record = {"Key": "a", "ETag": 'W/"e1"', "Size": 4, "LastModified": "2026-11-24T02:00:00+00:00", "Owner": {}}
    assert read(as_json([record]), "new.jsonl") == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_may_hold_times_of_any_kind_and_keys_as_bytes_or_words(unit, zone):
    table = pa.table(
        {
            "key": pa.array([b"a", b"b"], pa.binary()),
            "etag": pa.array(["e1", "e1"]).dictionary_encode(),
            "size": pa.array([4, 4], pa.int32()),
            "last_modified": pa.array([TIME, TIME], pa.timestamp("s", "UTC")).cast(pa.timestamp(unit, zone))
            if zone
            else pa.array([TIME.replace(tzinfo=None)] * 2, pa.timestamp("s")).cast(pa.timestamp(unit)),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    assert read(file.getvalue(), "new.parquet") == [
        ListedObject("photos", key, "e1", 4, TIME, seen_at=TIME) for key in "ab"
    ]


def test_parquet_is_known_by_its_beginning_whatever_its_name_says():
    assert [found.key for found in read(as_parquet([full("a")]), "export-0001")] == ["a"]


@pytest.mark.parametrize(("name", "written"), FORMS)
def test_the_prefix_of_the_run_chooses_among_the_rows_as_a_string(name, written):
    body = written([full(key) for key in ("in/a", "in_b", "inn", "out/in/c", "In/d")])
    assert [found.key for found in read(body, name, prefix="in/")] == ["in/a"]
    assert [found.key for found in read(body, name, prefix="in")] == ["in/a", "in_b", "inn"]


def test_rows_of_another_bucket_are_left_out_and_counted_once(caplog):
    rows = [full("a", bucket="photos"), full("b", bucket="other"), full("c", bucket="third"), full("d", bucket="")]
    assert [found.key for found in read(as_csv(rows))] == ["a", "d"]
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == (
        "Left out 2 rows of the manifest s3://lists/new.csv that are of another bucket, such as 'other'"
    )


def test_a_manifest_of_another_bucket_is_refused():
    with pytest.raises(ManifestError, match=r"every one of the 2 rows of .* is of another bucket, such as 'other'"):
        read(as_csv([full("a", bucket="other"), full("b", bucket="other")]))


def test_what_is_not_there_or_refused_is_left_out_and_counted(caplog):
    objects = FakeObjects({("photos", "a"): b"x", ("photos", "secret"): b"x"})
    objects.denied = {"secret"}
    rows = [{"key": key} for key in ("gone/1", "a", "gone/2", "secret")]
    assert [found.key for found in read(as_csv(rows), objects=objects)] == ["a"]
    assert (
        "Left out 2 rows of the manifest s3://lists/new.csv that name an object that is not there, such as 'gone/1'"
        in (caplog.text)
    )
    assert "Left out 1 rows" in caplog.text
    assert "(the object store refuses this object), such as 'secret'" in caplog.text


def test_a_store_that_refuses_everything_is_no_run_without_objects():
    objects = FakeObjects({("photos", key): b"x" for key in "ab"})
    objects.denied = {"a", "b"}
    with pytest.raises(StoreCredentialsError, match="nothing can be looked up: the object store refuses this object"):
        read(as_csv([{"key": "a"}, {"key": "b"}]), objects=objects)


@pytest.mark.parametrize(("name", "written"), FORMS)
def test_a_key_as_the_views_show_it_names_the_object_by_its_bytes(name, written):
    for key in ("nul\x00", "caf\udce9"):
        assert [found.key for found in read(written([full(stored_key(key))]), name)] == [key]


def test_a_key_that_no_store_can_hold_is_neither_looked_up_nor_listed(caplog):
    objects = FakeObjects({("photos", "nul\x00"): b"x"})
    found = read(b'{"key": "half\\ud800"}\n{"key": "nul\\u0000"}\n', "new.jsonl", objects=objects)
    assert [row.key for row in found] == objects.looked_up == ["nul\x00"]
    assert "Left out 1 rows" in caplog.text


def test_pages_have_a_thousand_objects_at_most_and_few_are_looked_up_at_a_time():
    objects = FakeObjects(connections=3)
    busy, most = 0, 0
    lock = threading.Lock()
    head = objects.head

    def counting(bucket: str, key: str) -> ListedObject | None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        found = head(bucket, key)
        with lock:
            busy -= 1
        return found

    objects.head = counting  # type: ignore[method-assign]
    objects.objects = {("photos", f"{number:05}"): b"x" for number in range(2_500)}
    objects.objects["lists", "new.csv"] = as_csv([{"key": f"{number:05}"} for number in range(2_500)])
    pages = list(ManifestSource("s3://lists/new.csv", objects).list_pages("photos", ""))
    assert [len(page) for page in pages] == [1_000, 1_000, 500]
    assert [found.key for page in pages for found in page] == sorted(found.key for page in pages for found in page)
    assert most <= 3


def test_trouble_of_the_store_while_looking_up_comes_through():
    objects = FakeObjects()
    objects.objects["lists", "new.csv"] = as_csv([{"key": "a"}])
    pages = ManifestSource("s3://lists/new.csv", objects).list_pages("photos", "")

    def away(bucket: str, key: str) -> ListedObject | None:
        raise StoreUnavailableError("away")

    objects.head = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        list(pages)


def test_nothing_is_opened_before_it_is_read():
    objects = FakeObjects()
    objects.trouble = AssertionError("it was opened")
    ManifestSource("s3://lists/new.csv", objects).list_pages("photos", "")


def test_a_manifest_may_be_on_disk(tmp_path):
    for name, written in FORMS:
        (tmp_path / name).write_bytes(written([full("a")]))
        pages = ManifestSource(str(tmp_path / name), FakeObjects()).list_pages("photos", "")
        assert [found.key for page in pages for found in page] == ["a"]


@pytest.mark.parametrize(
    ("name", "body"),
    [("new.csv", b"key\n"), ("new.jsonl", b""), ("new.txt", b"\n"), ("new.parquet", as_parquet([full("a")][:1]))],
)
def test_a_manifest_without_rows_is_a_run_without_objects_and_a_warning(name, body, caplog):
    if name == "new.parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"key": pa.array([], pa.string())}), file)
        body = file.getvalue()
    assert read(body, name) == []
    assert f"There are no rows in the manifest s3://lists/{name}" in caplog.text


def test_a_prefix_that_no_row_has_is_worth_a_warning(caplog):
    assert read(as_csv([full("a")]), prefix="in/") == []
    assert "None of the 1 rows of the manifest s3://lists/new.csv has a key that begins with 'in/'" in caplog.text


BAD_CSV = [
    (b"", "the manifest s3://lists/new.csv is empty; its first line has to name its columns, one of which is key"),
    (b"name,etag\na,b\n", "the manifest s3://lists/new.csv has no column key; it has 'name', 'etag'"),
    (b"key;etag\na;b\n", "has no column key; it has 'key;etag'"),
    (b"key,Key\na,b\n", "has the columns 'key' and 'Key'; keep one of them"),
    (b"key,etag\na,e\nb\n", "line 3 of the manifest s3://lists/new.csv has 1 fields and the header has 2"),
    (b'key,etag\n"a\nb",e\nc,d,e\n', "line 4 of the manifest s3://lists/new.csv has 3 fields"),
    (b'key\na\n"b"c\n', "line 3 of the manifest s3://lists/new.csv is no CSV"),
    (b'key\na\n"never ends\n', "is no CSV (unexpected end of data)"),
    (b"key\n\xff\n", "line 2 of the manifest s3://lists/new.csv is not UTF-8"),
    (b"key,etag\n,e\n", "line 2 of the manifest s3://lists/new.csv has an empty key"),
    (b"key\n" + b"k" * 1025 + b"\n", "longer than the 1,024 bytes of S3"),
    (b"key\n" + "é".encode() * 513, "longer than the 1,024 bytes of S3"),
    (b"key,size\na,1\nb,-1\n", "line 3 of the manifest s3://lists/new.csv has the size '-1'; it has to be a number"),
    (b"key,size\na,4.0\n", "has the size '4.0'"),
    (b"key,size\na,9223372036854775808\n", "has the size '9223372036854775808'"),
    (b"key,etag\na,e f\n", "has the etag 'e f', which no store gives"),
    (b"key,last_modified\na,yesterday\n", "has the last_modified 'yesterday'; give a time such as"),
    (b"key,last_modified\na,0001-01-01T00:00:00+14:00\n", "give a time such as"),
    (b"key\n" + b"k" * 1_100_000, "line 2 of the manifest s3://lists/new.csv has more than 1,048,576 bytes"),
    (b"key\n" + b'"' + b"k\n" * 100_000, "field larger than field limit"),
]


@pytest.mark.parametrize(("body", "sentence"), BAD_CSV)
def test_a_broken_csv_is_refused_with_its_line(body, sentence):
    with pytest.raises(ManifestError) as caught:
        read(body)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_JSON = [
    (b'{"key": "a"}\nkey\n', "line 2 of the manifest s3://lists/new.jsonl is no JSON"),
    (b"[\n", "line 1 of the manifest s3://lists/new.jsonl is no JSON"),
    (b'["a"]\n', 'is no JSON object; give one, such as {"key": "in/a.jpg"}'),
    (b'{"name": "a"}\n', "line 1 of the manifest s3://lists/new.jsonl has no field key"),
    (b'{"key": "a", "object_key": "b"}\n', "gives key twice"),
    (b'{"key": 7}\n', "has the key 7 (int); it has to be text"),
    (b'{"key": null}\n', "has the key None (NoneType); it has to be text"),
    (b'{"key": "a", "etag": 17}\n', "has the etag 17 (int); it has to be text, as the store gave it"),
    (b'{"key": "a", "size": true}\n', "has the size True (bool); it has to be a number of bytes"),
    (b'{"key": "a", "size": 1.5}\n', "has the size 1.5 (float)"),
    (b'{"key": "a", "bucket": ["b"]}\n', "has the bucket ['b'] (list)"),
    (b'{"key": "a", "last_modified": 1764000000}\n', "has the last_modified 1764000000 (int)"),
    (b"[" * 100_000, "line 1 of the manifest s3://lists/new.jsonl is no JSON"),
    (b'\n{"key": "\xff"}\n', "line 2 of the manifest s3://lists/new.jsonl is no JSON"),
]


@pytest.mark.parametrize(("body", "sentence"), BAD_JSON)
def test_broken_json_is_refused_with_its_line(body, sentence):
    with pytest.raises(ManifestError) as caught:
        read(body, "new.jsonl")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"name": "a"}], "has no column key; it has 'name'"),
        ([{"key": "a", "etag": 17}], "row 1 of the manifest s3://lists/new.parquet has the etag 17 (int)"),
        ([{"key": "a"}, {"key": None}], "row 2 of the manifest s3://lists/new.parquet has the key None"),
        ([{"key": b"a"}, {"key": b"\xff"}], "row 2 of the manifest s3://lists/new.parquet has a key that is not UTF-8"),
        ([{"key": "a", "size": -1}], "has the size -1 (int)"),
        ([{"key": ["a"]}], "has the key ['a'] (list)"),
    ],
)
def test_a_parquet_file_with_a_row_that_cannot_be_is_refused(rows, sentence):
    with pytest.raises(ManifestError) as caught:
        read(as_parquet(rows), "new.parquet")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("cut", [4, 8, 100, -1])
def test_a_damaged_parquet_file_is_refused(cut):
    with pytest.raises(ManifestError, match="cannot be read as Parquet"):
        read(as_parquet([full(f"{number}") for number in range(100)])[:cut], "new.parquet")


def test_a_parquet_file_whose_pages_are_damaged_is_refused():
    body = bytearray(as_parquet([full(f"{number}") for number in range(5_000)], compression="snappy"))
    body[20:2_000] = bytes(1_980)
    with pytest.raises(ManifestError):
        read(bytes(body), "new.parquet")


def test_parquet_without_pyarrow_is_one_sentence(monkeypatch):
    body = as_parquet([full("a")])
    real = builtins.__import__

    def refused(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(ManifestError, match=r"pyarrow, which reads that, is not installed here; install nightlabel\["):
        read(body, "new.parquet")


@pytest.mark.parametrize("cut", [3, 12, 40, -4, -1])
def test_a_gzip_file_that_was_cut_is_refused(cut):
    body = gzip.compress(as_csv([full(f"{number * 7919}") for number in range(500)]))
    with pytest.raises(ManifestError, match="is cut short or damaged"):
        read(body[:cut], "new.csv.gz")


def test_a_gzip_file_with_another_checksum_is_refused():
    body = bytearray(gzip.compress(as_csv([full("a")])))
    body[-5] ^= 1
    with pytest.raises(ManifestError, match="is cut short or damaged"):
        read(bytes(body), "new.csv.gz")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("new", "has to end in .csv, .jsonl, .parquet or .txt"),
        ("new.xlsx", "does not say what it is"),
        ("new.gz", "does not say what it is"),
        ("daily/manifest.json", "looks like that of an S3 Inventory report; give it as inventory instead"),
        ("new.parquet", "does not begin as a Parquet file does"),
    ],
)
def test_a_file_of_an_unknown_kind_is_refused_by_its_name(name, sentence):
    with pytest.raises(ManifestError) as caught:
        read(as_csv([full("a")]), name)
    assert sentence in str(caught.value)


def test_a_manifest_that_is_not_there_or_refused_is_named(tmp_path):
    objects = FakeObjects()
    objects.denied = {"secret.csv"}

    def trouble(address: str) -> str:
        with pytest.raises(ManifestError) as caught:
            list(ManifestSource(address, objects).list_pages("photos", ""))
        return str(caught.value)

    assert trouble("s3://lists/none.csv") == (
        "there is no s3://lists/none.csv, which is given as the manifest; correct the address"
    )
    assert "the manifest s3://lists/secret.csv must not be read" in trouble("s3://lists/secret.csv")
    assert trouble(f"{tmp_path}/none.csv").startswith(f"there is no {tmp_path}/none.csv")
    assert "cannot be read" in trouble(str(tmp_path))


def test_what_breaks_while_it_is_read_is_named():
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            raise OSError("it was overwritten while it was read")

    objects = FakeObjects()
    objects.open = lambda bucket, key: io.BufferedReader(Broken())  # type: ignore[method-assign]
    for name in ("new.csv", "new.txt", "new.jsonl"):
        with pytest.raises(ManifestError, match=r"cannot be read to its end .it was overwritten"):
            list(ManifestSource(f"s3://lists/{name}", objects).list_pages("photos", ""))


class Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


def nowhere(**_: Any) -> io.BytesIO:
    raise FileNotFoundError(2, "No usable temporary directory found")


@pytest.mark.parametrize(("folder", "why"), [(lambda **_: Full(), "No space left"), (nowhere, "No usable temporary")])
def test_a_temporary_folder_without_room_is_one_sentence(monkeypatch, folder, why):
    monkeypatch.setattr("inference.sources.opening.tempfile.TemporaryFile", folder)
    with pytest.raises(ManifestError, match=rf"no room for a copy of .* \({why}.*\); free some, or name another"):
        read(as_parquet([full("a")]), "new.parquet")


class Endless(io.RawIOBase):
    """A CSV manifest that is written while it is read."""

    def __init__(self, rows: int) -> None:
        self._lines = self._made(rows)
        self._left = b""

    def _made(self, rows: int) -> Iterator[bytes]:
        yield b"key,etag,size,last_modified\n"
        for number in range(rows):
            yield b"in/2026/11/24/%09d.jpg,9b2cf535f27731c974343645a3985328,4,2026-11-24T02:00:00Z\n" % number

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        self._left = self._left or next(self._lines, b"")
        count = min(len(into), len(self._left))
        into[:count], self._left = self._left[:count], self._left[count:]
        return count


def peak_bytes(rows: int) -> int:
    objects = FakeObjects()
    objects.open = lambda bucket, key: io.BufferedReader(Endless(rows))  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        seen = sum(len(page) for page in ManifestSource("s3://lists/new.csv", objects).list_pages("photos", ""))
        assert seen == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_manifest():
    assert peak_bytes(40_000) < peak_bytes(5_000) * 1.3


def test_every_error_is_one_of_ours_whatever_the_bytes():
    body = as_csv([full("a"), full("b")])
    for place in range(0, len(body), 3):
        damaged = body[:place] + b'\x00\xff\n"' + body[place:]
        for name in ("new.csv", "new.jsonl", "new.txt", "new.parquet"):
            try:
                read(damaged, name)
            except InferenceError:
                continue


def test_times_of_any_offset_become_utc():
    berlin = TIME.astimezone(timezone(timedelta(hours=1))).isoformat()
    [found] = read(as_csv([full("a", last_modified=berlin)]))
    assert found.last_modified.tzinfo is UTC
    assert found.last_modified == TIME
