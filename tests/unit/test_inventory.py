"""S3 Inventory reports: what of them is current, as of when, and what every kind of damage is called."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import ManifestError
from inference.sources.inventory import InventorySource
from inference.types import ListedObject
from tests.fakes import FAKE_TIME, FakeObjects, etag_of
from tests.unit.test_manifests import ODD_KEYS

ADDRESS = "s3://reports/photos/daily/2026-11-24T01-00Z/manifest.json"
MADE_AT = datetime(2026, 11, 24, 1, tzinfo=UTC)
LAST = MADE_AT - timedelta(days=3)
SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"


def row(key: str, **changes: str) -> list[str]:
    """A row of a data file in CSV, as S3 writes it."""
    values = {
        "Bucket": "photos", "Key": quote_plus(key, safe="/"), "VersionId": "", "IsLatest": "true",
        "IsDeleteMarker": "false", "Size": "4", "LastModifiedDate": f"{LAST:%Y-%m-%dT%H:%M:%S.000Z}", "ETag": "e1",
        "StorageClass": "STANDARD",
    }  # fmt: skip
    return list((values | changes).values())


def csv_file(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode())


def parquet_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    columns = {
        "bucket": pa.string(), "key": pa.string(), "version_id": pa.string(), "is_latest": pa.bool_(),
        "is_delete_marker": pa.bool_(), "size": pa.int64(), "last_modified_date": pa.timestamp("ms", "UTC"),
        "e_tag": pa.string(),
    }  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(columns)), file, row_group_size=2)
    return file.getvalue()


def record(key: str, **changes: Any) -> dict[str, Any]:
    """A row of a data file in Parquet."""
    values = {"bucket": "photos", "key": key, "is_latest": True, "is_delete_marker": False}
    return values | {"size": 4, "last_modified_date": LAST, "e_tag": "e1"} | changes


def report(*files: bytes, **changes: Any) -> FakeObjects:
    """A bucket with a report of these data files; a change of None leaves a field out."""
    keys = [f"photos/daily/data/{number}" for number in range(len(files))]
    said = {
        "sourceBucket": "photos",
        "destinationBucket": "arn:aws:s3:::reports",
        "version": "2016-11-30",
        "creationTimestamp": str(int(MADE_AT.timestamp() * 1000)),
        "fileFormat": "CSV",
        "fileSchema": SCHEMA,
        "files": [
            {"key": key, "size": len(body), "MD5checksum": hashlib.md5(body, usedforsecurity=False).hexdigest()}
            for key, body in zip(keys, files, strict=True)
        ],
    } | changes
    manifest = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
    bucket, _, key = ADDRESS.removeprefix("s3://").partition("/")
    return FakeObjects({(bucket, key): manifest, **{("reports", k): body for k, body in zip(keys, files, strict=True)}})


def read(objects: FakeObjects, prefix: str = "", bucket: str = "photos") -> list[ListedObject]:
    return [found for page in InventorySource(ADDRESS, objects).list_pages(bucket, prefix) for found in page]


def refusal(objects: FakeObjects, **more: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        read(objects, **more)
    return str(caught.value)


PARQUET = {"fileFormat": "Parquet", "fileSchema": "message s3.inventory { required binary bucket (UTF8); }"}


def test_the_current_objects_of_every_data_file_are_shown_as_of_when_the_report_was_made():
    objects = report(csv_file([row("a"), row("b")]), csv_file([row("c")]))
    assert read(objects) == [ListedObject("photos", key, "e1", 4, LAST, seen_at=MADE_AT) for key in "abc"]
    assert objects.looked_up == []


def test_a_report_in_parquet_shows_the_same():
    objects = report(parquet_file([record("a"), record("b"), record("c d+e%20")]), parquet_file([]), **PARQUET)
    assert read(objects) == [
        ListedObject("photos", key, "e1", 4, LAST, seen_at=MADE_AT) for key in ("a", "b", "c d+e%20")
    ]


def test_keys_in_csv_are_in_url_encoding_with_plus_for_a_blank():
    assert [found.key for found in read(report(csv_file([row(key) for key in ODD_KEYS])))] == ODD_KEYS
    [found] = read(report(csv_file([row("", Key="a+b%2Bc%252F%F0%9F%8C%99/d")])))
    assert found.key == "a b+c%2F🌙/d"


def test_former_versions_and_delete_markers_are_no_objects():
    rows = [
        row("a", VersionId="2"),
        row("a", VersionId="1", IsLatest="false", ETag="former"),
        row("deleted", IsDeleteMarker="true", Size="", ETag=""),
        row("deleted", IsLatest="FALSE"),
    ]
    assert [(found.key, found.etag) for found in read(report(csv_file(rows)))] == [("a", "e1")]
    records = [
        record("a"),
        record("a", is_latest=False, e_tag="former"),
        record("deleted", is_delete_marker=True, size=None, e_tag=None),
        record("b", is_latest=None, is_delete_marker=None),
    ]
    assert [found.key for found in read(report(parquet_file(records), **PARQUET))] == ["a", "b"]


def test_what_was_modified_while_the_report_was_made_was_seen_then():
    later = MADE_AT + timedelta(hours=2)
    [found] = read(report(csv_file([row("a", LastModifiedDate=later.isoformat())])))
    assert found.seen_at == found.last_modified == later


def test_the_prefix_of_the_run_chooses_among_the_objects():
    assert [found.key for found in read(report(csv_file([row("in/a"), row("in_b"), row("out")])), "in/")] == ["in/a"]


def test_fields_that_the_inventory_does_not_include_are_looked_up():
    objects = report(csv_file([["photos", "a+b"], ["photos", "gone"]]), fileSchema="Bucket, Key")
    objects.objects["photos", "a b"] = b"four"
    assert read(objects) == [ListedObject("photos", "a b", etag_of(b"four"), 4, FAKE_TIME)]


def test_an_inventory_of_an_empty_bucket_is_a_run_without_objects(caplog):
    assert read(report()) == []
    assert "There are no rows in the inventory report" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sourceBucket": "other"}, "is of the bucket 'other', and the run is of 'photos'; correct one of the two"),
        ({"sourceBucket": None}, "has no sourceBucket; give the manifest.json of an S3 Inventory report"),
        ({"fileFormat": "ORC"}, "are in ORC, expected CSV or Parquet; configure one of these for the inventory"),
        ({"fileFormat": None}, "has no fileFormat"),
        ({"fileSchema": None}, "has no fileSchema"),
        ({"fileSchema": "Bucket, Size"}, "has no column key; it has 'Bucket', 'Size'"),
        ({"fileSchema": SCHEMA + ", Key"}, "has the columns 'Key' and 'Key'"),
        ({"files": None}, "has no list of files"),
        ({"files": ["a"]}, "has no key"),
        ({"files": [{"key": "a", "MD5checksum": "x"}]}, "gives 'a' the MD5checksum 'x'; 32 hexadecimal digits"),
        ({"files": [{"key": "none"}]}, "there is no s3://reports/none, which is given as the inventory's data file"),
        ({"creationTimestamp": "today"}, "is 'today'; milliseconds since 1970 are expected"),
        ({"creationTimestamp": "9" * 30}, "milliseconds since 1970 are expected"),
        ({"creationTimestamp": None}, "is None; milliseconds since 1970 are expected"),
    ],
)
def test_a_report_that_says_something_else_is_refused(changes, sentence):
    said = refusal(report(csv_file([row("a")]), **changes))
    assert sentence in said
    assert "s3://reports/" in said


@pytest.mark.parametrize("body", [b"", b"key\na\n", b"[]", b"7", b"[" * 100_000, b"\xff"])
def test_what_is_no_report_is_refused(body):
    objects = report()
    bucket, _, key = ADDRESS.removeprefix("s3://").partition("/")
    objects.objects[bucket, key] = body
    assert f"the inventory report {ADDRESS} " in refusal(objects) or ADDRESS in refusal(objects)


def test_a_report_that_is_not_there_is_named():
    assert refusal(FakeObjects()) == f"there is no {ADDRESS}, which is given as the inventory; correct the address"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_data_file_that_was_replaced_is_found_out_by_its_checksum(form):
    was, is_now = (
        (csv_file([row("a")]), csv_file([row("b")]))
        if form == "csv"
        else (parquet_file([record("a")]), parquet_file([record("b")]))
    )
    objects = report(was, **({} if form == "csv" else PARQUET))
    objects.objects["reports", "photos/daily/data/0"] = is_now
    assert "is damaged or was replaced, take another report" in refusal(objects)


def test_a_data_file_without_a_checksum_is_taken_as_it_is():
    objects = report(csv_file([row("a")]), files=[{"key": "photos/daily/data/0", "size": 1}])
    assert [found.key for found in read(objects)] == ["a"]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (row("b")[:-1], "line 2 of the data file s3://reports/photos/daily/data/0 has 8 fields and the report's"),
        (row("b", Key="a%FF"), "has the key 'a%FF', which is not UTF-8 in URL encoding"),
        (row("b", Key=""), "line 2 of the data file s3://reports/photos/daily/data/0 has an empty key"),
        (row("b", Size="many"), "has the size 'many'"),
        (row("b", IsLatest="perhaps"), "has 'perhaps' where true or false is expected"),
        (row("b", LastModifiedDate="x"), "has the last_modified 'x'"),
    ],
)
def test_a_broken_row_of_a_data_file_is_refused_with_its_line(bad, sentence):
    assert sentence in refusal(report(csv_file([row("a"), bad])))


def test_a_data_file_that_was_cut_is_refused():
    body = csv_file([row(f"{number * 7919}") for number in range(500)])
    assert "is cut short or damaged" in refusal(report(body[:-9]))
    assert "cannot be read as Parquet" in refusal(report(parquet_file([record("a")])[:-9], **PARQUET))
