"""Slow, broken and crashing requests, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import litserve as ls
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from ibook_serving.http.endpoints import read_body
from ibook_serving.http.problems import ProblemError, answer_crash
from ibook_serving.processes.server import ScoringServer


def read(messages: Sequence[Message], *, limit: int = 100, seconds: float = 5.0) -> bytes:
    """The body that `messages` bring; after the last one the client stays silent."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.sleep(3_600)
        return waiting.pop(0)

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    return asyncio.run(read_body(request, limit, seconds=seconds))


def chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_put_together() -> None:
    assert read([chunk(b"ab", more=True), chunk(b"c", more=False)]) == b"abc"


@pytest.mark.parametrize(
    ("messages", "seconds", "status"),
    [
        ([chunk(b"a", more=True)], 0.01, 408),
        ([chunk(b"a", more=True), {"type": "http.disconnect"}], 5.0, 400),
        ([chunk(b"a" * 60, more=True), chunk(b"a" * 60, more=True)], 5.0, 413),
    ],
    ids=["slow", "hangs up", "too large"],
)
def test_a_body_that_does_not_come_is_a_4xx(
    messages: list[Message], seconds: float, status: int
) -> None:
    with pytest.raises(ProblemError) as caught:
        read(messages, seconds=seconds)
    assert caught.value.status == status


def test_a_crash_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(_request: Request) -> Response:
        raise ZeroDivisionError("/secret/path")  # noqa: EM101

    app = Starlette(routes=[Route("/x", crash)], exception_handlers={Exception: answer_crash})

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/x")

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    (record,) = [r for r in caplog.records if r.message == "request failed"]
    assert record.exc_info is not None


def test_every_part_of_litserve_that_we_replace_is_still_there() -> None:
    replaced = {name for name in vars(ScoringServer) if callable(vars(ScoringServer)[name])} & set(
        vars(ls.LitServer)
    )
    # A release that renames one of these would quietly bring LitServe's own behaviour back.
    assert replaced >= {
        "lifespan",
        "launch_inference_worker",
        "verify_worker_status",
        "_init_manager",
        "_perform_graceful_shutdown",
        "_register_internal_endpoints",
        "_register_middleware",
        "_register_spec_endpoints",
        "_start_server",
        "_start_worker_monitoring",
    }
