"""Small models of every kind that can be registered, and what becomes of them. Run by ``tensorflow_answers``.

Each is adopted as registration would, in this process, since TensorFlow takes seconds to load. Its scores are compared
with what the model itself answers, asked without any of our code in between.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from inference.errors import InferenceError
from inference.models import adopting
from inference.models.agreement import photo_crops
from inference.models.manifest import Manifest
from inference.models.resolve import load_handle
from inference.models.source_files import fetch_source
from inference.models.store import hash_file, hash_files
from inference.types import PixelBatch, RegistrationRequest

SIDE = 16
NAMES = ("cat", "dog", "bird", "fish", "frog")
PLAIN = {"crop_fraction": 1.0, "resize_filter": "bilinear", "input_scale": (0.0, 255.0), "output": "logits"}
"""Preprocessing of most models here."""


def example_code(language: str) -> str:
    """The block of code in a language under "A worked example" of docs/models.md."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    [code] = re.findall(
        rf"^```{language}\n(.*?)^```", page.partition("## A worked example")[2], re.MULTILINE | re.DOTALL
    )
    return str(code)


class HubServer(ThreadingHTTPServer):
    """Serves archives as TensorFlow Hub does, on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.archives: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    server: HubServer
    statuses: ClassVar = {"/forbidden/1": 403, "/missing/1": 404, "/broken/1": 503, "/slow/1": 408, "/busy/1": 429}

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path, _, query = self.path.partition("?")
        archive = self.server.archives.get(path)
        if path == "/page/1":
            self._answer(200, b"<html>no such model, but nicely said</html>", "text/html; charset=utf-8")
        elif path == "/moved/1":
            self.send_response(302)
            self.send_header("Location", f"/hub/1?{query}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/reset/1":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif path == "/cut/1" and archive is not None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive[: len(archive) // 2])
        elif archive is None or query != "tf-hub-format=compressed":
            self._answer(self.statuses.get(path, 404), b"no", "text/plain")
        else:
            self._answer(200, archive, "application/gzip")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def packed(folder: Path) -> bytes:
    """Pack a SavedModel as Hub does: its files at the top."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return out.getvalue()


class Network:
    """Three layers with weights from a seed: a convolution, its mean over the image, and one value a column."""

    def __init__(self, tf: Any, columns: int, *, side: int | None = SIDE, seed: int = 7) -> None:
        self.tf, self.columns, self.side = tf, columns, side
        random = np.random.default_rng(seed)
        self.module = tf.Module()
        self.module.kernel = tf.Variable(random.normal(0, 0.5, (3, 3, 3, 8)).astype(np.float32))
        self.module.dense = tf.Variable(random.normal(0, 3.0, (8, columns)).astype(np.float32))
        self.spec = tf.TensorSpec((None, side, side, 3), tf.float32, name="images")

    def logits(self, images: Any) -> Any:
        tf = self.tf
        features = tf.nn.relu6(tf.nn.conv2d(images * 2.0 - 1.0, self.module.kernel, 2, "SAME"))
        return tf.linalg.matmul(tf.reduce_mean(features, [1, 2]), self.module.dense)

    def save(self, folder: Path, body: Callable[[Any], Any] | None = None, *specs: Any, name: str = "logits") -> Path:
        """Export as a TF2 module of Hub: callable, and with a serving signature."""
        tf = self.tf
        score = body or self.logits
        specs = specs or (self.spec,)
        self.module.__call__ = tf.function(score, input_signature=list(specs), autograph=False)
        served = tf.function(lambda *images: {name: score(*images)}, input_signature=list(specs), autograph=False)
        tf.saved_model.save(self.module, str(folder), signatures={"serving_default": served})
        return folder


def without_signatures(tf: Any, network: Network, folder: Path) -> Path:
    """Export as Hub's modules of version 4 are: no signatures, called with and without training."""

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = network.module

        @tf.function
        def __call__(self, inputs: Any, training: bool = False) -> Any:
            return network.logits(inputs) * (0.5 if training else 1.0)

    module = Module()
    for training in (True, False):
        module.__call__.get_concrete_function(network.spec, training=training)
    tf.saved_model.save(module, str(folder), signatures={})
    return folder


