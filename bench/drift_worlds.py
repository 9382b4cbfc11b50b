"""Worlds that drift from a day on, as the monitoring benchmark judges them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from ibook_assets.core.arrow import integers
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import WorldConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MATURITY_DAYS = 45
NO_DRIFT = Drift(level=0.0)


@dataclass(frozen=True)
class LabelledDay:
    """Orders of one day: what a judge who knows the world before the drift says, what came true."""

    number: int
    labels: Ints
    """1 where fraud was confirmed within `MATURITY_DAYS` of the day's end."""
    scores: Floats
    """The exact fraud probability by the order's own columns, in the undrifted world."""


def labelled_days(config: WorldConfig, drift: Drift, first: int, last: int) -> list[LabelledDay]:
    """Days `first` to `last`, both included, of a world that has drifted all along."""
    world = DriftedWorld(config, drift)
    known = _Frauds.of(world, first, last)
    days = []
    for number in range(first, last + 1):
        orders = world.orders(config.start_date + timedelta(days=number))
        labels = known.labels(orders.transaction_id, number)
        days.append(LabelledDay(number, labels, world.unaware_posterior(number)))
    return days


def fraud_labels(config: WorldConfig, ids: Ints, days: Ints) -> Ints:
    """Labels of orders of an undrifted world, each by `MATURITY_DAYS` after its day's end."""
    known = _Frauds.of(DriftedWorld(config, NO_DRIFT), int(days.min()), int(days.max()))
    labels = np.zeros(ids.size, np.int64)
    for number in np.unique(days):
        labels[days == number] = known.labels(ids[days == number], int(number))
    return labels


@dataclass(frozen=True)
class _Frauds:
    """Confirmed frauds of a world and when they became known."""

    start_us: int
    ids: Ints
    times: Ints

    @classmethod
    def of(cls, world: DriftedWorld, first: int, last: int) -> _Frauds:
        """All that is known of the days `first` to `last` when they are mature."""
        ids, times = [], []
        for number in range(first, last + MATURITY_DAYS + 1):
            outcomes = world.day(world.config.start_date + timedelta(days=number)).outcomes
            fraud = integers(outcomes["is_fraud"], null=0) == 1
            ids.append(integers(outcomes["transaction_id"], null=-1)[fraud])
            times.append(integers(outcomes["known_ts"], null=0)[fraud])
        return cls(
            day_start_us(world.config.start_date), np.concatenate(ids), np.concatenate(times)
        )

    def labels(self, ids: Ints, number: int) -> Ints:
        """1 for each order of day `number` that was a fraud by its maturity."""
        until = self.start_us + (number + 1 + MATURITY_DAYS) * DAY_US
        return np.isin(ids, self.ids[self.times < until]).astype(np.int64)
