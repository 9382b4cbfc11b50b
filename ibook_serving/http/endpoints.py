"""The HTTP routes: read a body within its limits, hand it to the service, encode the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence, Set
from typing import Final, get_args

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ibook_assets.core.settings import Settings
from ibook_serving import examples
from ibook_serving.api import (
    Explain,
    Health,
    Order,
    PredictRequest,
    PredictResponse,
    Readiness,
)
from ibook_serving.http.decode import PREDICT, Row, decode_body, order_row
from ibook_serving.http.idempotency import IDEMPOTENCY_KEY, KEY_PROBLEMS, idempotent
from ibook_serving.http.observing import VARIANT
from ibook_serving.http.problems import ProblemError, invalid_field
from ibook_serving.http.routes import Answer, RouteSpec, TextAnswer, json_response
from ibook_serving.scoring.service import NANOSECONDS, ScoringService
from ibook_serving.telemetry.metrics import CONTENT_TYPE as METRICS_TYPE
from ibook_serving.telemetry.metrics import MIXED, NO_VARIANT, exposition

BODY_SECONDS: Final = 10.0
"""Time a client has to send its body."""
_EXPLAIN: Final[tuple[Explain, ...]] = get_args(Explain)
_EXPLAIN_PARAMETER: Final = {
    "name": "explain",
    "in": "query",
    "required": False,
    "description": "Which orders get `reasons` (about 2 ms of CPU each): `auto` those that go to "
    "review, `true` all, `false` none.",
    "schema": {"type": "string", "enum": list(_EXPLAIN), "default": "auto"},
}


class Endpoints:
    """Handlers of one service and their documentation."""

    def __init__(self, service: ScoringService, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._idempotent = idempotent(settings, read_body)

    def scoring(self) -> tuple[RouteSpec, ...]:
        """Routes that score: the short path and the use case's own."""
        limits = f"{self._settings.max_batch_rows} rows and {self._settings.max_body_bytes} bytes"
        return tuple(
            RouteSpec(
                path=path,
                methods=("POST",),
                endpoint=self._idempotent.once(self.predict),
                summary="Score ticket orders for fraud",
                description=f"Takes up to {limits}. Only `user_id`, `event_id` and `amount` are "
                "required; what else is known makes the score better. A prediction whose "
                "`degraded` is not empty was made without something and says what.",
                body=PredictRequest,
                body_example=examples.PREDICT_BODY,
                parameters=(_EXPLAIN_PARAMETER, IDEMPOTENCY_KEY),
                answers={
                    200: Answer(
                        "One prediction for each request", PredictResponse, examples.PREDICTED
                    )
                },
                problems={
                    **KEY_PROBLEMS,
                    413: f"Too large: more than {limits}",
                    500: "Internal error: the cause is in the server's log",
                    503: "Not ready or overloaded: no model is promoted, or Retry-After says when "
                    "to come back",
                },
            )
            for path in ("/predict", f"/{self._service.use_case}/predict")
        )

    def operations(self) -> tuple[RouteSpec, ...]:
        """Routes for probes and operators."""
        health = {
            200: Answer("A model is loaded", Health, Health(ok=True, detail="model_loaded")),
            503: Answer("No model yet", Health, Health(ok=False, detail="no_promoted_model")),
        }
        return (
            RouteSpec(
                path="/healthz",
                methods=("GET", "POST"),
                endpoint=self.health,
                summary="Can this process score?",
                description="For load balancers; a body is ignored.",
                answers=health,
            ),
            RouteSpec(
                path="/health",
                methods=("GET",),
                endpoint=self.health,
                summary="Can this process score?",
                description="The same under LitServe's own path.",
                answers=health,
            ),
            RouteSpec(
                path="/readyz",
                methods=("GET",),
                endpoint=self.readiness,
                summary="What this process serves and what it refused",
                description="A refused model or snapshot leaves the one before in use.",
                answers={
                    200: Answer("Ready", Readiness, examples.READY),
                    503: Answer("Not ready", Readiness, examples.NOT_READY),
                },
            ),
            RouteSpec(
                path="/metrics",
                methods=("GET",),
                endpoint=self.metrics,
                summary="What all processes of this server count",
                description="In Prometheus' text format; times are seconds, money is cents.",
                answers={200: TextAnswer("Metrics", METRICS_TYPE, examples.METRICS)},
            ),
        )

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        began_ns = time.perf_counter_ns()
        explain = _explain_of(request)
        body = await read_body(request, self._settings.max_body_bytes)
        orders = decode_body(body, PREDICT).requests
        if len(orders) > self._settings.max_batch_rows:
            raise ProblemError(
                413,
                "Too many rows",
                f"The body has {len(orders)} requests, at most {self._settings.max_batch_rows} are "
                "taken at once; split it.",
            )
        rows = _rows(orders)
        # Whoever was to answer owns the error when nobody does.
        request.scope[VARIANT] = _one(self._service.variants(rows))
        answer = await self._service.predict(orders, rows, explain, began_ns=began_ns)
        request.scope[VARIANT] = _one({found.variant for found in answer.predictions})
        return json_response(answer)

    async def health(self, _request: Request) -> Response:
        """GET and POST /healthz, GET /health."""
        health = self._service.health()
        return json_response(health, 200 if health.ok else 503)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics."""
        text = await asyncio.get_running_loop().run_in_executor(None, exposition)
        return Response(text, media_type=METRICS_TYPE)

    async def readiness(self, _request: Request) -> Response:
        """GET /readyz."""
        readiness = self._service.readiness()
        return json_response(readiness, 200 if readiness.ready else 503)


def _one(variants: Set[str]) -> str:
    """The variant that a request is counted under."""
    if len(variants) > 1:
        return MIXED
    return next(iter(variants), NO_VARIANT)


def _rows(orders: Sequence[Order]) -> list[Row]:
    now_us = time.time_ns() // NANOSECONDS
    return [
        order_row(order, path=f"$.requests[{i}]", now_us=now_us) for i, order in enumerate(orders)
    ]


def _explain_of(request: Request) -> Explain:
    if not request.scope["query_string"]:
        return "auto"
    asked = dict(request.query_params)
    value = asked.pop("explain", "auto")
    if asked:
        where = f"query.{next(iter(asked))[:64]}"
        raise invalid_field(where, "is not a known parameter; known is explain")
    for allowed in _EXPLAIN:
        if value == allowed:
            return allowed
    where = "query.explain"
    raise invalid_field(where, f"must be one of {', '.join(_EXPLAIN)}", value)


async def read_body(request: Request, limit: int, *, seconds: float = BODY_SECONDS) -> bytes:
    """The request's body.

    Raises:
        ProblemError: 413 above `limit` bytes, 408 when it takes longer than `seconds`, 400 when
            the client hangs up.
    """
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    body = b""
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body = body + chunk if body else chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise ProblemError(
            408,
            "Body timeout",
            f"The body did not arrive within {seconds:g} s.",
            headers={"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise ProblemError(
            400, "Incomplete body", "The connection closed before the body was complete."
        ) from error
    return body


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        413, "Body too large", f"The body may have {limit} bytes at most; split the request."
    )
