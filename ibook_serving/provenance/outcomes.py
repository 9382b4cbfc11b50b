"""`POST /experiments/{id}/outcomes`: what became of predictions that an experiment counts."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import StoreUnavailableError
from ibook_assets.core.ids import entity_id
from ibook_assets.core.messages import OUTCOME_LOG, encode
from ibook_assets.core.predictions import Trace
from ibook_assets.core.promotion import PromotionRecord
from ibook_assets.core.settings import Settings
from ibook_assets.core.tables import EXPERIMENT_OUTCOMES
from ibook_assets.core.times import MINUTE_US, to_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.outbox import Entry
from ibook_assets.stores.promotions import PromotionLog
from ibook_assets.stores.traces import TraceStore, open_traces
from ibook_serving.api import NAME, Amount, Identifier
from ibook_serving.http.decode import cents, decode_body
from ibook_serving.http.endpoints import read_body
from ibook_serving.http.idempotency import IDEMPOTENCY_KEY, KEY_PROBLEMS, idempotent
from ibook_serving.http.names import path_name, path_parameter
from ibook_serving.http.problems import ProblemError, invalid_field
from ibook_serving.http.routes import Answer, RouteSpec, json_response

AHEAD_US: Final = 5 * MINUTE_US
"""How far in the future an outcome may have happened: clocks differ (microseconds)."""
ID_CHARACTERS: Final = 32
BUSY_REQUESTS: Final = 64
"""Requests in one process that may wait for the disk."""

_KINDS: Final = EXPERIMENT_OUTCOMES.column("outcome").allowed or ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one prediction or order turned out to be."""

    outcome: Annotated[
        str,
        Meta(
            pattern=f"^({'|'.join(_KINDS)})$(?!\\n)",
            description="What it turned out to be",
            extra_json_schema={"enum": list(_KINDS)},
        ),
    ]
    request_id: Annotated[
        Annotated[str, Meta(pattern=NAME)] | None,
        Meta(description="The prediction; this or `transaction_id` is needed"),
    ] = None
    transaction_id: Annotated[Identifier | None, Meta(description="The order")] = None
    occurred_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When it was established, with a time zone; now when left out"),
    ] = None
    amount: Annotated[Amount | None, Meta(description="Amount at stake, in currency units")] = None


class OutcomesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes to report together."""

    outcomes: Annotated[list[Outcome], Meta(min_length=1, description="What became of them")]


class OutcomesResponse(msgspec.Struct, frozen=True):
    """What was kept."""

    accepted: Annotated[int, Meta(description="Outcomes that were new")]
    repeated: Annotated[int, Meta(description="Outcomes that had been reported before")]


_BODY: Final = msgspec.json.Decoder(OutcomesRequest)


class Outcomes:
    """Keeps reported outcomes durably beside the traces, from where they are shipped."""

    def __init__(self, settings: Settings, blobs: Blobs, use_case: str) -> None:
        """Make the route; nothing is opened yet.

        Args:
            settings: limits, and whether anything is logged.
            blobs: the lake, whose promotion log names experiments.
            use_case: whose log.
        """
        self._settings = settings
        self._log = PromotionLog(blobs)
        self._use_case = use_case
        self._idempotent = idempotent(settings, read_body)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        self._waiting = 0
        self._head: PromotionRecord | None = None
        self._experiments: frozenset[str] = frozenset()

    def routes(self) -> tuple[RouteSpec, ...]:
        """The route and its documentation."""
        return (
            RouteSpec(
                path="/experiments/{experiment}/outcomes",
                methods=("POST",),
                endpoint=self._idempotent.once(self.report),
                summary="Report what became of predictions",
                description="Outcomes are on the disk when this answers and join the prediction "
                "log. The same outcome reported again counts once; of several outcomes of one "
                "order the latest known counts.",
                body=OutcomesRequest,
                body_example=_EXAMPLE,
                parameters=(
                    path_parameter("experiment", "An experiment that the promotion log names."),
                    IDEMPOTENCY_KEY,
                ),
                answers={202: Answer("They are kept", OutcomesResponse, OutcomesResponse(2, 0))},
                problems={
                    **KEY_PROBLEMS,
                    404: "Unknown experiment: the promotion log names no such experiment",
                    503: "Unavailable: nothing can be kept now",
                },
            ),
        )

    async def report(self, request: Request) -> Response:
        """POST /experiments/{experiment}/outcomes."""
        experiment = path_name(request, "experiment")
        body = await read_body(request, self._settings.max_body_bytes)
        reported = decode_body(body, _BODY).outcomes
        if len(reported) > self._settings.max_batch_rows:
            raise ProblemError(
                413,
                "Too many rows",
                f"The body has {len(reported)} outcomes, at most {self._settings.max_batch_rows} "
                "are taken at once; split it.",
            )
        now_us = time.time_ns() // 1_000
        rows = [_row(o, experiment, f"$.outcomes[{i}]", now_us) for i, o in enumerate(reported)]
        answer = await self._in_thread(lambda: self._keep(experiment, rows))
        return json_response(answer, 202)

    async def _in_thread(self, work: Callable[[], OutcomesResponse]) -> OutcomesResponse:
        if self._settings.prediction_log == "off":
            raise ProblemError(
                503, "Closed", "IBOOK_PREDICTION_LOG is off: outcomes would not be kept."
            )
        if self._waiting >= BUSY_REQUESTS:
            raise ProblemError(
                503, "Busy", f"{self._waiting} requests wait.", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except StoreUnavailableError as error:
            raise ProblemError(
                503, "Unavailable", "Outcomes cannot be kept now.", headers={"Retry-After": "5"}
            ) from error
        finally:
            self._waiting -= 1

    def _keep(self, experiment: str, rows: Sequence[dict[str, Any]]) -> OutcomesResponse:
        if not self._is_known(experiment):
            raise ProblemError(
                404,
                "Unknown experiment",
                f"The promotion log of {self._use_case} names no experiment {experiment}.",
            )
        new = 0
        for row in rows:
            found = [] if row["request_id"] is None else self._store.find(row["request_id"])
            message = encode(OUTCOME_LOG, row | _unit(found, experiment))
            new += self._store.outcomes.append_new(
                Entry(row["outcome_id"], row["known_ts"], message)
            )
        return OutcomesResponse(new, len(rows) - new)

    def _is_known(self, experiment: str) -> bool:
        head = self._log.current(self._use_case, known=self._head)
        if head is not None and head is not self._head:
            history = self._log.history(self._use_case)
            self._experiments = frozenset(r.experiment for r in history if r.experiment)
            self._head = head
        return experiment in self._experiments

    @cached_property
    def _store(self) -> TraceStore:
        return open_traces(self._settings)


def _row(outcome: Outcome, experiment: str, path: str, now_us: int) -> dict[str, Any]:
    """The row of EXPERIMENT_OUTCOMES, its unit and variant left out."""
    if outcome.request_id is None and outcome.transaction_id is None:
        where = f"{path}.request_id"
        raise invalid_field(where, "is required where there is no transaction_id")
    occurred_us = now_us if outcome.occurred_at is None else to_us(outcome.occurred_at)
    if not 0 <= occurred_us <= now_us + AHEAD_US:
        where = f"{path}.occurred_at"
        raise invalid_field(where, "must be 1970 or later and not ahead", outcome.occurred_at)
    said = msgspec.json.encode((experiment, msgspec.to_builtins(outcome)))
    order = outcome.transaction_id
    return {
        "outcome_id": hashlib.sha256(said).hexdigest()[:ID_CHARACTERS],
        "occurred_ts": occurred_us,
        "known_ts": now_us,
        "experiment": experiment,
        "request_id": outcome.request_id,
        "transaction_id": None if order is None else entity_id(order),
        "outcome": outcome.outcome,
        "amount_cents": None
        if outcome.amount is None
        else cents(outcome.amount, path=f"{path}.amount"),
    }


def _unit(traces: Sequence[Trace], experiment: str) -> dict[str, Any]:
    """Who was assigned what, as far as a trace of the experiment is on this machine."""
    mine = [t for t in traces if t.served and t.experiment == experiment]
    if not mine:
        return {}
    unit = {"user_id": mine[-1].user_id, "variant": mine[-1].variant}
    order = mine[-1].transaction_id
    return unit if order is None else {**unit, "transaction_id": order}


_EXAMPLE: Final = {
    "outcomes": [
        {"request_id": "checkout-7f3a", "outcome": "fraud", "amount": "1940.00"},
        {"transaction_id": "order-77", "outcome": "legitimate"},
    ]
}
