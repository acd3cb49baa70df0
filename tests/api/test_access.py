"""Who may ask the API, what it says about its health, and what it writes into its log."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from inference.api.errors import STATUS_BY_ERROR, status_of
from inference.errors import InferenceError, ModelFilesError
from tests.api.tiny import TinyHandle

KEY = "k-5d1f"


def test_with_a_key_every_route_but_health_wants_it(serve, png):
    client = serve(api_key=KEY)

    for path in ("/docs", "/openapi.json", "/nowhere", "/v2/healthy"):
        assert client.get(path).status_code == 401, path
    answer = client.post("/v1/classify", files=[("image", ("a.png", png(0)))])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthorized"
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}"])
def test_the_key_opens(serve, png, header):
    client = serve(api_key=KEY)

    answer = client.post(
        "/v1/classify", files=[("image", ("a.png", png(0)))], headers={"Authorization": header, "Host": "label.example"}
    )

    assert answer.status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \xe9"])
def test_another_key_does_not(serve, header):
    client = serve(api_key=KEY)

    answer = client.get("/openapi.json", headers={"Authorization": header.encode("latin-1")})

    assert answer.status_code == 401
    assert KEY not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8000"])
def test_without_a_key_this_machine_may_ask(client, host):
    assert client.get("/openapi.json", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.1", "["])
def test_without_a_key_another_name_for_this_machine_is_refused(client, host):
    answer = client.get("/openapi.json", headers={"Host": host})

    assert (answer.status_code, answer.json()["code"]) == (400, "host_not_allowed")
    assert "evil" not in answer.text


def test_without_a_key_a_page_of_another_site_is_refused(client, png):
    def ask(origin: str) -> int:
        files = [("image", ("a.png", png(0)))]
        return client.post("/v1/classify", files=files, headers={"Origin": origin}).status_code

    assert ask("https://evil.example") == 400
    assert ask("null") == 400
    assert ask("http://localhost:8000") == 200


def test_live_and_ready_differ_until_the_model_has_answered_once(serve, png):
    handle = TinyHandle()
    handle.hold.clear()
    client = serve(lambda: handle, wait=False)

    assert client.get("/v2/health/live").status_code == 200
    answer = client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/v1/classify", files=[("image", ("a.png", png(0)))]).json()["code"] == "model_not_ready"

    handle.hold.set()
    for _ in range(500):
        if client.get("/v2/health/ready").status_code == 200:
            break
        time.sleep(0.01)
    assert client.get("/v2/health/ready").json() == {"status": "ready"}
    assert handle.calls == [1]


def test_a_model_that_cannot_be_loaded_is_never_ready_and_the_reason_stays_in_the_log(serve, caplog):
    asked = threading.Event()

    def load() -> object:
        asked.set()
        raise ModelFilesError("/secret/path is damaged")

    client = serve(load, wait=False)
    asked.wait(10)
    for _ in range(500):
        if "could not" in client.get("/v2/health/ready").text:
            break
        time.sleep(0.01)

    answer = client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert "secret" not in answer.text
    assert "/secret/path is damaged" in caplog.text
    assert client.get("/v2/health/live").status_code == 200


def test_a_request_is_one_line_of_the_log_without_secrets_and_without_lines_of_the_callers(serve, caplog):
    client = serve(api_key=KEY)
    with caplog.at_level(logging.INFO, logger="inference.api.access"):
        client.get("/a%0Ab?name=private", headers={"Authorization": f"Bearer {KEY}"})

        for _ in range(500):  # the line is written when the answer has left
            lines = [record.getMessage() for record in caplog.records if "/a" in record.getMessage()]
            if lines:
                break
            time.sleep(0.01)

    assert [line.split(" in ")[0] for line in lines] == ["127.0.0.1 GET /a%0Ab 404"]
    assert KEY not in caplog.text
    assert "private" not in "".join(lines)


def test_every_error_class_has_a_status_and_every_entry_is_used():
    def family(cls: type[InferenceError]) -> set[type[InferenceError]]:
        return {cls}.union(*(family(child) for child in cls.__subclasses__()))

    known = family(InferenceError)
    assert all(400 <= status_of(cls("x")).value < 600 for cls in known)
    assert set(STATUS_BY_ERROR) <= known


def test_the_openapi_page_documents_errors_limits_and_the_key(serve):
    client = serve(api_key=KEY, api_max_images=17)
    page = client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()

    operation = page["paths"]["/v1/classify"]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "408", "413", "415", "422", "500", "503"}
    assert "application/problem+json" in operation["responses"]["422"]["content"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert "17 images" in operation["description"]
    assert operation["security"] == [{"key": []}]
    assert {"Problem", "Classification", "FailedImage"} <= set(page["components"]["schemas"])
    assert page["components"]["schemas"]["Classification"]["examples"]
