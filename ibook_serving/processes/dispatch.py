"""Scoring requests are answered before the framework looks at them; everything else is its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibook_serving.http.problems import ProblemError, answer_crash, problem_response
from ibook_serving.http.routes import Endpoint

CLOSE: Final = (b"connection", b"close")


class Dispatcher:
    """An ASGI app in front of another one.

    The way through the framework (telemetry, exit stacks, two layers of error handling, matching
    routes one by one) costs more than scoring an order. A POST to one of `endpoints` skips it and
    gets the same answers, errors included.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        """Put the POST `endpoints`, by path, in front of `app`."""
        self._app = app
        self._endpoints = dict(endpoints)
        self._answering = ServerErrorMiddleware(self._answer, handler=answer_crash)
        self.draining = False
        """Whether each answer asks the client to come back by another connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if self.draining and scope["type"] == "http":
            send = _closing(send)
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"] in self._endpoints
        ):
            await self._answering(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._endpoints[scope["path"]](request)
        except ProblemError as problem:
            response = problem_response(problem, request)
        await response(scope, receive, send)


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
        await send(message)

    return closing
