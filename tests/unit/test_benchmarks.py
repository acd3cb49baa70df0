"""The benchmark's own arithmetic, images and notes, without a server: what is wrong here makes every figure wrong."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import results
from benchmarks.contenders import Ours, last_json, read_events
from benchmarks.corpus import choose_quality, digest_of, image_bytes, make_corpus, read_sources
from benchmarks.meters import Meter, Root
from benchmarks.peers.choices import PEERS
from benchmarks.peers.common import decode as peer_decode
from benchmarks.pipeline import full_decode
from benchmarks.results import Backlog, Contender, Discovery
from benchmarks.run import PARTS, README, Findings, as_json, parse, readme_rows, report, wanted_images
from inference.decoding import decode_image
from inference.types import Preprocessing
from local_stack.processes import wait_until
from local_stack.samples import PHOTOS, photo_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sources():
    return read_sources(None)


def contender(name: str = "somebody", **changes) -> Contender:
    values = {"images": 108, "seconds": 20.0, "first_images": 8, "steady_s": 10.0, "bound_per_second": 40.0}
    return Contender(name, **{**values, **changes})


# Images


def test_the_same_photos_and_seed_give_the_same_images(sources):
    for kind in ("small", "png"):
        first, again = (image_bytes(kind, 3, sources, 7, 90) for _ in range(2))
        assert first == again

    others = {image_bytes("small", number, sources, seed, 90) for number in (3, 9) for seed in (7, 8)}
    assert len(others) == 4  # 3 and 9 are crops of one photo
    assert digest_of(sources, 7) != digest_of(sources, 8)


def test_images_have_the_size_that_they_are_named_for(sources):
    found = {}
    for kind in ("small", "png", "large"):
        with Image.open(io.BytesIO(image_bytes(kind, 0, sources, 7, 90))) as image:
            found[kind] = (image.format, image.size)

    assert found == {"small": ("JPEG", (500, 375)), "png": ("PNG", (500, 375)), "large": ("JPEG", (4000, 3000))}


def test_the_quality_brings_small_images_near_the_wanted_size(sources):
    few, many = (choose_quality(sources[:2], 7, wanted) for wanted in (30_000, 60_000))

    assert 60 <= few < many <= 100
    mean = sum(len(image_bytes("small", number, sources[:2], 7, many)) for number in range(2)) / 2
    assert mean == pytest.approx(60_000, rel=0.1)


def test_a_corpus_is_made_once_and_grows(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in PHOTOS[:2]:
        (photos / f"n0000000{len(list(photos.iterdir()))}_{photo.key}").with_suffix(".jpg").write_bytes(
            photo_bytes(photo)
        )
    told: list[str] = []

    first = make_corpus(tmp_path / "cache", photos, 7, {"small": 2}, told.append)
    made = {path.name: path.stat().st_mtime_ns for path in first.paths("small", 9)}
    more = make_corpus(tmp_path / "cache", photos, 7, {"small": 3}, told.append)

    assert more.folder == first.folder
    paths = more.paths("small", 9)
    assert [path.name[:17] for path in paths] == ["000000_n00000000_", "000001_n00000001_", "000002_n00000000_"]
    assert {path.name: path.stat().st_mtime_ns for path in paths[:2]} == made
    assert [line.partition(" small")[0] for line in told] == ["Making 2", "Making 1"]


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no JPEG or PNG"):
        read_sources(tmp_path)


def test_the_peers_and_the_reference_decode_to_the_products_pixels():
    data = photo_bytes(next(photo for photo in PHOTOS if photo.key == "cat.png"))
    preprocessing = Preprocessing(224, 224, crop_fraction=0.875, resize_filter="bicubic")

    pixels = decode_image(data, preprocessing)

    assert np.array_equal(full_decode(data, preprocessing), pixels)
    assert np.array_equal(peer_decode(data, 224, 0.875), pixels)


# Figures


def test_rates_and_ratios():
    entry = contender(cpu_s={"itself": 2.16, "store": 0.54})

    assert entry.steady_per_second == 10.0  # 100 images after the first batch, in 10 s
    assert entry.per_second == 5.4
    assert entry.startup_s == 10.0
    assert entry.ratio == 0.25
    assert entry.cpu_ms() == pytest.approx({"itself": 20.0, "store": 5.0})


def test_nothing_measured_is_no_error():
    entry = contender(images=0, seconds=0.0, first_images=0, steady_s=0.0, bound_per_second=0.0, cpu_s={"itself": 1.0})

    assert (entry.per_second, entry.steady_per_second, entry.ratio, entry.cpu_ms()) == (0.0, 0.0, 0.0, {})
    assert "somebody" in results.contenders_table([entry])


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([("loading", 0), ("ready", 5), ("fetch", 6)], 14),  # a loop: the model first
        ([("fetch", 2), ("loading", 4), ("ready", 9)], 13),  # all fetched before
        ([("loading", 1), ("fetch", 3), ("ready", 6)], 14),  # half of it before the first fetch
        ([("fetch", 2), ("loading", 3), ("loading", 4), ("ready", 6), ("ready", 8), ("fetch", 9)], 13),  # two processes
        ([("fetch", 2)], 18),
        ([], 0),
    ],
)
def test_the_time_of_a_peer_is_from_its_first_fetch_without_loading_the_model(events, seconds):
    assert results.steady_seconds(events, 20) == seconds


def test_events_of_several_processes_are_put_in_order(tmp_path):
    (tmp_path / "events").write_text("fetch 3.5\nloading 1.25\n", encoding="ascii")

    assert read_events(tmp_path / "events") == [("loading", 1.25), ("fetch", 3.5)]
    assert read_events(tmp_path / "none") == []


def test_memory_is_joined_with_the_images_done():
    trace = [(0.0, 100.0), (1.5, 200.0), (2.5, 201.0), (3.5, 202.0), (9.0, 50.0)]
    recorded = [(1.0, 8), (2.0, 8), (3.0, 8), (4.0, 8)]

    assert results.memory_over_images(trace, recorded) == [(8, 200.0), (16, 201.0), (24, 202.0)]


def test_growth_is_that_of_the_second_half():
    points = [(images, 500.0 - images if images < 1000 else 200.0 + images * 0.002) for images in range(0, 2001, 100)]

    assert results.growth_mib_per_1000(points) == pytest.approx(2.0)
    assert results.growth_mib_per_1000([]) == 0.0


def test_a_table_keeps_its_columns():
    table = results.contenders_table([contender("a"), contender("much longer", equal_labels=0.99)]).splitlines()

    assert len({line.rindex("e") for line in table[:1]}) == 1
    assert table[1].startswith("-----------  ------")
    assert table[3].split()[-1] == "0.990"
    assert table[2].split()[1:5] == ["108", "10.0", "0.25", "5.4"]


def test_the_last_json_line_is_the_answer():
    assert last_json('{"a": 1}\nwarning\n{"a": 2}\nbye\n') == {"a": 2}


# Processes


def test_a_family_is_counted_with_its_children_also_those_that_ended():
    burn = "import sys, time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    child = burn + "sys.stdin.read()"
    parent = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {child!r}])\n{burn}child.wait()"

    with Meter([]) as meter:
        process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
        meter.add(Root("family", process.pid))
        wait_until(lambda: meter.cpu_s()["family"] >= 0.4, 30)
        process.communicate()

    assert 0.4 <= meter.cpu_s()["family"] <= 2.0
    assert meter.peak_mib["family"] > 5


def test_what_was_used_before_is_not_counted():
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass

    with Meter([Root("me", os.getpid())]) as meter:
        time.sleep(0.05)

    assert meter.cpu_s()["me"] < 0.45  # looking at /proc takes some of it on a busy machine


# Notes


@pytest.fixture
def findings() -> Findings:
    """Everything that a run can find."""
    ours = Ours(contender("ours"), {"labelled": 100, "copied": 3}, [(8, 200.0), (16, 201.0)])
    row = {"images": 10, "per_second": 5.0, "threads": 1, "cpu_s": {"worker": 0.1}, "p50_ms": 1.0, "p99_ms": 2.0}
    names = ("list", "fetch", "decode small", "decode png", "decode large", "predict", "write")
    return Findings(
        machine={"cores": "2", "cpu": "CPU | one", "Python": "3.13"},
        started_at="2026-11-25 02:00 UTC",
        images=108,
        bounds=[39.0, 41.0],
        engines={"tensorflow": 44.0, "litert": 45.0},
        stages=dict.fromkeys(names, row),
        pipelines={"whole": row},
        ours={"cli": ours, "airflow": ours},
        heavier=Ours(contender("heavier", bound_per_second=16.0), {"labelled": 100}, []),
        peers=[contender(peer.name) for peer in PEERS],
        large={"product": row, "full": row},
        copied={"first time": ours, "same content again": ours},
        memory=ours,
        buckets=[Discovery(keys=1_000, first_s=0.5, again_s=0.25, list_s=0.125, peak_mib=90.0)],
        backlogs=[Backlog(images=300, seconds=3.5)],
    )


def test_a_run_is_appended_to_the_tables_of_the_readme(tmp_path, findings):
    readme = tmp_path / "README.md"
    shutil.copy(README, readme)
    before = README.read_text(encoding="utf-8").splitlines()

    for _ in range(2):
        for table, cells in readme_rows(findings).items():
            results.append_row(readme, table, cells)

    after = readme.read_text(encoding="utf-8").splitlines()
    new = [line for line in after if line.startswith("| 2026-11-25 |") and "| 5.4" not in line]
    assert len(after) == len(before) + 2 * len(readme_rows(findings))
    assert [line for line in after if line in before] == before  # nothing else changed
    [rates] = {line for line in new if "CPU / one" in line}
    assert "| 108 | 40 | 44 | 10 (0.25) | 10 (0.25) | 10 (0.62) |" in rates


def test_what_was_not_measured_is_a_dash():
    empty = Findings({"cores": "2", "cpu": "x"}, "2026-11-25 02:00 UTC", 100)

    rows = readme_rows(empty)

    assert set(rows["stages"][2:]) == {"-"}
    assert set(rows["costs"][2:]) == {"-"}
    assert report(empty).startswith("2026-11-25")


def test_a_row_that_does_not_fit_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- rates -->\n| a | b |\n| --- | --- |\n", encoding="utf-8")

    with pytest.raises(ValueError, match="2 columns and the row 1"):
        results.append_row(readme, "rates", ["one"])
    with pytest.raises(ValueError, match="no line <!-- others -->"):
        results.append_row(readme, "others", ["one", "two"])


def test_the_report_and_the_kept_file_have_everything(findings):
    text = report(findings)

    assert all(peer.name in text for peer in PEERS)
    assert "copied 3" in text
    assert "inference alone with efficientnet-lite2@1: 16.0 images/s" in text
    assert as_json(findings)["peers"][0]["ratio"] == 0.25
    assert as_json(findings)["heavier"]["ratio"] == 0.625
    assert re.search(r"1,000 keys +0.5 +0.2 +0.1 +90", text)
    assert re.search(r"300 images +3.5", text)
    assert as_json(findings)["buckets"][0]["again_s"] == 0.25


def test_the_readme_names_every_part():
    named = re.findall(r"^\| `([a-z]+)` \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert named == list(PARTS)


def test_the_peers_requirements_have_hashes_and_no_address():
    text = (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8")
    packages = re.findall(r"^[a-z0-9].*$", text, flags=re.MULTILINE)

    assert len(packages) > 50
    assert all(re.fullmatch(r"\S+==\S+( ; .+)? \\", package) for package in packages)
    assert text.count("--hash=sha256:") >= len(packages)
    assert not re.search(r"://|--index|--find-links|^-", text, flags=re.MULTILINE)


# Options


def test_only_what_the_parts_need_is_made():
    assert wanted_images(parse(["--only", "cli", "--images", "100"])) == {"small": 100}
    assert wanted_images(parse(["--only", "cli,airflow", "--images", "100", "--airflow-images", "300"])) == {
        "small": 300
    }
    assert wanted_images(parse(["--only", "stages", "--images", "100"])) == {"small": 100, "large": 60, "png": 200}


@pytest.mark.parametrize(
    "arguments", [["--only", "cly"], ["--images", "3"], ["--large-images", "0"], ["--dummy", "list"]]
)
def test_options_that_mean_nothing_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        parse(["--only", "cli", *arguments])

    assert "error:" in capsys.readouterr().err
