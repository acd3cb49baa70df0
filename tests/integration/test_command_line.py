"""The command line as a user runs it: real Postgres, real S3 store, the bundled model, real photos, no Airflow."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg.rows import dict_row

from inference import wiring
from inference.models.bundled import BUNDLED_MODEL
from inference.models.store import ModelStore
from inference.settings import read_settings
from inference.sinks.statements import newest_revision
from local_stack.processes import free_ports
from local_stack.samples import PHOTOS, photo_bytes, truncated_jpeg
from tests.conftest import Bucket
from tests.ledger import NIGHTS_LIKE_IT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.integration

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat", "lynx"}
COUNTS = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")


@dataclass(frozen=True)
class CommandLine:
    """``python -m inference`` with everything it needs in its environment."""

    environment: dict[str, str]
    url: str

    def __call__(self, *arguments: str, status: int = 0, **changes: str | None) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **changes}
        ended = subprocess.run(
            [sys.executable, "-m", "inference", *arguments],
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == status, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def classify(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run and return the summary; its books have to balance."""
        ended = self("classify", *arguments, "--json", status=status)
        summary = json.loads(ended.stdout.splitlines()[-1])
        parts = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
        assert summary["discovered"] == sum(summary[part] for part in parts)
        return summary

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            return connection.execute(sql, values).fetchall()

    def labels(self) -> dict[str, str]:
        return {row["object_key"]: row["label"] for row in self.rows("SELECT * FROM latest_prediction")}


@pytest.fixture
def unmigrated(database: str, bucket: Bucket, default_model_store: ModelStore) -> CommandLine:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NIGHTLABEL_"))}
    settings = {"NIGHTLABEL_DATABASE_URL": database, "NIGHTLABEL_MODEL_STORE": str(default_model_store.root)}
    return CommandLine({**inherited, **bucket.environment, **settings}, database)


@pytest.fixture
def cli(unmigrated: CommandLine, default_model_store: ModelStore) -> CommandLine:
    wiring.migrate(read_settings(database_url=unmigrated.url, model_store=default_model_store.root))
    return unmigrated


def photo(name: str) -> bytes:
    return photo_bytes(next(photo for photo in PHOTOS if photo.key.startswith(name)))


def test_migrate_and_classify_are_all_that_one_needs(unmigrated: CommandLine, bucket: Bucket):
    cli = unmigrated
    assert cli("migrate").stdout == (
        f"the results database was empty and is at revision {newest_revision()}; production is efficientnet-lite0@1\n"
    )
    for sample in PHOTOS:
        bucket.put(f"in/{sample.key}", photo_bytes(sample))
    bucket.put("in/cut.jpg", truncated_jpeg())
    bucket.put("elsewhere/cat.png", photo("cat"))

    summary = cli.classify("--bucket", bucket.name, "--prefix", "in/")
    assert (summary["state"], summary["labelled"], summary["dead"]) == ("succeeded", len(PHOTOS), 1)
    labels = cli.labels()
    assert set(labels) == {f"in/{sample.key}" for sample in PHOTOS}
    assert labels["in/cat.png"] in CATS
    assert labels["in/coffee.webp"] in {"espresso", "cup", "coffee mug"}
    assert labels["in/rocket.jpg"] in {"missile", "projectile", "space shuttle"}
    [cat] = cli.rows("SELECT * FROM latest_prediction WHERE object_key = 'in/cat.png'")
    assert (cat["model_name"], cat["model_version"], cat["engine"]) == ("efficientnet-lite0", "1", "litert")
    assert cat["label_id"].startswith("n0")
    assert cat["top_labels"][0] == cat["label"]
    assert cat["top_scores"] == sorted(cat["top_scores"], reverse=True)
    assert len(cat["top_labels"]) == 5
    [dead] = cli.rows("SELECT * FROM dead_letter_open")
    assert (dead["object_key"], dead["stage"], dead["error_code"]) == ("in/cut.jpg", "decode", "truncated")

    again = cli.classify("--bucket", bucket.name, "--prefix", "in/")
    assert (again["already_done"], again["labelled"], again["dead"]) == (len(PHOTOS) + 1, 0, 0)

    elsewhere = cli.classify("--bucket", bucket.name)
    assert (elsewhere["labelled"], elsewhere["copied"]) == (1, 1), "the same photo under another key"
    assert cli.labels()["elsewhere/cat.png"] == cli.labels()["in/cat.png"]


