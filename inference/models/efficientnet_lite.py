"""models: EfficientNet-Lite in Keras, out of named PyTorch arrays. Pure but for the Keras session.

Architecture: M. Tan and Q. Le, "EfficientNet", 2019, in the Lite form (ReLU6, no squeeze-and-excitation, stem and head
of fixed width). Padding is TensorFlow's SAME at every stride, as in the training code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.errors import ModelConversionError

if TYPE_CHECKING:
    import keras

Array: TypeAlias = NDArray[Any]

BATCH_NORM_EPSILON = 1e-3
STEM_FILTERS = 32
HEAD_FILTERS = 1280
INPUT_MEAN = 127.0
"""Of a pixel, 0 to 255; the same for the three channels."""
INPUT_SCALE = 128.0
"""A pixel enters the network as ``(pixel - INPUT_MEAN) / INPUT_SCALE``."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the family: how much wider and deeper than Lite0, and the side of its input in pixels."""

    name: str
    width: float
    depth: float
    resolution: int


LITE0 = Variant("efficientnet-lite0", 1.0, 1.0, 224)
LITE1 = Variant("efficientnet-lite1", 1.0, 1.1, 240)
LITE2 = Variant("efficientnet-lite2", 1.1, 1.2, 260)

# repeats, kernel, stride, expansion, filters
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True, slots=True)
class Block:
    """One inverted-residual block."""

    kernel: int
    stride: int
    expansion: int
    filters_in: int
    filters_out: int

    @property
    def has_residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.filters_in == self.filters_out


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A layer's kernel as Keras wants it, and its bias; batch normalisation is folded into both."""

    kernel: Array
    """float32; (height, width, in, out), depthwise (height, width, in, 1), dense (in, out)."""
    bias: Array
    """float32, (out,)."""


def scaled_filters(filters: int, width: float) -> int:
    """Return filters times width, rounded to a multiple of 8 and never down by more than a tenth."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def blocks_of(variant: Variant) -> list[Block]:
    """Return a variant's blocks in order. Stem and head keep their filters, the first and last stage their depth."""
    blocks: list[Block] = []
    filters_in = STEM_FILTERS
    for index, (repeats, kernel, stride, expansion, base_filters) in enumerate(_STAGES):
        filters = scaled_filters(base_filters, variant.width)
        if 0 < index < len(_STAGES) - 1:
            repeats = math.ceil(repeats * variant.depth)
        for repeat in range(repeats):
            blocks.append(Block(kernel, stride if repeat == 0 else 1, expansion, filters_in, filters))
            filters_in = filters
    return blocks


