"""One use case being served: its models, its features, and the swap to whatever comes next."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from ibook_assets.core.errors import NoPromotedModelError
from ibook_assets.core.times import SECOND_US, from_us
from ibook_serving.api import (
    Explain,
    Health,
    Order,
    Prediction,
    PredictResponse,
    Readiness,
    Reason,
    Refusal,
    ReloadResponse,
)
from ibook_serving.http.decode import Row
from ibook_serving.http.problems import ProblemError
from ibook_serving.scoring.batching import Batcher
from ibook_serving.scoring.following import Follower
from ibook_serving.scoring.mirroring import Mirror
from ibook_serving.scoring.ports import Deployment, FeatureSource, Lane, Recorder, Served
from ibook_serving.scoring.rows import Scored, score_rows
from ibook_serving.telemetry.metrics import Metrics

POLL_SECONDS: Final = 0.25
"""How often each process looks for a new promotion or snapshot."""
EXPLAIN_ROWS: Final = 2_000
"""Rows waiting for an explanation at most; above, answers come without, labelled (rows)."""
WAITING_BATCHES: Final = 8
"""Full-sized requests that may wait before new ones are refused."""
NANOSECONDS: Final = 1_000

REASONS_OVERLOADED: Final = "reasons_overloaded"
"""Too much waits for its explanation: this answer came without."""

_log = logging.getLogger(__name__)


class ScoringService:
    """Scores orders of one use case with whatever is promoted at the moment."""

    def __init__(
        self,
        use_case: str,
        *,
        deployments: Follower[Any, Deployment],
        features: FeatureSource,
        feature_names: Sequence[str],
        recorder: Recorder,
        metrics: Metrics,
        max_batch_rows: int,
    ) -> None:
        """Make a service; nothing is loaded yet.

        Args:
            use_case: what it predicts.
            deployments: finds and loads what is promoted.
            features: where the orders' features come from.
            feature_names: features of the use case, to warm up with.
            recorder: the prediction log.
            metrics: what is counted.
            max_batch_rows: rows one request may have.
        """
        self.use_case = use_case
        self._feature_names = feature_names
        self._deployments = deployments
        self._features = features
        self._recorder = recorder
        self._metrics = metrics
        self._mirror = Mirror(recorder, metrics)
        self._batcher: Batcher[Deployment, Row, Scored] = Batcher(
            self._score, limit=WAITING_BATCHES * max_batch_rows
        )
        self._explaining = 0
        self._prefix = "0"
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, supervisor: int) -> None:
        """Load what is published and begin to follow it; call in the process that serves.

        Args:
            supervisor: process id of the parent, without which this process must not go on.
        """
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self._recorder.start()
        self._mirror.start()
        # Request ids must differ between processes and restarts.
        self._prefix = secrets.token_hex(4)
        await self._refresh(force=False)
        # Kernels load on first use, and that use must not be somebody's request.
        await self._features.fetch(self._feature_names, [{}])
        self._tasks.append(asyncio.create_task(self._follow(supervisor)))

    async def stop(self) -> None:
        """Stop following; call when the last request is answered."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._mirror.stop()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._explainer.shutdown(wait=False, cancel_futures=True)
        await self._features.close()
        self._recorder.stop()

    async def predict(
        self, orders: Sequence[Order], rows: Sequence[Row], explain: Explain, *, began_ns: int
    ) -> PredictResponse:
        """Score `rows`, the decoded `orders`, with one deployment.

        Args:
            orders: what the client sent.
            rows: the same in the platform's units.
            explain: which of them get reasons.
            began_ns: when the request was met, by `time.perf_counter_ns`.

        Raises:
            ProblemError: 503 when nothing is promoted or too much is waiting.
        """
        deployment = self._require_deployment()
        scored = await self._batcher.submit(deployment, rows)
        answers = self._answers(deployment, orders, rows, scored, began_ns)
        self._recorder.record(answers)
        self._metrics.predictions(answers)
        if deployment.mirror is not None:
            self._show_shadows(deployment, scored, answers)
        wanted = [
            i
            for i, answer in enumerate(answers)
            if explain == "true"
            or (explain == "auto" and answer.score >= answer.lane.loaded.model.threshold)
        ]
        reasons = await self._explain(answers, wanted) if wanted else {}
        if reasons is None:
            unexplained, reasons = frozenset(wanted), {}
        else:
            unexplained = frozenset()
        return PredictResponse(
            predictions=tuple(
                _prediction(answer, reasons.get(i), unexplained=i in unexplained)
                for i, answer in enumerate(answers)
            )
        )

    def variants(self, rows: Sequence[Row]) -> set[str]:
        """The variants whose turn it is to answer `rows`; empty while nothing is promoted."""
        deployment = self._deployments.loaded
        if deployment is None:
            return set()
        return {deployment.lane_of(row["user_id"]).variant for row in rows}  # type: ignore[arg-type]

    async def _score(self, deployment: Deployment, rows: Sequence[Row]) -> list[Scored]:
        return await score_rows(self._features, deployment, rows)

    def _answers(
        self,
        deployment: Deployment,
        orders: Sequence[Order],
        rows: Sequence[Row],
        scored: Sequence[Scored],
        began_ns: int,
    ) -> list[Served]:
        latency_us = (time.perf_counter_ns() - began_ns) // NANOSECONDS
        now_us = time.time_ns() // NANOSECONDS
        return [
            Served(
                request_id=order.request_id or f"{self._prefix}-{next(self._numbers):x}",
                row=row,
                transaction_id=order.transaction_id,
                lane=found.lane,
                sequence=deployment.sequence,
                experiment=deployment.experiment,
                values=deployment.seen_by(found.lane, found.values),
                score=found.score,
                decision=found.lane.decision(found.score),
                fetched=found.fetched,
                unknown=found.unknown,
                served_us=now_us,
                latency_us=latency_us,
                answered=True,
            )
            for order, row, found in zip(orders, rows, scored, strict=True)
        ]

    def _show_shadows(
        self, deployment: Deployment, scored: Sequence[Scored], answers: Sequence[Served]
    ) -> None:
        assert deployment.mirror is not None
        seen: dict[Lane, list[int]] = {}
        for i, answer in enumerate(answers):
            user_id: int = answer.row["user_id"]  # type: ignore[assignment]
            for lane in deployment.mirror(user_id):
                seen.setdefault(lane, []).append(i)
        for lane, places in seen.items():
            values = np.stack([deployment.seen_by(lane, scored[i].values) for i in places])
            self._mirror.show(lane, values, [answers[i] for i in places])

    async def _explain(
        self, answers: Sequence[Served], wanted: Sequence[int]
    ) -> dict[int, tuple[Reason, ...]] | None:
        """Reasons by row, or None when too many rows are waiting for theirs."""
        if self._explaining and self._explaining + len(wanted) > EXPLAIN_ROWS:
            return None
        self._explaining += len(wanted)
        try:
            # Exact SHAP values take milliseconds a row; the event loop has others to serve.
            return await asyncio.get_running_loop().run_in_executor(
                self._explainer, _reasons, answers, wanted
            )
        finally:
            self._explaining -= len(wanted)

    @property
    def deployment(self) -> Deployment | None:
        """What answers at present; None while nothing is promoted."""
        return self._deployments.loaded

    def health(self) -> Health:
        """Whether a model is loaded."""
        loaded = self._deployments.loaded is not None
        return Health(ok=loaded, detail="model_loaded" if loaded else "no_promoted_model")

    def readiness(self) -> Readiness:
        """What is served and what was refused."""
        deployment = self._deployments.loaded
        as_of_us = self._features.as_of_us
        return Readiness(
            ready=deployment is not None,
            use_case=self.use_case,
            model_version=deployment.champion.loaded.version if deployment else None,
            record_sequence=deployment.sequence if deployment else None,
            online_snapshot=self._features.store,
            features_as_of=None if as_of_us is None else _iso(as_of_us),
            refusals=self._refusals(),
            process=os.getpid(),
        )

    async def reload(self, expected: str | None) -> ReloadResponse:
        """Look for a promotion now.

        Raises:
            ProblemError: 409 when `expected` is not serving afterwards or the newest was refused,
                503 when nothing is promoted.
        """
        swapped = await self._refresh(force=True)
        refusal = self._deployments.refusal
        if refusal is not None:
            raise ProblemError(
                409, "Refused", f"{refusal.what} {refusal.name} was refused: {refusal.reason}"
            )
        deployment = self._require_deployment()
        version = deployment.champion.loaded.version
        if expected is not None and version != expected:
            raise ProblemError(
                409,
                "Not serving that version",
                f"{version} is promoted, not {expected}; promote it first.",
            )
        return ReloadResponse(
            model_version=version, record_sequence=deployment.sequence, swapped=swapped
        )

    def _require_deployment(self) -> Deployment:
        deployment = self._deployments.loaded
        if deployment is None:
            refusal = self._deployments.refusal
            raise ProblemError(
                503,
                "No model",
                f"{refusal.what} {refusal.name} was refused: {refusal.reason}"
                if refusal
                else str(NoPromotedModelError(self.use_case)),
                headers={"Retry-After": "1"},
            )
        return deployment

    async def _refresh(self, *, force: bool) -> bool:
        await self._features.refresh(self._loader, force=force)
        before = self._deployments.loaded
        swapped = await self._deployments.refresh(self._loader, force=force)
        if swapped and self._deployments.loaded is not None:
            self._metrics.deployed(before, self._deployments.loaded)
        self._tell_state()
        return swapped

    def _tell_state(self) -> None:
        now_us = time.time_ns() // NANOSECONDS
        deployment, as_of_us = self._deployments.loaded, self._features.as_of_us
        self._metrics.state(
            queue_rows=self._batcher.pending,
            refusals=len(self._refusals()),
            model_age_seconds=None if deployment is None else _age(now_us, deployment.since_us),
            feature_age_seconds=None if as_of_us is None else _age(now_us, as_of_us),
            skipped=self._mirror.skipped,
            failed=self._mirror.failed,
            unlogged=self._recorder.dropped,
            breakers=self._features.breakers,
        )

    def _refusals(self) -> tuple[Refusal, ...]:
        own = self._deployments.refusal
        return (*(() if own is None else (own,)), *self._features.refusals)

    async def _follow(self, supervisor: int) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._refresh(force=False)
            if os.getppid() != supervisor:
                _log.error("the supervisor is gone; draining", extra={"supervisor": supervisor})
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _reasons(answers: Sequence[Served], wanted: Sequence[int]) -> dict[int, tuple[Reason, ...]]:
    found: dict[int, tuple[Reason, ...]] = {}
    for lane in dict.fromkeys(answers[i].lane for i in wanted):
        mine = [i for i in wanted if answers[i].lane is lane]
        values = np.stack([answers[i].values for i in mine])
        contributions = lane.loaded.model.explain(values)
        for i, row, shares in zip(mine, values, contributions, strict=True):
            found[i] = lane.loaded.reasons.write(row, shares[:-1])
    return found


def _prediction(
    answer: Served, reasons: tuple[Reason, ...] | None, *, unexplained: bool
) -> Prediction:
    fetched = answer.fetched
    labels = (*fetched.degraded, REASONS_OVERLOADED) if unexplained else fetched.degraded
    return Prediction(
        request_id=answer.request_id,
        transaction_id=answer.transaction_id,
        score=answer.score,
        decision=answer.decision,
        threshold=answer.lane.loaded.model.threshold,
        reasons=reasons,
        model_version=answer.lane.loaded.version,
        variant=answer.lane.variant,
        features_as_of=None if fetched.as_of_us is None else _iso(fetched.as_of_us),
        unknown_entities=answer.unknown,
        degraded=labels,
    )


def _age(now_us: int, then_us: int) -> float:
    return max(0.0, (now_us - then_us) / SECOND_US)


def _iso(timestamp_us: int) -> str:
    return from_us(timestamp_us).isoformat().replace("+00:00", "Z")
