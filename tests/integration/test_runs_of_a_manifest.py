"""Runs of a manifest or an inventory report, as a user starts them: real Postgres, real S3 store, real photos."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from inference import wiring
from inference.models.store import ModelStore
from inference.settings import read_settings
from tests.conftest import Bucket
from tests.integration.test_command_line import CommandLine, photo
from tests.unit.test_inventory import csv_file, parquet_file, record, report, row
from tests.unit.test_manifests import as_csv, as_json, as_parquet

pytestmark = pytest.mark.integration

KEYS = ("in/a, b+c%20.png", 'in/q"uo"te.png', "in/new\nline.png")


@pytest.fixture
def cli(database: str, bucket: Bucket, default_model_store: ModelStore) -> CommandLine:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    settings = {"NIGHTLABEL_DATABASE_URL": database, "NIGHTLABEL_MODEL_STORE": str(default_model_store.root)}
    wiring.migrate(read_settings(database_url=database, model_store=default_model_store.root))
    return CommandLine({**inherited, **bucket.environment, **settings}, database)


def stored(bucket: Bucket, key: str, number: int = 0) -> dict[str, Any]:
    """Store a photo and return all that a manifest may say of it."""
    body = photo("cat") + bytes(number)
    etag = bucket.put(key, body)
    head = bucket.client.head_object(Bucket=bucket.name, Key=key)
    return {"key": key, "etag": etag, "size": len(body), "last_modified": head["LastModified"].isoformat()}


def test_every_form_of_a_manifest_names_what_is_labelled(cli: CommandLine, bucket: Bucket, tmp_path: Path):
    rows = [stored(bucket, key, number) for number, key in enumerate(KEYS)]
    stored(bucket, "in/not named.png")
    bare = [{"bucket": bucket.name, "key": row["key"]} for row in rows]
    forms = {
        "lists/all.csv.gz": gzip.compress(as_csv([*bare, {"bucket": "other", "key": "x"}, {"key": "in/none"}])),
        "lists/all.jsonl": as_json(rows),
        "lists/all.parquet": as_parquet(rows),
    }
    for name, body in forms.items():
        bucket.put(name, body)
    (tmp_path / "all.txt").write_bytes("".join(f"{key}\n" for key in KEYS[:2]).encode())

    arguments = ("--bucket", bucket.name, "--prefix", "in/", "--json")
    ended = cli("classify", *arguments, "--manifest", f"s3://{bucket.name}/lists/all.csv.gz")
    assert '"labelled": 3' in ended.stdout
    assert "Left out 1 rows of the manifest" in ended.stderr
    assert "that are of another bucket, such as 'other'" in ended.stderr
    assert "that name an object that is not there, such as 'in/none'" in ended.stderr
    assert set(cli.labels()) == set(KEYS)

    for address, found in (
        (f"s3://{bucket.name}/lists/all.jsonl", 3),
        (f"s3://{bucket.name}/lists/all.parquet", 3),
        (str(tmp_path / "all.txt"), 2),
    ):
        summary = cli.classify(*arguments[:-1], "--manifest", address)
        assert (summary["state"], summary["discovered"], summary["already_done"]) == ("succeeded", found, found)
    assert set(cli.labels()) == set(KEYS), "nothing is taken for gone"
    assert cli.rows("SELECT * FROM nightlabel.listing") == []
    [last] = cli.rows("SELECT parameters->>'manifest' AS manifest FROM nightlabel.run ORDER BY started_at DESC LIMIT 1")
    assert last["manifest"] == str(tmp_path / "all.txt")


def test_a_row_whose_version_is_no_more_is_gone_and_turns_nothing_back(cli: CommandLine, bucket: Bucket):
    old = stored(bucket, "a", 1)
    kept = stored(bucket, "b", 2)
    bucket.put("lists/old.csv", as_csv([{**old, "last_modified": "2026-01-01T00:00:00Z"}, kept]))
    new = stored(bucket, "a", 3)
    assert cli.classify("--bucket", bucket.name, "--prefix", "a")["labelled"] == 1

    summary = cli.classify("--bucket", bucket.name, "--manifest", f"s3://{bucket.name}/lists/old.csv")

    assert (summary["state"], summary["labelled"], summary["gone"]) == ("succeeded", 1, 1)
    shown = "SELECT object_key, etag FROM latest_prediction ORDER BY 1"
    assert [tuple(row.values()) for row in cli.rows(shown)] == [("a", new["etag"]), ("b", kept["etag"])]


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_report_is_as_good_as_a_listing_but_for_what_is_gone(cli: CommandLine, bucket: Bucket, form: str):
    stored(bucket, "elsewhere")
    assert cli.classify("--bucket", bucket.name, "--prefix", "elsewhere")["labelled"] == 1
    objects = [stored(bucket, key, number) for number, key in enumerate(("in/a b+c.png", "in/é.png", "in/late.png"))]
    former = {"key": "in/é.png", "etag": "former", "size": 4, "last_modified": objects[0]["last_modified"]}
    if form == "CSV":
        lines = [
            row(o["key"], Bucket=bucket.name, ETag=o["etag"], Size=str(o["size"]), LastModifiedDate=o["last_modified"])
            for o in objects
        ]
        lines.append(row(former["key"], Bucket=bucket.name, ETag="former", IsLatest="false"))
        made = report(csv_file(lines[:2]), csv_file(lines[2:]), sourceBucket=bucket.name)
    else:
        records = [record("in/none", is_latest=False)]
        for o in objects:
            when = bucket.client.head_object(Bucket=bucket.name, Key=o["key"])["LastModified"]
            said = {"e_tag": o["etag"], "size": o["size"], "last_modified_date": when}
            records.append(record(o["key"], bucket=bucket.name, **said))
        made = report(parquet_file(records), sourceBucket=bucket.name, fileFormat="Parquet")
    for (_, key), body in made.objects.items():
        bucket.put(key, body)
    bucket.put("in/late.png", photo("rocket"))
    address = f"s3://{bucket.name}/photos/daily/2026-11-24T01-00Z/manifest.json"

    summary = cli.classify("--bucket", bucket.name, "--prefix", "in/", "--inventory", address)
    assert (summary["state"], summary["discovered"], summary["labelled"], summary["gone"]) == ("succeeded", 3, 2, 1)
    assert set(cli.labels()) == {"elsewhere", "in/a b+c.png", "in/é.png"}

    assert cli.classify("--bucket", bucket.name, "--prefix", "in/")["labelled"] == 1, (
        "a listing finds what is there now"
    )
    assert cli.classify("--bucket", bucket.name, "--prefix", "in/", "--inventory", address)["already_done"] == 2
    assert "in/late.png" in cli.labels(), "the report is older than the listing"


def test_what_cannot_be_read_is_one_sentence(cli: CommandLine, bucket: Bucket):
    bucket.put("lists/bad.csv", b"key,size\na,1\nb,many\n")
    address = f"s3://{bucket.name}/lists/bad.csv"

    def said(*arguments: str, status: int) -> str:
        return cli("classify", "--bucket", bucket.name, *arguments, status=status).stderr

    assert said("--manifest", address, status=1) == (
        f"error [bad_manifest]: line 3 of the manifest {address} has the size 'many'; it has to be a number of bytes, "
        "0 or more\n"
    )
    assert said("--inventory", f"{address}.json", status=1) == (
        f"error [bad_manifest]: there is no {address}.json, which is given as the inventory; correct the address\n"
    )
    assert "error [bad_setting]: manifest is 's3://no-key'" in said("--manifest", "s3://no-key", status=2)
    assert "not allowed with argument" in said("--manifest", "a.csv", "--inventory", "s3://b/k", status=2)
    assert cli.rows("SELECT * FROM nightlabel.run") == [], "nothing was planned"
