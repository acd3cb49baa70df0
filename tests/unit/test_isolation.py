"""Decoding in processes apart: the same pixels and the same errors, and a death costs one image only."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from inference import errors
from inference.children import LOST, Child, exit_words, receive, send
from inference.decoding import decode_image
from inference.errors import (
    DecoderCrashedError,
    DecoderOutOfMemoryError,
    DecoderTimeoutError,
    ImageError,
    InferenceError,
    WorkerDiedError,
    error_of,
)
from inference.isolation import IsolatedDecoders
from inference.memory import Budget
from inference.types import Preprocessing
from local_stack.processes import wait_until
from tests.data.make_images import IMAGES, jpeg, picture, saved
from tests.e2e.loaded import children, command_line
from tests.faults.poisoned.sitecustomize import ABORT, HANG

PREPROCESSING = Preprocessing(height=12, width=10, crop_fraction=0.875, resize_filter="bilinear")
PHOTO = jpeg(picture())


@contextmanager
def decoders(processes: int = 1, **changes: object) -> Iterator[IsolatedDecoders]:
    parts = {"max_pixels": 50_000_000, "timeout_s": 60.0}
    with IsolatedDecoders(processes, PREPROCESSING, **{**parts, **changes}) as made:
        yield made


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of processes that are started from now on die or hang of marked images."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "faults" / "poisoned"))


def of_this_process() -> set[int]:
    """The decoders that this process has started and that live."""
    return {pid for pid in children(os.getpid()) if "inference.isolated_decoder" in command_line(pid)}


def result(decode: Callable[[bytes], object], data: bytes) -> object:
    """Pixels as bytes with their shape, or the code and the sentence of the error."""
    try:
        pixels = decode(data)
    except ImageError as error:
        return error.code, str(error)
    assert isinstance(pixels, np.ndarray)
    return pixels.shape, pixels.dtype, pixels.tobytes()


def test_every_image_gives_the_pixels_or_the_error_that_decoding_in_threads_gives():
    images = {name: make() for name, make in IMAGES.items()}
    here = {
        name: result(lambda data: decode_image(data, PREPROCESSING, max_pixels=50_000_000), data)
        for name, data in images.items()
    }
    with decoders() as apart:
        there = {name: result(apart.decode, data) for name, data in images.items()}
        assert len(of_this_process()) == 1, "no image cost its process"
    assert there == here


def test_the_bounds_of_the_other_side_hold():
    with decoders(max_pixels=100) as apart:
        assert result(apart.decode, PHOTO)[0] == "too_many_pixels"


def test_no_process_is_started_before_one_is_needed_and_none_is_left_at_the_end():
    with decoders(2) as apart:
        assert of_this_process() == set()
        apart.decode(PHOTO)
        assert len(of_this_process()) == 1
        apart.decode(PHOTO)
        assert len(of_this_process()) == 1, "the one that is idle is asked again"
    assert of_this_process() == set()


def test_several_threads_get_their_own_images_back():
    images = [jpeg(picture().point(lambda value, shade=shade: value // 8 + shade)) for shade in range(0, 200, 20)]
    expected = [decode_image(data, PREPROCESSING).tobytes() for data in images]
    wrong: list[int] = []
    with decoders(2) as apart:

        def work(first: int) -> None:
            for number in range(first, first + 30):
                data, right = images[number % len(images)], expected[number % len(images)]
                if apart.decode(data).tobytes() != right:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.usefixtures("poison")
def test_an_image_that_kills_its_process_is_named_so_and_the_next_one_is_decoded():
    with decoders() as apart:
        for _ in range(2):
            with pytest.raises(DecoderCrashedError, match=r"^the process that decoded .* was killed by SIGABRT;"):
                apart.decode(PHOTO + ABORT)
            assert result(apart.decode, PHOTO) == result(lambda data: decode_image(data, PREPROCESSING), PHOTO)


@pytest.mark.usefixtures("poison")
def test_an_image_that_hangs_its_process_times_out_and_the_process_is_gone():
    with decoders(timeout_s=1.0) as apart:
        with pytest.raises(DecoderTimeoutError, match=r"^decoding the image took more than 1 s; .*DECODE_TIMEOUT_S$"):
            apart.decode(PHOTO + HANG)
        assert of_this_process() == set()


class InThread(threading.Thread):
    """Decodes in a thread of its own and keeps how that ended."""

    def __init__(self, apart: IsolatedDecoders, data: bytes) -> None:
        super().__init__(daemon=True)
        self.apart, self.data = apart, data
        self.ended: queue.Queue[object] = queue.Queue()

    def run(self) -> None:
        try:
            self.ended.put(self.apart.decode(self.data).shape)
        except InferenceError as error:
            self.ended.put(error)


def kill_one(known: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Kill a decoder that is not known, once it is there, from outside."""
    assert wait_until(lambda: bool(of_this_process() - known), 60)
    [pid] = of_this_process() - known
    os.kill(pid, signal.SIGKILL)
    return pid


