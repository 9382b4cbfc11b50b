"""One use case being served: the model, its features, and the swap to whatever comes next."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import NoPromotedModelError
from ibook_assets.core.times import from_us
from ibook_serving.api import (
    Health,
    Order,
    Prediction,
    PredictResponse,
    Readiness,
    Reason,
    ReloadResponse,
)
from ibook_serving.batching import Batcher
from ibook_serving.decode import Row
from ibook_serving.following import Follower
from ibook_serving.ports import Champion, Features
from ibook_serving.problems import ProblemError

Explain = Literal["auto", "true", "false"]

POLL_SECONDS: Final = 0.25
"""How often each process looks for a new promotion or snapshot."""
EXPLAIN_ROWS: Final = 2_000
"""Rows waiting for an explanation at most; above, answers come without, labelled (rows)."""
WAITING_BATCHES: Final = 8
"""Full-sized requests that may wait before new ones are refused."""

APPROVE: Final = "approve"
REVIEW: Final = "review"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """A model and a snapshot that answer together; replaced as a whole, never changed."""

    champion: Champion
    features: Features


@dataclass(frozen=True, slots=True)
class _Scored:
    values: npt.NDArray[np.float32]
    score: float
    unknown: tuple[str, ...]


def _score(serving: Serving, rows: Sequence[Row]) -> list[_Scored]:
    model = serving.champion.model
    fetched = serving.features.fetch(model.feature_names, rows)
    scores = model.score(fetched.values).tolist()
    return [
        _Scored(values, score, unknown)
        for values, score, unknown in zip(fetched.values, scores, fetched.unknown, strict=True)
    ]


class ScoringService:
    """Scores orders of one use case with whatever is promoted at the moment."""

    def __init__(
        self,
        use_case: str,
        *,
        champions: Follower[Any, Champion],
        features: Follower[Any, Features],
        no_history: Features,
        feature_names: Sequence[str],
        max_batch_rows: int,
    ) -> None:
        """Make a service; nothing is loaded yet.

        Args:
            use_case: what it predicts.
            champions: finds and loads the promoted model.
            features: finds and loads the published history.
            no_history: stands in, labelled, while no history is published or loads.
            feature_names: features of the use case, to warm up with.
            max_batch_rows: rows one request may have.
        """
        self.use_case = use_case
        self._feature_names = feature_names
        self._champions = champions
        self._features = features
        self._no_history = no_history
        self._batcher: Batcher[Serving, Row, _Scored] = Batcher(
            _score, limit=WAITING_BATCHES * max_batch_rows
        )
        self._serving: Serving | None = None
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
        # Request ids must differ between processes and restarts.
        self._prefix = secrets.token_hex(4)
        await self._refresh(force=False)
        # Kernels load on first use, and that use must not be somebody's request.
        await asyncio.get_running_loop().run_in_executor(
            self._loader, self._no_history.fetch, self._feature_names, [{}]
        )
        self._tasks.append(asyncio.create_task(self._follow(supervisor)))

    async def stop(self) -> None:
        """Stop following; call when the last request is answered."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._explainer.shutdown(wait=False, cancel_futures=True)

    async def predict(
        self, orders: Sequence[Order], rows: Sequence[Row], explain: Explain
    ) -> PredictResponse:
        """Score `rows`, the decoded `orders`, with one model and one snapshot.

        Raises:
            ProblemError: 503 when nothing is promoted or too much is waiting.
        """
        serving = self._require_serving()
        scored = await self._batcher.submit(serving, rows)
        threshold = serving.champion.model.threshold
        wanted = [
            i
            for i, row in enumerate(scored)
            if explain == "true" or (explain == "auto" and row.score >= threshold)
        ]
        reasons = await self._explain(serving, scored, wanted) if wanted else {}
        as_of_us = serving.features.as_of_us
        as_of = None if as_of_us is None else _iso(as_of_us)
        degraded = serving.features.degraded
        unexplained = (*degraded, "reasons_overloaded")
        return PredictResponse(
            predictions=tuple(
                Prediction(
                    request_id=order.request_id or f"{self._prefix}-{next(self._numbers):x}",
                    transaction_id=order.transaction_id,
                    score=row.score,
                    decision=REVIEW if row.score >= threshold else APPROVE,
                    threshold=threshold,
                    reasons=None if reasons is None else reasons.get(i),
                    model_version=serving.champion.version,
                    features_as_of=as_of,
                    unknown_entities=row.unknown,
                    degraded=unexplained if reasons is None and i in wanted else degraded,
                )
                for i, (order, row) in enumerate(zip(orders, scored, strict=True))
            )
        )

    async def _explain(
        self, serving: Serving, scored: Sequence[_Scored], wanted: Sequence[int]
    ) -> dict[int, tuple[Reason, ...]] | None:
        """Reasons by row, or None when too many rows are waiting for theirs."""
        if self._explaining and self._explaining + len(wanted) > EXPLAIN_ROWS:
            return None
        self._explaining += len(wanted)
        try:
            values = np.stack([scored[i].values for i in wanted])
            # Exact SHAP values take milliseconds a row; the event loop has others to serve.
            contributions = await asyncio.get_running_loop().run_in_executor(
                self._explainer, serving.champion.model.explain, values
            )
        finally:
            self._explaining -= len(wanted)
        write = serving.champion.reasons.write
        return {
            i: write(row, shares[:-1])
            for i, row, shares in zip(wanted, values, contributions, strict=True)
        }

    def health(self) -> Health:
        """Whether a model is loaded."""
        loaded = self._serving is not None
        return Health(ok=loaded, detail="model_loaded" if loaded else "no_promoted_model")

    def readiness(self) -> Readiness:
        """What is served and what was refused."""
        serving = self._serving
        features = serving.features if serving else self._features.loaded
        as_of_us = features.as_of_us if features else None
        refusals = (self._champions.refusal, self._features.refusal)
        return Readiness(
            ready=serving is not None,
            use_case=self.use_case,
            model_version=serving.champion.version if serving else None,
            record_sequence=serving.champion.sequence if serving else None,
            online_snapshot=features.snapshot_id if features else None,
            features_as_of=None if as_of_us is None else _iso(as_of_us),
            refusals=tuple(r for r in refusals if r is not None),
            process=os.getpid(),
        )

    async def reload(self, expected: str | None) -> ReloadResponse:
        """Look for a promotion now.

        Raises:
            ProblemError: 409 when `expected` is not serving afterwards or the newest was refused,
                503 when nothing is promoted.
        """
        swapped = await self._refresh(force=True)
        refusal = self._champions.refusal
        if refusal is not None:
            raise ProblemError(
                409, "Refused", f"{refusal.what} {refusal.name} was refused: {refusal.reason}"
            )
        champion = self._require_serving().champion
        if expected is not None and champion.version != expected:
            raise ProblemError(
                409,
                "Not serving that version",
                f"{champion.version} is promoted, not {expected}; promote it first.",
            )
        return ReloadResponse(
            model_version=champion.version, record_sequence=champion.sequence, swapped=swapped
        )

    def _require_serving(self) -> Serving:
        if self._serving is None:
            refusal = self._champions.refusal
            raise ProblemError(
                503,
                "No model",
                f"{refusal.what} {refusal.name} was refused: {refusal.reason}"
                if refusal
                else str(NoPromotedModelError(self.use_case)),
                headers={"Retry-After": "1"},
            )
        return self._serving

    async def _refresh(self, *, force: bool) -> bool:
        features_changed = await self._features.refresh(self._loader, force=force)
        champion_changed = await self._champions.refresh(self._loader, force=force)
        champion = self._champions.loaded
        if champion is not None and (features_changed or champion_changed):
            # One assignment: a request sees the old pair or the new one.
            self._serving = Serving(champion, self._features.loaded or self._no_history)
        return champion_changed

    async def _follow(self, supervisor: int) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._refresh(force=False)
            if os.getppid() != supervisor:
                _log.error("the supervisor is gone; draining", extra={"supervisor": supervisor})
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _iso(timestamp_us: int) -> str:
    return from_us(timestamp_us).isoformat().replace("+00:00", "Z")
