"""Workers that are killed at every point: nothing is lost, nothing is twice, and the run is finished all the same."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from inference import wiring
from inference.models.bundled import BUNDLED_MODEL
from inference.models.store import ModelStore
from inference.settings import read_settings
from local_stack.object_store import EmbeddedObjectStore
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import wait_until
from tests.faults.books import Night, Object, Truth, Work, check_books, computed_again, left_in_database, settled_keys
from tests.faults.crashing import (
    KILL,
    RANDOM,
    Death,
    Deaths,
    House,
    Killed,
    Nursery,
    Toll,
    chance_of,
    clean_environment,
    draw_death,
    make_objects,
    pixel_hashes,
)
from tests.faults.killed_worker import EXIT_DONE, PLANNING_POINTS, POINTS, REPORTING_POINTS

pytestmark = pytest.mark.integration

BATCH = 4


@pytest.fixture(scope="module")
def house(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: EmbeddedPostgres,
    object_store_server: EmbeddedObjectStore,
    default_model_store: ModelStore,
    *,
    is_full: bool,
) -> Iterator[House]:
    """A bucket of small photos, and the truth about it: what one undisturbed run of the command line recorded."""
    folder = tmp_path_factory.mktemp("killed")
    bucket, template, quiet = (f"{name}-{uuid.uuid4().hex}" for name in ("killed", "template", "quiet"))
    objects = make_objects(chance_of(pytestconfig.getoption("--seed")), 238 if is_full else 62)
    client = object_store_server.client()
    client.create_bucket(Bucket=bucket)
    for key, body in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)

    for name in (template, quiet):
        postgres_server.create_database(name)
        wiring.migrate(read_settings(database_url=postgres_server.url(name), model_store=default_model_store.root))
    command = {
        **clean_environment(),
        **object_store_server.environment(),
        "NIGHTLABEL_MODEL_STORE": str(default_model_store.root),
    }
    worker = {
        "PYTHONPATH": str(pytestconfig.rootpath),
        "NIGHTLABEL_BATCH_SIZE": str(BATCH),
        "NIGHTLABEL_WINDOW": "16",
        "NIGHTLABEL_FETCH_THREADS": "4",
        "NIGHTLABEL_ENGINE_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",  # the nursery forks, so it may have one thread only
    }
    nursery = Nursery(folder, {**command, **worker})
    try:
        began = time.monotonic()
        undisturbed = start_command(nursery, command, postgres_server.url(quiet), bucket)
        assert undisturbed.ended.wait(200)
        assert undisturbed.status == EXIT_DONE, undisturbed.errors
        command_s = time.monotonic() - began
        with psycopg.connect(postgres_server.url(quiet), row_factory=dict_row) as connection:
            rows = connection.execute(
                "SELECT i.object_key, o.* FROM nightlabel.outcome o JOIN nightlabel.image i USING (image_id)"
            ).fetchall()
        truth = {row["object_key"]: Truth.of(row) for row in rows}
        listed = {
            found["Key"]: Object(found["ETag"].strip('"'), sha256(objects[found["Key"]]))
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for found in page["Contents"]
        }
        labelled = [key for key, true in truth.items() if true.label is not None]
        preprocessing = default_model_store.read_manifest(BUNDLED_MODEL).preprocessing
        made = House(
            postgres_server,
            template,
            Night(bucket, str(BUNDLED_MODEL), listed, truth),
            pixel_hashes(objects, preprocessing, labelled),
            nursery,
            command,
            command_s,
        )
        yield made
        # The bucket was only read.
        assert {
            found["Key"]: found["ETag"].strip('"')
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for found in page["Contents"]
        } == {key: held.etag for key, held in listed.items()}
    finally:
        nursery.close()
        for name in (template, quiet):
            postgres_server.drop_database(name)
        client.delete_bucket(Bucket=bucket)


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def start_command(nursery: Nursery, environment: dict[str, str], database: str, bucket: str) -> Any:
    arguments = [sys.executable, "-m", "inference", "classify", "--bucket", bucket, "--json"]
    return nursery.start(
        "program", arguments=arguments, environment={**environment, "NIGHTLABEL_DATABASE_URL": database}
    )


@pytest.fixture
def toll() -> Toll:
    return Toll()


def test_the_undisturbed_run_has_labels_and_errors_of_many_kinds(house: House):
    labels = {true.label for true in house.night.truth.values()} - {None}
    codes = {true.error_code for true in house.night.truth.values()} - {None}
    assert set(house.night.truth) == set(house.night.objects)
    assert len(labels) > 8, labels
    assert codes == {"truncated", "not_an_image", "too_many_pixels", "empty_object"}
    with house.postgres.connect(house.template) as connection:
        assert settled_keys(connection, house.night) == frozenset()


@pytest.mark.timeout(1800)
def test_a_run_killed_at_every_point_ends_with_the_books_of_an_undisturbed_one(
    house: House, toll: Toll, seed: int, capsys: pytest.CaptureFixture[str], *, is_full: bool
):
    chance = chance_of(seed)
    places, hows = (*POINTS, RANDOM), ("kill", "term", "both")
    if is_full:
        at_work = [draw_death(chance, place, how, most=4) for place in places for how in (*hows, "ask") * 2]
        at_work += [draw_death(chance, place, "kill", most=4) for place in places for _ in range(11)]
        at_work += [draw_death(chance, RANDOM, how, most=4) for how in (*hows, "ask") * 8]
        planning = [draw_death(chance, point, how, most=1) for point in PLANNING_POINTS for how in hows]
        reporting = [draw_death(chance, point, how, most=1) for point in REPORTING_POINTS for how in hows]
    else:
        at_work = [draw_death(chance, place, chance.choice((*hows, "ask")), most=2) for place in places]
        planning = [draw_death(chance, chance.choice(PLANNING_POINTS), "kill", most=1)]
        reporting = [draw_death(chance, chance.choice(REPORTING_POINTS), "kill", most=1)]
    for deaths in (at_work, planning, reporting):
        chance.shuffle(deaths)
    wanted = len(at_work) + len(planning) + len(reporting)
    hidden = Deaths(at_work), Deaths(planning), Deaths(reporting)
    began = time.monotonic()
    night = 0
    while not all(deaths.is_empty for deaths in hidden):
        night += 1
        assert night < 40, "the same deaths are never reached"
        with house.ledger(toll) as killed:
            run_id, shards = killed.plan(f"night {night}", shard_size=80 if is_full else 32, deaths=hidden[1])
            for shard in shards:
                killed.classify(run_id, shard, hidden[0])
            killed.close(run_id, hidden[2])
            problems = killed.check(finished=[run_id])
            assert problems == [], "\n".join(problems)
            toll.images += len(house.night.objects)
            toll.again += computed_again(killed.works)
    toll.seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{toll.table(seed)}")  # noqa: T201 - what the suite did is worth a look when all went well, too
    assert toll.kills.total() == wanted


# Two at once


@pytest.mark.timeout(1800)
def test_a_worker_that_was_thought_dead_writes_nothing_when_it_wakes(
    house: House, toll: Toll, seed: int, *, is_full: bool
):
    chance = chance_of(seed)
    points = [point for point in POINTS if point != "after_finish"]  # then there is nothing left to write
    nights = [(point, is_late) for point in points for is_late in (False, True)]
    for point, is_late in nights if is_full else [chance.choice(nights)]:
        with house.ledger(toll) as killed:
            run_id, [shard] = killed.plan("night", shard_size=1000)
            sleeper, slept = killed.start_shard(run_id, shard, draw_sleep(chance, point))
            assert sleeper.stopped.wait(120), sleeper.errors
            successor, succeeded = killed.start_shard(run_id, shard, Death("before_commit", signal.SIGSTOP, nth=2))
            # It may find nothing left to do but to close the shard.
            assert wait_until(lambda each=successor: each.stopped.is_set() or each.ended.is_set(), 120)
            # The elder one wakes while the younger one is at work, or when all is done.
            if is_late:
                house.nursery.send(successor, signal.SIGCONT)
                killed.end(successor, None, succeeded)
            house.nursery.send(sleeper, signal.SIGCONT)
            killed.expect_stale(sleeper, slept)
            if not is_late:
                house.nursery.send(successor, signal.SIGCONT)
                killed.end(successor, None, succeeded)
            killed.close(run_id)
            problems = killed.check(finished=[run_id])
            assert problems == [], "\n".join([point, *problems])


def draw_sleep(chance: Random, point: str) -> Death:
    drawn = draw_death(chance, point, "kill", most=3)
    return Death(point, signal.SIGSTOP, drawn.nth, drawn.delay_s)


@pytest.mark.timeout(400)
def test_a_statement_that_outlives_its_worker_counts_once(house: House, toll: Toll):
    with house.ledger(toll) as killed:
        run_id, [shard] = killed.plan("night", shard_size=1000)
        death = Death("before_commit", signal.SIGSTOP, nth=2)
        first, work = killed.start_shard(run_id, shard, death)
        assert first.stopped.wait(120), first.errors
        with psycopg.connect(killed.url) as lock:
            lock.execute("SELECT FROM nightlabel.shard FOR UPDATE")
            house.nursery.send(first, signal.SIGCONT)
            assert killed.wait_for_lock_waiters(1)
            house.nursery.send(first, KILL)
            assert first.ended.wait(30)
            second, more = killed.start_shard(run_id, shard, None)
            assert killed.wait_for_lock_waiters(2)
            lock.commit()
        killed.end(second, None, more)
        killed.read(first, work)
        killed.close(run_id)
        problems = killed.check(finished=[run_id])
        assert problems == [], "\n".join(problems)
        # What was sent before death was recorded after it, and was not done again.
        assert not set(work.predicted[: 2 * BATCH]) & {*more.fetched, *more.predicted}


@pytest.mark.timeout(400)
def test_a_worker_that_sleeps_within_its_claim_keeps_its_shard_from_nobody_for_long(
    house: House, toll: Toll, *, is_full: bool
):
    with house.ledger(toll) as killed:
        run_id, [shard] = killed.plan("night", shard_size=1000)
        with psycopg.connect(killed.url) as lock:
            lock.execute("SELECT FROM nightlabel.shard FOR UPDATE")
            sleeper, slept = killed.start_shard(run_id, shard, None)
            assert killed.wait_for_lock_waiters(1)
            house.nursery.send(sleeper, signal.SIGSTOP)
            assert sleeper.stopped.wait(30)
            lock.commit()
        # Its transaction is open now, nobody goes on with it, and it holds the shard.
        successor, succeeded = killed.start_shard(run_id, shard, None)
        assert killed.wait_for_lock_waiters(1)
        if is_full:  # it sleeps until the database has had enough of it, which takes a minute
            killed.end(successor, None, succeeded)
            house.nursery.send(sleeper, signal.SIGCONT)
            killed.end(sleeper, None, slept)
        else:
            house.nursery.send(sleeper, signal.SIGCONT)
            killed.expect_stale(sleeper, slept)
            killed.end(successor, None, succeeded)
        killed.close(run_id)
        problems = killed.check(finished=[run_id])
        assert problems == [], "\n".join(problems)


@pytest.mark.timeout(1800)
def test_two_runs_over_one_bucket_killed_by_chance_share_it_without_doubles(
    house: House, toll: Toll, seed: int, capsys: pytest.CaptureFixture[str], *, is_full: bool
):
    chance = chance_of(seed)
    began = time.monotonic()
    for night in range(5 if is_full else 1):
        with house.ledger(toll) as killed:
            runs = [killed.plan(f"{name} {night}", shard_size=80 if is_full else 32) for name in ("nightly", "by hand")]
            for _, shards in runs:
                chance.shuffle(shards)
            places, hows = (*POINTS, RANDOM, RANDOM), ("kill", "term", "ask")
            fates = [
                Deaths(
                    [
                        draw_death(chance, chance.choice(places), chance.choice(hows), most=4)
                        for _ in range(8 if is_full else 2)
                    ]
                )
                for _ in runs
            ]

            def finish(planned: tuple[UUID, list[int]], deaths: Deaths, killed: Killed = killed) -> None:
                run_id, shards = planned
                for shard in shards:
                    killed.classify(run_id, shard, deaths)

            with ThreadPoolExecutor(len(runs)) as lanes:
                list(lanes.map(finish, runs, fates))
            for run_id, _ in runs:
                killed.close(run_id)
            problems = killed.check(finished=[run_id for run_id, _ in runs])
            assert problems == [], "\n".join(problems)
            toll.images += len(house.night.objects)
            toll.again += computed_again(killed.works)
    toll.seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{toll.table(seed)}")  # noqa: T201 - what the suite did is worth a look when all went well, too
    assert toll.kills.total() > 0


# The command line


@pytest.mark.timeout(1800)
def test_the_command_line_killed_at_any_moment_leaves_the_rest_to_the_next(
    house: House, toll: Toll, seed: int, *, is_full: bool
):
    chance = chance_of(seed)
    wanted, tries = 10 if is_full else 1, 0
    while toll.kills.total() < wanted:
        tries += 1
        assert tries < 3 * wanted + 3, "the command ends before it is killed"
        with house.ledger(toll) as killed:
            first = start_command(house.nursery, dict(house.command_environment), killed.url, house.night.bucket)
            if first.ended.wait(chance.uniform(0.2, 0.95) * house.command_s) or not house.nursery.send(first, KILL):
                continue
            assert first.ended.wait(30)
            toll.kills["command line", "SIGKILL"] += 1
            killed.judge_remains("the command")
            begun = {run_id for [run_id] in killed.connection.execute("SELECT run_id FROM nightlabel.run").fetchall()}
            before = len(settled_keys(killed.connection, house.night))
            again = start_command(house.nursery, dict(house.command_environment), killed.url, house.night.bucket)
            assert again.ended.wait(200)
            assert again.status == EXIT_DONE, again.errors
            summary = json.loads(again.out.read_text().splitlines()[-1])
            assert summary["state"] == "succeeded"
            assert summary["labelled"] + summary["dead"] + summary["already_done"] == len(house.night.objects)
            assert summary["already_done"] >= before
            problems = killed.check(finished=[UUID(summary["run_id"])], abandoned=list(begun))
            assert problems == [], "\n".join(problems)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_command_line_goes_on_when_its_worker_is_killed(house: House, toll: Toll, seed: int, *, is_full: bool):
    chance = chance_of(seed)
    wanted, tries = 10 if is_full else 1, 0
    while toll.kills.total() < wanted:
        tries += 1
        assert tries < 3 * wanted + 3, "the command ends before its worker is killed"
        with house.ledger(toll) as killed:
            command = start_command(house.nursery, dict(house.command_environment), killed.url, house.night.bucket)
            if not wait_until(lambda told=command: bool(children(told.pid)) or told.ended.is_set(), 60):
                pytest.fail("the command has no process that works for it")
            command.ended.wait(chance.uniform(0, 0.8) * house.command_s)
            victims = children(command.pid)
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, KILL)
                    toll.kills["worker", "SIGKILL"] += 1
            assert command.ended.wait(200)
            assert command.status == EXIT_DONE, command.errors
            killed.judge_remains("the command")
            problems = killed.check(finished=[UUID(json.loads(command.out.read_text().splitlines()[-1])["run_id"])])
            assert problems == [], "\n".join(problems)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# Whether the checker would see it


@pytest.fixture(scope="module")
def finished(house: House) -> Iterator[tuple[Killed, UUID]]:
    """A run in two shards that was killed once, and whose books are right. Leave it as it is."""
    with house.ledger(Toll()) as killed:
        run_id, shards = killed.plan("night", shard_size=len(house.night.objects) // 2 + 1)
        deaths = Deaths([Death("after_commit", KILL, nth=2)])
        for shard in shards:
            killed.classify(run_id, shard, deaths)
        killed.close(run_id)
        assert killed.check(finished=[run_id]) == []
        yield killed, run_id


A_LABEL = "(SELECT image_id FROM nightlabel.outcome WHERE label IS NOT NULL ORDER BY image_id LIMIT 1)"
AN_ERROR = "(SELECT image_id FROM nightlabel.outcome WHERE label IS NULL ORDER BY image_id LIMIT 1)"
AS_ANOTHER = (
    "SET (label, label_id, score, top_labels, top_scores) = (SELECT label, label_id, score, top_labels, top_scores "
    "FROM nightlabel.outcome b WHERE b.label <> o.label ORDER BY image_id LIMIT 1)"
)
DAMAGE = {
    "an outcome is lost": f"DELETE FROM nightlabel.outcome WHERE image_id = {A_LABEL}",
    "an error is lost": f"DELETE FROM nightlabel.outcome WHERE image_id = {AN_ERROR}",
    "two images changed places": f"UPDATE nightlabel.outcome o {AS_ANOTHER} WHERE image_id = {A_LABEL}",
    "a label id differs": f"UPDATE nightlabel.outcome SET label_id = 'n0' WHERE image_id = {A_LABEL}",
    "a score differs": f"UPDATE nightlabel.outcome SET score = score * 0.9999 WHERE image_id = {A_LABEL}",
    "the second label differs": f"UPDATE nightlabel.outcome SET top_labels[2] = 'x' WHERE image_id = {A_LABEL}",
    "the last score differs": f"UPDATE nightlabel.outcome SET top_scores[5] = top_scores[5] + 1e-5 "
    f"WHERE image_id = {A_LABEL}",
    "an error has another code": f"UPDATE nightlabel.outcome SET error_code = 'decoder_crashed' "
    f"WHERE image_id = {AN_ERROR}",
    "an error is to be tried again": f"UPDATE nightlabel.outcome SET retry_after = now() WHERE image_id = {AN_ERROR}",
    "another run is said to have recorded it": f"UPDATE nightlabel.outcome SET run_id = gen_random_uuid() "
    f"WHERE image_id = {A_LABEL}",
    "an image that is not there has an outcome": "INSERT INTO nightlabel.outcome SELECT (r).* FROM (SELECT "
    "jsonb_populate_record(o, jsonb_build_object('image_id', gen_random_uuid())) AS r FROM nightlabel.outcome o "
    "LIMIT 1) x",
    "a label is counted as an error": "UPDATE nightlabel.shard SET labelled = labelled - 1, dead = dead + 1 "
    "WHERE shard_number = 0",
    "a label is not counted": "UPDATE nightlabel.shard SET labelled = labelled - 1 WHERE shard_number = 0",
    "a label is counted in another shard": "UPDATE nightlabel.shard SET labelled = labelled + "
    "CASE shard_number WHEN 0 THEN -1 ELSE 1 END, images = images + CASE shard_number WHEN 0 THEN -1 ELSE 1 END",
    "a label is counted for others": "UPDATE nightlabel.shard SET labelled = labelled - 1, "
    "done_elsewhere = done_elsewhere + 1 WHERE shard_number = 0",
    "one object more is said to be found": "UPDATE nightlabel.run SET discovered = discovered + 1",
    "one object more is said to be found and done": "UPDATE nightlabel.run SET discovered = discovered + 1, "
    "already_done = already_done + 1",
    "a shard still runs": "UPDATE nightlabel.shard SET state = 'running' WHERE shard_number = 1",
    "the run failed": "UPDATE nightlabel.run SET state = 'failed'",
    "the run is still running": "UPDATE nightlabel.run SET state = 'running', finished_at = NULL",
    "there is a second run": "INSERT INTO nightlabel.run SELECT (r).* FROM (SELECT jsonb_populate_record(run, "
    "jsonb_build_object('run_id', gen_random_uuid(), 'airflow_run_id', 'x')) AS r FROM nightlabel.run) x",
    "an object is said to be gone": f"UPDATE nightlabel.object SET gone_at = now() WHERE image_id = {A_LABEL}",
    "the bytes that were labelled are others": f"UPDATE nightlabel.image SET content_sha256 = sha256('x') "
    f"WHERE image_id = {A_LABEL}",
    "an image was left out of the manifest": "UPDATE nightlabel.manifest_chunk SET image_id = image_id[2:] "
    "WHERE shard_number = 0",
}


def test_each_damage_to_the_books_is_found(house: House, finished: tuple[Killed, UUID]):
    killed, run_id = finished

    def problems() -> list[str]:
        return check_books(killed.connection, house.night, finished=[run_id], works=killed.works)

    unseen = []
    for damage, statement in DAMAGE.items():
        with killed.connection.transaction(force_rollback=True):
            changed = killed.connection.execute(statement)  # type: ignore[arg-type]
            assert changed.rowcount > 0, damage
            if not problems():
                unseen.append(damage)
    assert unseen == []
    assert problems() == []


def done_again(works: list[Work]) -> None:
    late = next(work for work in works if work.settled_before and work.predicted)
    late.predicted.append(min(late.settled_before))


def read_again(works: list[Work]) -> None:
    late = next(work for work in works if work.settled_before)
    late.fetched.append(min(late.settled_before))


def done_twice(works: list[Work]) -> None:
    busy = next(work for work in works if work.predicted)
    busy.predicted.append(busy.predicted[0])


def never_done(works: list[Work]) -> None:
    counts = [key for work in works for key in work.predicted]
    once = next(key for key in counts if counts.count(key) == 1)
    for work in works:
        work.predicted = [key for key in work.predicted if key != once]


def misreported(works: list[Work]) -> None:
    told = next(work for work in works if work.reported)
    assert told.reported is not None
    told.reported = {**told.reported, "labelled": told.reported["labelled"] + 1}


def unreported(works: list[Work]) -> None:
    next(work for work in works if work.reported).reported = None


def test_whatever_an_attempt_does_wrong_is_found(house: House, finished: tuple[Killed, UUID]):
    killed, run_id = finished
    unseen = []
    for damage in (done_again, read_again, done_twice, never_done, misreported, unreported):
        works = deepcopy(killed.works)
        damage(works)
        if not check_books(killed.connection, house.night, finished=[run_id], works=works):
            unseen.append(damage.__name__)
    assert unseen == []


def test_a_session_that_stays_in_the_database_is_found(house: House, toll: Toll):
    with house.ledger(toll) as killed:
        with psycopg.connect(killed.url) as idle:
            idle.execute("SELECT FROM nightlabel.run FOR UPDATE")
            assert any("idle in transaction" in left for left in left_in_database(killed.connection))
        # Closing does not wait for the server to notice.
        wait_until(lambda: left_in_database(killed.connection) == [], 10)
        assert left_in_database(killed.connection) == []
