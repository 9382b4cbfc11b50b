"""The orders that the plots show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.drift import Drift, DriftedWorld
from ibook_sim.plots.drawing import BLUE, GREEN, INK, ORANGE, RED, VIOLET
from ibook_sim.world import World, WorldConfig, days_from
from ibook_sim.world.orders import Orders
from ibook_sim.world.randomness import Floats, Ints

CONFIG: Final = WorldConfig(users=20_000, events=160, orders_per_day=1_200)
"""A third of the default world, so that plots are drawn in seconds."""
DAYS: Final = 182
DRIFT_LEVELS: Final = (0.5, 1.0)
DRIFT_DAYS: Final = 14

NAMES: Final = ("honest", "account takeover", "bulk bot", "card testing", "refund abuse")
COLOURS: Final = (INK, BLUE, ORANGE, RED, VIOLET)
"""Of each archetype, by its code."""
TIER_COLOURS: Final = (BLUE, GREEN, ORANGE, VIOLET)


@dataclass(frozen=True, slots=True)
class Sample:
    """Half a year of the plotted world."""

    world: World
    orders: Orders
    day: Ints
    """Day of each order, from 0."""
    events: pa.Table
    posterior: Floats
    fraud: Floats
    """1 where fraud, in the order of `posterior`."""
    drifted: tuple[Floats, ...]
    """Amounts (cents) of the first `DRIFT_DAYS`, as they are and at each of `DRIFT_LEVELS`."""

    def event(self, column: str) -> Ints:
        """A column of the events by event number."""
        return np.asarray(self.events[column], np.int64)

    @property
    def on_sale_day(self) -> Ints:
        """Day each event goes on sale."""
        return (self.event("on_sale_ts") - day_start_us(CONFIG.start_date)) // DAY_US

    @property
    def lead_days(self) -> Ints:
        """Days each event is on sale."""
        return (self.event("starts_ts") - self.event("on_sale_ts")) // DAY_US

    def sold(self, quantity: Ints) -> Ints:
        """Shape (events, DAYS): `quantity` of each order, by event and day."""
        cell = self.orders.event_id * DAYS + self.day
        counted = np.bincount(cell, quantity, self.events.num_rows * DAYS)
        return counted.astype(np.int64).reshape(-1, DAYS)


def sample(*, advance: Callable[[int], None] = lambda _: None) -> Sample:
    """Play the plotted world; `advance` is called each day."""
    world, dates = World(CONFIG), days_from(CONFIG.start_date, DAYS)
    parts = []
    for day in dates:
        parts.append(world.orders(day))
        advance(1)
    truth = pa.concat_tables(world.truth(dates).values())
    return Sample(
        world=world,
        orders=Orders._make(np.concatenate(columns) for columns in zip(*parts, strict=True)),
        day=np.repeat(np.arange(DAYS), [part.row.size for part in parts]),
        events=world.catalogue(dates[-1]).events,
        posterior=np.asarray(truth["posterior"]),
        fraud=np.minimum(np.asarray(truth["archetype"]), 1).astype(np.float64),
        drifted=tuple(_amounts(level) for level in (0.0, *DRIFT_LEVELS)),
    )


def _amounts(level: float) -> Floats:
    world = DriftedWorld(CONFIG, Drift(level=level, axes=("covariate",)))
    parts = [world.orders(day).amount_cents for day in days_from(CONFIG.start_date, DRIFT_DAYS)]
    return np.concatenate(parts).astype(np.float64)
