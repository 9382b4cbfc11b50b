"""The HTTP interface of a real server: answers, documents, and what bad input gets."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from ibook_assets.core.features.catalog import resolve
from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.use_cases import FRAUD
from ibook_serving import examples
from tests.serving.harness import ADMIN_KEY, ORDER, RunningServer

PROBLEM = "application/problem+json"


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of `answer`, complete and free of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert not re.search(r"Traceback|site-packages|\.py|/home|/tmp|line \d+", answer.text)
    return dict(problem)


def test_the_reference_fields_get_a_complete_answer(served: RunningServer) -> None:
    (prediction,) = served.predict(ORDER)
    assert re.fullmatch(NAME_PATTERN, prediction["request_id"])
    assert 0 <= prediction["score"] <= 1
    assert prediction["decision"] == ("review" if prediction["score"] >= 0.5 else "approve")
    assert prediction["threshold"] == 0.5
    assert prediction["model_version"] == "fraud-v1"


def test_both_paths_answer_alike_and_names_come_back(served: RunningServer) -> None:
    order = {**ORDER, "request_id": "r-1", "transaction_id": "T/99"}
    body = {"requests": [order]}
    short, own = (served.client.post(p, json=body) for p in ("/predict", FRAUD.endpoint))
    assert short.json() == own.json()
    (prediction,) = short.json()["predictions"]
    assert (prediction["request_id"], prediction["transaction_id"]) == ("r-1", "T/99")


def test_a_batch_keeps_its_order_and_scores_rows_as_if_alone(served: RunningServer) -> None:
    orders = [
        {**ORDER, "amount": i * 37.5, "request_id": f"r-{i}", "occurred_at": "2026-02-03T04:05:06Z"}
        for i in range(100)
    ]
    batch = served.predict(*orders)
    assert [p["request_id"] for p in batch] == [f"r-{i}" for i in range(100)]
    assert len({p["score"] for p in batch}) > 5
    alone = [served.predict(order)[0] for order in orders[::20]]
    assert [p["score"] for p in alone] == [p["score"] for p in batch[::20]]


def test_made_up_request_ids_are_unique(served: RunningServer) -> None:
    ids = [p["request_id"] for _ in range(3) for p in served.predict(*[ORDER] * 50)]
    assert len(set(ids)) == 150


def test_reasons_are_for_reviews_for_all_or_for_none(served: RunningServer) -> None:
    orders = [{**ORDER, "amount": i * 50.0} for i in range(100)]
    by_default = served.predict(*orders)
    assert {p["decision"] for p in by_default} == {"approve", "review"}
    assert all((p["reasons"] is None) == (p["decision"] == "approve") for p in by_default)
    assert all(p["reasons"] is None for p in served.predict(*orders, explain="false"))
    everything = served.predict(*orders, explain="true")
    assert [p["score"] for p in everything] == [p["score"] for p in by_default]
    for prediction in everything:
        strengths = [abs(r["contribution"]) for r in prediction["reasons"]]
        assert strengths == sorted(strengths, reverse=True)
        assert 1 <= len(strengths) <= 5
        for reason in prediction["reasons"]:
            assert reason["feature"] in FRAUD.features
            effect = "raises" if reason["contribution"] > 0 else "lowers"
            assert reason["phrase"].endswith(f"({effect} the risk)")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/healthz"), ("POST", "/healthz"), ("GET", "/health")]
)
def test_health(served: RunningServer, method: str, path: str) -> None:
    answer = served.client.request(method, path, json={} if method == "POST" else None)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "detail": "model_loaded"})


def test_readiness_names_what_serves(served: RunningServer) -> None:
    readiness = served.readiness()
    assert readiness["ready"] is True
    assert (readiness["model_version"], readiness["record_sequence"]) == ("fraud-v1", 1)
    assert readiness["refusals"] == []
    assert readiness["process"] in served.api_processes()


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"requests":[{"user_id":1,"event_id":2,"amount":NaN}]}', 400, None),
        (b'{"requests":[{"user_id":1,"event_id":2,"amount":1e999}]}', 400, None),
        (b'\xff\xfe{"requests":[]}', 400, None),
        (b"[" * 60_000, 400, None),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, None),
        (b"{}", 422, "$.requests"),
        (b'{"requests":[]}', 422, "$.requests"),
        (b'{"requests":[{"user_id":1,"amount":2}]}', 422, "$.requests[0].event_id"),
        (b'{"requests":[{"user_id":1,"event_id":2,"amount":-1}]}', 422, "$.requests[0].amount"),
        (b'{"requests":[{"user_id":1,"event_id":2,"amount":"x"}]}', 422, "$.requests[0].amount"),
        (b'{"requests":[{"user_id":1' + b"0" * 30 + b"}]}", 422, "$.requests[0].user_id"),
        (b'{"requests":[{"user_id":[],"event_id":2,"amount":1}]}', 422, "$.requests[0].user_id"),
    ],
    ids=lambda v: v[:40].decode("latin-1") if isinstance(v, bytes) else "",
)
def test_bad_bodies_are_4xx_problems(
    served: RunningServer, body: bytes, status: int, path: str | None
) -> None:
    problem = assert_problem(served.client.post("/predict", content=body), status)
    if path is not None:
        assert problem["errors"][0]["path"] == path


def test_too_many_rows_and_too_many_bytes_are_413(served: RunningServer) -> None:
    many = served.client.post("/predict", json={"requests": [ORDER] * 101})
    assert "at most 100" in assert_problem(many, 413)["detail"]
    announced = served.client.post("/predict", content=b" " * 70_000)
    assert "65536" in assert_problem(announced, 413)["detail"]
    streamed = served.client.post("/predict", content=(b" " * 10_000 for _ in range(10)))
    assert_problem(streamed, 413)
    assert served.predict(ORDER)


def test_a_hundred_megabytes_leave_memory_flat(served: RunningServer) -> None:
    (pid,) = served.api_processes()

    def resident_kib() -> int:
        with Path(f"/proc/{pid}/status").open() as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    before = resident_kib()
    answer = served.client.post("/predict", content=(b" " * 1_000_000 for _ in range(100)))
    assert_problem(answer, 413)
    assert resident_kib() - before < 20_000


def test_unknown_routes_methods_and_parameters(served: RunningServer) -> None:
    assert "GET /docs" in assert_problem(served.client.get("/nowhere"), 404)["detail"]
    wrong = served.client.get("/predict")
    assert "POST" in assert_problem(wrong, 405)["detail"]
    assert wrong.headers["allow"] == "POST"
    body = {"requests": [ORDER]}
    for query in ("explain=maybe", "explian=true"):
        assert_problem(served.client.post(f"/predict?{query}", json=body), 422)


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc", "/predict/../admin"])
def test_odd_paths_are_not_found(served: RunningServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", served.client.base_url.port or 0)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        raw.settimeout(10)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 404")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
fields = st.sampled_from(["user_id", "event_id", "amount", "tier", "occurred_at", "card_id", "?"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(fields, json_values), st.sampled_from(["/predict", "/admin/reload"]))
def test_no_body_makes_a_5xx(served: RunningServer, order: dict[str, object], path: str) -> None:
    body = json.dumps({"requests": [ORDER | order]}).encode()
    answer = served.client.post(path, content=body, headers={"x-api-key": ADMIN_KEY})
    assert answer.status_code in (200, 400, 422), answer.text


def test_reload_needs_the_key_and_a_plausible_version(served: RunningServer) -> None:
    def reload(key: str | None, body: object = None) -> httpx.Response:
        headers = {} if key is None else {"x-api-key": key}
        content = b"" if body is None else json.dumps(body).encode()
        return served.client.post("/admin/reload", content=content, headers=headers)

    for wrong in (None, "", "wrong", ADMIN_KEY[:-1], ADMIN_KEY + "x"):
        assert ADMIN_KEY not in assert_problem(reload(wrong), 401)["detail"]
    answer = reload(ADMIN_KEY)
    assert answer.json() == {"model_version": "fraud-v1", "record_sequence": 1, "swapped": False}
    assert reload(ADMIN_KEY, {"model_version": "fraud-v1"}).status_code == 200
    assert_problem(reload(ADMIN_KEY, {"model_version": "fraud-v9"}), 409)
    for hostile in ("../../x", "%2e%2e", "a/b", "", "x" * 65, "a\n"):
        assert_problem(reload(ADMIN_KEY, {"model_version": hostile}), 422)


def test_the_openapi_document_is_valid_and_its_examples_are_true(served: RunningServer) -> None:
    document = served.client.get("/openapi.json").json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/predict",
        "/fraud/predict",
        "/healthz",
        "/health",
        "/readyz",
        "/metrics",
        "/admin/models",
        "/admin/switch-model",
        "/admin/reload",
        "/traces/{request_id}",
        "/experiments/{experiment}/outcomes",
        "/experiments/{experiment}/summary",
        "/status",
    }
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _check_operation(served, document, path, method, operation)


def test_the_examples_name_features_that_exist() -> None:
    for prediction in examples.PREDICTED.predictions:
        for reason in prediction.reasons or ():
            assert resolve(reason.feature)[1].description in reason.phrase


def _check_operation(
    served: RunningServer, document: dict[str, Any], path: str, method: str, operation: Any
) -> None:
    def conforms(instance: object, content: dict[str, Any]) -> None:
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(instance)

    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    example = body["example"] if body else None
    if body:
        conforms(example, body)
    if path == "/admin/switch-model":
        example = {"version": "fraud-v1", "target": "all"}
    for response in operation["responses"].values():
        (content,) = response["content"].values()
        conforms(content["example"], content)
    if "{experiment}" in path:
        return  # Only an experiment that runs takes outcomes; test_outcomes.py has one.
    place = path.format(request_id=served.predict()[0]["request_id"])
    answer = served.client.request(method, place, json=example, headers={"x-api-key": ADMIN_KEY})
    assert answer.status_code == 200, (path, answer.text)
    ((media_type, content),) = operation["responses"]["200"]["content"].items()
    assert answer.headers["content-type"] == media_type
    conforms(answer.json() if media_type == "application/json" else answer.text, content)


def test_the_documentation_page_shows_every_route_and_loads_nothing(served: RunningServer) -> None:
    answer = served.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    for path in served.client.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in answer.text
    assert not re.search(r"(src|href)=['\"]?https?:", answer.text)


def test_answers_are_not_compressed_and_name_no_server(served: RunningServer) -> None:
    answer = served.client.post("/predict", json={"requests": [ORDER] * 50})
    assert "content-encoding" not in answer.headers
    assert "server" not in answer.headers