def hub_format(tf: Any, folder: Path, columns: int) -> Path:
    """Write a module in TensorFlow 1's Hub format: graphs with and without the tag train, any size of image."""
    random = np.random.default_rng(5)
    kernel, dense = random.normal(0, 0.5, (3, 3, 3, 8)), random.normal(0, 3.0, (8, columns))
    builder = tf.compat.v1.saved_model.Builder(str(folder))
    for tags in (["train"], []):
        graph = tf.Graph()
        with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
            images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
            weights = [
                tf.compat.v1.get_variable(name, initializer=value.astype(np.float32), use_resource=True)
                for name, value in (("kernel", kernel), ("dense", dense))
            ]
            features = tf.nn.relu(tf.nn.conv2d(images, weights[0], 2, "SAME"))
            logits = tf.linalg.matmul(tf.reduce_mean(features, [1, 2]), weights[1])
            session.run(tf.compat.v1.global_variables_initializer())
            define = tf.compat.v1.saved_model.signature_def_utils.predict_signature_def
            signatures = {
                "default": define({"images": images}, {"default": logits}),
                "image_classification": define({"images": images}, {"logits": logits}),
            }
            if tags:
                builder.add_meta_graph_and_variables(session, tags, signatures)
            else:
                builder.add_meta_graph(tags, signatures)
    builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


UNWANTED_OPERATIONS = (
    "DatasetToTFRecord",
    "SaveV2",
    "RestoreV2",
    "WriteFile",
    "ReadFile",
    "EagerPyFunc",
    "CSVDataset",
    "InitializeTableFromTextFileV2",
    "PrintV2",
    "Save",
    "XlaCallModule",
    "RpcCall",
    "NobodyKnowsThis",
)
"""A few of each kind that no classifier needs."""


def with_operation(model: Path, operation: str) -> Path:
    """Copy a SavedModel, with one operation more in its serving function."""
    from tensorflow.core.protobuf import saved_model_pb2

    copy = model.with_name(f"{model.name}_{operation}")
    shutil.copytree(model, copy)
    parsed = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    library = parsed.meta_graphs[0].graph_def.library
    [called] = [f for f in library.function if "signature_wrapper" in f.signature.name]
    called.node_def.add(name="more", op=operation)
    (copy / "saved_model.pb").write_bytes(parsed.SerializeToString())
    return copy


