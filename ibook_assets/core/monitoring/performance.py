"""Labelled performance: how the champion ranked matured days, against its promise.

Two measures of a day's ranking: average precision, which is what is promised and lost, and logAUC,
which every fraud has an equal say in and which therefore shows half as large a loss in as many
days. Both are noisy, so days are added up: a one-sided CUSUM of how far each is below the promise,
in the promise's own standard deviations. The promise is what the champion reached, day by day, on
the evaluation rows it was promoted on. The decision limit is one for the larger of both sums, found
by drawing runs of neighbouring promised days, the promise itself drawn anew each time: what is not
known well enough raises the limit.

Average precision grows with the share of fraud. Each day is therefore weighed as if it had the
promised share: more or less fraud is the business of the confirmed-fraud rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from ibook_assets.core.metrics import (
    Labels,
    Ranking,
    log_auc,
    weighted_average_precision,
    weighted_roc_auc,
)
from ibook_assets.core.monitoring.columns import Floats
from ibook_assets.core.monitoring.signals import SIGNALS, Signal

RETRAIN_LOSS: Final = 0.10
"""Share of the promised average precision whose loss is worth a new model."""
FALSE_ALARM_RATE: Final = SIGNALS["performance"].false_alarm_rate
"""Share of champions without any loss that are called worse within `HORIZON_DAYS`."""
HORIZON_DAYS: Final = 28
"""Judged days that the false-alarm rate speaks of; every promotion begins anew."""
CAUTION: Final = 12
"""The limit is taken for a false-alarm rate this many times smaller than the stated one: months
differ by more than their days do."""
ALLOWANCE: Final = 0.25
"""Standard deviations a day may stay below the promise without adding up."""
MIN_PROMISED_DAYS: Final = 14
"""Evaluation days behind a promise, at least."""
MIN_DAY_FRAUDS: Final = 10
"""Matured frauds a day needs to be ranked; other days are left out."""
MIN_FPR: Final = 0.01
"""Below this false-positive rate logAUC tells no ranks apart: few legitimate orders of a day do."""
MEASURES: Final = ("average_precision", "log_auc")
"""What a day's ranking is judged by; the first is promised."""

_DRAWS: Final = 10_000
_BLOCK: Final = 4
"""Neighbouring days drawn together: attacks last some days."""