def gate() -> tuple[threading.Semaphore, threading.Semaphore, Callable[[int], object]]:
    """Return what counts the images that ask for memory, what lets one go on, and the ``reserve`` of it."""
    asked, may_go = threading.Semaphore(0), threading.Semaphore(0)

    @contextmanager
    def reserve(wanted: int) -> Iterator[None]:
        asked.release()
        may_go.acquire()
        yield

    return asked, may_go, reserve


def test_an_image_whose_process_somebody_else_killed_gets_a_second_chance():
    asked, may_go, reserve = gate()
    with decoders(reserve=reserve) as apart:
        work = InThread(apart, PHOTO)
        work.start()
        assert asked.acquire(timeout=60)
        kill_one()
        may_go.release()
        assert asked.acquire(timeout=60), "it is asked for again"
        may_go.release()
        assert work.ended.get(timeout=60) == (12, 10, 3)


def test_killed_twice_is_a_crash():
    asked, may_go, reserve = gate()
    with decoders(reserve=reserve) as apart:
        work = InThread(apart, PHOTO)
        work.start()
        for _ in range(2):
            assert asked.acquire(timeout=60)
            kill_one()
            may_go.release()
        error = work.ended.get(timeout=60)
        assert isinstance(error, DecoderCrashedError)
        assert "was killed by SIGKILL" in str(error)


def test_memory_is_asked_for_and_held_while_the_image_is_decoded():
    held: list[tuple[str, int]] = []

    @contextmanager
    def reserve(wanted: int) -> Iterator[None]:
        held.append(("take", wanted))
        yield
        held.append(("give", wanted))

    with decoders(reserve=reserve) as apart:
        apart.decode(PHOTO)
        with pytest.raises(ImageError):
            apart.decode(b"no image")
        large = saved(picture(4_000, 3_000), "PNG")
        apart.decode(large)
    [first, _, second, last] = held
    assert [what for what, _ in held] == ["take", "give", "take", "give"], "what is no image needs none"
    assert 0 < first[1] < 1_000_000
    assert 6 * 12_000_000 < second[1] == last[1] < 20 * 12_000_000


def test_an_image_that_gets_no_memory_is_refused_and_its_process_goes_on():
    budget = Budget(1_000_000, "decoding the image")
    with decoders(reserve=budget.reserve) as apart:
        apart.decode(PHOTO)
        [before] = of_this_process()
        for _ in range(3):
            with pytest.raises(DecoderOutOfMemoryError, match=r"^decoding the image takes about"):
                apart.decode(saved(picture(2_000, 1_500), "PNG"))
            assert apart.decode(PHOTO).shape == (12, 10, 3)
        assert of_this_process() == {before}


def test_a_process_that_was_left_in_the_middle_of_an_image_is_not_asked_again():
    class Interrupted(BaseException):
        pass

    first = True

    @contextmanager
    def reserve(wanted: int) -> Iterator[None]:
        nonlocal first
        if first:
            first = False
            raise Interrupted
        yield

    with decoders(reserve=reserve) as apart:
        with pytest.raises(Interrupted):
            apart.decode(PHOTO)
        assert of_this_process() == set()
        assert apart.decode(PHOTO).shape == (12, 10, 3)


