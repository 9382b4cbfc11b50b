"""The LitServe server: scoring happens in the API process, a supervisor keeps those alive.

LitServe 0.2.19 sends each request through a manager process to an inference worker and back,
which costs more than scoring a row does; it leaves requests unanswered on SIGTERM and never
restarts a dead API process. What follows replaces those parts and keeps its application, specs
and start sequence.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Final

import litserve as ls
import msgspec
import uvicorn
from litserve.specs.base import LitSpec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ibook_assets.core.settings import Settings
from ibook_serving.http.docs_page import docs_page
from ibook_serving.http.endpoints import Endpoints
from ibook_serving.http.observing import observed
from ibook_serving.http.problems import (
    ProblemError,
    answer_crash,
    answer_http_error,
    answer_problem,
)
from ibook_serving.http.routes import Endpoint, RouteSpec, openapi_document
from ibook_serving.processes.binding import inherited_listener
from ibook_serving.processes.dispatch import Dispatcher
from ibook_serving.processes.heartbeat import Heartbeats
from ibook_serving.processes.supervisor import Supervisor
from ibook_serving.provenance.shipping import ship
from ibook_serving.scoring.service import ScoringService
from ibook_serving.telemetry.metrics import Metrics, forget_process
from ibook_serving.telemetry.spans import Spans

API_VERSION: Final = "1.0.0"
"""Version of the HTTP interface, as the OpenAPI document states it."""
DRAIN_SECONDS: Final = 15
"""Time requests in flight get to finish after SIGTERM."""
BACKLOG: Final = 2_048
"""Connections that may wait to be accepted."""
KEEP_ALIVE_SECONDS: Final = 30
LAST_CALL_TICKS: Final = 10
"""Tenths of a second after a signal in which connections are closed by their next answer. Ticks
of the event loop, not time: a loop that was held up has looked at its connections in between."""

FRAMEWORK_PATHS: Final = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")

_log = logging.getLogger(__name__)


class ScoringSpec(LitSpec):  # type: ignore[misc] # litserve has no types
    """Adds the scoring routes; they answer in the API process, no queue is involved."""

    def __init__(self, routes: Sequence[RouteSpec]) -> None:
        super().__init__()
        self.api_path = routes[0].path
        for route in routes:
            self.add_endpoint(route.path, route.endpoint, list(route.methods))

    def decode_request(self, request: Request, context_kwargs: object = None) -> Request:
        """Part of LitServe's worker path, which nothing takes: routes decode bytes themselves."""
        del context_kwargs
        return request

    def encode_response(self, output: Response, context_kwargs: object = None) -> Response:
        """Part of LitServe's worker path, which nothing takes: routes encode answers themselves."""
        del context_kwargs
        return output


class ScoringApi(ls.LitAPI):  # type: ignore[misc] # litserve has no types
    """LitServe's unit of serving; everything it does is in its spec."""

    def setup(self, device: str) -> None:
        """Nothing to do: no inference worker is started."""

    async def authorize(self) -> None:
        """Scoring is open to whoever reaches the port; async, so that no thread is involved."""


class _ApiProcess(uvicorn.Server):
    """Uvicorn that reports when it has begun to answer, and gives signs of life."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: ScoringService,
        ready: Connection,
        beat: Callable[[], None],
        entry: Dispatcher,
    ) -> None:
        super().__init__(config)
        self._entry = entry
        self._signal: int | None = None
        self._ticks_left = LAST_CALL_TICKS
        self._service = service
        self._ready = ready
        self._beat = beat

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then tell the supervisor what with."""
        await super().startup(sockets)
        self._ready.send_bytes(msgspec.json.encode(self._service.readiness()))
        self._ready.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Part of uvicorn.Server, called on a signal: send clients elsewhere, then end.

        Closing a kept connection loses the request that is on its way through it. So for
        `LAST_CALL_TICKS` each answer closes its connection and nobody new is let in; whoever is
        silent all that time is not in the middle of asking. A second signal ends at once.

        Also where nobody is connected: whom another process sends away may just come in here.
        """
        if self._signal is None:
            self._signal = sig
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Part of uvicorn.Server: runs ten times a second in the event loop."""
        self._beat()
        if self._signal is not None:
            self._last_call(self._signal)
        return await super().on_tick(counter)

    def _last_call(self, sig: int) -> None:
        if not self._entry.draining:
            self._entry.draining = True
            for server in self.servers:
                server.close()
        self._ticks_left -= 1
        # Somebody who was let in just before the doors closed is counted a tick later.
        alone = self._ticks_left < LAST_CALL_TICKS - 1 and not self.server_state.connections
        if alone or self._ticks_left == 0:
            super().handle_exit(sig, None)


