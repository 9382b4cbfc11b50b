"""`GET /traces/{id}`: what a prediction was made from, where that comes from, and why it was so."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import ContractError, IntegrityError, StoreUnavailableError
from ibook_assets.core.predictions import Trace
from ibook_assets.core.settings import Settings
from ibook_assets.core.times import from_us
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.traces import open_traces
from ibook_serving.api import Reason
from ibook_serving.http.access import ADMIN_PROBLEMS, ADMIN_SECURITY, require_admin_key
from ibook_serving.http.names import path_name, path_parameter
from ibook_serving.http.problems import ProblemError
from ibook_serving.http.routes import Answer, RouteSpec, json_response
from ibook_serving.provenance.recording import BATCH_SECONDS
from ibook_serving.scoring.ports import Deployment, LoadedModel

MAX_WAITING: Final = 16
"""Look-ups in one process that may wait for each other."""
LAKE_DAYS: Final = 31
"""Days of the lake that are searched, newest first."""

_log = logging.getLogger(__name__)


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of the promotion log that was served."""

    sequence: int
    sha256: str
    action: str
    actor: str
    reason: str
    promoted_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    mlflow_run_id: str | None
    model_git_sha: Annotated[str, Meta(description="Commit that trained the model")]


class LearntFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Partitions of one table that the model learnt from."""

    table: str
    first: str | None
    last: str | None
    files: int
    rows: int


class TracedPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction with everything it was made from."""

    request_id: str
    variant: str
    served: Annotated[bool, Meta(description="Whether the client got it; a shadow's it did not")]
    made_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    use_case: str
    transaction_id: int | str | None
    user_id: int
    event_id: int
    experiment: str | None
    score: float
    threshold: float
    decision: str
    model_version: str
    record_sequence: int
    artefact: Annotated[str, Meta(description="SHA-256 that identifies the promoted files")]
    definition: Annotated[str, Meta(description="Hash of feature names and definitions")]
    features_as_of: Annotated[str | None, Meta(extra_json_schema={"format": "date-time"})]
    store: Annotated[str | None, Meta(description="Snapshot or version of the store that was read")]
    positions: Annotated[
        msgspec.Raw | None, Meta(description="How far the log was applied to that store")
    ]
    degraded: tuple[str, ...]
    unknown_entities: tuple[str, ...]
    latency_us: int
    request: Annotated[dict[str, Any], Meta(description="The order in the platform's units")]
    vector: Annotated[bytes, Meta(description="float32 values scored, little-endian, base64")]
    features: Annotated[
        dict[str, float | None] | None,
        Meta(description="The same by name; null while the record of the model is not at hand"),
    ]
    reasons: Annotated[
        tuple[Reason, ...] | None,
        Meta(description="SHAP values of this very vector; null when the model is not loaded"),
    ]
    training_snapshot: Annotated[str, Meta(description="Id of the training data's manifest")]
    learnt_from: Annotated[
        tuple[LearntFrom, ...] | None, Meta(description="Null without a manifest in the lake")
    ]
    promotion: Annotated[
        Promotion | None, Meta(description="Null when the log does not hold what the trace says")
    ]
    git_sha: Annotated[str, Meta(description="Commit that served")]
    container_digest: str | None
    checksum: str


class Traces(msgspec.Struct, frozen=True):
    """The traces of one request: one for each variant that scored it."""

    traces: tuple[TracedPrediction, ...]


