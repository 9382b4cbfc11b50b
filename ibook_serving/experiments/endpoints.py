"""`GET /experiments/{id}/summary`: where an experiment stands, computed from the lake."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import IbookError, NotFoundError, StoreUnavailableError
from ibook_assets.stores.blobs import Blobs
from ibook_serving.experiments.example import EXAMPLE
from ibook_serving.http.names import path_name, path_parameter
from ibook_serving.http.problems import ProblemError, invalid_field
from ibook_serving.http.routes import Answer, JsonResponse, RouteSpec

CACHED_SECONDS: Final = 30.0
"""Time for which a summary is answered again; what is newer has hardly been shipped."""
MAX_WAITING: Final = 16
"""Requests in one process that may wait for a summary."""
DEFAULT_WINDOW_HOURS: Final = 24
MAX_WINDOW_HOURS: Final = 24 * 365
MAX_CACHED: Final = 64
"""Summaries kept in one process."""

_WINDOW: Final = "windowHours"

_log = logging.getLogger(__name__)


class ExperimentSummaries:
    """Answers with summaries, each computed once at a time, off the event loop."""

    def __init__(self, blobs: Blobs) -> None:
        """Make the route; nothing is read yet."""
        self._blobs = blobs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="experiments")
        self._kept: dict[tuple[str, int], tuple[float, bytes]] = {}
        self._waiting = 0

    def routes(self) -> tuple[RouteSpec, ...]:
        """The route and its documentation."""
        return (
            RouteSpec(
                path="/experiments/{experiment}/summary",
                methods=("GET",),
                endpoint=self.summary,
                summary="Where an experiment stands",
                description="Rates by arm, the fixed-horizon z-test with its interval, the "
                "sequential test that may be looked at any time, the sample ratio, guardrails, and "
                "what to do: `ship`, `rollback`, `keep-running`, `no-effect` or `invalid`. "
                f"Answers may be {CACHED_SECONDS:g} s old, and what servers wrote arrives within "
                "seconds of it.",
                parameters=(
                    path_parameter("experiment", "Id of a defined experiment."),
                    {
                        "name": _WINDOW,
                        "in": "query",
                        "required": False,
                        "description": "Length of the window that `window` shows by itself; the "
                        "decision is always about the whole experiment.",
                        "schema": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": MAX_WINDOW_HOURS,
                            "default": DEFAULT_WINDOW_HOURS,
                        },
                    },
                ),
                answers={200: Answer("Its summary", type(EXAMPLE), EXAMPLE)},
                problems={
                    404: "Unknown experiment: names the experiments that are defined",
                    422: "Invalid field: what an id and windowHours look like",
                    500: "Damaged log: what is stored is not what was written",
                    503: "Unavailable: the lake does not answer, or too many requests wait",
                },
            ),
        )

    async def summary(self, request: Request) -> Response:
        """GET /experiments/{experiment}/summary."""
        name = path_name(request, "experiment")
        hours = _window_of(request)
        kept = self._newest(name, hours)
        return JsonResponse(kept or await self._computed(name, hours), 200)

    def _newest(self, name: str, hours: int) -> bytes | None:
        made, document = self._kept.get((name, hours), (0.0, b""))
        return document if document and time.monotonic() - made < CACHED_SECONDS else None

    async def _computed(self, name: str, hours: int) -> bytes:
        if self._waiting >= MAX_WAITING:
            raise ProblemError(
                503, "Busy", f"{self._waiting} requests wait.", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._compute, name, hours)
        except NotFoundError as error:
            raise ProblemError(404, "Unknown experiment", f"{error}.") from error
        except StoreUnavailableError as error:
            _log.error("experiments unavailable", extra={"why": str(error)})
            raise ProblemError(
                503,
                "Unavailable",
                "What belongs to experiments cannot be read now.",
                headers={"Retry-After": "5"},
            ) from error
        except IbookError as error:
            _log.error("no summary", extra={"experiment": name, "why": str(error)})
            raise ProblemError(
                500,
                "Damaged log",
                f"What is stored of {name} is not what was written; the log has details.",
            ) from error
        finally:
            self._waiting -= 1

    def _compute(self, name: str, hours: int) -> bytes:
        # Whoever waited for the thread finds what was computed for another meanwhile.
        kept = self._newest(name, hours)
        if kept is not None:
            return kept
        from ibook_assets.core.experiments.catalog import experiment_named

        experiment = experiment_named(name)
        now_us = time.time_ns() // 1_000
        found = self._reader.summary(experiment, window_hours=hours, now_us=now_us)
        document = msgspec.json.encode(found)
        if len(self._kept) >= MAX_CACHED:
            self._kept.clear()
        self._kept[name, hours] = time.monotonic(), document
        return document

    @cached_property
    def _reader(self) -> Any:  # noqa: ANN401 - its module is loaded with the first summary
        from ibook_assets.stores.experiments import ExperimentReader

        return ExperimentReader(self._blobs)


def _window_of(request: Request) -> int:
    asked = dict(request.query_params)
    text = asked.pop(_WINDOW, str(DEFAULT_WINDOW_HOURS))
    if asked:
        where = f"query.{next(iter(asked))[:64]}"
        raise invalid_field(where, f"is not a known parameter; known is {_WINDOW}")
    # isdecimal takes digits of every script, which int() would too: only these are documented.
    hours = int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0
    if not 1 <= hours <= MAX_WINDOW_HOURS:
        where = f"query.{_WINDOW}"
        raise invalid_field(where, f"must be a whole number from 1 to {MAX_WINDOW_HOURS}", text)
    return hours
