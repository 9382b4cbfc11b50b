"""The confirmed-fraud rate: matured frauds among a week's orders, and the band they stay within.

Frauds come in attacks, so their count varies more than a coin's: a day's rate has a variance of
its own, and days resemble their neighbours. Both are taken from the history of matured days, and a
week's count then follows a beta-binomial law of that variance. As for column drift, the band is cut
for a smaller rate than the stated one: the judged week comes later than those it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from ibook_assets.core.monitoring.calibration import CAUTION
from ibook_assets.core.monitoring.columns import Floats
from ibook_assets.core.monitoring.decision import FALSE_ALARM_RATE
from ibook_assets.core.monitoring.signals import Signal

WINDOW_DAYS: Final = 7
"""Newest matured days whose rate is judged: every weekday once."""
MIN_REFERENCE_DAYS: Final = 28
"""Matured days behind a band, at least."""
MIN_EXPECTED_FRAUDS: Final = 20
"""Frauds the history expects of the window; with fewer a band says nothing."""

_DRAWS: Final = 50_000


class RateDay(BaseModel):
    """Orders of a day and how many of them turned out to be fraud by one age of labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: str
    orders: int
    frauds: int


def fraud_rate(
    reference: Sequence[RateDay],
    matured: Sequence[RateDay],
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    seed: int = 0,
) -> Signal:
    """Whether the share of fraud among the newest matured week's orders left its control band.

    Args:
        reference: history of matured days, in order.
        matured: days since, in order; the last `WINDOW_DAYS` are judged.
        false_alarm_rate: share of undrifted windows that may be outside, on either side.
        seed: of the counts drawn.

    Source: Laney (2002), "Improved control charts for attributes": variance between days counts.
    """
    window = matured[-WINDOW_DAYS:]
    orders, frauds = _orders(window).sum(), sum(day.frauds for day in window)
    lacking = _lacking(reference, window)
    if lacking is not None:
        return Signal.insufficient("fraud_rate", lacking, false_alarm_rate=false_alarm_rate)
    usual, variance = _usual(reference, int(orders))
    low, high = _band(
        usual,
        variance,
        int(orders),
        weeks=len(reference) / WINDOW_DAYS,
        rate=false_alarm_rate / CAUTION,
        seed=seed,
    )
    rate = float(frauds / orders)
    edge = (high - usual) if rate >= usual else (usual - low)
    outside = not low <= rate <= high
    return Signal(
        name="fraud_rate",
        state="drifted" if outside else "stable",
        statistic=abs(rate - usual) / max(edge, 1e-12),
        threshold=1.0,
        false_alarm_rate=false_alarm_rate,
        null_windows=len(reference),
        acts=outside,
        evidence={
            "rate": rate,
            "usual": usual,
            "low": low,
            "high": high,
            "orders": int(orders),
            "frauds": int(frauds),
            "from": window[0].day,
            "until": window[-1].day,
            "history_from": reference[0].day,
            "history_until": reference[-1].day,
            "overdispersion": variance / (usual * (1 - usual) / orders),
        },
    )


def _orders(days: Sequence[RateDay]) -> Floats:
    return np.array([day.orders for day in days], dtype=np.float64)


def _lacking(reference: Sequence[RateDay], window: Sequence[RateDay]) -> str | None:
    known = [day for day in reference if day.orders]
    if len(known) < MIN_REFERENCE_DAYS:
        return f"{len(known)} matured days of the {MIN_REFERENCE_DAYS} needed for a band"
    if len(window) < WINDOW_DAYS or not all(day.orders for day in window):
        return (
            f"{sum(day.orders > 0 for day in window)} days of the {WINDOW_DAYS} needed have "
            "matured since the champion's training set"
        )
    share = sum(day.frauds for day in known) / _orders(known).sum()
    expected = share * _orders(window).sum()
    if expected < MIN_EXPECTED_FRAUDS:
        return f"{expected:.0f} frauds expected of the window, {MIN_EXPECTED_FRAUDS} are needed"
    return None


def _usual(reference: Sequence[RateDay], window_orders: int) -> tuple[float, float]:
    """Rate of the history, and the variance of a window's rate about it.

    The variance of a sum of resembling days is that of a day plus its covariances with the days
    near it (Bartlett's weights); never less than a coin's. What the history itself does not know
    about its rate is added.
    """
    orders = _orders(reference)
    frauds = np.array([day.frauds for day in reference], dtype=np.float64)
    usual = float(frauds.sum() / orders.sum())
    # Each day weighs as its orders do.
    off = (frauds - usual * orders) / orders.mean()
    days = off.size
    lagged = [float(off[lag:] @ off[: days - lag]) / days for lag in range(WINDOW_DAYS)]
    weights = 1 - np.arange(1, WINDOW_DAYS) / WINDOW_DAYS
    of_a_day = max(lagged[0], lagged[0] + 2 * float(weights @ np.array(lagged[1:])))
    coin = usual * (1 - usual) / window_orders
    between = max(of_a_day / WINDOW_DAYS * days / (days - 1), coin)
    return usual, between * (1 + WINDOW_DAYS / days)


def _band(
    usual: float, variance: float, orders: int, *, weeks: float, rate: float, seed: int
) -> tuple[float, float]:
    """Quantiles of a beta-binomial rate of mean `usual`, its variance known from `weeks` weeks."""
    coin = usual * (1 - usual)
    rng = np.random.default_rng(seed)
    # The variance is an estimate itself: as uncertain as one from so many independent weeks.
    variances = variance * weeks / rng.chisquare(weeks, size=_DRAWS)
    # Var = coin / orders * (1 + (orders - 1) * rho), and rho = 1 / (a + b + 1).
    rho = ((variances * orders / coin - 1) / (orders - 1)).clip(1e-9, 0.5)
    both = 1 / rho - 1
    shares = rng.beta(usual * both, (1 - usual) * both)
    low, high = np.quantile(rng.binomial(orders, shares) / orders, [rate / 2, 1 - rate / 2])
    return float(low), float(high)