class Lookup:
    """Finds traces on this machine, then in the lake, off the event loop."""

    def __init__(
        self, settings: Settings, blobs: Blobs, deployment: Callable[[], Deployment | None]
    ) -> None:
        """Make a look-up; nothing is opened yet.

        Args:
            settings: where traces are, and the admin key.
            blobs: the lake.
            deployment: what is loaded at present.
        """
        self._settings = settings
        self._blobs = blobs
        self._deployment = deployment
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookup")
        self._waiting = 0

    def routes(self) -> tuple[RouteSpec, ...]:
        """The route and its documentation."""
        return (
            RouteSpec(
                path="/traces/{request_id}",
                methods=("GET",),
                endpoint=self.trace,
                summary="Where a prediction comes from",
                description="The trace of each variant that scored the request, with the reasons "
                "for its score, the promotion that put the model there and the data it learnt "
                f"from. Traces of the last {LAKE_DAYS} days with predictions are found.",
                parameters=(path_parameter("request_id", "The `request_id` of an answer."),),
                security=ADMIN_SECURITY,
                answers={200: Answer("Its traces", Traces, _EXAMPLE)},
                problems={
                    **ADMIN_PROBLEMS,
                    404: "Unknown request: no trace of it is kept",
                    422: "Invalid field: what a request id looks like",
                    500: "Damaged trace: what is stored is not what was written",
                    503: "Unavailable: the store does not answer, or too many look-ups wait",
                },
            ),
        )

    async def trace(self, request: Request) -> Response:
        """GET /traces/{request_id}."""
        require_admin_key(request, self._settings)
        request_id = path_name(request, "request_id")
        if self._waiting >= MAX_WAITING:
            raise ProblemError(
                503, "Busy", f"{self._waiting} look-ups wait already.", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            found = await self._found(request_id)
        finally:
            self._waiting -= 1
        if not found:
            raise ProblemError(
                404,
                "Unknown request",
                f"There is no trace of {request_id} on this server or in the last {LAKE_DAYS} days "
                "of the lake.",
            )
        return json_response(Traces(tuple(found)))

    async def _found(self, request_id: str) -> list[TracedPrediction]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._here, request_id)
            if not found:
                # Its answer may be faster than the batch that its trace is written with.
                await asyncio.sleep(2 * BATCH_SECONDS)
                found = await loop.run_in_executor(self._thread, self._anywhere, request_id)
            return await loop.run_in_executor(self._thread, self._told, found)
        except IntegrityError as error:
            _log.error("damaged trace", extra={"request_id": request_id, "why": str(error)})
            raise ProblemError(
                500,
                "Damaged trace",
                f"What is stored of {request_id} is not what was written; the log has details.",
            ) from error
        except StoreUnavailableError as error:
            _log.error("traces unavailable", extra={"why": str(error)})
            raise ProblemError(
                503, "Unavailable", "Traces cannot be read now.", headers={"Retry-After": "5"}
            ) from error

    @cached_property
    def _archive(self) -> Any:  # noqa: ANN401 - its module is loaded with the first look-up
        from ibook_assets.stores.trace_archive import TraceArchive

        store = None if self._settings.prediction_log == "off" else open_traces(self._settings)
        return TraceArchive(self._blobs, store)

    def _here(self, request_id: str) -> list[Trace]:
        found: list[Trace] = self._archive.find(request_id, days=0)
        return found

    def _anywhere(self, request_id: str) -> list[Trace]:
        found: list[Trace] = self._archive.find(request_id, days=LAKE_DAYS)
        return found

    def _told(self, traces: Sequence[Trace]) -> list[TracedPrediction]:
        deployment = self._deployment()
        lanes = () if deployment is None else deployment.lanes
        loaded = {lane.loaded.artefact: lane.loaded for lane in lanes}
        return [self._told_one(trace, loaded.get(trace.artefact)) for trace in traces]

    def _told_one(self, trace: Trace, loaded: LoadedModel | None) -> TracedPrediction:
        from ibook_assets.stores.lineage import origin_of

        try:
            origin = origin_of(self._blobs, trace)
        except ContractError as error:
            _log.error("no origin", extra={"request_id": trace.request_id, "why": str(error)})
            origin = None
        names = origin.model.feature_names if origin else ()
        values = [None if math.isnan(value) else value for value in trace.features.tolist()]
        return TracedPrediction(
            request_id=trace.request_id,
            variant=trace.variant,
            served=trace.served,
            made_at=_iso(trace.known_ts),
            use_case=trace.use_case,
            transaction_id=trace.transaction_text or trace.transaction_id,
            user_id=trace.user_id,
            event_id=trace.event_id,
            experiment=trace.experiment,
            score=trace.score,
            threshold=trace.threshold,
            decision=trace.decision,
            model_version=trace.model_version,
            record_sequence=trace.record_sequence,
            artefact=trace.artefact,
            definition=trace.definition,
            features_as_of=None if trace.features_as_of is None else _iso(trace.features_as_of),
            store=trace.store,
            positions=msgspec.Raw(trace.positions.encode()) if trace.positions else None,
            degraded=trace.labels,
            unknown_entities=tuple(trace.unknown.split(",")) if trace.unknown else (),
            latency_us=trace.latency_us,
            request=trace.request,
            vector=trace.vector,
            features=dict(zip(names, values, strict=False)) if len(names) == len(values) else None,
            reasons=None if loaded is None else _reasons(trace, loaded),
            training_snapshot=trace.training_snapshot,
            learnt_from=_learnt_from(origin),
            promotion=_promotion(origin),
            git_sha=trace.git_sha,
            container_digest=trace.container_digest,
            checksum=trace.checksum,
        )


