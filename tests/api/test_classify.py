"""What POST /v1/classify answers."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from inference.decoding import decode_image
from inference.predicting import predict_batch
from inference.types import DecodedImage, ImageRef
from tests.api.tiny import LABELS


def files(*uploads: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", (name, data, "image/png")) for name, data in uploads]


def test_each_image_of_a_form_gets_its_label_in_order(client, png):
    answer = client.post("/v1/classify", files=files(("a.png", png(255)), ("b.png", png(0)), ("a.png", png(255))))

    assert answer.status_code == 200
    assert answer.json()["model"] == {"name": "tiny", "version": "7"}
    assert [(result["name"], result["label"], result["label_id"]) for result in answer.json()["results"]] == [
        ("a.png", "cat", "n1"),
        ("b.png", "dog", "n2"),
        ("a.png", "cat", "n1"),
    ]


def test_the_answer_has_the_documented_shape_and_nothing_else(client, png):
    answer = client.post("/v1/classify", files=files(("a.png", png(255)), ("b.png", b"no image")))

    good, bad = answer.json()["results"]
    assert set(answer.json()) == {"model", "results"}
    assert set(good) == {"name", "label", "label_id", "score", "top"}
    assert {frozenset(entry) for entry in good["top"]} == {frozenset({"label", "label_id", "score"})}
    assert good["top"][0] == {key: good[key] for key in ("label", "label_id", "score")}
    assert set(bad) == {"name", "error"}
    assert set(bad["error"]) == {"code", "message"}


@pytest.mark.parametrize("content_type", ["image/png", "image/x-unheard-of", "application/octet-stream", "IMAGE/JPEG"])
def test_a_raw_body_is_one_image(client, png, content_type):
    answer = client.post("/v1/classify", content=png(0), headers={"Content-Type": content_type})

    assert [(result["name"], result["label"]) for result in answer.json()["results"]] == [("image", "dog")]


def test_a_raw_body_takes_its_name_from_the_query(client, png):
    answer = client.post(
        "/v1/classify", params={"name": "ca fé&1.png"}, content=png(255), headers={"Content-Type": "image/png"}
    )

    assert answer.json()["results"][0]["name"] == "ca fé&1.png"


@pytest.mark.parametrize("name", ["café 😀.png", "with 'quotes'.png", "a/b.png", "semi;colon.png"])
def test_file_names_come_back_as_they_were_sent(client, png, name):
    answer = client.post("/v1/classify", files=files((name, png(255))))

    assert answer.json()["results"][0]["name"] == name


def test_a_form_field_without_a_file_name_is_an_image_too(client, png):
    answer = client.post("/v1/classify", files=[("image", (None, png(255)))])

    assert [(result["name"], result["label"]) for result in answer.json()["results"]] == [("image", "cat")]


def test_a_bad_image_costs_no_other_its_label(client, png):
    uploads = [("good.png", png(255)), ("text.png", b"hello"), ("empty.png", b""), ("half.png", png(0, 400)[:-60])]

    answer = client.post("/v1/classify", files=files(*uploads, ("last.png", png(0))))

    assert answer.status_code == 200
    outcomes = [result.get("label") or result["error"]["code"] for result in answer.json()["results"]]
    assert outcomes == ["cat", "not_an_image", "empty_object", "truncated", "dog"]


def test_a_bad_image_alone_is_still_an_entry_with_an_error(client):
    answer = client.post("/v1/classify", content=b"hello", headers={"Content-Type": "image/png"})

    assert answer.status_code == 200
    assert [result["error"]["code"] for result in answer.json()["results"]] == ["not_an_image"]


def test_an_image_of_too_many_pixels_is_an_entry_with_an_error(serve, png):
    client = serve(max_pixels=100)

    answer = client.post("/v1/classify", files=files(("big.png", png(0, 11)), ("small.png", png(0, 10))))

    assert [result.get("label") or result["error"]["code"] for result in answer.json()["results"]] == [
        "too_many_pixels",
        "dog",
    ]


def test_top_k_says_how_many_labels_come_back(client, png):
    def labels(**query: int) -> list[str]:
        answer = client.post("/v1/classify", params=query, files=files(("a.png", png(200))))
        return [entry["label"] for entry in answer.json()["results"][0]["top"]]

    assert labels(top_k=2) == ["cat", "dog"]
    assert labels(top_k=1) == ["cat"]
    assert set(labels(top_k=100)) == {label.name for label in LABELS}
    assert len(labels()) == 3


def test_the_scores_are_those_of_the_batch_job_to_the_digit(client, handle, png):
    reds = np.random.default_rng(11).permutation(256)[:40].tolist()
    answer = client.post("/v1/classify", files=files(*((f"{red}.png", png(red)) for red in reds)))

    images = [
        DecodedImage(
            ImageRef("b", str(red), "e", 1), decode_image(png(red), handle.preprocessing, max_pixels=10_000), b""
        )
        for red in reds
    ]
    expected = [
        [(scored.label.label_id, np.float32(scored.score)) for scored in prediction.top]
        for prediction in predict_batch(images, handle, top_k=5)
    ]
    assert [
        [(entry["label_id"], np.float32(entry["score"])) for entry in result["top"]]
        for result in answer.json()["results"]
    ] == expected
    # The digits are the fewest that name the float32, as Postgres prints a real.
    shown = [result["score"] for result in json.loads(answer.text, parse_float=str)["results"]]
    assert [float(text) for text in shown] == [float(str(top[0][1])) for top in expected]


def test_a_long_request_reaches_the_model_in_batches_of_its_best_size(client, handle, png):
    client.post("/v1/classify", files=files(*((f"{i}.png", png(i)) for i in range(10))))

    assert handle.calls == [4, 4, 2]


def test_callers_at_the_same_time_get_their_own_answers_from_one_handle(client, png):
    def ask(red: int) -> str:
        return client.post("/v1/classify", files=files(("x.png", png(red)))).json()["results"][0]["label"]

    reds = [255, 0] * 20
    with ThreadPoolExecutor(8) as threads:
        labels = list(threads.map(ask, reds))

    assert labels == ["cat", "dog"] * 20


def test_a_caller_who_leaves_does_not_hold_up_the_others(client, handle, png):
    handle.hold.clear()
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/classify", files=files(("a.png", png(0))), timeout=0.3)
    threading.Timer(0.2, handle.hold.set).start()

    answer = client.post("/v1/classify", files=files(("b.png", png(255))))

    assert [result["label"] for result in answer.json()["results"]] == ["cat"]


def test_a_failing_model_is_a_problem_that_tells_nothing_of_the_inside(client, handle, png):
    handle.is_broken = True
    answer = client.post("/v1/classify", files=files(("a.png", png(0))))

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "model_execution"
    assert "secret" not in answer.text

    handle.is_broken = False
    assert client.post("/v1/classify", files=files(("a.png", png(0)))).status_code == 200