def test_overwriting_going_back_and_deleting(cli: CommandLine, bucket: Bucket):
    cat, rocket = photo("cat"), photo("rocket")
    bucket.put("a", cat)
    assert cli.classify("--bucket", bucket.name)["labelled"] == 1
    first = cli.labels()["a"]
    bucket.put("a", rocket)
    assert cli.classify("--bucket", bucket.name)["labelled"] == 1
    assert cli.labels()["a"] != first
    bucket.put("a", cat)
    assert cli.classify("--bucket", bucket.name)["already_done"] == 1
    assert cli.labels() == {"a": first}
    bucket.client.delete_object(Bucket=bucket.name, Key="a")
    assert cli.classify("--bucket", bucket.name)["discovered"] == 0
    assert cli.labels() == {}
    assert len(cli.rows("SELECT * FROM nightlabel.outcome")) == 2


def test_the_summary_line_holds_every_count_and_the_rate(cli: CommandLine, bucket: Bucket):
    bucket.put("a", photo("cat"))
    [line] = cli("classify", "--bucket", bucket.name).stdout.splitlines()
    assert (
        "succeeded with efficientnet-lite0@1: discovered 1 = already_done 0 + deferred 0 + labelled 1 + dead 0" in line
    )
    assert "gone 0 + done_elsewhere 0 + unfinished 0" in line
    assert line.endswith("images/s")


def test_a_dry_run_and_a_limit(cli: CommandLine, bucket: Bucket):
    for number in range(3):
        bucket.put(f"{number}", photo("cat") + bytes(number))
    plan = json.loads(cli("classify", "--bucket", bucket.name, "--dry-run", "--json").stdout)
    assert (plan["discovered"], plan["to_classify"], plan["dry_run"]) == (3, 3, True)
    assert cli.rows("SELECT * FROM nightlabel.run") == []
    summary = cli.classify("--bucket", bucket.name, "--max-images", "2")
    assert (summary["labelled"], summary["deferred"]) == (2, 1)


def test_an_empty_prefix_is_a_success_with_zero_counts(cli: CommandLine, bucket: Bucket):
    summary = cli.classify("--bucket", bucket.name, "--prefix", "nothing/here")
    assert (summary["state"], summary["discovered"]) == ("succeeded", 0)


def test_too_many_dead_letters_exit_with_1_after_everything_is_recorded(cli: CommandLine, bucket: Bucket):
    bucket.put("a", photo("cat"))
    bucket.put("b", b"no image")
    limits = ("--max-dead-ratio", "0.4", "--min-images-for-ratio", "1")
    summary = cli.classify("--bucket", bucket.name, *limits, status=1)
    assert (summary["state"], summary["labelled"], summary["dead"], summary["unfinished"]) == ("failed", 1, 1, 0)


def a_night(bucket: Bucket, night: int, photos: dict[str, int]) -> None:
    """So many images of each photo, no two of them alike."""
    bodies = [(name, copy) for name, copies in photos.items() for copy in range(copies)]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda one: bucket.put(f"{night}/{one[0]}-{one[1]}", photo(one[0]) + f"{night} {one[1]}".encode()),
                bodies,
            )
        )


