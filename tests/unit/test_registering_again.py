"""Registering a version again succeeds only for what the version is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ModelFilesError
from inference.models.manifest import INSTALLED_PHOTOS, InputScale, Origin
from inference.models.registering import _check_same
from inference.types import RegistrationRequest
from tests.model_store_contract import fill

DIGEST = "0" * 64
REQUEST = {
    "labels": "labels.txt",
    "licence": "CC0-1.0",
    "crop_fraction": 1.0,
    "resize_filter": "bilinear",
    "input_scale": (0.0, 255.0),
    "output": "probabilities",
    "int8": True,
}


@pytest.mark.parametrize("given", [None, "s3://lists/typical/"])
def test_an_int8_version_is_the_same_only_with_its_calibration_photos(tmp_path: Path, given: str | None) -> None:
    made = fill(
        tmp_path,
        precision="int8",
        litert_input=InputScale(mean=0.0, scale=255.0),
        origin=Origin(sha256=DIGEST, kind="saved_model", calibration=given or INSTALLED_PHOTOS),
    )

    def again(calibration: str | None) -> None:
        request = RegistrationRequest("model", "cats", "1", calibration=calibration, **REQUEST)  # type: ignore[arg-type]
        _check_same(made, request, DIGEST, made.labels)

    again(given)
    for other in {None, "s3://lists/typical/", "s3://lists/odd/"} - {given}:
        with pytest.raises(ModelFilesError, match=r"cats@1: its activations were measured on .*another version"):
            again(other)
