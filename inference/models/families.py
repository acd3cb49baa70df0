"""models: how well-known families of networks want their images, and how that is settled for one model. Pure.

The sources of the table are TensorFlow Hub's pages of these modules (input size, range of the input, output) and the
evaluation code of their training (crop and filter): TF-Slim's "Inception-style" preprocessing for MobileNet, ResNet and
Inception, the margin of 16 pixels at each side for EfficientNet-Lite and the small EfficientNet V2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from inference.engines.scores import OutputKind
from inference.errors import SettingsError
from inference.models.source_files import without_query
from inference.types import Preprocessing, RegistrationRequest, ResizeFilter

UNIT: Final = (0.0, 255.0)
"""(mean, scale) of an input from 0 to 1, TensorFlow Hub's common image input."""
SIGNED: Final = (127.5, 127.5)
"""Of an input from -1 to 1."""
PIXEL: Final = (0.0, 1.0)
"""Of an input from 0 to 255."""

SCALES: Final = {"unit": UNIT, "signed": SIGNED, "pixel": PIXEL}

_MARGIN: Final = 32
"""Pixels by which the training code enlarges the crop, both sides together."""


@dataclass(frozen=True, slots=True)
class Family:
    """Networks that want their images alike, as TensorFlow Hub publishes them."""

    name: str
    sizes: tuple[int, ...]
    """Sides of the square input, in pixels, that there are modules for."""
    default_size: int | None
    """What a module takes whose signature leaves the size open; None where they differ."""
    crop: float | Literal["margin", "margin_below_384"]
    """The crop as a fraction of the shorter side, or the rule by which the size gives it."""
    resize_filter: ResizeFilter
    input_scale: tuple[float, float] = UNIT
    output: OutputKind = "logits"

    def crop_fraction(self, size: int) -> float:
        """Return the side of the centre crop as a fraction of the image's shorter side."""
        if isinstance(self.crop, float):
            return self.crop
        if self.crop == "margin_below_384" and size >= 384:
            return 1.0
        return size / (size + _MARGIN)


_SLIM_CROP: Final = 0.875

FAMILIES: Final = {
    family.name: family
    for family in (
        Family("efficientnet-lite", (224, 240, 260, 280, 300), None, "margin", "bicubic"),
        Family("efficientnet-v2", (224, 240, 260, 300, 384, 480, 512), None, "margin_below_384", "bicubic"),
        Family("mobilenet-v1", (128, 160, 192, 224), None, _SLIM_CROP, "bilinear"),
        Family("mobilenet-v2", (96, 128, 160, 192, 224), None, _SLIM_CROP, "bilinear"),
        Family("mobilenet-v3", (224,), 224, _SLIM_CROP, "bilinear"),
        Family("resnet-v1", (224,), 224, _SLIM_CROP, "bilinear"),
        Family("resnet-v2", (224,), 224, _SLIM_CROP, "bilinear"),
        Family("inception-v1", (224,), 224, _SLIM_CROP, "bilinear"),
        Family("inception-v2", (224,), 224, _SLIM_CROP, "bilinear"),
        Family("inception-v3", (299,), 299, _SLIM_CROP, "bilinear"),
        Family("inception-resnet-v2", (299,), 299, _SLIM_CROP, "bilinear"),
    )
}

_BACKGROUND_OF_IMAGENET: Final = {1000: 0, 1001: 1}
"""Output columns of an ImageNet head -> how many of them are background, in every family above."""

_OPTIONS: Final = {
    "crop_fraction": "--crop",
    "resize_filter": "--filter",
    "input_scale": "--scale",
    "output": "--output",
}


@dataclass(frozen=True, slots=True)
class Settled:
    """How a model wants its images and how its output is read, once its signature is known."""

    preprocessing: Preprocessing
    input_scale: tuple[float, float]
    """(mean, scale) of ``(pixel - mean) / scale``."""
    output: OutputKind
    background_columns: int


def family_named(name: str) -> Family:
    """Return a family.

    Raises:
        SettingsError: there is none of that name.
    """
    family = FAMILIES.get(name)
    if family is None:
        raise SettingsError(
            f"the family is {name!r}, and the known ones are {', '.join(FAMILIES)}; give one of these, "
            "or the preprocessing option by option"
        )
    return family