def test_a_planted_drift_is_said_in_that_run_and_recorded_with_the_labels_that_moved(cli: CommandLine, bucket: Bucket):
    lower = {"NIGHTLABEL_QUALITY_THRESHOLDS": "min_images=50"}
    usual = dict.fromkeys(("cat", "coffee", "astronaut", "flower"), 15)
    a_night(bucket, 1, usual)
    first = cli("classify", "--bucket", bucket.name, **lower)
    assert "warning" not in first.stderr, "there is nothing yet to compare with"
    [run] = cli.rows("SELECT run_id FROM run_summary")
    cli.rows(NIGHTS_LIKE_IT, [6, run["run_id"]])

    a_night(bucket, 2, usual | {"rocket": 20})  # a quarter of the night
    second = cli("classify", "--bucket", bucket.name, "--json", **lower)
    [warning] = [line for line in second.stderr.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning [labels_moved]: ")
    summary = json.loads(second.stdout.splitlines()[-1])
    assert (summary["state"], summary["quality"]["verdict"], summary["quality"]["nights"]) == ("succeeded", "moved", 7)
    [row] = cli.rows("SELECT * FROM run_drift WHERE verdict = 'moved'")
    rocket = cli.labels()["2/rocket-0"]
    assert str(row["run_id"]) == summary["run_id"]
    assert row["moved_labels"][0] == summary["quality"]["moved_labels"][0]["label"] == rocket
    assert row["shares_now"][0] == pytest.approx(0.25)
    assert f"{rocket} 0.0% -> 25.0%" in warning

    # To fail instead: the books are whole, and their line is the last as ever.
    a_night(bucket, 3, {"rocket": 60})
    third = cli("classify", "--bucket", bucket.name, "--quality", "fail", status=1, **lower)
    assert "error [labels_moved]: " in third.stderr
    assert "succeeded with efficientnet-lite0@1: discovered 200 = already_done 140" in third.stdout.splitlines()[-1]
    assert len(cli.rows("SELECT * FROM run_drift WHERE verdict = 'moved'")) == 2


def test_a_reviewer_lists_records_and_exports(cli: CommandLine, bucket: Bucket):
    for sample in PHOTOS:
        bucket.put(sample.key, photo_bytes(sample))
    cli.classify("--bucket", bucket.name)
    listing = cli("review", "list", "--below", "0.5", "--json").stdout.splitlines()
    [lowest, *_] = [json.loads(line) for line in listing]
    text = cli("review", "list", "--below", "0.5", "--limit", "1").stdout
    assert text.startswith(
        f"{lowest['score']:.3f}\t{bucket.name}\t{lowest['object_key']!r}\t{lowest['top_labels'][0]} "
    )

    right = ("--bucket", bucket.name, "--key", lowest["object_key"], "--etag", lowest["etag"])
    said = cli("review", "record", *right, "--label", "tabby", "--reviewer", "ana", "--note", "blurred").stdout
    assert said == f"review 1: {lowest['object_key']!r} of {bucket.name} is tabby; it is in the golden set review\n"
    assert len(cli("review", "list", "--below", "0.5", "--json").stdout.splitlines()) == len(listing) - 1
    refused = cli("review", "record", *right, "--label", "unicorn", "--reviewer", "ana", status=1).stderr
    assert refused.startswith("error [bad_review]: the model efficientnet-lite0@1 knows no label 'unicorn'")
    exported = cli("review", "export").stdout.splitlines()
    assert exported[0].startswith("bucket,object_key,etag,label,label_id,reviewer,note,")
    assert f"{lowest['object_key']},{lowest['etag']},tabby," in exported[1]
    [golden] = cli.rows("SELECT * FROM nightlabel.golden_image")
    assert (golden["object_key"], golden["origin"]) == (lowest["object_key"], "review")


def test_tensorflow_is_not_loaded_to_classify_on_a_cpu(cli: CommandLine, bucket: Bucket):
    bucket.put("a", photo("cat"))
    imported = cli("classify", "--bucket", bucket.name, PYTHONPROFILEIMPORTTIME="1").stderr
    assert "ai_edge_litert" in imported
    for package in ("tensorflow", "keras", "airflow", "pandas", "fastapi"):
        assert f"| {package}\n" not in imported.replace(" ", "").replace("|", "| ")


@pytest.mark.parametrize(
    ("arguments", "changes", "status", "code", "sentence"),
    [
        (("--bucket", "no-such-bucket"), {}, 1, "bucket_missing", "no-such-bucket"),
        ((), {"AWS_SECRET_ACCESS_KEY": "wrong"}, 1, "store_credentials", "credentials"),
        ((), {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:{closed}"}, 1, "store_unavailable", "127.0.0.1:{closed}"),
        ((), {"NIGHTLABEL_DATABASE_URL": None}, 2, "bad_setting", "NIGHTLABEL_DATABASE_URL is not set"),
        ((), {"NIGHTLABEL_DATABASE_URL": "postgresql://127.0.0.1:{closed}/x"}, 1, "database_unavailable", "{closed}"),
        ((), {"NIGHTLABEL_DATABASE_URL": "mysql://x/y"}, 2, "bad_setting", "NIGHTLABEL_DATABASE_URL"),
        ((), {"NIGHTLABEL_FETCH_THREADS": "none"}, 2, "bad_setting", "NIGHTLABEL_FETCH_THREADS is 'none'"),
        ((), {"NIGHTLABEL_MODEL_STORE": "/nonexistent"}, 1, "model_unknown", "/nonexistent"),
        (("--model", "nope"), {}, 1, "model_unknown", "registered are: efficientnet-lite0@1, production"),
        (("--model", "@1"), {}, 2, "bad_setting", "NAME@VERSION"),
    ],
)
def test_what_is_wrong_is_one_clear_sentence(
    cli: CommandLine, bucket: Bucket, arguments, changes, status: int, code: str, sentence: str
):
    [closed] = free_ports(1)
    bucket.put("a", photo("cat"))
    filled = {name: value.format(closed=closed) if value else value for name, value in changes.items()}
    chosen = arguments if "--bucket" in arguments else ("--bucket", bucket.name, *arguments)
    ended = cli("classify", *chosen, status=status, **filled)
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error")]
    assert line.startswith(f"error [{code}]: ")
    assert sentence.format(closed=closed) in line
    assert "wrong" not in line.replace("are wrong", "")


def test_a_database_that_was_not_migrated_is_said_in_a_sentence(unmigrated: CommandLine, bucket: Bucket):
    ended = unmigrated("classify", "--bucket", bucket.name, status=1)
    assert ended.stderr.startswith("error [schema_missing]: ")
    assert "python -m inference migrate" in ended.stderr


def test_a_schema_that_is_newer_than_the_code_is_refused(cli: CommandLine, bucket: Bucket):
    with psycopg.connect(cli.url) as connection:
        connection.execute("UPDATE nightlabel.alembic_version SET version_num = '9999'")
    for arguments in (("classify", "--bucket", bucket.name), ("migrate",), ("models", "list")):
        assert cli(*arguments, status=1).stderr.startswith("error [schema_newer]: ")


def test_a_damaged_model_is_refused_and_healed_by_migrate(
    cli: CommandLine, bucket: Bucket, default_model_store: ModelStore, tmp_path
):
    import shutil

    copied = tmp_path / "models"
    shutil.copytree(default_model_store.root, copied)
    artefact = copied / "efficientnet-lite0" / "1" / "model.tflite"
    artefact.write_bytes(artefact.read_bytes()[:-1] + b"?")
    bucket.put("a", photo("cat"))
    ended = cli("classify", "--bucket", bucket.name, status=1, NIGHTLABEL_MODEL_STORE=str(copied))
    assert "error" in ended.stderr
    assert "SHA-256" in ended.stderr
    assert cli.labels() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("classify",),
        ("classify", "--bucket", "b", "--max-images", "-1"),
        ("classify", "--bucket", "b", "--max-dead-ratio", "2"),
        ("classify", "--bucket", "b", "--scope", "all"),
        ("dance",),
    ],
)
def test_wrong_usage_exits_with_2_and_says_how(unmigrated: CommandLine, arguments):
    assert "usage: python -m inference" in unmigrated(*arguments, status=2).stderr


def test_the_registered_models_are_listed_with_their_aliases_and_where_they_lie(cli: CommandLine):
    [model] = json.loads(cli("models", "list", "--json").stdout)
    assert (model["name"], model["version"], model["aliases"]) == ("efficientnet-lite0", "1", ["production"])
    assert model["where"] == f"{cli.environment['NIGHTLABEL_MODEL_STORE']}/efficientnet-lite0/1"
    [line] = cli("models", "list", "--check").stdout.splitlines()
    assert line.startswith("efficientnet-lite0@1\tproduction\t")
    assert line.split("\t")[4:] == [model["where"], "whole"]


def test_a_model_card_is_printed_by_version_and_by_alias(cli: CommandLine):
    card = cli("models", "card", "production").stdout
    assert card.startswith("# efficientnet-lite0@1\n")
    assert "| labels | 1,000 |" in card
    unknown = cli("models", "card", "cats@1", status=1, NIGHTLABEL_DATABASE_URL=None)
    assert unknown.stderr.startswith("error [model_unknown]: the model store ")


def test_hosts_share_a_model_store_in_a_bucket(
    unmigrated: CommandLine, bucket: Bucket, default_model_store: ModelStore, tmp_path
):
    place = f"s3://{bucket.name}/models"
    cli = replace(
        unmigrated,
        environment={
            **unmigrated.environment,
            "NIGHTLABEL_MODEL_STORE": place,
            "NIGHTLABEL_MODEL_CACHE": str(tmp_path / "first host"),
        },
    )
    copied = cli("models", "copy", "efficientnet-lite0@1", "--from", str(default_model_store.root))
    assert copied.stdout == f"efficientnet-lite0@1 is whole in {place}/efficientnet-lite0/1\n"
    cli("migrate")
    bucket.put("in/cat.png", photo("cat"))

    second = {"NIGHTLABEL_MODEL_CACHE": str(tmp_path / "second host")}
    cli("classify", "--bucket", bucket.name, "--prefix", "in/", **second)
    assert cli.labels()["in/cat.png"] in CATS
    held = {path.name for path in (tmp_path / "second host").rglob("*") if path.is_file()}
    assert {name for name in held if not name.startswith(".")} == {"manifest.json", "model.tflite"}

    artefact = default_model_store.read_manifest(BUNDLED_MODEL).files["model.tflite"]
    bucket.put(f"models/efficientnet-lite0/1/files/{artefact}", b"other bytes")
    [checked] = json.loads(cli("models", "list", "--check", "--json", status=1).stdout)
    assert checked["is_whole"] is False
    assert artefact in checked["problem"]
    assert f"{place}/efficientnet-lite0/1/files/{artefact}, which is model.tflite" in checked["problem"]
    cli("models", "copy", "efficientnet-lite0@1", "--from", str(default_model_store.root))
    assert cli("models", "list", "--check").stdout.rstrip("\n").endswith(f"\t{place}/efficientnet-lite0/1\twhole")
    refused = cli("models", "copy", "production", "--from", place, status=2)
    assert refused.stderr.startswith("error [bad_setting]: the model to copy is 'production'; give NAME@VERSION")


KEYS = ("with space.png", "100%.png", "a+b.png", "emoji 🌙.png", "line\nbreak.png", "é/ü.png", "%2B.png")


def test_odd_keys_and_a_folder_placeholder_cost_nobody_a_label(cli: CommandLine, bucket: Bucket):
    for number, key in enumerate(KEYS):
        bucket.put(f"odd/{key}", photo("cat") + bytes(number))
    bucket.put("odd/folder/", b"")
    bucket.put("odd/empty.jpg", b"")
    summary = cli.classify("--bucket", bucket.name, "--prefix", "odd/")
    assert set(cli.labels()) == {f"odd/{key}" for key in KEYS}
    assert summary["labelled"] == len(KEYS)
    assert "odd/empty.jpg" in {row["object_key"] for row in cli.rows("SELECT * FROM dead_letter_open")}


def started(cli: CommandLine, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "inference", *arguments],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_closes_its_books_and_the_next_one_does_the_rest(
    cli: CommandLine, bucket: Bucket, end: signal.Signals
):
    cat = photo("cat")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: bucket.put(f"{number:03}", cat + bytes(number)), range(200)))
    run = started(cli, "classify", "--bucket", bucket.name, "--json")
    deadline = time.monotonic() + 60
    while not cli.rows("SELECT 1 FROM nightlabel.outcome LIMIT 1"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(end)
    out, err = run.communicate(timeout=20)

    assert run.returncode == 130
    assert "error [interrupted]: " in err
    assert "Traceback" not in err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["state"], summary["discovered"]) == ("failed", 200)
    assert 0 < summary["labelled"] < 200
    assert summary["labelled"] + summary["unfinished"] == 200
    assert cli.classify("--bucket", bucket.name)["labelled"] == summary["unfinished"]


