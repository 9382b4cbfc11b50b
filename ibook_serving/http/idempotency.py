"""`Idempotency-Key`: a request that is sent again gets the answer it got, and happens once.

Wrap a handler of a POST route with `Idempotent.once`. Requests without the header pass through; a
key is claimed beside the trace store before the handler runs, so that of several processes one
answers, and its answer is kept there for a day, over restarts too. Only answers below 300 are
kept: an error happened without effect, and may be tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Annotated, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.ids import NAME_PATTERN
from ibook_assets.core.settings import Settings
from ibook_assets.stores.claims import Claims, Found, open_claims
from ibook_serving.http.names import checked_name
from ibook_serving.http.problems import ProblemError, invalid_field
from ibook_serving.http.routes import Endpoint

HEADER: Final = "Idempotency-Key"
WAIT_SECONDS: Final = 2.0
"""How long a request waits for another one of its key that is in flight."""
POLL_SECONDS: Final = 0.02
STORE_SECONDS: Final = 5.0
"""How long a claim may take before the request is refused: its answer could not be kept."""

IDEMPOTENCY_KEY: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Your name for this attempt. Sent again within a day with the same body, it gets"
    " the same answer, and nothing happens twice.",
    "schema": {"type": "string", "pattern": NAME_PATTERN},
}
"""The header, as the OpenAPI document describes it."""
KEY_PROBLEMS: Final = {
    409: "In flight: a request with this idempotency key is being answered; Retry-After says when "
    "to come back",
    422: "Invalid field: names the path, the value and what is allowed; or the idempotency key was "
    "used for another request",
}
"""How a route that takes it refuses a request because of it."""

_ERRORS: Final = 300

T = TypeVar("T")
ReadBody = Callable[[Request, int], Awaitable[bytes]]


class _Kept(msgspec.Struct, frozen=True):
    """An answer as it is kept."""

    status: int
    media_type: Annotated[str, msgspec.Meta(max_length=200)]
    body: bytes


class Idempotent:
    """Answers requests that bring a key once."""

    def __init__(
        self, open_claims: Callable[[], Claims], read_body: ReadBody, *, max_body_bytes: int
    ) -> None:
        """Nothing is opened before the first request with a key.

        Args:
            open_claims: opens the claims in the process that answers.
            read_body: reads a request's body within limits, awaited.
            max_body_bytes: the limit.
        """
        self._open_claims = open_claims
        self._read_body = read_body
        self._max_body_bytes = max_body_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claims")

    def once(self, endpoint: Endpoint) -> Endpoint:
        """`endpoint`, for which a key is answered once."""

        async def answer(request: Request) -> Response:
            key = _key_of(request)
            return await (endpoint(request) if key is None else self._once(endpoint, request, key))

        return answer

    async def _once(self, endpoint: Endpoint, request: Request, key: str) -> Response:
        body = await self._read_body(request, self._max_body_bytes)
        fingerprint = _fingerprint(request, body)
        kept = await self._claimed(key, fingerprint)
        if kept is not None:
            return Response(
                kept.body,
                status_code=kept.status,
                media_type=kept.media_type,
                headers={"Idempotency-Replayed": "true"},
            )
        answered = False
        try:
            response = await endpoint(_again(request, body))
            if response.status_code < _ERRORS:
                content = _Kept(response.status_code, _media_type(response), bytes(response.body))
                encoded = msgspec.json.encode(content)
                await self._call(
                    lambda: self._claims.answer(key, fingerprint, encoded, now_us=_now_us())
                )
                answered = True
            return response
        finally:
            if not answered:
                await self._call(lambda: self._claims.release(key))

    async def _claimed(self, key: str, fingerprint: str) -> _Kept | None:
        """None when this request may happen, or what was answered to the one that did.

        Raises:
            ProblemError: 422 for a key of another request, 409 while it is in flight.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = await self._call(lambda: self._claims.claim(key, fingerprint, now_us=_now_us()))
            if found.verdict == "claimed":
                return None
            if found.answer is not None:
                return msgspec.json.decode(found.answer, type=_Kept)
            _refuse_other(found, key)
            if time.monotonic() > deadline:
                raise ProblemError(
                    409,
                    "In flight",
                    f"The request with idempotency key {key} is still being answered.",
                    headers={"Retry-After": "1"},
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _call(self, work: Callable[[], T]) -> T:
        """What `work` returns, off the event loop; 503 when the store fails or takes too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await loop.run_in_executor(self._thread, work)
        except (StoreUnavailableError, TimeoutError) as error:
            raise ProblemError(
                503,
                "Unavailable",
                "Idempotency keys cannot be kept now; try again, or send the request without one.",
                headers={"Retry-After": "5"},
            ) from error

    @cached_property
    def _claims(self) -> Claims:
        return self._open_claims()


def idempotent(settings: Settings, read_body: ReadBody) -> Idempotent:
    """What answers keys once on the machine of `settings`."""
    return Idempotent(
        lambda: open_claims(settings), read_body, max_body_bytes=settings.max_body_bytes
    )


def _key_of(request: Request) -> str | None:
    # Scanned by hand: nearly no request has it, and headers cost more to parse than to look at.
    wanted = HEADER.lower().encode()
    found = [value for name, value in request.scope["headers"] if name == wanted]
    if not found:
        return None
    return checked_name(b",".join(found).decode("latin-1"), where=f"header.{HEADER}")


def _fingerprint(request: Request, body: bytes) -> str:
    scope = request.scope
    place = f"{scope['method']} {scope['path']}?".encode() + scope["query_string"]
    return hashlib.sha256(place + b"\n" + body).hexdigest()


def _refuse_other(found: Found, key: str) -> None:
    if found.verdict == "other_request":
        where = f"header.{HEADER}"
        message = "was used for another request; a new request needs a key of its own"
        raise invalid_field(where, message, key)


def _again(request: Request, body: bytes) -> Request:
    """The request with a body that can be read once more."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _media_type(response: Response) -> str:
    return str(response.headers.get("content-type", "application/json"))


def _now_us() -> int:
    return time.time_ns() // 1_000
