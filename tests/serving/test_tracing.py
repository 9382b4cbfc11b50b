"""Traces of a running server: recorded, looked up, answered once for an idempotency key."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.predictions import verify
from ibook_assets.core.rollout import Entrant
from ibook_assets.core.settings import Settings
from ibook_assets.core.skew import definition_of
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES, PREDICTIONS
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.blobs import open_blobs
from ibook_assets.stores.log_files import LogFiles
from ibook_assets.stores.online import PUBLISHED_SNAPSHOT, Progress, open_live
from ibook_assets.stores.traces import TraceStore, open_traces
from ibook_serving.http.decode import PREDICT, decode_body, order_row
from ibook_serving.provenance.recording import TraceRecorder
from ibook_serving.scoring.ports import Fetched, Lane, LoadedModel, Served
from ibook_serving.scoring.reasons import ReasonWriter
from tests.serving.harness import (
    ADMIN_KEY,
    ORDER,
    RunningServer,
    challenge,
    eventually,
    promote,
    running,
)
from tests.serving.history import AS_OF_US, fill_live, orders, publish_history

KEY = {"x-api-key": ADMIN_KEY}


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, bundle: ModelBundle, next_bundle: ModelBundle
) -> Iterator[RunningServer]:
    """Two processes, an experiment whose treatment is the next bundle, and an admin key."""
    settings = Settings(home=tmp_path_factory.mktemp("traced"))
    promote(settings, bundle)
    publish_history(settings)
    challenge(settings, next_bundle, Entrant("treatment", 0.5, "fees"))
    with running(settings, processes=2, environment={"IBOOK_ADMIN_KEY": ADMIN_KEY}) as server:
        yield server


def traces_of(server: RunningServer, request_id: str) -> list[dict[str, Any]]:
    answer = server.client.get(f"/traces/{request_id}", headers=KEY)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["traces"])


def test_a_trace_says_what_was_answered_and_from_what(
    traced: RunningServer, bundle: ModelBundle, next_bundle: ModelBundle
) -> None:
    asked = [order | {"transaction_id": f"order-{i}"} for i, order in enumerate(orders(12))]
    models = {"control": bundle, "treatment": next_bundle}
    for told in traced.predict(*asked, explain="true"):
        (trace,) = traces_of(traced, told["request_id"])
        for name in ("score", "decision", "threshold", "model_version", "variant"):
            assert trace[name] == told[name], name
        assert trace["transaction_id"] == told["transaction_id"]
        assert trace["features_as_of"] == told["features_as_of"]
        assert trace["reasons"] == told["reasons"], "the same vector has the same reasons"
        assert trace["experiment"] == "fees"
        assert trace["record_sequence"] == trace["promotion"]["sequence"] == 2
        assert trace["served"] is True
        model = models[told["variant"]]
        assert trace["definition"] == definition_of(model.feature_names)
        found = [trace["features"][name] for name in model.feature_names]
        values = [math.nan if value is None else value for value in found]
        assert float(model.score(np.array([values], np.float32))[0]) == told["score"]
        assert trace["learnt_from"] is None, "these models have no manifest"


def test_requests_that_are_no_ids_unknown_or_without_the_key_are_refused(
    traced: RunningServer,
) -> None:
    client = traced.client
    assert client.get("/traces/nobody", headers=KEY).status_code == 404
    for hostile in ("..%2f..%2fetc", "%2e%2e", "a%0a", "a b", "x" * 65, "%00", "ü"):
        answer = client.get(f"/traces/{hostile}", headers=KEY)
        assert answer.status_code in (404, 422), hostile
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(traced.settings.home) not in answer.text
    for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": ADMIN_KEY + "x"}):
        assert client.get("/traces/nobody", headers=headers).status_code == 401


def test_a_damaged_trace_says_so_and_not_where_it_is(traced: RunningServer) -> None:
    (told,) = traced.predict(ORDER)
    request_id = told["request_id"]
    traces_of(traced, request_id)
    store = open_traces(traced.settings)
    (stored,) = store.predictions.find(request_id)
    messages = store.environment.database(b"traces")
    with store.environment.writing() as transaction:
        place = stored.number.to_bytes(8, "big")
        kept = transaction.get(place, db=messages) or b""
        transaction.put(place, bytes(kept).replace(b'"served":true', b'"served":null'), db=messages)
    answer = traced.client.get(f"/traces/{request_id}", headers=KEY)
    assert (answer.status_code, answer.json()["title"]) == (500, "Damaged trace")
    assert str(traced.settings.home) not in answer.text
    assert any(request_id in str(line) for line in traced.events("damaged trace"))


def test_a_retried_post_is_answered_once_whatever_process_gets_it(traced: RunningServer) -> None:
    before = open_traces(traced.settings).predictions
    rows = [ORDER | {"request_id": name} for name in ("retried-1", "retried-2")]
    body = json.dumps({"requests": rows})

    def send(_: int) -> tuple[int, bytes, bool]:
        # A connection each, so that both processes are asked.
        connection = HTTPConnection("127.0.0.1", traced.client.base_url.port, timeout=30)
        with closing(connection):
            connection.request("POST", "/predict", body, {"Idempotency-Key": "order-77"})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("idempotency-replayed") is None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(1_000)))
    assert {(status, content) for status, content, _ in answers} == {(200, answers[0][1])}
    assert sum(made for _, _, made in answers) == 1
    for request_id in ("retried-1", "retried-2"):
        assert len(traces_of(traced, request_id)) == 1
        assert len(before.find(request_id)) == 1


def test_a_key_is_for_one_request_and_only_answers_are_kept(traced: RunningServer) -> None:
    def send(key: str, body: object, path: str = "/predict") -> httpx.Response:
        return traced.client.post(path, json=body, headers={"Idempotency-Key": key})

    one = {"requests": [ORDER]}
    first = send("one-key", one)
    assert first.status_code == 200
    for body, path in (({"requests": [ORDER, ORDER]}, "/predict"), (one, "/fraud/predict")):
        other = send("one-key", body, path)
        assert (other.status_code, other.json()["title"]) == (422, "Invalid field")
    assert send("one-key", one).json() == first.json()
    assert send("bad-body", {"requests": []}).status_code == 422
    assert send("bad-body", one).status_code == 200, "a refused request holds no key"
    for hostile in ("../x", "a b", "x" * 65, ""):
        assert send(hostile, one).status_code == 422
    assert traced.client.post("/predict", json=one).json() != first.json()


def test_outcomes_are_kept_once_with_the_arm_that_answered(traced: RunningServer) -> None:
    told = traced.predict(*orders(6))
    reported = [
        {"request_id": p["request_id"], "outcome": "fraud", "amount": "12.50"} for p in told
    ]
    for prediction in told:
        traces_of(traced, prediction["request_id"])
    body = {"outcomes": [*reported, {"transaction_id": "order-9", "outcome": "legitimate"}]}

    def post(document: object, experiment: str = "fees") -> httpx.Response:
        return traced.client.post(f"/experiments/{experiment}/outcomes", json=document)

    assert (post(body).status_code, post(body).json()) == (202, {"accepted": 0, "repeated": 7})
    store = open_traces(traced.settings)
    kept = store.outcomes.newest(100)
    assert len(kept) == 7
    assert post(body, "unheard-of").status_code == 404
    assert post(body, "a.b").status_code == 422
    for wrong in (
        {"outcome": "fraud"},
        {"request_id": "x", "outcome": "maybe"},
        {"request_id": "x", "outcome": "fraud", "occurred_at": "2999-01-01T00:00:00Z"},
        {"request_id": "x", "outcome": "fraud", "amount": 0.001},
        {"request_id": "../x", "outcome": "fraud"},
    ):
        assert post({"outcomes": [wrong]}).status_code == 422, wrong
    assert len(store.outcomes.newest(100)) == 7


def test_what_a_server_leaves_behind_is_landed(tmp_path: Path, bundle: ModelBundle) -> None:
    settings = Settings(home=tmp_path / "home")
    promote(settings, bundle)
    publish_history(settings)
    with running(settings, processes=1) as server:
        challenge(settings, bundle, Entrant("treatment", 0.5, "fees"))
        eventually(lambda: server.readiness()["record_sequence"] == 2, what="the experiment")
        told = server.predict(*orders(30))
        store = open_traces(settings)
        eventually(lambda: store.predictions.backlog() == 30, what="traces are in the store")
        os.kill(server.recorder(), signal.SIGKILL)
        document = {"outcomes": [{"request_id": told[0]["request_id"], "outcome": "fraud"}]}
        assert server.client.post("/experiments/fees/outcomes", json=document).status_code == 202
        eventually(lambda: server.events("attendant died; starting another") != [], what="noticed")
        eventually(lambda: _recorders(server) == 1, what="another recorder")
        server.terminate()
    files = LogFiles(open_blobs(settings.lake))
    rows = files.rows("predictions").to_pylist()
    assert {row["request_id"]: row["score"] for row in rows} == {
        p["request_id"]: p["score"] for p in told
    }
    assert len(rows) == 30
    (outcome,) = files.rows("experiment.outcomes").to_pylist()
    assert outcome["variant"] == told[0]["variant"]
    assert set(outcome) == set(EXPERIMENT_OUTCOMES.column_names)
    assert (store.predictions.backlog(), store.outcomes.backlog()) == (0, 0)


def _recorders(server: RunningServer) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children.read_text().split()]
    return names.count("ibook-recorder")


def test_a_trace_of_the_live_store_says_how_far_the_log_was_applied(
    tmp_path: Path, bundle: ModelBundle
) -> None:
    settings = Settings(home=tmp_path / "home", online_source="live")
    promote(settings, bundle)
    publish_history(settings)
    environment = {"IBOOK_ADMIN_KEY": ADMIN_KEY, "IBOOK_ONLINE_SOURCE": "live"}
    with running(settings, environment=environment) as server:
        (told,) = server.predict(ORDER)
        (without,) = traces_of(server, told["request_id"])
        assert without["degraded"] == told["degraded"] == [PUBLISHED_SNAPSHOT]
        assert without["positions"] is None
        with closing(open_live(settings.live_store)) as live:
            fill_live(live)
            eventually(lambda: server.predict(ORDER)[0]["degraded"] == [], what="the live store")
            (told,) = server.predict(ORDER)
            (trace,) = traces_of(server, told["request_id"])
            assert Progress.decode(json.dumps(trace["positions"]).encode()) == live.progress()
    assert trace["features_as_of"] == told["features_as_of"]
    assert trace["store"] != without["store"]


def test_nothing_is_kept_when_the_log_is_off(tmp_path: Path, bundle: ModelBundle) -> None:
    settings = Settings(home=tmp_path / "home")
    promote(settings, bundle)
    off = {"IBOOK_PREDICTION_LOG": "off", "IBOOK_ADMIN_KEY": ADMIN_KEY}
    with running(settings, environment=off) as server:
        (told,) = server.predict(ORDER)
        assert _recorders(server) == 0
        assert server.client.get(f"/traces/{told['request_id']}", headers=KEY).status_code == 404
    assert not settings.trace_path.exists()
    assert LogFiles(open_blobs(settings.lake)).rows("predictions").num_rows == 0


def a_served(bundle: ModelBundle, request_id: str = "r-1", **changes: Any) -> Served:
    """A prediction as the service hands it over."""
    (order,) = decode_body(
        b'{"requests":[{"user_id":7,"event_id":17,"amount":5}]}', PREDICT
    ).requests
    loaded = LoadedModel("fraud-v1", "a" * 64, "b" * 64, bundle, ReasonWriter(bundle.feature_names))
    values = np.arange(len(bundle.feature_names), dtype=np.float32)
    fetched = Fetched(values.reshape(1, -1), [()], AS_OF_US, "3:9", b'{"w":1}', ("slow", "old"))
    fields: dict[str, Any] = {
        "request_id": request_id,
        "row": order_row(order, path="$", now_us=5),
        "transaction_id": None,
        "lane": Lane("champion", "champion", 1.0, loaded),
        "sequence": 3,
        "experiment": None,
        "values": values,
        "score": float(bundle.score(values.reshape(1, -1))[0]),
        "decision": "approve",
        "fetched": fetched,
        "unknown": ("user", "ip"),
        "served_us": AS_OF_US + 9,
        "latency_us": 400,
        "answered": True,
    }
    return Served(**(fields | changes))


def a_recorder(folder: Path, *, max_waiting: int = 100) -> TraceRecorder:
    return TraceRecorder(
        lambda: TraceStore(folder, max_bytes=2**24),
        use_case="fraud",
        git_sha="0" * 40,
        container_digest="sha256:1",
        max_waiting=max_waiting,
    )


def test_a_recorder_writes_everything_a_prediction_was_made_from(
    tmp_path: Path, bundle: ModelBundle
) -> None:
    recorder = a_recorder(tmp_path)
    recorder.start()
    served = a_served(bundle)
    recorder.record([served, a_served(bundle, "r-2", answered=False)])
    recorder.stop()
    assert recorder.status() == (2, 0, 0)
    (trace,) = TraceStore(tmp_path, max_bytes=2**24).find("r-1")
    verify(trace, where="r-1")
    assert trace.features.tobytes() == served.values.tobytes()
    assert trace.score == served.score
    assert (trace.degraded, trace.unknown, trace.positions) == ("slow,old", "user,ip", '{"w":1}')
    assert trace.request == {"occurred_ts": 5, "known_ts": 5} | {
        "user_id": 7,
        "event_id": 17,
        "amount_cents": 500,
    }
    assert (trace.known_ts, trace.features_as_of) == (AS_OF_US + 9, AS_OF_US)
    assert (trace.container_digest, trace.record_sequence) == ("sha256:1", 3)
    assert set(trace.__struct_fields__) == set(PREDICTIONS.column_names)


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path, bundle: ModelBundle) -> None:
    recorder = a_recorder(tmp_path, max_waiting=5)
    recorder.record([a_served(bundle, f"r-{i}") for i in range(4)])
    recorder.record([a_served(bundle, f"s-{i}") for i in range(4)])
    assert recorder.status() == (0, 3, 5)
    recorder.start()
    recorder.stop()
    assert recorder.status() == (5, 3, 0)


def test_a_store_that_fails_costs_traces_and_no_answers(
    tmp_path: Path, bundle: ModelBundle
) -> None:
    def away() -> TraceStore:
        msg = "no disk"
        raise StoreUnavailableError(msg)

    recorder = TraceRecorder(away, use_case="fraud", git_sha="0", container_digest=None)
    recorder.start()
    recorder.record([a_served(bundle)])
    recorder.stop()
    assert recorder.status().dropped == 1
    assert not list(tmp_path.iterdir())


def test_a_recorder_is_asked_from_a_loop_without_blocking_it(
    tmp_path: Path, bundle: ModelBundle
) -> None:
    recorder = a_recorder(tmp_path, max_waiting=10**6)
    recorder.start()

    async def serve() -> None:
        for number in range(3_000):
            recorder.record([a_served(bundle, f"r-{number}")])
            await asyncio.sleep(0)

    asyncio.run(serve())
    recorder.stop()
    assert recorder.status() == (3_000, 0, 0)
