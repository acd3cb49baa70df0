"""What the API refuses, and that it does so while the body arrives."""

from __future__ import annotations

import gzip
import socket

import pytest


def code_of(answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "code", "detail"}
    assert body["status"] == answer.status_code
    return answer.status_code, body["code"]


def image_files(*bodies: bytes):
    return [("image", (f"{number}.png", body, "image/png")) for number, body in enumerate(bodies)]


def test_a_body_over_the_bound_is_refused(serve, png):
    client = serve(api_max_request_bytes=1000)

    answer = client.post("/v1/classify", content=bytes(1001), headers={"Content-Type": "image/png"})

    assert code_of(answer) == (413, "request_too_large")
    assert client.post("/v1/classify", content=png(0), headers={"Content-Type": "image/png"}).status_code == 200


def test_a_body_of_unknown_length_is_refused_too(serve):
    client = serve(api_max_request_bytes=1000)

    answer = client.post("/v1/classify", content=(bytes(100) for _ in range(50)), headers={"Content-Type": "image/png"})

    assert code_of(answer) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Type: image/png\r\nContent-Length: 999999999999\r\n", b""),
        ("Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n", b"400\r\n" + bytes(0x400) + b"\r\n"),
        (
            "Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n",
            b'400\r\n--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n'.ljust(0x405, b"-") + b"\r\n",
        ),
    ],
    ids=["announced", "chunked", "in a field that nobody reads"],
)
def test_the_bound_is_kept_while_reading_and_not_at_the_end(serve, head, body):
    client = serve(api_max_request_bytes=1000)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + body)

        # The body never ends; the answer comes all the same.
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_an_image_over_the_bound_is_refused_in_both_kinds_of_body(serve, png):
    client = serve(max_object_bytes=500)

    assert code_of(client.post("/v1/classify", files=image_files(png(0), bytes(501)))) == (413, "object_too_large")
    raw = client.post("/v1/classify", content=bytes(501), headers={"Content-Type": "image/png"})
    assert code_of(raw) == (413, "object_too_large")


def test_one_image_more_than_allowed_is_refused(serve, png):
    client = serve(api_max_images=3)

    assert client.post("/v1/classify", files=image_files(*[png(0)] * 3)).status_code == 200
    assert code_of(client.post("/v1/classify", files=image_files(*[png(0)] * 4))) == (413, "too_many_images")
    assert code_of(client.post("/v1/classify", files=image_files(*[b""] * 4))) == (413, "too_many_images")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(client, png, content_type):
    answer = client.post("/v1/classify", content=png(0), headers={"Content-Type": content_type})

    assert code_of(answer) == (415, "unsupported_content_type")


def test_a_compressed_body_is_refused(client, png):
    answer = client.post(
        "/v1/classify",
        content=gzip.compress(png(0)),
        headers={"Content-Type": "image/png", "Content-Encoding": "gzip"},
    )

    assert code_of(answer) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    "request_parts",
    [
        {"content": b"", "headers": {"Content-Type": "image/png"}},
        {"files": [("picture", ("a.png", b"abc", "image/png"))]},
        {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n\r\n--x--\r\n',
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ],
    ids=["empty body", "other field", "empty form", "file input left empty"],
)
def test_a_request_without_an_image_is_refused(client, request_parts):
    assert code_of(client.post("/v1/classify", **request_parts)) == (422, "no_image")


PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", PART + b"\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"no form at all"),
        ("multipart/form-data; boundary=x", PART + b"\r\nabc"),
        ("multipart/form-data; boundary=x", PART + b"\r\nabc\r\n--x\r\n"),
        ("multipart/form-data; boundary=x", PART + b"X: " + b"y" * 9000 + b"\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", PART + b"X: y\r\n" * 50 + b"\r\nabc\r\n--x--\r\n"),
        (f"multipart/form-data; boundary={'b' * 5000}", b""),
    ],
    ids=["no boundary", "no form", "cut", "cut after a part", "long header", "many headers", "long boundary"],
)
def test_a_broken_form_is_refused(client, content_type, body):
    answer = client.post("/v1/classify", content=body, headers={"Content-Type": content_type})

    assert code_of(answer) == (400, "malformed_request")


@pytest.mark.parametrize("top_k", ["0", "101", "-1", "two", "<script>", "1e9"])
def test_an_impossible_parameter_is_refused_without_being_repeated(client, png, top_k):
    answer = client.post("/v1/classify", params={"top_k": top_k}, files=image_files(png(0)))

    assert code_of(answer) == (422, "bad_parameter")
    assert "top_k" in answer.json()["detail"]
    assert "script" not in answer.text


def test_an_unknown_path_and_method_are_problems_too(client):
    assert code_of(client.get("/<b>nowhere")) == (404, "route_unknown")
    assert "nowhere" not in client.get("/<b>nowhere").text
    answer = client.get("/v1/classify")
    assert code_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert client.post("/v1/classify/").status_code == 404


def test_more_bytes_than_fit_in_memory_ask_the_caller_to_come_back(serve):
    client = serve(api_max_request_bytes=1000, max_object_bytes=1000)
    address = (client.base_url.host, client.base_url.port)
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    waiting = [socket.create_connection(address, timeout=10) for _ in range(5)]
    try:
        for connection in waiting:  # one after the other: four fill the memory
            connection.sendall(head + bytes(990))
            client.get("/v2/health/live")
        assert waiting[-1].recv(64).startswith(b"HTTP/1.1 503 ")
    finally:
        for connection in waiting:
            connection.close()

    for _ in range(100):  # what they held is free again
        answer = client.post("/v1/classify", content=bytes(1000), headers={"Content-Type": "image/png"})
        if answer.status_code == 200:
            break
        assert code_of(answer) == (503, "server_busy")
        assert answer.headers["retry-after"] == "2"
    assert answer.status_code == 200