class _Tensors:
    """Hands out every tensor once, with the shape that the architecture says."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._left = dict(tensors)

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        if name not in self._left:
            raise ModelConversionError(
                f"the weights hold no tensor {name} (or it was used before), expected one of shape {shape}; "
                "take the weights file of this variant"
            )
        tensor = self._left.pop(name)
        if tensor.shape != shape:
            raise ModelConversionError(
                f"the weights' tensor {name} has shape {tensor.shape}, expected {shape}; "
                "take the weights file of this variant"
            )
        return tensor.astype(np.float64)

    def folded(self, kernel_name: str, norm_name: str, shape: tuple[int, int, int, int]) -> tuple[Array, Array]:
        """Return a convolution's kernel (out, in, height, width) and bias, float64, normalisation folded in.

        Folding here, value by value in float64, leaves the converter no arithmetic of its own, so that its output is
        the same on every machine.
        """
        kernel = self.take(kernel_name, shape)
        out = shape[:1]
        gamma, beta, mean, variance = (
            self.take(f"{norm_name}.{part}", out) for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.take(f"{norm_name}.num_batches_tracked", ())  # training's step counter; the answer does not depend on it
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return kernel * scale[:, None, None, None], beta - mean * scale

    def convolution(self, kernel_name: str, norm_name: str, shape: tuple[int, int, int, int]) -> LayerWeights:
        kernel, bias = self.folded(kernel_name, norm_name, shape)
        return _layer(kernel.transpose(2, 3, 1, 0), bias)

    def depthwise(self, kernel_name: str, norm_name: str, filters: int, kernel_size: int) -> LayerWeights:
        kernel, bias = self.folded(kernel_name, norm_name, (filters, 1, kernel_size, kernel_size))
        return _layer(kernel.transpose(2, 3, 0, 1), bias)

    def check_all_used(self) -> None:
        if self._left:
            names = ", ".join(sorted(self._left)[:3])
            raise ModelConversionError(
                f"{len(self._left)} tensors of the weights have no place in the network ({names}, ...), expected 0; "
                "take the weights file of this variant"
            )


def _layer(kernel: Array, bias: Array) -> LayerWeights:
    return LayerWeights(np.ascontiguousarray(kernel, dtype=np.float32), bias.astype(np.float32))


def arrange_weights(variant: Variant, tensors: Mapping[str, Array], n_labels: int = 1000) -> dict[str, LayerWeights]:
    """Give every layer of a variant its weights, using every tensor exactly once.

    Args:
        variant: Which network.
        tensors: Name -> array as ``weights.read_weights`` returns them.
        n_labels: Output columns.

    Returns:
        Layer name -> weights: ``stem``, ``block<i>_expand``, ``block<i>_depthwise``, ``block<i>_project``, ``head``,
        ``logits``.

    Raises:
        ModelConversionError: a tensor is missing, left over, or of another shape.
    """
    source = _Tensors(tensors)
    layers = {"stem": source.convolution("_conv_stem.weight", "_bn0", (STEM_FILTERS, 3, 3, 3))}
    blocks = blocks_of(variant)
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}"
        inner = block.filters_in * block.expansion
        if block.expansion != 1:
            layers[f"block{index}_expand"] = source.convolution(
                f"{prefix}._expand_conv.weight", f"{prefix}._bn0", (inner, block.filters_in, 1, 1)
            )
        layers[f"block{index}_depthwise"] = source.depthwise(
            f"{prefix}._depthwise_conv.weight", f"{prefix}._bn1", inner, block.kernel
        )
        layers[f"block{index}_project"] = source.convolution(
            f"{prefix}._project_conv.weight", f"{prefix}._bn2", (block.filters_out, inner, 1, 1)
        )
    layers["head"] = source.convolution("_conv_head.weight", "_bn1", (HEAD_FILTERS, blocks[-1].filters_out, 1, 1))
    dense = source.take("_fc.weight", (n_labels, HEAD_FILTERS))
    layers["logits"] = _layer(dense.T, source.take("_fc.bias", (n_labels,)))
    source.check_all_used()
    return layers


def build_network(variant: Variant, layers: Mapping[str, LayerWeights]) -> keras.Model:
    """Build the network in Keras, from scaled pixels to logits.

    Args:
        variant: Which network.
        layers: Weights of every layer, from ``arrange_weights``.

    Returns:
        Input float32 (batch, resolution, resolution, 3), ``(pixel - INPUT_MEAN) / INPUT_SCALE``; output float32 logits
        (batch, n_labels). Layer names begin with a letter: an export refuses names that begin with an underscore.
    """
    from keras import Input, Model
    from keras import layers as kl

    made: dict[str, kl.Layer] = {}

    def keep(name: str, layer: kl.Layer) -> kl.Layer:
        made[name] = layer
        return layer

    def convolution(name: str, filters: int, kernel: int = 1, stride: int = 1, activation: str | None = "relu6") -> Any:  # noqa: ANN401 - Keras has no types
        return keep(
            name,
            kl.Conv2D(filters, kernel, stride, "same", activation=activation, kernel_initializer="zeros", name=name),
        )

    side = variant.resolution
    inputs = Input((side, side, 3), name="scaled_pixels")
    x = convolution("stem", STEM_FILTERS, 3, 2)(inputs)
    for index, block in enumerate(blocks_of(variant)):
        entry = x
        if block.expansion != 1:
            x = convolution(f"block{index}_expand", block.filters_in * block.expansion)(x)
        name = f"block{index}_depthwise"
        depthwise = kl.DepthwiseConv2D(
            block.kernel, block.stride, "same", activation="relu6", depthwise_initializer="zeros", name=name
        )
        x = keep(name, depthwise)(x)
        x = convolution(f"block{index}_project", block.filters_out, activation=None)(x)
        if block.has_residual:
            x = kl.Add(name=f"block{index}_add")([entry, x])
    x = convolution("head", HEAD_FILTERS)(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    logits = keep("logits", kl.Dense(layers["logits"].bias.size, kernel_initializer="zeros", name="logits"))
    model = Model(inputs, logits(x), name=variant.name.replace("-", "_"))
    for name, layer in made.items():
        layer.set_weights([layers[name].kernel, layers[name].bias])
    return model
