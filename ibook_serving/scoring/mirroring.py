"""Shadows: models that look at live orders after they are answered, and answer nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ibook_serving.scoring.ports import Lane, Matrix, Recorder, Served
from ibook_serving.scoring.rows import scores_of
from ibook_serving.telemetry.metrics import Metrics

WAITING_ROWS: Final = 2_000
"""Rows that may wait for a shadow; more are not shown to it (rows)."""

_log = logging.getLogger(__name__)


class Mirror:
    """Shows answered orders to shadows, in a thread of their own and never in a hurry.

    A shadow that is slow or fails costs its own comparison: rows that find the queue full, and
    rows that it cannot score, are counted, and no answer knows of them.
    """

    def __init__(self, recorder: Recorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._waiting = 0
        self._complained: set[Lane] = set()
        self.skipped = 0
        """Rows that found the queue full since the start."""
        self.failed = 0
        """Rows that a shadow could not score since the start."""

    def start(self) -> None:
        """Begin; call in the process that serves."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    def stop(self) -> None:
        """End; what waits is not shown any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def show(self, lane: Lane, values: Matrix, answers: Sequence[Served]) -> None:
        """Let `lane` score `values`, (n, f) in its order; `answers` are what was answered."""
        if self._waiting + len(answers) > WAITING_ROWS:
            self.skipped += len(answers)
            return
        self._waiting += len(answers)
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._thread, _scored, lane, values)
        task.add_done_callback(lambda done: self._keep(lane, values, answers, done))

    def _keep(
        self,
        lane: Lane,
        values: Matrix,
        answers: Sequence[Served],
        done: asyncio.Future[tuple[list[float], float]],
    ) -> None:
        self._waiting -= len(answers)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            # Whatever is wrong with a shadow is for its owners; the orders are answered.
            self.failed += len(answers)
            self._metrics.shadow_failed(lane.variant)
            if lane not in self._complained:
                self._complained.add(lane)
                told = {"version": lane.loaded.version}
                _log.error("a shadow fails; said once", extra=told, exc_info=error)
            return
        scores, seconds = done.result()
        self._metrics.shadow_scored(lane.variant, seconds)
        self._recorder.record(
            [
                answer._replace(
                    lane=lane,
                    values=row,
                    score=score,
                    decision=lane.decision(score),
                    answered=False,
                )
                for answer, row, score in zip(answers, values, scores, strict=True)
            ]
        )


def _scored(lane: Lane, values: Matrix) -> tuple[list[float], float]:
    """Scores, and the seconds they took: without the wait for a thread that answers nobody."""
    began = time.perf_counter()
    scores: list[float] = scores_of(lane, values).tolist()
    return scores, time.perf_counter() - began