def check_preprocessing(request: RegistrationRequest) -> None:
    """Refuse a registration whose preprocessing is impossible, or not said.

    Raises:
        SettingsError: names what is missing or wrong.
    """
    family = None if request.family is None else family_named(request.family)
    if family is None:
        missing = [option for field, option in _OPTIONS.items() if getattr(request, field) is None]
        if missing:
            likely = _likely_family(request.source)
            families = f"{likely}, if it is of that family" if likely else f"with one of {', '.join(FAMILIES)}"
            raise SettingsError(
                f"nothing says how {without_query(request.source)} wants its images: {', '.join(missing)} missing; "
                f"give them, or --family {families}"
            )
    if request.input_size is not None and not all(1 <= side <= 4096 for side in request.input_size):
        height, width = request.input_size
        raise SettingsError(f"the input size is {height} x {width}; give pixels from 1 to 4096")
    if request.crop_fraction is not None and not 0 < request.crop_fraction <= 1:
        raise SettingsError(f"the crop is {request.crop_fraction}; give a fraction above 0 and at most 1")
    if request.resize_filter not in {None, "bilinear", "bicubic", "lanczos", "nearest"}:
        raise SettingsError(f"the filter is {request.resize_filter!r}; give bilinear, bicubic, lanczos or nearest")
    if request.output not in {None, "logits", "probabilities"}:
        raise SettingsError(f"the output is {request.output!r}; give logits or probabilities")
    if request.input_scale is not None and not request.input_scale[1] > 0:
        raise SettingsError(
            f"the scale is {request.input_scale}; give (mean, scale) of (pixel - mean) / scale, the scale above 0"
        )
    if request.background_columns is not None and request.background_columns < 0:
        raise SettingsError(f"the background columns are {request.background_columns}; give 0 or more")


def settle(request: RegistrationRequest, signature_size: tuple[int | None, int | None], columns: int | None) -> Settled:
    """Join what the request, its family and the model's signature say.

    Args:
        request: Passed ``check_preprocessing``.
        signature_size: (height, width) of the model's input; None where its signature leaves them open.
        columns: Output columns of the model, if its signature says; None reads as not known yet.

    Raises:
        SettingsError: the size is unknown, or two of them say different things.
    """
    family = None if request.family is None else family_named(request.family)
    height, width = _size(request, family, signature_size)
    if family is not None and (height != width or height not in family.sizes) and request.crop_fraction is None:
        sizes = ", ".join(map(str, family.sizes))
        raise SettingsError(
            f"the input is {height} x {width} and the family {family.name} has {sizes}; give the family that it is of, "
            "or the preprocessing option by option"
        )
    background = request.background_columns
    if background is None:
        background = 0 if family is None or columns is None else _BACKGROUND_OF_IMAGENET.get(columns, 0)
    crop_fraction, resize_filter = request.crop_fraction, request.resize_filter
    input_scale, output = request.input_scale, request.output
    if family is not None:
        crop_fraction = family.crop_fraction(height) if crop_fraction is None else crop_fraction
        resize_filter = resize_filter or family.resize_filter
        input_scale = input_scale or family.input_scale
        output = output or family.output
    if crop_fraction is None or resize_filter is None or input_scale is None or output is None:
        check_preprocessing(request)
        raise AssertionError("a request without a family says everything")  # pragma: no cover
    return Settled(Preprocessing(height, width, crop_fraction, resize_filter), input_scale, output, background)


def _size(
    request: RegistrationRequest, family: Family | None, signature_size: tuple[int | None, int | None]
) -> tuple[int, int]:
    height, width = signature_size
    given = request.input_size
    if given is not None:
        if (height not in {None, given[0]}) or (width not in {None, given[1]}):
            raise SettingsError(
                f"the input size is given as {given[0]} x {given[1]} and the model's signature takes "
                f"{height or 'any'} x {width or 'any'}; leave --input-size away, or give what the signature takes"
            )
        return given
    if height is not None and width is not None:
        return height, width
    if family is not None and family.default_size is not None:
        return family.default_size, family.default_size
    raise SettingsError(
        "the model's signature leaves its input size open; give --input-size with the size that it was trained with"
        + (f", of {family.name} one of {', '.join(map(str, family.sizes))}" if family else ", such as 224 or 240x320")
    )


def _likely_family(source: str) -> str | None:
    """Return the family whose name stands in a source's, to be offered and not to be taken."""
    plain = re.sub(r"[^a-z0-9]", "", source.lower())
    found = [name for name in FAMILIES if name.replace("-", "") in plain]
    return max(found, key=len, default=None)


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as ``224`` or ``240x320``.

    Raises:
        SettingsError: it is no size.
    """
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if found is None:
        raise SettingsError(f"the input size is {text!r}; give pixels as 224, or height x width as 240x320")
    return int(found[1]), int(found[2] or found[1])


def parse_scale(text: str) -> tuple[float, float]:
    """Return (mean, scale) of one of the words of ``SCALES``, or of two numbers such as ``127,128``.

    Raises:
        SettingsError: it is neither.
    """
    if text in SCALES:
        return SCALES[text]
    try:
        mean, scale = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f"the scale is {text!r}; give unit (0 to 1), signed (-1 to 1), pixel (0 to 255), or MEAN,SCALE of "
            "(pixel - MEAN) / SCALE"
        ) from None
    return mean, scale
