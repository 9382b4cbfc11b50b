"""`GET /status`: what all processes of this server do, and whether that is well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ibook_assets.core.errors import IbookError, NoPromotedModelError
from ibook_assets.core.monitoring.record import DriftRecord
from ibook_serving.api import Readiness, Refusal
from ibook_serving.http.problems import ProblemError
from ibook_serving.http.routes import Answer, RouteSpec, json_response
from ibook_serving.scoring.ports import Deployment
from ibook_serving.scoring.service import ScoringService
from ibook_serving.status.api import (
    EXAMPLE,
    DriftColumn,
    DriftStatus,
    Finding,
    LaneStatus,
    Level,
    Limits,
    Status,
    Verdict,
)
from ibook_serving.status.counting import Counted, counted
from ibook_serving.status.evidence import Evidence, EvidenceReader
from ibook_serving.status.refreshing import Refreshed
from ibook_serving.telemetry.metrics import LATENCY_BUCKETS, samples

COUNTERS_SECONDS: Final = 1.0
"""How old counters may be: so many open pages cost as much as one."""
EVIDENCE_SECONDS: Final = 10.0
"""How often the lake is looked at."""
PATIENCE_SECONDS: Final = 0.5
"""How long a page waits for the lake before it is told what was known before."""
LIMITS: Final = Limits(error_share=0.01, p95_seconds=0.2)
"""What the page calls attention to: what users of the checkout would notice."""
COLUMNS_SHOWN: Final = 6

ROLLBACK: Final = '.venv/bin/ibook rollback {use_case} --reason "…"'
WITHDRAW: Final = '.venv/bin/ibook withdraw {use_case} --reason "…"'


class StatusBoard:
    """What the page and `GET /status` show, the same for both."""

    def __init__(
        self, service: ScoringService, evidence: EvidenceReader, *, processes: int
    ) -> None:
        """A board of `service`, which `processes` API processes run; nothing is read yet."""
        self._service = service
        self._processes = processes
        scoring = ("/predict", f"/{service.use_case}/predict")
        self._counted = Refreshed(
            "counters",
            lambda: counted(samples(), scoring, at=time.time()),
            seconds=COUNTERS_SECONDS,
            patience_seconds=10 * COUNTERS_SECONDS,
        )
        self._evidence = Refreshed(
            "lake", evidence.read, seconds=EVIDENCE_SECONDS, patience_seconds=PATIENCE_SECONDS
        )

    def routes(self) -> tuple[RouteSpec, ...]:
        """The route and its documentation."""
        return (
            RouteSpec(
                path="/status",
                methods=("GET",),
                endpoint=self.answer,
                summary="What this server does, and whether that is well",
                description="What the page at `/` shows: counters of all processes, at most a "
                "second old, the deployment, the newest drift record and a verdict.",
                answers={200: Answer("The status", Status, EXAMPLE)},
                problems={503: "Busy: the counters could not be read in time"},
            ),
        )

    async def answer(self, _request: Request) -> Response:
        """GET /status."""
        status, _ = await self.look()
        return json_response(status)

    async def look(self) -> tuple[Status, Evidence]:
        """The status and the evidence behind it."""
        deployment, readiness = self._service.deployment, self._service.readiness()
        known = self._evidence.value
        if known is not None and (
            readiness.refusals or known.sequence != readiness.record_sequence
        ):
            self._evidence.expire(older_than=COUNTERS_SECONDS)
        evidence = await self._evidence.get() or Evidence(self._service.use_case)
        count = await self._counted.get()
        if count is None:
            raise self._counted.failure or ProblemError(
                503,
                "Busy",
                "The counters could not be read in time; ask again.",
                headers={"Retry-After": "1"},
            )
        findings = (
            *_of_serving(readiness, count, self._processes),
            *_of_dependencies(count),
            *_of_drift(evidence.drift),
            *_of_lake(evidence, self._lake_problem()),
        )
        status = _status(
            deployment,
            readiness,
            count,
            evidence=evidence,
            findings=findings,
            processes=self._processes,
        )
        return status, evidence

    def _lake_problem(self) -> str | None:
        failure = self._evidence.failure
        if failure is not None:
            known = isinstance(failure, IbookError)
            return str(failure) if known else f"{type(failure).__name__}; see the server's log"
        return "it has not answered yet" if self._evidence.late else None


def _status(
    deployment: Deployment | None,
    readiness: Readiness,
    count: Counted,
    *,
    evidence: Evidence,
    findings: tuple[Finding, ...],
    processes: int,
) -> Status:
    lanes = () if deployment is None else deployment.lanes
    return Status(
        use_case=readiness.use_case,
        read_at=count.read_at,
        since=count.since,
        verdict=_verdict(deployment, findings),
        model_version=readiness.model_version,
        record_sequence=readiness.record_sequence,
        model_age_seconds=(None if deployment is None else _model_age(deployment, count, evidence)),
        features_as_of=readiness.features_as_of,
        feature_age_seconds=(
            None if readiness.features_as_of is None else count.feature_age_seconds
        ),
        online_store=readiness.online_snapshot,
        processes=count.processes,
        processes_expected=processes,
        queue_rows=count.queue_rows,
        swaps=count.swaps,
        shadow_rows_lost=count.shadow_rows_lost,
        predictions_unlogged=count.predictions_unlogged,
        breakers=count.breakers,
        refusals=readiness.refusals,
        lanes=tuple(
            LaneStatus(
                variant=lane.variant,
                stage=lane.stage,
                model_version=lane.loaded.version,
                share=lane.share,
                threshold=lane.loaded.model.threshold,
            )
            for lane in lanes
        ),
        answers=count.answers,
        degraded=count.degraded,
        latency_bounds_seconds=LATENCY_BUCKETS,
        variants=count.variants,
        limits=LIMITS,
        drift=None if evidence.drift is None else _drift(evidence.drift),
        evidence=evidence.digest(readiness.record_sequence),
    )


def _model_age(deployment: Deployment, count: Counted, evidence: Evidence) -> float:
    since = evidence.champion_since(deployment.sequence)
    # Until the log has been read, the age of the newest entry is the best answer.
    return count.model_age_seconds if since is None else count.read_at - since.timestamp()


def _drift(record: DriftRecord) -> DriftStatus:
    decision = record.decision
    return DriftStatus(
        day=record.day,
        state=decision.state,
        confirmed=record.confirmed,
        champion_version=record.champion_version,
        score=decision.score,
        score_threshold=decision.score_threshold,
        statistic=decision.statistic,
        threshold=decision.threshold,
        columns=tuple(
            DriftColumn(column.name, column.deviation, column.drifted)
            for column in decision.columns[:COLUMNS_SHOWN]
        ),
    )


def _verdict(deployment: Deployment | None, findings: tuple[Finding, ...]) -> Verdict:
    levels = {finding.level for finding in findings}
    level: Level = "bad" if "bad" in levels else "warn" if "warn" in levels else "well"
    if deployment is None:
        return Verdict(level, "Nothing is served", findings)
    beside = [
        f"{lane.variant} {lane.loaded.version}" for lane in deployment.challengers if lane.share > 0
    ]
    names = [deployment.champion.loaded.version, *beside]
    return Verdict(level, f"Serving {' beside '.join(names)}", findings)


def _of_serving(readiness: Readiness, count: Counted, expected: int) -> Iterator[Finding]:
    for refusal in readiness.refusals:
        yield _refused(refusal, readiness)
    if not readiness.ready and not readiness.refusals:
        why = str(NoPromotedModelError(readiness.use_case)).partition(". ")
        yield Finding("bad", f"{why[0][:1].upper()}{why[0][1:]}", "", why[2])
    if count.refusals > len(readiness.refusals):
        yield Finding(
            "bad",
            "Another process of this server refused what was published",
            "",
            "Reload this page until it answers, or look for `refused` in the server's log.",
        )
    if count.processes < expected:
        yield Finding(
            "warn",
            f"{count.processes} of {expected} processes answer",
            "",
            "The supervisor starts another one; the log says why one ended.",
        )
    if readiness.ready and readiness.features_as_of is None:
        yield Finding(
            "warn",
            "No history is published",
            "Orders are scored by what they say themselves.",
            "Materialise serving/online_snapshot, or start the stream: make stream-start.",
        )


def _refused(refusal: Refusal, readiness: Readiness) -> Finding:
    stays = "Nothing is served until then"
    if refusal.what != "model":
        stays = "What was read before stays in use"
    elif readiness.model_version is not None:
        stays = f"{readiness.model_version} stays in use"
    undo = ROLLBACK.format(use_case=readiness.use_case)
    mend = f"go back: {undo}" if refusal.what == "model" else "publish it again"
    return Finding(
        "bad",
        f"{refusal.what.replace('_', ' ').capitalize()} {refusal.name} was refused",
        refusal.reason,
        f"{stays}. Repair what is named, or {mend}",
    )


def _of_dependencies(count: Counted) -> Iterator[Finding]:
    for dependency, state in count.breakers.items():
        if state != "closed":
            yield Finding(
                "warn",
                f"The {dependency.replace('_', ' ')} is away",
                f"Its breaker is {state.replace('_', ' ')}: answers come without it meanwhile.",
                "Is it up? It is tried again by itself; the log says how it failed.",
            )
    if count.predictions_unlogged:
        yield Finding(
            "warn",
            f"{count.predictions_unlogged:,} predictions could not be logged",
            "They were answered and have no trace.",
            "Look for `predictions were not recorded` in the server's log: a full disk, or a queue "
            "that is too short for the load.",
        )


def _of_drift(record: DriftRecord | None) -> Iterator[Finding]:
    if record is None or not (record.confirmed or record.decision.score_fires):
        return
    what = "Drift is confirmed" if record.confirmed else "The drift score reaches its threshold"
    yield Finding(
        "warn",
        f"{what} on {record.day}",
        f"Against the days that {record.champion_version} learnt from.",
        "Its columns say what moved; the retraining sensor acts on confirmed drift.",
    )


def _of_lake(evidence: Evidence, problem: str | None) -> Iterator[Finding]:
    problems = (
        ("The lake cannot be read", problem),
        ("Promotions cannot be read", evidence.promotions_problem),
        ("The drift record cannot be read", evidence.drift_problem),
    )
    for what, why in problems:
        if why is not None:
            yield Finding(
                "warn", what, why, "Answers do not need it; what this page says of it may be old."
            )