def test_a_run_whose_output_nobody_reads_ends_as_it_would_have(cli: CommandLine, bucket: Bucket):
    bucket.put("a", photo("cat"))
    run = started(cli, "classify", "--bucket", bucket.name)
    assert run.stdout
    assert run.stderr
    run.stdout.close()
    err = run.stderr.read()
    run.stderr.close()
    assert (run.wait(60), "Error" in err) == (0, False), err
    assert len(cli.labels()) == 1


def test_a_progress_bar_is_shown_on_a_terminal(cli: CommandLine, bucket: Bucket):
    bucket.put("a", photo("cat"))
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with open(parent, "rb", buffering=0) as terminal:
        run = subprocess.Popen(
            [sys.executable, "-m", "inference", "classify", "--bucket", bucket.name],
            env={**cli.environment, "TERM": "xterm"},
            stdout=child,
            stderr=child,
        )
        os.close(child)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal's reader gets when the last writer is gone
            while piece := terminal.read(4096):
                shown += piece
    assert run.wait(60) == 0
    assert b"1/1" in shown
    assert shown.splitlines()[-1].endswith(b"images/s")


@pytest.fixture
def other_store() -> Iterator[tuple[S3Client, dict[str, str]]]:
    """A store that keeps keys as they are where SeaweedFS tidies them up."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    yield (
        boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ),
        environment,
    )
    server.stop()


def test_keys_that_look_like_paths_and_very_long_ones_come_through_whole(cli: CommandLine, other_store):
    client, environment = other_store
    keys = ("a//b.png", "/leading.png", "a/../b.png", "./c.png", "trailing/", "k" * 1024, "é" * 512)
    client.create_bucket(Bucket="odd")
    for number, key in enumerate(keys):
        client.put_object(Bucket="odd", Key=key, Body=photo("cat") + bytes(number))
    other = CommandLine({**cli.environment, **environment}, cli.url)
    assert other.classify("--bucket", "odd")["labelled"] == len(keys)
    assert set(other.labels()) == set(keys)
    assert other.classify("--bucket", "odd", "--prefix", "a/")["already_done"] == 2


def retried(cli: CommandLine, bucket: Bucket, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Try dead letters again and return the summary; its books have to balance."""
    ended = cli("retry", "--bucket", bucket.name, *arguments, "--json", status=status)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["discovered"] == sum(summary[part] for part in COUNTS)
    return summary


