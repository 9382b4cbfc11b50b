"""What the server counts, over all its processes, in Prometheus' terms.

Each process writes to files of its own below one folder; whoever is asked for `/metrics` adds all
of them up. Money is expected money: what the score itself says about fraud, no label needed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibook_assets.core.costs import CostModel
from ibook_serving.scoring.breaker import STATES, Breaker
from ibook_serving.scoring.ports import REVIEW, Deployment, Served

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.samples import Sample

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0),
)  # fmt: skip
"""Upper bounds (seconds); the objectives' 50, 100 and 200 ms are among them."""
SCORE_BUCKETS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0),
)  # fmt: skip

NO_VARIANT: Final = "none"
"""Variant of a request that ended before it was any model's turn."""
MIXED: Final = "mixed"
"""Variant of a request whose orders belong to several models."""

_STAGES: Final = {
    400: "decode", 408: "decode", 413: "decode", 422: "decode", 401: "authorize",
    403: "authorize", 404: "lookup", 409: "conflict", 503: "admission",
}  # fmt: skip
"""Where a request ended, by its status; any other error is `internal`."""


def prepare_metrics(folder: Path) -> None:
    """Begin with nothing counted; call before anything imports prometheus_client."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[FOLDER_VARIABLE] = str(folder)


class Metrics:
    """Counters of one process."""

    def __init__(self, costs: CostModel) -> None:
        """Nothing is counted yet; `costs` prices the decisions."""
        self._costs = costs

    def start(self) -> None:
        """Make every metric; call in the process that counts, for each has files of its own."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        own: Any = {"namespace": "ibook", "registry": CollectorRegistry()}
        self._requests = Counter(
            "requests", "Requests answered, by route and status", ["route", "status"], **own
        )
        self._errors = Counter(
            "errors", "Requests that ended in an error, by the stage they reached",
            ["route", "stage", "model_variant"], **own,
        )  # fmt: skip
        self._latency = Histogram(
            "request_duration_seconds", "From the request's head read to its answer",
            ["route", "model_variant"], buckets=LATENCY_BUCKETS, **own,
        )  # fmt: skip
        self._predictions = Counter(
            "predictions", "Orders scored, by what became of them",
            ["model_variant", "decision"], **own,
        )  # fmt: skip
        self._scores = Histogram(
            "score", "Probability of fraud, by variant",
            ["model_variant"], buckets=SCORE_BUCKETS, **own,
        )  # fmt: skip
        self._degraded = Counter(
            "degraded_predictions", "Orders answered without something, by what was missing",
            ["reason"], **own,
        )  # fmt: skip
        self._saved = Counter(
            "fraud_saved_cents", "Expected fraud in orders sent to review (cents)",
            ["model_variant"], **own,
        )  # fmt: skip
        self._review = Counter(
            "review_cost_cents", "Expected cost of reviews, lost buyers included (cents)",
            ["model_variant"], **own,
        )  # fmt: skip
        self._swaps = Counter("swaps", "Deployments taken into use", **own)
        self._shares = Gauge(
            "lane_share", "Share of users that each variant answers or watches",
            ["model_variant", "model_version"], multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._sequence = Gauge(
            "record_sequence", "Promotion record served by the process furthest behind",
            multiprocess_mode="livemin", **own,
        )  # fmt: skip
        self._model_age = Gauge(
            "model_age_seconds", "Since the champion was promoted",
            multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._feature_age = Gauge(
            "feature_age_seconds", "Since the time that features know everything before",
            multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._queue = Gauge(
            "queue_rows", "Orders admitted and not answered", multiprocess_mode="livesum", **own
        )
        self._refusals = Gauge(
            "refusals", "Published things that a process would not take, at present",
            multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._breaker = Gauge(
            "breaker_state", "Circuit breaker of a dependency: 0 closed, 1 half-open, 2 open",
            ["dependency"], multiprocess_mode="livemax", **own,
        )  # fmt: skip
        self._opened = Gauge(
            "breaker_opened", "How often processes that live opened a breaker",
            ["dependency"], multiprocess_mode="livesum", **own,
        )  # fmt: skip
        self._lost = Gauge(
            "shadow_rows_lost", "Orders not shown to a shadow since the start, by why",
            ["why"], multiprocess_mode="livesum", **own,
        )  # fmt: skip
        self._shadow_latency = Histogram(
            "shadow_duration_seconds", "What a shadow took to score the orders of a batch",
            ["model_variant"], buckets=LATENCY_BUCKETS, **own,
        )  # fmt: skip
        self._shadow_errors = Counter(
            "shadow_errors", "Batches that a shadow failed to score", ["model_variant"], **own
        )
        self._unlogged = Gauge(
            "predictions_unlogged", "Predictions since the start that the log could not keep",
            multiprocess_mode="livesum", **own,
        )  # fmt: skip
        self._processes = Gauge(
            "processes", "API processes that answer", multiprocess_mode="livesum", **own
        )  # fmt: skip
        self._processes.set(1)
        self._since = Gauge(
            "start_time_seconds", "When counting began (Unix time)", multiprocess_mode="min", **own
        )  # fmt: skip
        self._since.set_to_current_time()
        # Finding a labelled child costs more than counting with it.
        self._child = cache(lambda metric, *labels: metric.labels(*labels))

    def request(self, route: str, status: int, variant: str, seconds: float) -> None:
        """A request to `route` was answered."""
        self._child(self._requests, route, status).inc()
        self._child(self._latency, route, variant).observe(seconds)
        if status >= 400:
            self._child(self._errors, route, _STAGES.get(status, "internal"), variant).inc()

    def predictions(self, answers: Sequence[Served]) -> None:
        """Orders were scored."""
        for answer in answers:
            variant, score = answer.lane.variant, answer.score
            self._child(self._predictions, variant, answer.decision).inc()
            self._child(self._scores, variant).observe(score)
            for reason in answer.fetched.degraded:
                self._child(self._degraded, reason).inc()
            if answer.decision == REVIEW:
                amount: Any = answer.row["amount_cents"]
                self._child(self._saved, variant).inc(
                    float(self._costs.passed_cents(score, amount))
                )
                self._child(self._review, variant).inc(float(self._costs.held_cents(score, amount)))

    def shadow_scored(self, variant: str, seconds: float) -> None:
        """A shadow scored a batch."""
        self._child(self._shadow_latency, variant).observe(seconds)

    def shadow_failed(self, variant: str) -> None:
        """A shadow could not score a batch."""
        self._child(self._shadow_errors, variant).inc()

    def deployed(self, before: Deployment | None, after: Deployment) -> None:
        """`after` took the place of `before`."""
        for deployment, share in ((before, 0.0), (after, None)):
            for lane in deployment.lanes if deployment else ():
                child = self._child(self._shares, lane.variant, lane.loaded.version)
                child.set(lane.share if share is None else share)
        self._swaps.inc()
        self._sequence.set(after.sequence)

    def state(
        self,
        *,
        queue_rows: int,
        refusals: int,
        model_age_seconds: float | None,
        feature_age_seconds: float | None,
        skipped: int,
        failed: int,
        unlogged: int,
        breakers: Mapping[str, Breaker],
    ) -> None:
        """How things stand now; None leaves what was said before."""
        self._queue.set(queue_rows)
        self._refusals.set(refusals)
        if model_age_seconds is not None:
            self._model_age.set(model_age_seconds)
        if feature_age_seconds is not None:
            self._feature_age.set(feature_age_seconds)
        self._child(self._lost, "queue_full").set(skipped)
        self._child(self._lost, "failed").set(failed)
        self._unlogged.set(unlogged)
        for dependency, breaker in breakers.items():
            self._child(self._breaker, dependency).set(STATES.index(breaker.state))
            self._child(self._opened, dependency).set(breaker.opened)


def exposition() -> bytes:
    """The metrics of all processes as text; reads files, so not for the event loop."""
    from prometheus_client import generate_latest

    return generate_latest(_all_processes())


def samples() -> list[Sample]:
    """The same, each number by itself."""
    return [sample for family in _all_processes().collect() for sample in family.samples]


def _all_processes() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget_process(pid: int) -> None:
    """Drop what a dead process said of the present; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
