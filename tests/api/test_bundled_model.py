"""The bundled model over REST: real photos, and the floats of the nightly job."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inference.decoding import decode_image
from inference.models.bundled import BUNDLED_MODEL
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.ports import ModelHandle
from inference.predicting import predict_batch
from inference.types import DecodedImage, ImageRef
from local_stack.samples import PREFIX, sample_objects

RIGHT = {
    "cat.png": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee.webp": {"cup", "espresso"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    return {key.removeprefix(PREFIX): body for key, body in sample_objects()}


@pytest.fixture(scope="module")
def model(default_model_store: ModelStore) -> ModelHandle:
    manifest = default_model_store.read_manifest(BUNDLED_MODEL)
    return load_handle(manifest, default_model_store.check_files(manifest, "litert"), threads=1)


def test_photos_get_the_labels_and_the_digits_of_the_nightly_job(serve, model, photos):
    client = serve(lambda: model)
    good = {name: body for name, body in photos.items() if not name.startswith("bad/")}

    answer = client.post("/v1/classify", files=[("image", (name, body)) for name, body in photos.items()])

    assert answer.json()["model"] == {"name": BUNDLED_MODEL.name, "version": BUNDLED_MODEL.version}
    results = {result["name"]: result for result in json.loads(answer.text, parse_float=str)["results"]}
    assert {name: result["error"]["code"] for name, result in results.items() if "error" in result} == {
        "bad/truncated.jpg": "truncated",
        "bad/text.jpg": "not_an_image",
        "bad/bomb.png": "too_many_pixels",
    }
    assert {name: results[name]["label"] for name in RIGHT if results[name]["label"] not in RIGHT[name]} == {}

    # One by one here, in one batch there: the scores of an image do not depend on its neighbours.
    expected = {}
    for name, body in good.items():
        image = DecodedImage(ImageRef("b", name, "e", 1), decode_image(body, model.preprocessing), b"")
        [prediction] = predict_batch([image], model, top_k=5)
        expected[name] = [(scored.label.label_id, str(np.float32(scored.score))) for scored in prediction.top]
    assert {name: [(top["label_id"], top["score"]) for top in results[name]["top"]] for name in good} == expected
