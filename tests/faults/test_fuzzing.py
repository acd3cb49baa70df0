"""Damaged bytes by the thousand: each becomes pixels or an error with a code, each object a label or a dead letter."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.errors import ImageError
from inference.runner import ShardRunner
from inference.settings import read_settings
from inference.sinks.migrating import migrate
from inference.sinks.postgres import PostgresSink
from inference.types import RunRequest
from inference.wiring import SystemClock
from tests.fakes import FakeHandle, FakeStore
from tests.faults.fuzz_decode import (
    MAX_PIXELS,
    BrokenPromiseError,
    Findings,
    damaged,
    fuzz_by_coverage,
    fuzz_plainly,
    has_atheris,
    outcome_of,
    seeds,
)
from tests.ledger import Ledger, Pages

EVERY_CODE = {"truncated", "undecodable", "not_an_image", "too_many_pixels", "format_not_allowed"}
"""What damage can make of an image by decoding alone."""


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    """A migrated database of its own with ``tiny@1`` as the production model."""
    settings = read_settings(database_url=database)
    migrate(settings)
    with PostgresSink(settings) as sink:
        made = Ledger(database, settings, sink)
        made.register("tiny", "1", "production")
        yield made


def assert_nothing_found(findings: Findings) -> None:
    assert findings.found is None, f"kept as {findings.found}:\n{findings.output[-4000:]}"


def test_images_damaged_at_random_become_pixels_or_an_error_with_a_code(seed: int, is_full: bool, tmp_path: Path):
    runs = 10_000 if is_full else 1_500
    findings = fuzz_plainly(seed, tmp_path, runs=runs)
    assert_nothing_found(findings)
    assert findings.codes.total() == findings.inputs == runs
    assert set(findings.codes) == {"pixels", *EVERY_CODE}
    assert min(findings.codes.values()) > runs // 200, "every outcome is met often, or the damage is too coarse"


def test_the_same_seed_does_the_same_damage(seed: int):
    images = list(seeds().values())
    once, again = (
        [damaged(images, generator) for _ in range(200)]
        for generator in (random.Random(seed), random.Random(seed))  # noqa: S311 - repeatable, not secret
    )
    assert once == again
    assert len(set(once)) > 190


@pytest.mark.timeout(400)
def test_no_input_that_reaches_new_code_breaks_the_promise_of_decode(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_full: bool
):
    """Led by coverage where the fuzzer for that can be had, by chance elsewhere."""
    runs, seconds = (30_000, 180.0) if is_full else (500, 60.0)
    kept, corpus = tmp_path / "found", tmp_path / "corpus"
    kept.mkdir()
    corpus.mkdir()
    if has_atheris():
        findings = fuzz_by_coverage(seed, kept, corpus, runs=runs, seconds=seconds)
    else:
        findings = fuzz_plainly(seed, kept, runs=runs)
    with capsys.disabled():
        print(f"\n{findings.inputs:,} inputs in {findings.seconds:.0f} s; coverage: {findings.coverage}")  # noqa: T201
    assert_nothing_found(findings)
    assert findings.inputs >= (10_000 if is_full else 500)


def test_a_broken_promise_is_found_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int):
    """The fuzzer itself: an exception that is no ImageError, and a code that is missing, do not pass."""

    class NamelessError(ImageError):
        pass

    for raised in (ValueError("from inside"), NamelessError("no code of its own"), ImageError("two\nlines")):

        def fail(*_: object, raised: Exception = raised, **__: object) -> None:
            raise raised

        monkeypatch.setattr("inference.decoding.decode_image", fail)
        with pytest.raises(BrokenPromiseError):
            outcome_of(b"")
        findings = fuzz_plainly(seed, tmp_path, runs=5)
        assert findings.inputs == 1
        assert findings.found is not None
        assert findings.found.is_file()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_run_over_damaged_objects_gives_each_a_label_or_a_dead_letter_with_a_code(
    ledger: Ledger, seed: int, is_full: bool
):
    objects = 10_000 if is_full else 300
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    images = list(seeds().values())
    store = FakeStore({f"{number:05}": damaged(images, generator) for number in range(objects)}, page_size=1_000)
    plan = ledger.sink.plan_run(
        RunRequest(bucket=store.bucket, max_dead_ratio=1.0), Pages(store.list_pages(store.bucket, ""))
    )
    runner = ShardRunner(
        store=store,
        handle=FakeHandle(),
        sink=ledger.sink,
        clock=SystemClock(),
        batch_size=32,
        calls_a_batch=1,
        fetch_threads=4,
        decode_threads=2,
        window=64,
        max_object_bytes=1_000_000,
        max_pixels=MAX_PIXELS,
    )
    for number in plan.shards:
        runner.run(ledger.sink.claim_shard(plan.run_id, number))
    assert ledger.sink.finish_run(plan.run_id).state == "succeeded"

    dead = ledger.rows("SELECT object_key, error_code, stage, message FROM nightlabel.dead_letter_open")
    labelled = ledger.latest()
    summary = ledger.summary(plan.run_id)
    assert (summary["discovered"], summary["unfinished"], summary["gone"]) == (objects, 0, 0)
    assert (summary["labelled"], summary["dead"]) == (len(labelled), len(dead))
    assert sorted([*labelled, *(row["object_key"] for row in dead)]) == sorted(store.objects), "one outcome each"
    by_code = Counter(row["error_code"] for row in dead)
    assert set(by_code) <= EVERY_CODE | {"empty_object"}, by_code
    assert all(row["message"] and row["message"].isprintable() for row in dead)
    print(f"{objects:,} objects: {len(labelled):,} labelled, {dict(by_code)}")  # noqa: T201