def test_dead_letters_are_tried_again_by_hand(cli: CommandLine, bucket: Bucket):
    bucket.put("in/cut.jpg", truncated_jpeg())
    bucket.put("in/text.jpg", b"no image at all")
    bucket.put("large.png", photo("cat"))
    small = {**cli.environment, "NIGHTLABEL_MAX_PIXELS": "100"}
    CommandLine(small, cli.url).classify("--bucket", bucket.name, "--prefix", "large")
    cli.classify("--bucket", bucket.name)
    codes = "SELECT object_key, error_code, attempts, permanent FROM dead_letter_open ORDER BY 1"
    assert [tuple(row.values()) for row in cli.rows(codes)] == [
        ("in/cut.jpg", "truncated", 1, True),
        ("in/text.jpg", "not_an_image", 1, True),
        ("large.png", "too_many_pixels", 1, True),
    ]

    line = cli("retry", "--bucket", bucket.name, "--prefix", "in/", "--dry-run").stdout
    assert "dry run with efficientnet-lite0@1: discovered 2, already_done 0, deferred 0, to_classify 2" in line

    summary = retried(cli, bucket, "--code", "too_many_pixels", "--permanent")
    assert (summary["dag_id"], summary["state"], summary["discovered"], summary["labelled"]) == (
        "cli",
        "succeeded",
        1,
        1,
    )
    assert cli.labels()["large.png"] in CATS

    bucket.client.delete_object(Bucket=bucket.name, Key="in/text.jpg")
    summary = retried(cli, bucket, "--code", "truncated", "not_an_image", "--failed-after", "2026-01-01")
    assert (summary["state"], summary["dead"], summary["gone"]) == ("succeeded", 1, 1), "all may be dead in such a run"
    assert next(tuple(row.values()) for row in cli.rows(codes)) == ("in/cut.jpg", "truncated", 2, True)

    assert retried(cli, bucket, "--retryable")["discovered"] == 0
    assert retried(cli, bucket, "--failed-before", "2026-01-01T00:00:00Z")["discovered"] == 0


def test_a_retry_may_fail_by_its_ratio_and_names_the_reasons(cli: CommandLine, bucket: Bucket):
    bucket.put("cut.jpg", truncated_jpeg())
    cli.classify("--bucket", bucket.name)
    arguments = ("retry", "--bucket", bucket.name, "--max-dead-ratio", "0.5", "--min-images-for-ratio", "1")
    assert "error [too_many_dead]: 1 of 1 classified images" in cli(*arguments, status=1).stderr
    message = "SELECT message FROM nightlabel.run WHERE state = 'failed'"
    assert "; most often truncated (1)" in cli.rows(message)[0]["message"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--code", "broken"), "no dead letter has the code 'broken'; the codes are access_denied, "),
        (("--failed-after", "yesterday"), "--failed-after is 'yesterday'; give a date or time such as 2026-11-24"),
        (("--failed-after", "2026-02-01", "--failed-before", "2026-01-01"), "nothing can match"),
        (("--permanent", "--retryable"), "not allowed with argument"),
    ],
)
def test_a_choice_of_dead_letters_that_cannot_be_is_wrong_usage(unmigrated: CommandLine, arguments, sentence):
    assert sentence in unmigrated("retry", "--bucket", "b", *arguments, status=2).stderr
