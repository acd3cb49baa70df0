"""Run by the fixture tensorflow_answers in a process of its own: asks TensorFlow and writes what it said as JSON.

python tensorflow_answers.py MODEL_STORE WORK_FOLDER OUTPUT.json. What takes TensorFlow is here together, since it takes
seconds to load.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from inference.engines.scores import ModelFacts
from inference.engines.tensorflow import TensorFlowHandle, import_tensorflow
from inference.errors import ModelError
from inference.models.agreement import installed_photos, measure_agreement, photo_crops
from inference.models.bundled import BUNDLED_MODEL
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.types import Label, ModelId, Preprocessing
from tests.integration.adopted_models import adoption_answers, models_below


def bundled_answers(store: ModelStore) -> dict[str, Any]:
    manifest = store.read_manifest(BUNDLED_MODEL)
    folder = store.check_files(manifest)
    tensorflow = load_handle(manifest, folder, "tensorflow", threads=2)
    litert = load_handle(manifest, folder, "litert", threads=2)
    pixels = photo_crops(manifest.preprocessing, 11)
    scores = tensorflow.predict(pixels)
    alone = np.concatenate([tensorflow.predict(pixels[index : index + 1]) for index in (0, 10)])
    agreement = measure_agreement(tensorflow, litert, photo_crops(manifest.preprocessing))
    return {
        "engine": tensorflow.engine,
        "best_batch_size": tensorflow.best_batch_size,
        "shape": scores.shape,
        "batch_changes_by": float(np.abs(scores[[0, 10]] - alone).max()),
        "agreement": agreement.model_dump(),
        "labels": [manifest.labels[column].name for column in scores.argmax(axis=1)],
    }


def tiny_models(tf: Any, folder: Path) -> dict[str, Path]:
    """SavedModels of 2 x 2 pixels whose scores are the means of red, green and blue, in every form that occurs."""
    spec = tf.TensorSpec((None, 2, 2, 3), tf.float32, name="images")

    class Tiny(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = tf.Variable(1.0)

        def means(self, images: Any) -> Any:
            return tf.reduce_mean(images, [1, 2]) * self.gain

        @tf.function(input_signature=[spec])
        def __call__(self, images: Any) -> Any:
            return self.means(images)

    tiny = Tiny()

    def function(body: Any, *specs: Any) -> Any:
        return tf.function(body, input_signature=list(specs or (spec,)), autograph=False)

    def share(images: Any) -> Any:
        return tiny.means(images) / tf.reduce_sum(tiny.means(images), 1, keepdims=True)

    signatures = {
        "called": {},
        "logits": {"serving_default": function(lambda images: {"logits": tiny.means(images)})},
        "old_hub": {"default": function(lambda images: {"anything": tiny.means(images)})},
        "probabilities": {"serving_default": function(lambda images: {"probabilities": share(images)})},
        "many_outputs": {
            "serving_default": function(lambda images: {"features": images, "logits": tiny.means(images)})
        },
        "background": {
            "serving_default": function(lambda images: {"logits": tf.pad(tiny.means(images), [[0, 0], [1, 0]])})
        },
        "not_a_number": {"serving_default": function(lambda images: {"logits": tiny.means(images) / 0.0 * 0.0})},
        "short": {"serving_default": function(lambda images: {"logits": tiny.means(images)[1:]})},
        "two_inputs": {
            "serving_default": function(
                lambda images, size: {"logits": tiny.means(images) + size},
                spec,
                tf.TensorSpec((), tf.float32, name="size"),
            )
        },
        "two_outputs": {"serving_default": function(lambda images: {"a": tiny.means(images), "b": images})},
        "fails": {
            "serving_default": function(
                lambda images: {"logits": tf.ensure_shape(tf.boolean_mask(images, images > 0.5), [None])}
            )
        },
    }
    for name, signature in signatures.items():
        tf.saved_model.save(tiny, str(folder / name), signatures=signature)
    (folder / "empty").mkdir()
    return {name: folder / name for name in (*signatures, "empty")}


def tiny_answers(tf: Any, folder: Path) -> dict[str, Any]:
    red, green, blue = np.zeros((3, 2, 2, 3), np.uint8)
    red[..., 0], green[..., 1], blue[..., 2] = 255, 255, 255
    pixels = np.stack([red, green, blue, red, green, blue, red, green, blue, blue])
    labels = (Label("red", "1"), Label("green", "2"), Label("blue", "3"))
    answers: dict[str, Any] = {}
    for name, path in tiny_models(tf, folder).items():
        facts = ModelFacts(
            ModelId("tiny", name),
            labels,
            Preprocessing(2, 2, 1.0, "nearest"),
            "probabilities" if name == "probabilities" else "logits",
            1 if name == "background" else 0,
        )
        try:
            scores = TensorFlowHandle(path, facts, threads=1).predict(pixels)
        except ModelError as error:
            answers[name] = {"code": error.code, "message": str(error)}
        else:
            answers[name] = {"columns": scores.argmax(axis=1).tolist(), "best": round(float(scores[0, 0]), 5)}
    return answers


def main() -> None:
    store, folder, output = (Path(argument) for argument in sys.argv[1:])
    tf = import_tensorflow()
    answers = {
        "bundled": bundled_answers(ModelStore(store)),
        "tiny": tiny_answers(tf, folder),
        "adopted": adoption_answers(tf, folder / "adopted", installed_photos()),
        "models": str(models_below(folder / "adopted")),
    }
    output.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
