"""Every value that a pixel can have enters a LiteRT model as its manifest and the file say."""

from __future__ import annotations

import numpy as np
import pytest

from inference.engines.litert import _feed_of
from inference.models.families import PIXEL, SIGNED, UNIT

EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize(
    ("dtype", "scaling", "quantisation", "expected"),
    [
        ("float32", None, (0.0, 0), np.arange(256) / 255),
        ("uint8", None, (0.0, 0), np.arange(256)),
        ("float32", UNIT, (0.0, 0), np.arange(256) / 255),
        ("float32", SIGNED, (0.0, 0), (np.arange(256) - 127.5) / 127.5),
        ("float32", (127.0, 128.0), (0.0, 0), (np.arange(256) - 127) / 128),
        ("uint8", SIGNED, (1 / 127.5, 128), np.clip(np.rint(np.arange(256) - 127.5) + 128, 0, 255)),
        ("uint8", UNIT, (1 / 255, 0), np.arange(256)),
        ("int8", UNIT, (1 / 255, -128), np.arange(256) - 128),
        ("int8", PIXEL, (1.0, -128), np.arange(256) - 128),
        ("uint8", PIXEL, (2.0, 0), np.rint(np.arange(256) / 2)),
        ("uint8", UNIT, (0.0, 0), np.arange(256)),
        ("int8", UNIT, (0.0, 0), np.arange(256) - 128),
    ],
)
def test_a_pixel_enters_as_it_is_said(dtype: str, scaling: object, quantisation: object, expected: np.ndarray) -> None:
    fed = _feed_of(np.dtype(dtype), scaling, quantisation)(EVERY_PIXEL)  # type: ignore[arg-type]

    assert fed.dtype == dtype
    assert fed.shape == EVERY_PIXEL.shape
    np.testing.assert_allclose(fed.ravel(), expected, atol=1e-7)
