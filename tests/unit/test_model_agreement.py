"""What a conversion to 8 bits is measured on is not what it is judged by."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.models import adopting, agreement
from inference.types import Preprocessing


def test_activations_are_measured_on_other_photos_than_answers_are_compared_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = agreement.photo_crops
    photos: list[set[Path]] = []

    def noted(preprocessing: Preprocessing, count: int, part: list[Path]) -> object:
        photos.append(set(part))
        return cut(preprocessing, count, part)

    monkeypatch.setattr(agreement, "photo_crops", noted)
    measured, compared = agreement.halves(Preprocessing(8, 8, 1.0, "bilinear"))

    assert photos[0] | photos[1] == set(agreement.installed_photos())
    assert not photos[0] & photos[1]
    assert {crop.tobytes() for crop in measured}.isdisjoint(crop.tobytes() for crop in compared)
    assert min(len(measured), len(compared)) >= 20


def test_golden_photos_that_are_calibration_photos_as_well_are_left_out(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), ("same_as_a", b"1")):
        (tmp_path / name).write_bytes(content)

    golden = [str(tmp_path / name) for name in ("a", "b")]
    assert adopting._without(golden, [str(tmp_path / "same_as_a")]) == golden[1:]