class JudgedDay(BaseModel):
    """How well a model ranked the orders of one day, by labels of one age."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: str
    rows: int
    frauds: int
    logged: int = 0
    """Rows whose score was read from the prediction log; the others were scored offline."""
    average_precision: FiniteFloat | None
    """At the promised share of fraud; None with fewer than `MIN_DAY_FRAUDS`."""
    log_auc: FiniteFloat | None = None
    """From a false-positive rate of `MIN_FPR` on; of records made before it was told, None."""
    roc_auc: FiniteFloat | None


def judged_day(
    day: str, labels: Labels, scores: Floats, *, fraud_share: float, logged: int = 0
) -> JudgedDay:
    """Rank the orders of a day.

    Args:
        day: its name.
        labels: shape (n,), 1 where fraud was confirmed.
        scores: shape (n,), finite.
        fraud_share: promised share of fraud, within (0, 1), which the day is weighed to.
        logged: rows whose score comes from the prediction log.
    """
    frauds = int(labels.sum())
    precision = area = auc = None
    if MIN_DAY_FRAUDS <= frauds < labels.size:
        ranking = Ranking.of(labels, scores)
        own = frauds / (labels.size - frauds)
        weight = fraud_share / (1 - fraud_share) / own
        weights = np.where(labels == 1, weight, 1.0)[None, :]
        precision = float(weighted_average_precision(ranking, weights)[0])
        area = log_auc(ranking, min_fpr=MIN_FPR)
        auc = float(weighted_roc_auc(ranking, weights)[0])
    return JudgedDay(
        day=day,
        rows=labels.size,
        frauds=frauds,
        logged=logged,
        average_precision=precision,
        log_auc=area,
        roc_auc=auc,
    )


class Promise:
    """What a champion reached on its evaluation days, and the limit for falling short of it."""

    def __init__(
        self,
        promised: Sequence[JudgedDay],
        *,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        seed: int = 0,
    ) -> None:
        """See `performance`."""
        self._days = _ranked(promised)
        self._rate = false_alarm_rate
        self._lacking = _lacking(self._days)
        if self._lacking is None:
            self._measures = _measures(self._days)
            self._usual = _values(self._days, self._measures)
            frauds = _frauds(self._days)
            self._frauds = float(frauds.mean())
            sizes = np.sqrt(frauds / self._frauds)
            self._limit = _limit(self._usual, sizes, false_alarm_rate / CAUTION, seed)

    def judged(self, matured: Sequence[JudgedDay]) -> Signal:
        """Whether the champion has become worse, by the days that have matured since, in order."""
        after = _ranked(matured)
        lacking = self._lacking
        if lacking is None and not after:
            lacking = (
                f"no day with {MIN_DAY_FRAUDS} frauds has matured since the champion was trained"
            )
        if lacking is not None:
            return Signal.insufficient("performance", lacking, false_alarm_rate=self._rate)
        now = _values(after, self._measures)
        sums = _cusum(_below(self._usual, now, np.sqrt(_frauds(after) / self._frauds)))
        worst = int(sums[:, -1].argmax())
        begin = int(np.flatnonzero(np.r_[0.0, sums[worst, :-1]] == 0)[-1])
        promise = _precision(self._days)
        loss = 1 - _precision(after[begin:]) / promise
        drifted = bool(sums[worst, -1] > self._limit)
        return Signal(
            name="performance",
            state="drifted" if drifted else "stable",
            statistic=float(sums[worst, -1]),
            threshold=self._limit,
            false_alarm_rate=self._rate,
            alarms_per=f"{HORIZON_DAYS} judged days of a champion as good as promised",
            null_windows=len(self._days),
            acts=drifted and loss > RETRAIN_LOSS,
            evidence={
                "promised_average_precision": promise,
                "promised_from": self._days[0].day,
                "promised_until": self._days[-1].day,
                "average_precision": after[-1].average_precision,
                "loss": loss,
                "loss_since": after[begin].day,
                "loss_seen_by": self._measures[worst],
                "retrain_loss": RETRAIN_LOSS,
                "judged": after[-1].day,
                "days_left_out": len(matured) - len(after),
                "cusum": {
                    measure: [float(s) for s in found]
                    for measure, found in zip(self._measures, sums, strict=True)
                },
                "matured": [day.model_dump() for day in matured],
            },
        )


def performance(
    promised: Sequence[JudgedDay],
    matured: Sequence[JudgedDay],
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    seed: int = 0,
) -> Signal:
    """Whether the champion has become worse than promised.

    Args:
        promised: evaluation days of the champion, in order.
        matured: days that have matured since, in order.
        false_alarm_rate: share of champions as good as promised that may be called worse within
            `HORIZON_DAYS` judged days.
        seed: of the runs drawn.

    Source: Page (1954), "Continuous inspection schemes"; moving blocks: Kuensch (1989).
    """
    return Promise(promised, false_alarm_rate=false_alarm_rate, seed=seed).judged(matured)


def _ranked(days: Sequence[JudgedDay]) -> list[JudgedDay]:
    return [day for day in days if day.average_precision is not None]


def _values(days: Sequence[JudgedDay], measures: Sequence[str]) -> Floats:
    """Shape (measures, days)."""
    return np.array([[getattr(day, name) for day in days] for name in measures], dtype=np.float64)


def _precision(days: Sequence[JudgedDay]) -> float:
    return float(_values(days, MEASURES[:1]).mean())


def _frauds(days: Sequence[JudgedDay]) -> Floats:
    return np.array([day.frauds for day in days], dtype=np.float64)


def _measures(promised: Sequence[JudgedDay]) -> tuple[str, ...]:
    """Those that differ from one promised day to another: of others the spread is unknown."""
    return tuple(name for name in MEASURES if np.ptp(_values(promised, [name])) > 0)


def _lacking(promised: Sequence[JudgedDay]) -> str | None:
    if len(promised) < MIN_PROMISED_DAYS:
        return (
            f"the champion was evaluated on {len(promised)} days with {MIN_DAY_FRAUDS} frauds, "
            f"{MIN_PROMISED_DAYS} are needed to know what it promised"
        )
    if not _measures(promised):
        return "the champion ranked every evaluation day alike: how much it varies is unknown"
    return None


def _below(usual: Floats, now: Floats, size: Floats) -> Floats:
    """How far each day is below the promise, in standard deviations of a day of its size."""
    mean = usual.mean(axis=-1, keepdims=True)
    spread = usual.std(axis=-1, ddof=1, keepdims=True)
    return np.asarray((mean - now) / np.maximum(spread, 1e-9) * size)


def _cusum(z: Floats) -> Floats:
    """One-sided sums of runs of days, shape (..., days)."""
    sums = np.empty_like(z)
    last = np.zeros(z.shape[:-1])
    for day in range(z.shape[-1]):
        last = np.maximum(0.0, last + z[..., day] - ALLOWANCE)
        sums[..., day] = last
    return sums


def _limit(usual: Floats, size: Floats, rate: float, seed: int) -> float:
    """What the largest sum of any measure in a run of undrifted days exceeds at `rate`."""
    rng = np.random.default_rng(seed)
    known = usual.shape[1]
    reference = _drawn_days(rng, known, known)
    run = _drawn_days(rng, known, HORIZON_DAYS)
    largest = _cusum(_below(usual[:, reference], usual[:, run], size[run])).max(axis=(0, 2))
    return float(np.quantile(largest, 1 - rate))


def _drawn_days(rng: np.random.Generator, known: int, wanted: int) -> np.ndarray:
    """Positions of days in blocks of neighbours, shape (draws, wanted)."""
    blocks = -(-wanted // _BLOCK)
    starts = rng.integers(0, known, size=(_DRAWS, blocks))
    days = (starts[:, :, None] + np.arange(_BLOCK)) % known
    return days.reshape(_DRAWS, -1)[:, :wanted]