def keras_model(tf: Any) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE + 8, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(8, 3, 2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=6)),
        ]
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class Adoptions:
    """Adopts one source after the other, and notes what came of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.told: dict[str, dict[str, Any]] = {}

    def adopt(
        self,
        case: str,
        source: str,
        *,
        expected: Callable[[PixelBatch], np.ndarray] | None = None,
        names: tuple[str, ...] = NAMES,
        is_handle: bool = False,
        golden: tuple[Path, ...] = (),
        calibration: tuple[Path, ...] = (),
        **fields: Any,
    ) -> Manifest | None:
        started = time.monotonic()
        folder, incoming = self._folder / case / "version", self._folder / case / "incoming"
        folder.mkdir(parents=True)
        incoming.mkdir()
        request = RegistrationRequest(source, "small", case, labels="labels.txt", **{**PLAIN, **fields})
        words: list[str] = []
        try:
            fetched = None if is_handle else asdict(fetch_source(source, incoming, None, words.append))
            manifest = adopting.adopt(
                folder=str(folder),
                incoming=str(incoming),
                request=json.loads(json.dumps(asdict(request))),
                labels=[[name, name] for name in names],
                source=source,
                handle=source if is_handle else None,
                fetched=json.loads(json.dumps(fetched, default=str)),
                golden=[str(path) for path in golden],
                calibration=[str(path) for path in calibration],
                progress=words.append,
            )
        except InferenceError as error:
            self.told[case] = {"code": error.code, "message": str(error)}
            return None
        told: dict[str, Any] = {"manifest": json.loads(manifest.to_json()), "words": words, "differs": {}}
        told["files_match"] = hash_files(folder) == manifest.files
        if expected is not None:
            pixels = photo_crops(manifest.preprocessing, 11)
            answer = expected(pixels)
            for engine in manifest.engines:
                scores = load_handle(manifest, folder, engine, threads=1).predict(pixels)
                told["differs"][engine] = float(np.abs(scores - answer).max())
                told["labels_right"] = int((scores.argmax(axis=1) == answer.argmax(axis=1)).sum())
        told["seconds"] = round(time.monotonic() - started, 2)
        self.told[case] = told
        return manifest


def adoption_answers(tf: Any, folder: Path, photos: list[Path]) -> dict[str, Any]:
    """Make the models below a folder, adopt them, and return what came of each, by case."""
    models = models_below(folder)
    models.mkdir(parents=True)
    adoptions = Adoptions(folder)
    with hub_server() as server:
        _hub_modules(tf, models, adoptions, server, photos)
        _refused_handles(adoptions, server)
        asked = list(server.asked)
    _saved_models(tf, models, adoptions)
    _other_kinds(tf, models, adoptions, photos)
    return {**adoptions.told, "asked": asked}


def models_below(folder: Path) -> Path:
    """Where ``adoption_answers`` has made the models."""
    return folder / "models"


def _hub_modules(tf: Any, models: Path, adoptions: Adoptions, server: HubServer, photos: list[Path]) -> None:
    network = Network(tf, 6)
    server.archives["/hub/1"] = server.archives["/cut/1"] = packed(network.save(models / "hub"))
    digest = _digest(models, server.archives["/hub/1"])

    def without_background(pixels: PixelBatch) -> np.ndarray:
        return softmax(network.logits(pixels / np.float32(255)).numpy()[:, 1:])

    adoptions.adopt(
        "hub",
        f"{server.url}/hub/1",
        expected=without_background,
        is_handle=True,
        background_columns=1,
        golden=tuple(photos),
    )
    adoptions.adopt("moved", f"{server.url}/moved/1", is_handle=True, background_columns=1, sha256=digest)
    adoptions.adopt("altered", f"{server.url}/hub/1", is_handle=True, background_columns=1, sha256="0" * 64)
    adoptions.adopt("no_background", f"{server.url}/hub/1", is_handle=True)

    with contextlib.chdir(models):
        exec(compile(example_code("python"), "make_module.py", "exec"), {})  # noqa: S102 - out of our own page

    old = hub_format(tf, models / "old", 5)
    loaded = tf.saved_model.load(str(old), tags=[])

    def of_old(pixels: PixelBatch) -> np.ndarray:
        images = tf.constant(pixels / np.float32(255))
        return softmax(loaded.signatures["image_classification"](images)["logits"].numpy())

    server.archives["/old/1"] = packed(old)
    adoptions.adopt("old_hub", f"{server.url}/old/1", expected=of_old, is_handle=True, input_size=(SIDE, SIDE))
    adoptions.adopt("old_hub_of_any_size", f"{server.url}/old/1", is_handle=True)


def _refused_handles(adoptions: Adoptions, server: HubServer) -> None:
    server.archives["/text/1"] = b"this is no archive"
    for case in ("forbidden", "missing", "broken", "slow", "busy", "reset", "page", "cut", "text"):
        adoptions.adopt(case, f"{server.url}/{case}/1", is_handle=True)
    adoptions.adopt("offline", "http://127.0.0.1:9/m/1", is_handle=True)


def _digest(folder: Path, data: bytes) -> str:
    (folder / "digested").write_bytes(data)
    return hash_file(folder / "digested")


def _saved_models(tf: Any, models: Path, adoptions: Adoptions) -> None:
    network = Network(tf, 5)
    adoptions.adopt("wrong_labels", str(network.save(models / "five")), names=NAMES[:3])
    signed = str(network.save(models / "signed", lambda images: network.logits((images + 1.0) / 2.0)))
    adoptions.adopt(
        "signed",
        signed,
        expected=lambda pixels: softmax(network.logits(pixels / np.float32(255)).numpy()),
        input_scale=(127.5, 127.5),
    )
    adoptions.adopt(
        "without_signatures",
        str(without_signatures(tf, network, models / "callable")),
        expected=lambda pixels: softmax(network.logits(pixels / np.float32(255)).numpy()),
    )
    share = lambda images: tf.nn.softmax(network.logits(images))  # noqa: E731
    probabilities = str(network.save(models / "probabilities", share, name="probabilities"))
    adoptions.adopt(
        "probabilities",
        probabilities,
        expected=lambda pixels: softmax(network.logits(pixels / np.float32(255)).numpy()),
        output="probabilities",
    )
    adoptions.adopt("probabilities_said_to_be_logits", probabilities)
    adoptions.adopt("logits_said_to_be_probabilities", str(models / "five"), output="probabilities")
    bodies: dict[str, Callable[[Any], Any]] = {
        "not_a_number": lambda images: network.logits(images) / 0.0 * 0.0,
        "constant": lambda images: tf.zeros((tf.shape(images)[0], 5)) + tf.constant([1.0, 2.0, 3.0, 4.0, 5.0]),
        "inexpressible": lambda images: tf.math.bessel_i0e(network.logits(images)),
        "fails_in_litert": lambda images: tf.math.lgamma(tf.abs(network.logits(images)) + 1.0),
        "reads_files": lambda images: network.logits(images) + tf.strings.to_number(tf.io.read_file("/etc/hostname")),
    }
    for case, body in bodies.items():
        adoptions.adopt(case, str(network.save(models / case, body)))
    for operation in UNWANTED_OPERATIONS:
        adoptions.adopt(f"has_{operation}", str(with_operation(models / "five", operation)))
    one = tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32)
    adoptions.adopt("batch_of_one", str(network.save(models / "one", None, one)))
    planes = tf.TensorSpec((None, 3, SIDE, SIDE), tf.float32)
    adoptions.adopt(
        "planes_first",
        str(network.save(models / "planes", lambda x: network.logits(tf.transpose(x, [0, 2, 3, 1])), planes)),
    )
    two = (network.spec, tf.TensorSpec((), tf.float32, name="gain"))
    adoptions.adopt(
        "two_inputs", str(network.save(models / "two", lambda images, gain: network.logits(images) * gain, *two))
    )
    (models / "damaged").mkdir()
    (models / "damaged" / "saved_model.pb").write_bytes(b"\xff\xff no graph")
    adoptions.adopt("damaged", str(models / "damaged"))
    (models / "hollow").mkdir()
    (models / "hollow" / "saved_model.pb").write_bytes((models / "five" / "saved_model.pb").read_bytes())
    adoptions.adopt("without_weights", str(models / "hollow"))

    convert = adopting._Module.convert
    other = Network(tf, 5, seed=8)

    def wrong(module: Any, calibration: Any) -> bytes:
        """A converter that mixes up the weights."""
        module._of_pixels = lambda pixels: other.logits(tf.cast(pixels, tf.float32) / 255.0)
        module._module.other = other.module
        return convert(module, calibration)

    adopting._Module.convert = wrong  # type: ignore[method-assign]
    try:
        adoptions.adopt("disagreeing", str(network.save(models / "again")))
    finally:
        adopting._Module.convert = convert  # type: ignore[method-assign]


def _other_kinds(tf: Any, models: Path, adoptions: Adoptions, photos: list[Path]) -> None:
    model = keras_model(tf)
    model.save(models / "model.keras")

    def of_keras(pixels: PixelBatch) -> np.ndarray:
        answer: np.ndarray = model(pixels.astype(np.float32), training=False).numpy()
        return answer

    adoptions.adopt(
        "keras", str(models / "model.keras"), expected=of_keras, input_scale=(0.0, 1.0), output="probabilities"
    )
    adoptions.adopt(
        "int8",
        str(models / "model.keras"),
        expected=of_keras,
        input_scale=(0.0, 1.0),
        output="probabilities",
        int8=True,
        golden=tuple(photos),
        calibration=tuple(photos[:2]),
    )
    adoptions.adopt(
        "int8_alone", str(models / "model.keras"), input_scale=(0.0, 1.0), output="probabilities", int8=True
    )
    floats = tf.lite.TFLiteConverter.from_keras_model(model)
    (models / "floats.tflite").write_bytes(floats.convert())
    adoptions.adopt(
        "litert", str(models / "floats.tflite"), expected=of_keras, input_scale=(0.0, 1.0), output="probabilities"
    )
    quantised = tf.lite.TFLiteConverter.from_keras_model(model)
    quantised.optimizations = [tf.lite.Optimize.DEFAULT]
    measured = photo_crops(adopting.Preprocessing(SIDE, SIDE + 8, 1.0, "bilinear"))
    quantised.representative_dataset = lambda: ([row[None].astype(np.float32)] for row in measured)
    quantised.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    for name, kind in (("bytes", tf.uint8), ("signed_bytes", tf.int8)):
        quantised.inference_input_type = quantised.inference_output_type = kind
        (models / f"{name}.tflite").write_bytes(quantised.convert())
        adoptions.adopt(
            f"litert_{name}",
            str(models / f"{name}.tflite"),
            expected=of_keras,
            input_scale=(0.0, 1.0),
            output="probabilities",
        )
    adoptions.adopt("litert_int8", str(models / "floats.tflite"), int8=True)
    adoptions.adopt("litert_size", str(models / "floats.tflite"), input_size=(SIDE, SIDE))