def _reasons(trace: Trace, loaded: LoadedModel) -> tuple[Reason, ...]:
    vector = trace.features
    contributions = loaded.model.explain(vector.reshape(1, -1))
    return loaded.reasons.write(vector, contributions[0, :-1])


def _learnt_from(origin: Any) -> tuple[LearntFrom, ...] | None:  # noqa: ANN401 - see _archive
    if origin is None or origin.partitions is None:
        return None
    return tuple(
        LearntFrom(table=p.table, first=p.first, last=p.last, files=p.files, rows=p.rows)
        for p in origin.partitions
    )


def _promotion(origin: Any) -> Promotion | None:  # noqa: ANN401 - see _archive
    if origin is None:
        return None
    record = origin.record
    return Promotion(
        sequence=record.sequence,
        sha256=record.sha256,
        action=record.action,
        actor=record.actor,
        reason=record.reason,
        promoted_at=record.promoted_at.isoformat().replace("+00:00", "Z"),
        mlflow_run_id=origin.model.mlflow_run_id,
        model_git_sha=origin.model.git_sha,
    )


def _iso(timestamp_us: int) -> str:
    return from_us(timestamp_us).isoformat().replace("+00:00", "Z")


_EXAMPLE: Final = Traces(
    traces=(
        TracedPrediction(
            request_id="checkout-7f3a",
            variant="champion",
            served=True,
            made_at="2026-03-01T10:15:00.250000Z",
            use_case="fraud",
            transaction_id=None,
            user_id=1042,
            event_id=17,
            experiment=None,
            score=0.83,
            threshold=0.31,
            decision="review",
            model_version="fraud-20260301-4be1",
            record_sequence=4,
            artefact="5f642f71aeea82be" * 4,
            definition="5096ad4737b62cdc",
            features_as_of="2026-03-01T10:14:59.900000Z",
            store="3:1024",
            positions=None,
            degraded=(),
            unknown_entities=("device",),
            latency_us=912,
            request={"user_id": 1042, "event_id": 17, "amount_cents": 194_000},
            vector=b"\x00\x00\x80?",
            features={"order_context:quantity": 1.0},
            reasons=(
                Reason(
                    feature="order_context:quantity",
                    value=1.0,
                    contribution=0.4,
                    phrase="Tickets in the order: 1 (raises the risk)",
                ),
            ),
            training_snapshot="fe060ea53606ca17" * 4,
            learnt_from=(
                LearntFrom(
                    table="facts/transactions",
                    first="2026-01-01",
                    last="2026-02-01",
                    files=32,
                    rows=115_200,
                ),
            ),
            promotion=Promotion(
                sequence=4,
                sha256="1d39fce0f2fb5e6a" * 4,
                action="promote",
                actor="ana@example.com",
                reason="better on the last four weeks",
                promoted_at="2026-03-01T02:10:00Z",
                mlflow_run_id="08e6908f9a4c4647a1f7549f5814a43c",
                model_git_sha="0" * 40,
            ),
            git_sha="0" * 40,
            container_digest=None,
            checksum="ad9372b4fe2a57a8" * 4,
        ),
    )
)
