"""A model is asked about golden images by the loop of a night, and a bad one costs only itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from inference.errors import StoreUnavailableError
from inference.gate.answering import answer, with_speed
from inference.gate.figures import Answer
from inference.settings import Settings
from inference.types import Label
from inference.wiring import SystemClock
from tests.fakes import FakeClock, FakeHandle, FakeStore
from tests.faults.poisoned.sitecustomize import ABORT

LABELS = ("cat", "dog", "fox")
IDS = [f"n{number:08}" for number in range(3)]
CAT, DOG, FOX = (Label(name, label_id) for name, label_id in zip(LABELS, IDS, strict=True))


def picture(red: int) -> bytes:
    """An image that the fake model scores by its red: 255 is a cat, 128 a dog, 0 a fox."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(store: FakeStore, golden: dict[str, str], recent: tuple[str, ...] = ()):
    """What the fake model says of keys -> id of the right label, and of other keys."""
    told: list[int] = []
    found = answer(
        FakeHandle(LABELS),
        {store.ref(key): label_id for key, label_id in golden.items()},
        [store.ref(key) for key in recent],
        store=store,
        settings=Settings(decode_threads=1, fetch_threads=2),
        clock=FakeClock(),
        progress=told.append,
    )
    assert sum(told) == len(golden) + len(recent)
    return found


def test_answers_say_where_the_right_label_stands_and_what_it_scores():
    store = FakeStore({"cat": picture(255), "dog": picture(128), "fox": picture(0)})

    found = ask(store, {"cat": IDS[0], "dog": IDS[0], "fox": "n9"}, ("dog",))

    assert found.answers[store.ref("cat").image_id] == Answer(CAT, pytest.approx(0.9), 1, pytest.approx(0.9))
    assert found.answers[store.ref("fox").image_id] == Answer(FOX, pytest.approx(0.9), None, 0.0), "an unknown label"
    assert found.unreadable == {}
    assert found.label_ids == set(IDS)


def test_an_image_whose_label_is_not_known_has_its_best_label_only():
    store = FakeStore({"dog": picture(128)})

    assert ask(store, {}, ("dog",)).answers == {store.ref("dog").image_id: Answer(DOG, pytest.approx(0.9))}


def test_bad_golden_images_cost_only_themselves_even_those_that_kill_their_decoder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "faults" / "poisoned"))
    store = FakeStore({f"{number}": picture(255) + bytes(number) for number in range(5)})
    store.objects |= {"broken": b"no image", "empty": b"", "kills": picture(255) + ABORT, "denied": picture(0)}
    store.objects |= {"gone": picture(1), "overwritten": picture(2)}
    refs = {key: store.ref(key) for key in store.objects}
    store.denied.add("denied")
    store.delete("gone")
    store.put("overwritten", picture(3))

    found = answer(
        FakeHandle(LABELS),
        dict.fromkeys(refs.values(), IDS[0]),
        [],
        store=store,
        settings=Settings(decode_threads=1, fetch_threads=2),
        clock=FakeClock(),
    )

    assert {key for key, ref in refs.items() if ref.image_id in found.answers} == set("01234")
    assert {key: found.unreadable[ref.image_id] for key, ref in refs.items() if ref.image_id in found.unreadable} == {
        "broken": "not_an_image",
        "empty": "empty_object",
        "kills": "decoder_crashed",
        "denied": "access_denied",
        "gone": "gone",
        "overwritten": "gone",
    }


def test_a_store_that_is_away_is_no_verdict_on_any_image():
    store = FakeStore({"cat": picture(255)})
    refs = {store.ref("cat"): IDS[0]}
    store.trouble = StoreUnavailableError("the object store does not answer")

    with pytest.raises(StoreUnavailableError):
        answer(FakeHandle(LABELS), refs, [], store=store, settings=Settings(decode_threads=1), clock=FakeClock())


def test_nothing_to_ask_about_is_no_trouble():
    assert ask(FakeStore(), {}).answers == {}


def test_the_speed_is_that_of_the_calls_alone_in_the_fastest_round():
    handle, clock = FakeHandle(LABELS, best_batch_size=4), FakeClock(step_s=0.5)
    found = with_speed(ask(FakeStore(), {}), handle, clock, for_s=8.0)

    # The clock moves half a second at each look: one at the start of a round, four until its two seconds are up, and
    # one at its end.
    assert handle.batch_sizes == [4] * (1 + 4 * 4)
    assert found.images_per_second == pytest.approx(4 * 4 / 2.5)


def test_the_speed_of_a_real_clock_is_a_number_of_images():
    found = with_speed(ask(FakeStore(), {}), FakeHandle(LABELS), SystemClock(), for_s=0.01)

    assert found.images_per_second is not None
    assert found.images_per_second > 0
