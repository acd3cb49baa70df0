"""One model, four ways to ask it: Airflow, the command line, REST, and the bare artefact by its manifest alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import httpx
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

from inference.models.agreement import installed_photos
from inference.models.bundled import BUNDLED_MODEL
from inference.models.manifest import Manifest
from inference.models.store import ModelStore
from local_stack.processes import LOOPBACK, free_ports, wait_until
from tests.e2e.nights import Night
from tests.e2e.stacks import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MOST_DIFFERENT = 1e-5

Answer = list[tuple[str, float]]
"""Labels and their scores, best first."""
Answers = dict[str, Answer]


def photos() -> dict[str, bytes]:
    """Real photos as people upload them: each format, grey and transparent ones, turned ones, small ones."""
    found = {}
    for number, path in enumerate(installed_photos()):
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        photo.thumbnail((500, 500))
        turned = Image.Exif()
        turned[0x0112] = 1 + number % 8
        for name, image, options in (
            ("photo.jpg", photo, {"quality": 90}),
            ("turned.jpg", photo, {"quality": 90, "exif": turned}),
            ("grey.jpg", photo.convert("L"), {"quality": 90}),
            ("photo.png", photo, {}),
            ("small.webp", photo.resize((97, 131)), {"quality": 90}),
        ):
            kept = BytesIO()
            image.save(kept, {"jpg": "JPEG"}.get(name[-3:], name.rsplit(".", 1)[-1]), **options)
            found[f"{number}/{name}"] = kept.getvalue()
    return found


def bare_answers(bodies: dict[str, bytes], store: ModelStore) -> Answers:
    """Ask the artefact as anybody would who has only the manifest: none of the product's decoding or scoring."""
    manifest = store.read_manifest(BUNDLED_MODEL)
    interpreter = Interpreter(str(store.folder_of(BUNDLED_MODEL) / manifest.engines["litert"]))
    interpreter.allocate_tensors()
    [given], [told] = interpreter.get_input_details(), interpreter.get_output_details()
    answers = {}
    for key, body in bodies.items():
        interpreter.set_tensor(given["index"], bare_pixels(body, manifest)[None])
        interpreter.invoke()
        logits = interpreter.get_tensor(told["index"])[0].astype(np.float64)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = np.argsort(-scores)[:5]
        answers[key] = [(manifest.labels[column].name, float(scores[column])) for column in best]
    return answers


def bare_pixels(body: bytes, manifest: Manifest) -> np.ndarray:
    """The centre crop and the resize that the manifest describes, by Pillow's own functions."""
    wanted = manifest.preprocessing
    with Image.open(BytesIO(body)) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    side = max(1, int(wanted.crop_fraction * min(photo.size)))
    left, top = (math.floor((length - side) / 2) for length in photo.size)
    square = photo.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((wanted.width, wanted.height), FILTERS[wanted.resize_filter]))


def test_airflow_the_command_line_rest_and_the_bare_artefact_agree_to_the_fifth_digit(running: RunningStack):
    bodies, bucket = photos(), running.new_bucket()
    running.put_all(bucket, {f"{way}/{key}": body for way in ("airflow", "cli") for key, body in bodies.items()})

    night = Night(running, bucket=bucket, prefix="airflow/", shard_size=20)
    command = [sys.executable, "-m", "inference", "classify", "--bucket", bucket, "--prefix", "cli/", "--json"]
    ended = subprocess.run(command, env=environment(running), capture_output=True, text=True, check=False, timeout=120)
    with served(running) as address:
        of_rest = asked(address, bodies)

    assert night.state == "success"
    assert (ended.returncode, json.loads(ended.stdout.splitlines()[-1])["copied"]) == (0, 0), ended.stderr
    store = ModelStore(running.stack.settings.state / "models")
    answers = {
        "airflow": recorded(running, bucket, "airflow/"),
        "cli": recorded(running, bucket, "cli/"),
        "rest": of_rest,
        "bare": bare_answers(bodies, store),
    }
    assert {way: set(of_way) for way, of_way in answers.items()} == {way: set(bodies) for way in answers}
    for way, of_way in answers.items():
        differences = {
            key: (of_way[key], answers["bare"][key]) for key in bodies if not agree(of_way[key], answers["bare"][key])
        }
        assert differences == {}, way


def agree(ones: Answer, others: Answer) -> bool:
    """Whether two answers name the same best label and differ by no more than rounding in any score."""
    return ones[0][0] == others[0][0] and all(
        abs(one - other) <= MOST_DIFFERENT for (_, one), (_, other) in zip(ones, others, strict=True)
    )


def recorded(running: RunningStack, bucket: str, prefix: str) -> Answers:
    rows = running.rows(
        "SELECT object_key, label, top_labels, top_scores FROM latest_prediction "
        "WHERE bucket = %s AND object_key ^@ %s",
        bucket,
        prefix,
    )
    assert all(row["label"] == row["top_labels"][0] for row in rows)
    return {
        row["object_key"].removeprefix(prefix): list(zip(row["top_labels"], row["top_scores"], strict=True))
        for row in rows
    }


def environment(running: RunningStack) -> dict[str, str]:
    """What the command line needs to know of the stack; it computes every label itself."""
    return {
        **os.environ,
        **running.stack.store.environment(as_reader=True),
        "NIGHTLABEL_DATABASE_URL": running.stack.login("nightlabel_writer").url(),
        "NIGHTLABEL_MODEL_STORE": str(running.stack.settings.state / "models"),
        "NIGHTLABEL_COPY_LABELS": "false",
    }


@contextmanager
def served(running: RunningStack) -> Iterator[str]:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "inference", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=environment(running), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://{LOOPBACK}:{port}"
        assert wait_until(lambda: is_ready(address), 60), "the server is not ready after a minute"
        yield address
    finally:
        server.terminate()
        server.wait(30)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/ready").is_success
    except httpx.TransportError:
        return False


def asked(address: str, bodies: dict[str, bytes]) -> Answers:
    """Send them all at once, as a form."""
    answer = httpx.post(f"{address}/v1/classify", files=[("image", item) for item in bodies.items()], timeout=60)
    return {
        result["name"]: [(top["label"], top["score"]) for top in result["top"]] for result in answer.json()["results"]
    }