def test_closing_ends_who_is_at_work_and_who_waits_and_blames_no_image():
    asked, may_go, reserve = gate()
    with decoders(reserve=reserve) as apart:
        threads = [InThread(apart, PHOTO) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert asked.acquire(timeout=60)
        apart.close()
        may_go.release()
        ended = [thread.ended.get(timeout=60) for thread in threads]
        assert [type(error) for error in ended] == [WorkerDiedError] * 3
        with pytest.raises(WorkerDiedError, match="decoding was ended"):
            apart.decode(PHOTO)
    assert of_this_process() == set()


def test_a_process_that_never_gets_ready_blames_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['numpy'] = None\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with decoders() as apart, pytest.raises(WorkerDiedError, match="ended with status 1 before it had an image"):
        apart.decode(PHOTO)


def test_getting_ready_is_no_part_of_an_images_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(3)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with decoders(timeout_s=2.0) as apart:
        assert apart.decode(PHOTO).shape == (12, 10, 3)


PARENT = """
import sys, time
from inference.isolation import IsolatedDecoders
from inference.types import Preprocessing
preprocessing = Preprocessing(12, 10, crop_fraction=1.0, resize_filter="nearest")
decoders = IsolatedDecoders(1, preprocessing, max_pixels=10**6, timeout_s=600)
if len(sys.argv) > 1:
    print("starting", flush=True)
decoders.decode(open("photo", "rb").read())
print("decoded", flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hung"])
def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path, busy: bool):
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    (tmp_path / "photo").write_bytes(PHOTO + (HANG if busy else b""))
    with subprocess.Popen(
        [sys.executable, "parent.py", *["busy"] * busy], cwd=tmp_path, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() in {b"starting\n", b"decoded\n"}
        assert wait_until(
            lambda: any("inference.isolated_decoder" in command_line(pid) for pid in children(parent.pid)), 60
        )
        [child] = [pid for pid in children(parent.pid) if "inference.isolated_decoder" in command_line(pid)]
        if busy:
            time.sleep(2)  # long enough for it to be at the image, and as right if it is not
        parent.kill()
    assert wait_until(lambda: "inference.isolated_decoder" not in command_line(child), 30)


def in_daemon(answers: multiprocessing.Queue[object]) -> None:
    """Decode apart, in a process that may have no children of ``multiprocessing``'s."""
    with decoders() as apart:
        answers.put(apart.decode(PHOTO).shape)


def test_a_daemonic_process_as_workers_of_schedulers_are_may_decode_apart():
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[object] = context.Queue()
    daemon = context.Process(target=in_daemon, args=(answers,), daemon=True)
    daemon.start()
    assert answers.get(timeout=120) == (12, 10, 3)
    daemon.join(60)
    assert daemon.exitcode == 0


def test_ctrl_c_reaches_the_parent_only():
    with decoders() as apart:
        apart.decode(PHOTO)
        [child] = of_this_process()
        assert os.getpgid(child) != os.getpgid(0)
        os.kill(child, signal.SIGINT)
        assert apart.decode(PHOTO).shape == (12, 10, 3)
        assert of_this_process() == {child}


def all_errors(cls: type[InferenceError] = InferenceError) -> set[type[InferenceError]]:
    return {cls}.union(*(all_errors(child) for child in cls.__subclasses__() if child.__module__ == errors.__name__))


def test_an_error_that_crossed_between_processes_is_of_its_class_and_has_its_sentence():
    assert len(all_errors()) > 30
    assert len({cls.code for cls in all_errors()}) == len(all_errors())
    for cls in all_errors():
        error = error_of(cls.code, "what was found; what to do")
        assert (type(error), str(error)) == (cls, "what was found; what to do")


def test_an_unknown_code_becomes_the_base_class():
    assert type(error_of("of_tomorrow", "a sentence")) is InferenceError


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (70, "ended with status 70"),
        (-9, "was killed by SIGKILL"),
        (-6, "was killed by SIGABRT"),
        (-63, "was killed by signal 63"),
    ],
)
def test_how_a_process_ended_is_told_in_words(status: int, words: str):
    assert exit_words(status) == words


def test_a_child_that_does_not_end_by_itself_is_ended_by_force():
    with Child("inference.isolated_decoder") as child:
        os.kill(child.pid, signal.SIGSTOP)
        assert child.exit_status(0.2) == -signal.SIGKILL
        with pytest.raises(LOST):
            receive(child.channel)


def test_a_child_ends_by_itself_when_its_channel_is_closed():
    with Child("inference.isolated_decoder") as child:
        send(child.channel, {"preprocessing": asdict(PREPROCESSING), "max_pixels": 1})
        assert receive(child.channel) == {"ready": True}
        child.channel.close()
        assert child.exit_status(60.0) == 0


TAKEN_OVER = """
import sys
from inference.children import join_parent, receive, send

channel = join_parent(sys.argv[1:])
receive(channel)
send(channel, {"ready": True})
channel.recv_bytes()
channel.send_bytes(ANSWER)
channel.recv_bytes()
"""


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"\xff\xfe", b'{"reserve": "much"}', b'{"code": []}'])
def test_a_decoder_that_answers_nonsense_is_ended_and_condemns_its_image(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "taken_over.py").write_text(TAKEN_OVER.replace("ANSWER", repr(answer)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("inference.isolation.MODULE", "taken_over")
    with decoders() as apart, pytest.raises(DecoderCrashedError, match="answered what means nothing"):
        apart.decode(PHOTO)


def test_a_decoder_gets_none_of_the_secrets_of_its_parent_and_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the store")
    monkeypatch.setenv("NIGHTLABEL_DATABASE_URL", "postgresql://writer:secret@127.0.0.1/results")
    (tmp_path / "queue.py").write_text("raise SystemExit(3)")
    (tmp_path / "inference.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with decoders() as apart:
        assert apart.decode(PHOTO).shape == (12, 10, 3)
        [child] = of_this_process()
        environment = Path(f"/proc/{child}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"secret" not in environment
