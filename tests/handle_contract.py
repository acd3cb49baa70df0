"""What every model handle keeps, the fake one as well as the real ones. Collected where a class inherits it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from inference.ports import ModelHandle


class ModelHandleContract:
    """Give a fixture ``handle`` and every promise of ``ports.ModelHandle`` is tested on it."""

    def pixels(self, handle: ModelHandle, images: int) -> np.ndarray:
        size = handle.preprocessing
        return np.random.default_rng(7).integers(0, 256, (images, size.height, size.width, 3), dtype=np.uint8)

    @pytest.mark.parametrize("images", [1, 2, 5])
    def test_scores_are_probabilities_one_row_an_image(self, handle: ModelHandle, images: int):
        scores = handle.predict(self.pixels(handle, images))
        assert scores.shape == (images, len(handle.labels))
        assert scores.dtype == np.float32
        assert (scores >= 0).all()
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)

    def test_the_scores_of_an_image_do_not_depend_on_its_batch(self, handle: ModelHandle):
        pixels = self.pixels(handle, 5)
        together = handle.predict(pixels)
        alone = np.concatenate([handle.predict(pixels[index : index + 1]) for index in range(5)])
        np.testing.assert_array_equal(together, alone)
        np.testing.assert_array_equal(handle.predict(pixels[::-1])[::-1], together)

    def test_labels_have_ids_of_their_own(self, handle: ModelHandle):
        ids = [label.label_id for label in handle.labels]
        assert len(set(ids)) == len(ids) > 0

    def test_it_says_what_it_is_and_how_it_is_fed(self, handle: ModelHandle):
        assert str(handle.model_id) == f"{handle.model_id.name}@{handle.model_id.version}"
        assert handle.engine in {"litert", "tensorflow"}
        assert handle.best_batch_size >= 1
        assert handle.parallel_calls >= 1

    def test_as_many_callers_as_it_serves_at_a_time_each_get_their_own_scores(self, handle: ModelHandle):
        given = [self.pixels(handle, 5)[number:] for number in range(5)] * 4
        expected = [handle.predict(pixels) for pixels in given]
        with ThreadPoolExecutor(handle.parallel_calls) as callers:
            for scores, alone in zip(callers.map(handle.predict, given), expected, strict=True):
                np.testing.assert_array_equal(scores, alone)
