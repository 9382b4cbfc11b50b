"""A world that drifts from a given day on, and the model's features of its days, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import pyarrow as pa

from bench.drift_worlds import day_numbers, facts_of, feature_matrix
from ibook_assets.core.monitoring import DriftDecision, Values, Windows, drift_of
from ibook_assets.core.monitoring.columns import Ints
from ibook_assets.core.monitoring.feature_columns import feature_columns
from ibook_assets.core.use_cases import FRAUD
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import DayTables, World, WorldConfig

WARM_UP, REFERENCE = 8, 28
"""Days until the longest window compared, of seven days, is full; days of the reference."""
FIRST_JUDGED = WARM_UP + REFERENCE


def small_world(seed: int) -> WorldConfig:
    return WorldConfig(seed=seed, users=10_000, events=100, orders_per_day=900)


@lru_cache(maxsize=2)
def world(seed: int) -> World:
    return World(small_world(seed))


@lru_cache(maxsize=96)
def undrifted(seed: int, number: int) -> DayTables:
    return world(seed).day(world(seed).config.start_date + timedelta(days=number))


@dataclass(frozen=True)
class Rows:
    """Features of every order of some days."""

    columns: dict[str, Values]
    day: Ints


KINDS = feature_columns(FRAUD.features, reference_days=REFERENCE).kinds


def rows_of(config: WorldConfig, raw: Sequence[DayTables], asked: int) -> Rows:
    """Features of the orders from day `asked` on, out of the world's first days."""
    until = config.start_date + timedelta(days=len(raw))
    facts = facts_of(raw, world(config.seed).catalogue(until).events)
    orders = facts["transactions"].filter(
        pa.array(day_numbers(config, facts["transactions"]) >= asked)
    )
    x = feature_matrix(tuple(KINDS), facts, orders)
    columns = {name: x[:, position] for position, name in enumerate(KINDS)}
    return Rows(columns, day_numbers(config, orders))


@lru_cache(maxsize=2)
def reference(seed: int) -> Rows:
    """The reference days of an undrifted world: the same for whatever comes after them."""
    raw = [undrifted(seed, number) for number in range(FIRST_JUDGED)]
    return rows_of(small_world(seed), raw, WARM_UP)


class Features:
    """Features of `days` days after the reference, each drifted as `drift` says."""

    def __init__(self, seed: int, *, days: int, drift: Drift | None = None) -> None:
        config = small_world(seed)
        drifted = DriftedWorld(config, drift or Drift(level=0.0))
        # From the world's first day on: a refund is its buyer's only if the order is known.
        before = [undrifted(seed, n) for n in range(FIRST_JUDGED)]
        raw = before + [
            drifted.day(config.start_date + timedelta(days=FIRST_JUDGED + n)) for n in range(days)
        ]
        self._reference = reference(seed)
        self._now = rows_of(config, raw, FIRST_JUDGED)

    def judged(self, number: int) -> DriftDecision:
        """The day `number` days after the reference against it."""
        now = self._now.day == FIRST_JUDGED + number
        return drift_of(
            self._reference.columns,
            {name: values[now] for name, values in self._now.columns.items()},
            KINDS,
            windows=Windows(self._reference.day, self._now.day[now]),
        )
