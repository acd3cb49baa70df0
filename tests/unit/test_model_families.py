"""How a model wants its images is given or known by its family, joined with its signature, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.errors import SettingsError
from inference.models.families import FAMILIES, check_preprocessing, parse_scale, parse_size, settle
from inference.models.preprocessing_options import registration_options
from inference.types import Preprocessing, RegistrationRequest

BY_HAND = {"crop_fraction": 1.0, "resize_filter": "bicubic", "input_scale": (127.5, 127.5), "output": "logits"}


def request(source: str = "model", **fields: Any) -> RegistrationRequest:
    return RegistrationRequest(source, "cats", "1", **fields)


@pytest.mark.parametrize(
    ("family", "size", "crop", "resize_filter"),
    [
        ("efficientnet-lite", 224, 0.875, "bicubic"),
        ("efficientnet-lite", 300, 300 / 332, "bicubic"),
        ("efficientnet-v2", 240, 240 / 272, "bicubic"),
        ("efficientnet-v2", 480, 1.0, "bicubic"),
        ("mobilenet-v1", 128, 0.875, "bilinear"),
        ("mobilenet-v2", 96, 0.875, "bilinear"),
        ("mobilenet-v3", 224, 0.875, "bilinear"),
        ("resnet-v2", 224, 0.875, "bilinear"),
        ("inception-v3", 299, 0.875, "bilinear"),
    ],
)
def test_a_family_says_how_its_models_want_their_images(
    family: str, size: int, crop: float, resize_filter: str
) -> None:
    settled = settle(request(family=family), (size, size), 1001)

    assert settled.preprocessing == Preprocessing(size, size, crop, resize_filter)  # type: ignore[arg-type]
    assert settled.input_scale == (0.0, 255.0)
    assert (settled.output, settled.background_columns) == ("logits", 1)


@pytest.mark.parametrize(("columns", "background"), [(1000, 0), (1001, 1), (37, 0), (None, 0)])
def test_the_background_of_an_imagenet_head_is_known_by_its_columns(columns: int | None, background: int) -> None:
    assert settle(request(family="inception-v3"), (299, 299), columns).background_columns == background


def test_what_is_given_by_itself_wins_over_the_family() -> None:
    settled = settle(
        request(family="mobilenet-v2", crop_fraction=1.0, output="probabilities", background_columns=0),
        (224, 224),
        1001,
    )

    assert settled.preprocessing == Preprocessing(224, 224, 1.0, "bilinear")
    assert (settled.output, settled.background_columns) == ("probabilities", 0)


def test_without_a_family_everything_has_to_be_said() -> None:
    check_preprocessing(request(**BY_HAND))
    for field, option in (
        ("crop_fraction", "--crop"),
        ("resize_filter", "--filter"),
        ("input_scale", "--scale"),
        ("output", "--output"),
    ):
        with pytest.raises(SettingsError, match=rf"{option} missing"):
            check_preprocessing(request(**{**BY_HAND, field: None}))


def test_a_likely_family_is_offered_and_not_taken() -> None:
    handle = "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classification/5"

    with pytest.raises(SettingsError, match=r"--family mobilenet-v2, if it is of that family"):
        check_preprocessing(request(handle))
    with pytest.raises(SettingsError, match=r"with one of efficientnet-lite, "):
        check_preprocessing(request("model.keras"))


def test_the_size_comes_from_the_signature() -> None:
    assert settle(request(**BY_HAND), (48, 64), 3).preprocessing == Preprocessing(48, 64, 1.0, "bicubic")


def test_a_size_that_nobody_knows_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"leaves its input size open; give --input-size .*such as 224"):
        settle(request(**BY_HAND), (None, None), 3)
    with pytest.raises(SettingsError, match=r"of mobilenet-v1 one of 128, 160, 192, 224"):
        settle(request(family="mobilenet-v1"), (None, None), 1001)
    assert settle(request(family="inception-v3"), (None, None), 1001).preprocessing.height == 299
    assert settle(request(input_size=(64, 48), **BY_HAND), (None, 48), 3).preprocessing.height == 64


def test_a_size_against_the_signature_is_refused_with_both() -> None:
    with pytest.raises(SettingsError, match="given as 192 x 192 and the model's signature takes 224 x 224"):
        settle(request(input_size=(192, 192), **BY_HAND), (224, 224), 3)


def test_a_size_that_the_family_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"the input is 200 x 200 and the family resnet-v1 has 224"):
        settle(request(family="resnet-v1"), (200, 200), 1001)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "mobilenet"}, "the family is 'mobilenet', and the known ones are efficientnet-lite"),
        ({"input_size": (0, 5)}, "the input size is 0 x 5"),
        ({"input_size": (5, 9999)}, "the input size is 5 x 9999"),
        ({"crop_fraction": 0.0}, "the crop is 0.0"),
        ({"crop_fraction": float("nan")}, "the crop is nan"),
        ({"resize_filter": "box"}, "the filter is 'box'"),
        ({"output": "distances"}, "the output is 'distances'"),
        ({"input_scale": (0.0, 0.0)}, r"the scale is \(0.0, 0.0\)"),
        ({"input_scale": (0.0, float("nan"))}, r"the scale is \(0.0, nan\)"),
        ({"background_columns": -1}, "the background columns are -1"),
    ],
)
def test_impossible_preprocessing_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_preprocessing(request(**{**BY_HAND, **fields}))


def test_every_family_settles_each_of_its_sizes() -> None:
    for family in FAMILIES.values():
        for size in family.sizes:
            crop = settle(request(family=family.name), (size, size), 1001).preprocessing.crop_fraction
            assert 0.8 < crop <= 1.0
        assert family.default_size is None or family.default_size in family.sizes


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("240x320", (240, 320)), (" 96X96 ", (96, 96))])
def test_a_size_is_read(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "-5", "224x224x3", "big"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give pixels as 224, or height x width as 240x320"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "scale"),
    [("unit", (0.0, 255.0)), ("signed", (127.5, 127.5)), ("pixel", (0.0, 1.0)), ("127,128", (127.0, 128.0))],
)
def test_a_scale_is_read(text: str, scale: tuple[float, float]) -> None:
    assert parse_scale(text) == scale


@pytest.mark.parametrize("text", ["", "0-1", "1", "1,2,3", "a,b"])
def test_what_is_no_scale_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give unit"):
        parse_scale(text)


TOML = """
input-size = [240, 320]
crop = 1
filter = "bicubic"
scale = "127, 128"
output = "logits"
background = 1
licence = "MIT"
"""


def test_options_come_from_a_file_and_what_is_given_by_itself_wins(tmp_path: Path) -> None:
    as_toml, as_json = tmp_path / "p.toml", tmp_path / "p.json"
    as_toml.write_text(TOML)
    as_json.write_text(
        json.dumps(
            {
                "input_size": "240x320",
                "crop": 1.0,
                "filter": "bicubic",
                "scale": [127, 128],
                "output": "logits",
                "background": 1,
                "licence": "MIT",
            }
        )
    )
    expected = {
        "input_size": (240, 320),
        "crop_fraction": 1.0,
        "resize_filter": "bicubic",
        "input_scale": (127.0, 128.0),
        "output": "logits",
        "background_columns": 1,
        "licence": "MIT",
    }

    assert registration_options(str(as_toml)) == expected
    assert registration_options(str(as_json), crop=None) == expected
    assert registration_options(str(as_json), crop=0.5, family="resnet-v1") == {
        **expected,
        "crop_fraction": 0.5,
        "family": "resnet-v1",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", "{", "neither JSON nor"),
        ("p.toml", "= 3", "neither JSON nor"),
        ("p.json", "[]", "holds no table of options"),
        ("p.json", '{"mean": 3}', "holds mean; the options are family"),
        ("p.json", '{"crop": "wide"}', "the option crop is 'wide'; give a number"),
        ("p.json", '{"background": true}', "the option background is True; give a number"),
        ("p.json", '{"output": 3}', "the option output is 3; give text"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_refused_in_a_sentence(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(SettingsError, match=message):
        registration_options(str(tmp_path / name))
