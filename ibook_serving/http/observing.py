"""Every request counted, timed and traced, whatever becomes of it."""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ibook_serving.http.problems import ProblemError
from ibook_serving.http.routes import Endpoint
from ibook_serving.telemetry.metrics import NO_VARIANT, Metrics
from ibook_serving.telemetry.spans import Spans

VARIANT: Final = "ibook.variant"
"""Where in the request's scope a handler says which variant answered."""


def observed(route: str, endpoint: Endpoint, metrics: Metrics, spans: Spans) -> Endpoint:
    """`endpoint`, observed under the name of its `route`."""

    async def answer(request: Request) -> Response:
        began = time.perf_counter()
        status = 500
        with spans.request(request.method, route, request.headers) as span:
            try:
                response = await endpoint(request)
                status = response.status_code
            except ProblemError as problem:
                status = problem.status
                raise
            finally:
                variant = request.scope.get(VARIANT, NO_VARIANT)
                metrics.request(route, status, variant, time.perf_counter() - began)
                if span is not None:
                    span.set_attribute("http.response.status_code", status)
                    span.set_attribute("ibook.model_variant", variant)
        return response

    return answer
