"""Spans, as a collector receives them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ibook_assets.core.settings import Settings
from ibook_assets.models.bundle import ModelBundle
from tests.serving.harness import ORDER, promote, running

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """An OTLP collector: its address, and the spans it got."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found = ExportTraceServiceRequest.FromString(body)
            spans.extend(
                span
                for resource in found.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", spans
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, object]:
    """Its attributes as plain values."""
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_each_request_is_one_span_below_the_callers(
    settings: Settings, bundle: ModelBundle
) -> None:
    promote(settings, bundle)
    with collector() as (address, spans):
        with running(settings, environment={"IBOOK_OTLP_ENDPOINT": address}) as server:
            headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
            server.client.post("/predict", json={"requests": [ORDER]}, headers=headers)
            server.client.post("/predict", content=b"{")
            assert server.terminate() == 0
        first, second = [span for span in spans if span.name == "POST /predict"]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert attributes(first) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "ibook.model_variant": "champion",
    }
    assert attributes(second)["http.response.status_code"] == 400
    assert first.end_time_unix_nano > first.start_time_unix_nano


def test_a_collector_that_is_away_costs_no_answer(settings: Settings, bundle: ModelBundle) -> None:
    promote(settings, bundle)
    environment = {"IBOOK_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with running(settings, environment=environment) as server:
        answers = [
            httpx.post(f"{server.url}/predict", json={"requests": [ORDER]}).status_code
            for _ in range(20)
        ]
    assert answers == [200] * 20
