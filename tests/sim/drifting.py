"""A world that drifts from a given day on, and the model's features of its days, in memory."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

import numpy as np
import pyarrow as pa

from ibook_assets.core.fact_rules import (
    ORDER_COLUMNS,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.features.catalog import view
from ibook_assets.core.features.engine import compute_view
from ibook_assets.core.monitoring import DriftDecision, Values, Windows, drift_of
from ibook_assets.core.monitoring.feature_columns import feature_columns
from ibook_assets.core.times import DAY_US
from ibook_assets.core.use_cases import FRAUD
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.world import DayTables, World, WorldConfig

WARM_UP, REFERENCE = 8, 28
"""Days until the longest window compared, of seven days, is full; days of the reference."""
FIRST_JUDGED = WARM_UP + REFERENCE

NOTHING_EARLIER = pa.chunked_array([], pa.int64())


def small_world(seed: int) -> WorldConfig:
    return WorldConfig(seed=seed, users=10_000, events=100, orders_per_day=900)


@lru_cache(maxsize=2)
def world(seed: int) -> World:
    return World(small_world(seed))


@lru_cache(maxsize=96)
def undrifted(seed: int, number: int) -> DayTables:
    return world(seed).day(world(seed).config.start_date + timedelta(days=number))


class Features:
    """Features of every order of `days` days, of which those from `drifts_on` on have drifted."""

    def __init__(
        self, seed: int, *, days: int, drift: Drift | None = None, drifts_on: int = 10_000
    ) -> None:
        config = small_world(seed)
        drifted = DriftedWorld(config, drift or Drift(level=0.0))
        raw = [
            undrifted(seed, n)
            if n < drifts_on
            else drifted.day(config.start_date + timedelta(days=n))
            for n in range(days)
        ]
        events = world(seed).catalogue(config.start_date + timedelta(days=days)).events
        orders = pa.concat_tables(
            build_transactions(day.transactions, earlier_ids=NOTHING_EARLIER, events=events).table
            for day in raw
        )
        known = orders.select(list(ORDER_COLUMNS))
        sources: dict[str, pa.Table | None] = {
            "transactions": orders,
            "views": pa.concat_tables(build_views(day.views).table for day in raw),
            "refunds": pa.concat_tables(
                build_refunds(day.refunds, earlier_ids=NOTHING_EARLIER, orders=known).table
                for day in raw
            ),
            "outcomes": pa.concat_tables(
                build_outcomes(day.outcomes, orders=known).table for day in raw
            ),
        }
        self.kinds = feature_columns(FRAUD.features, reference_days=REFERENCE).kinds
        self.columns: dict[str, Values] = {}
        for name in dict.fromkeys(feature.partition(":")[0] for feature in self.kinds):
            table = compute_view(view(name), sources, orders)
            for column in table.column_names:
                if f"{name}:{column}" in self.kinds:
                    self.columns[f"{name}:{column}"] = table[column].to_numpy()
        times = orders["known_ts"].to_numpy()
        self.day = np.asarray(times // DAY_US - times.min() // DAY_US, dtype=np.int64)

    def judged(self, number: int) -> DriftDecision:
        """Day `number` against the reference days."""
        before = (self.day >= WARM_UP) & (self.day < FIRST_JUDGED)
        now = self.day == number
        return drift_of(
            {name: values[before] for name, values in self.columns.items()},
            {name: values[now] for name, values in self.columns.items()},
            self.kinds,
            windows=Windows(self.day[before], self.day[now]),
        )