class ScoringServer(ls.LitServer):  # type: ignore[misc] # litserve has no types
    """Serves one scoring service over HTTP from several supervised API processes."""

    def __init__(
        self,
        settings: Settings,
        service: ScoringService,
        metrics: Metrics,
        spans: Spans,
        *,
        beside: Sequence[RouteSpec] = (),
    ) -> None:
        """Make a server; `beside` are routes other than the service's own."""
        self._settings = settings
        self._service = service
        self._metrics = metrics
        self._spans = spans
        self._endpoints = Endpoints(service, settings)
        self._operations = (*self._endpoints.operations(), *beside)
        self._scoring: dict[str, Endpoint] = {}
        super().__init__(
            ScoringApi(spec=ScoringSpec(self._endpoints.scoring())),
            accelerator="cpu",
            devices=1,
            timeout=False,
        )
        self._document()
        # A redirect to the path without its slash would be an error that is no problem document.
        self.app.router.redirect_slashes = False
        self.app.add_exception_handler(HTTPException, answer_http_error)
        self.app.add_exception_handler(ProblemError, answer_problem)
        self.app.add_exception_handler(Exception, answer_crash)
        self.entry = Dispatcher(self.app, self._scoring)
        """What the HTTP server calls."""

    def serve(self, on_ready: Callable[[bytes], None]) -> bool:
        """Run until a signal (True) or until API processes keep dying (False).

        Args:
            on_ready: called with the readiness document of each process that starts to answer.
        """
        self._on_ready = on_ready
        self._stopped_on_request = False
        self._inherited = inherited_listener()
        self.run(
            host=self._settings.host,
            port=self._settings.port,
            # With a descriptor nothing is bound: the socket is listening already.
            fd=self._inherited,
            num_api_servers=self._settings.api_processes,
            generate_client_file=False,
            log_level="warning",
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing asks who the client is, and finding out costs something each time.
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        return self._stopped_on_request

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the model before the first request is accepted."""
        del app
        self._metrics.start()
        self._spans.start()
        await self._service.start(supervisor=self._supervisor_pid)
        # What is loaded now lives as long as the process: keep it out of every collection.
        gc.collect()
        gc.freeze()
        yield
        await self._service.stop()
        self._spans.stop()

    def _document(self) -> None:
        """Replace FastAPI's documents, which know nothing of our routes and need a CDN."""
        routes = (*self._endpoints.scoring(), *self._operations)
        document = openapi_document(routes, version=API_VERSION)
        encoded, page = msgspec.json.encode(document), docs_page(document)
        ours = {
            "/openapi.json": (encoded, "application/json"),
            "/docs": (page, "text/html; charset=utf-8"),
        }
        known = self.app.router.routes
        known[:] = [r for r in known if r.path not in FRAMEWORK_PATHS]
        for path, (content, media_type) in ours.items():
            known.append(Route(path, _static(content, media_type), methods=["GET"]))

    def _register_internal_endpoints(self) -> None:
        self._add_routes((r.path, r.endpoint, r.methods) for r in self._operations)

    def _register_spec_endpoints(self, lit_api: ls.LitAPI) -> None:
        # FastAPI's dependency resolution costs more than decoding a request; these need none.
        self._scoring.update(self._add_routes(lit_api.spec.endpoints))

    def _add_routes(
        self, routes: Iterable[tuple[str, Endpoint, Sequence[str]]]
    ) -> dict[str, Endpoint]:
        added = {}
        for path, endpoint, methods in routes:
            added[path] = observed(path, endpoint, self._metrics, self._spans)
            self.app.router.routes.append(Route(path, added[path], methods=list(methods)))
        return added

    def _register_middleware(self) -> None:
        """Leaves LitServe's gzip out: answers are small, compressing them is not free."""

    def _init_manager(self, num_api_servers: int) -> None:
        del num_api_servers
        self._shutdown_event = threading.Event()

    def launch_inference_worker(self, lit_api: ls.LitAPI) -> list[Any]:
        """No worker: API processes score."""
        del lit_api
        return []

    def verify_worker_status(self) -> None:
        """No worker to wait for."""

    def _start_server(
        self,
        port: int,
        num_uvicorn_servers: int,
        log_level: str,
        sockets: list[socket.socket],
        uvicorn_worker_type: str,
        **options: Any,  # noqa: ANN401 - uvicorn's
    ) -> dict[int, Any]:
        del uvicorn_worker_type
        self._supervisor_pid = os.getpid()
        heartbeats = Heartbeats(num_uvicorn_servers)

        def serve_process(index: int, ready: Connection) -> None:
            os.environ["LITSERVE_WORKER_ID"] = str(index)
            config = uvicorn.Config(
                self.entry,
                port=port,
                log_level=log_level,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                **options,
            )
            beat = partial(heartbeats.beat, index)
            _ApiProcess(config, self._service, ready, beat, self.entry).run(sockets)

        if self._inherited is not None:
            # Uvicorn takes any descriptor for a Unix socket's; this finds out what it is.
            sockets = [socket.socket(fileno=os.dup(self._inherited))]
        # Connections wait in the listener's queue while a dead process is replaced.
        for listener in sockets:
            listener.listen(BACKLOG)

        self._supervisor = Supervisor(
            serve_process,
            processes=num_uvicorn_servers,
            drain_seconds=DRAIN_SECONDS + 2,
            listeners=sockets,
            heartbeats=heartbeats,
            on_death=forget_process,
            attendant=None if self._settings.prediction_log == "off" else self._ship,
        )
        self._supervisor.start()
        return {}

    def _ship(self) -> None:
        ship(self._settings)

    def _start_worker_monitoring(self, manager: None, uvicorn_workers: dict[int, Any]) -> None:
        del manager, uvicorn_workers
        self._stopped_on_request = self._supervisor.watch(self._on_ready)
        self._shutdown_event.set()

    def _perform_graceful_shutdown(
        self, manager: None, uvicorn_workers: dict[int, Any], shutdown_reason: str = "normal"
    ) -> None:
        del manager, uvicorn_workers, shutdown_reason
        self._supervisor.stop()


def _static(content: bytes, media_type: str) -> Endpoint:
    async def answer(request: Request) -> Response:
        del request
        return Response(content, media_type=media_type)

    return answer
