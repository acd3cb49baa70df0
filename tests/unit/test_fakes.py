"""The fakes behave like what they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.fakes import FakeClock, FakeHandle, FakeStore
from tests.handle_contract import ModelHandleContract
from tests.store_contract import PLAIN_KEYS, Case, ObjectStoreContract


@dataclass(frozen=True)
class FakeBucket:
    store: FakeStore
    name: str

    def put(self, key: str, body: bytes) -> str:
        return self.store.put(key, body)

    def delete(self, key: str) -> None:
        self.store.delete(key)


class TestFakeStore(ObjectStoreContract):
    keys = (*PLAIN_KEYS, "a//b", "/leading", "new\nline", "../up", "k" * 1024)

    @pytest.fixture
    def case(self) -> Case:
        store = FakeStore()
        return Case(store, FakeBucket(store, store.bucket))


def test_the_fake_model_tells_images_apart_by_the_red_of_their_first_pixel():
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    pixels[0, 0, 0, 0] = 255
    pixels[1, 0, 0, 0] = 128
    pixels[2, 1:] = 255

    scores = FakeHandle(("cat", "cow", "dog")).predict(pixels)

    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_the_fake_clock_moves_only_when_it_is_moved():
    clock = FakeClock()
    clock.advance(2.5)

    assert (clock.monotonic(), clock.monotonic()) == (2.5, 2.5)


class TestFakeHandle(ModelHandleContract):
    @pytest.fixture
    def handle(self) -> FakeHandle:
        return FakeHandle(("cat", "dog", "owl"))
