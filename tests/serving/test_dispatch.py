"""The short way to scoring routes answers exactly as the framework does."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ibook_serving.api import Health
from ibook_serving.http.problems import (
    ProblemError,
    answer_crash,
    answer_http_error,
    answer_problem,
)
from ibook_serving.http.routes import json_response
from ibook_serving.processes.dispatch import Dispatcher


async def scored(request: Request) -> Response:
    body = await request.body()
    return json_response(Health(ok=True, detail=f"{request.url.query} {body.decode()}"))


async def refused(_request: Request) -> Response:
    raise ProblemError(503, "Overloaded", "Come back.", headers={"Retry-After": "1"})


async def broken(_request: Request) -> Response:
    msg = "a secret of ours"
    raise ValueError(msg)


ENDPOINTS = {"/scored": scored, "/refused": refused, "/broken": broken}


def framework() -> Starlette:
    app = Starlette(routes=[Route(p, e, methods=["POST"]) for p, e in ENDPOINTS.items()])
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(ProblemError, answer_problem)
    app.add_exception_handler(Exception, answer_crash)
    return app


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/scored?explain=true", 200),
        ("POST", "/refused", 503),
        ("POST", "/broken", 500),
        ("GET", "/scored", 405),
        ("HEAD", "/scored", 405),
        ("POST", "/nowhere", 404),
        ("POST", "/scored/", 307),
    ],
)
def test_answers_are_the_frameworks_to_the_byte(method: str, path: str, status: int) -> None:
    async def ask(app: Starlette | Dispatcher) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, content=b"body")

    app = framework()
    short, long = asyncio.run(ask(Dispatcher(app, ENDPOINTS))), asyncio.run(ask(app))
    assert (short.status_code, short.content) == (status, long.content)
    assert short.headers == long.headers
    assert "secret" not in short.text


def test_json_answers_have_the_headers_of_any_response() -> None:
    document = Health(ok=True, detail="é")
    ours = json_response(document, 201)
    theirs = Response(ours.body, status_code=201, media_type="application/json")
    assert ours.status_code == theirs.status_code
    assert sorted(ours.raw_headers) == sorted(theirs.raw_headers)
