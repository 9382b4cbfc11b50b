"""The client against a real server, and against faults that a real server makes seldom."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from ibook_assets.core.errors import ContractError, StoreUnavailableError
from ibook_assets.core.settings import Settings
from ibook_serving import examples
from ibook_serving.api import Order
from ibook_serving.client import IDEMPOTENCY_HEADER, RequestRefusedError, ScoringClient
from ibook_serving.http.problems import PROBLEM_TYPE, ProblemDocument
from tests.serving.harness import RunningServer, free_port, running

ORDERS = [Order(user_id=1042, event_id=17, amount=120.5), Order(user_id=7, event_id=1, amount=80)]
BUSY = ProblemDocument(type="urn:t", title="Overloaded", status=503, detail="come back later")


def test_it_predicts_and_reads_readiness(served: RunningServer) -> None:
    with ScoringClient(served.url) as client:
        predictions = client.predict(ORDERS, explain="true")
        ready = client.readiness()
    assert [p.score for p in predictions] == [
        p["score"] for p in served.predict(*map(msgspec.to_builtins, ORDERS))
    ]
    assert all(p.reasons for p in predictions)
    assert (ready.ready, ready.model_version) == (True, predictions[0].model_version)


def test_what_the_server_refuses_is_not_sent_again(served: RunningServer) -> None:
    with (
        ScoringClient(served.url, sleep=_never) as client,
        pytest.raises(RequestRefusedError, match=r"422 .*amount") as refused,
    ):
        client.predict([Order(user_id=1, event_id=1, amount=1.005)])
    assert refused.value.problem.errors is not None


def test_nobody_there_is_said_with_the_address_after_the_last_attempt() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    pauses: list[float] = []
    with (
        ScoringClient(url, attempts=3, sleep=pauses.append) as client,
        pytest.raises(StoreUnavailableError, match=f"{url}.* in 3 attempts.*ConnectError"),
    ):
        client.predict(ORDERS)
    assert len(pauses) == 2
    assert pauses[0] < pauses[1] * 2


def test_an_unready_server_is_no_error_to_whoever_asks_whether_it_is(settings: Settings) -> None:
    with running(settings) as server, ScoringClient(server.url, sleep=lambda _: None) as client:
        assert not client.readiness().ready
        with pytest.raises(StoreUnavailableError, match="No model"):
            client.predict(ORDERS)


def test_every_attempt_has_the_same_key_and_waits_as_long_as_asked() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers[IDEMPOTENCY_HEADER])
        if len(keys) < 3:
            headers = {"content-type": PROBLEM_TYPE, "retry-after": "1"}
            return httpx.Response(503, content=msgspec.json.encode(BUSY), headers=headers)
        return httpx.Response(200, content=msgspec.json.encode(examples.PREDICTED))

    pauses: list[float] = []
    transport = httpx.MockTransport(answer)
    with ScoringClient("http://test", transport=transport, sleep=pauses.append) as client:
        assert client.predict(ORDERS) == examples.PREDICTED.predictions
    assert len(set(keys)) == 1
    assert pauses == [1.0, 1.0]


def test_an_answer_from_something_else_names_where_it_came_from() -> None:
    def proxy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, text="<html>not here</html>")

    def stranger(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"predictions": 3})

    with (
        ScoringClient("http://test", transport=httpx.MockTransport(proxy)) as client,
        pytest.raises(RequestRefusedError, match="404 Not Found: http://test/predict"),
    ):
        client.predict(ORDERS)
    with (
        ScoringClient("http://test", transport=httpx.MockTransport(stranger)) as client,
        pytest.raises(ContractError, match="no PredictResponse"),
    ):
        client.predict(ORDERS)


def _never(_: float) -> None:
    pytest.fail("it waited for another attempt")
