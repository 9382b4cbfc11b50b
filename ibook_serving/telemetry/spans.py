"""One OpenTelemetry span a request, exported off the hot path; nothing without an address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ibook_assets.core.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SERVICE: Final = "ibook-scoring"
_QUEUE: Final = 8_192
"""Spans that may wait for their export; more are dropped."""
_TIMEOUT_SECONDS: Final = 5


class Spans:
    """Begins and exports the spans of one process."""

    def __init__(self, settings: Settings) -> None:
        """Make an exporter to the collector that `settings` name; none, and nothing is done."""
        self._endpoint = settings.otlp_endpoint
        self._git_sha = settings.git_sha
        self._provider: TracerProvider | None = None

    def start(self) -> None:
        """Begin to export; call in the process that serves, for the exporter has a thread."""
        if self._endpoint is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": SERVICE, "service.version": self._git_sha})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(
            endpoint=f"{self._endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_SECONDS
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def stop(self) -> None:
        """Export what waits."""
        if self._provider is not None:
            self._provider.shutdown()

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Span | None]:
        """The span of a request, a child of the caller's when `traceparent` names one."""
        if self._provider is None:
            yield None
            return
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            f"{method} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        try:
            yield span
        finally:
            span.end()
