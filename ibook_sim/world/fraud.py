"""Who commits fraud and when, in operational time (a unit is the time of `legit_per_day` orders).

Account takeover: each living account turns from clean to taken over at a constant rate, stays so
for an exponential time and meanwhile places fraudulent orders beside its owner's. Bots, card
testers and refund abusers arrive as accounts of their own, place a geometric number of orders at
exponential gaps and never return. Everything starts in its stationary state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from ibook_sim.world.accounts import draw_traits
from ibook_sim.world.config import (
    GAP_DAYS,
    ORDERS_PER_ABUSER,
    TAKEOVER_DAYS,
    TAKEOVER_ORDERS_PER_DAY,
    WorldConfig,
)
from ibook_sim.world.emissions import ABUSER_AGE
from ibook_sim.world.randomness import Bools, Floats, Ints, Stream, generator

_START_BLOCK: Final = 0


@dataclass(frozen=True, slots=True)
class Attempts:
    """Fraudulent orders to come: when, by whom, and the draws that settle what they buy."""

    time: Floats
    owner: Ints
    """Position in the block's abusers or takeovers."""
    archetype: Ints
    first: Bools
    event_draw: Floats
    quantity_draw: Floats

    def take(self, chosen: Bools | Ints) -> Self:
        """The chosen attempts."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    @classmethod
    def join(cls, parts: list[Attempts]) -> Attempts:
        """Attempts of all parts in order."""
        return Attempts(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__)
        )


@dataclass(frozen=True, slots=True)
class Takeovers:
    """Starts of account takeovers, in time order."""

    start: Floats
    end: Floats
    slot: Ints
    attempts: Attempts


@dataclass(frozen=True, slots=True)
class Abusers:
    """Accounts opened for fraud."""

    archetype: Ints
    age_days: Floats
    """Age of the account at its first order."""
    activity: Floats
    taste: Floats
    attempts: Attempts


def _attempts(
    g: np.random.Generator, time: Floats, owner: Ints, archetype: Ints, first: Bools
) -> Attempts:
    event_draw, quantity_draw = g.random((2, time.size))
    return Attempts(time, owner, archetype, first, event_draw, quantity_draw)


def takeovers(config: WorldConfig, block: int) -> Takeovers:
    """Takeovers that start in operational time [block - 1, block); block 0 is under way at 0."""
    g = generator(config.seed, Stream.ARRIVALS, block, 0)
    if block == _START_BLOCK:
        n = int(g.binomial(config.users, config.taken_over_share))
        slot = g.choice(config.users, n, replace=False).astype(np.int64)
        start = np.zeros(n)
    else:
        n = int(g.poisson(config.takeover_rate * config.users))
        slot = g.integers(0, config.users, n)
        start = np.sort(g.uniform(block - 1, block, n))
    length = g.exponential(TAKEOVER_DAYS, n)
    owner = np.repeat(np.arange(n), g.poisson(TAKEOVER_ORDERS_PER_DAY * length))
    time = start[owner] + g.random(owner.size) * length[owner]
    ones, never = np.ones(owner.size, np.int64), np.zeros(owner.size, np.bool_)
    return Takeovers(start, start + length, slot, _attempts(g, time, owner, ones, never))


def abusers(config: WorldConfig, block: int) -> Abusers:
    """Abusers whose first order is in [block - 1, block); block 0 was active before time 0."""
    g = generator(config.seed, Stream.ARRIVALS, block, 1)
    archetypes, firsts = [], []
    for position, arrivals in enumerate(config.abuser_arrivals):
        gap, mean = GAP_DAYS[position], ORDERS_PER_ABUSER[position]
        if block == _START_BLOCK:
            n = int(g.poisson(arrivals * (mean - 1.0) * gap))
            firsts.append(g.exponential(gap, n))
        else:
            n = int(g.poisson(arrivals))
            firsts.append(g.uniform(block - 1, block, n))
        archetypes.append(np.full(n, position + 2))
    archetype, start = np.concatenate(archetypes), np.concatenate(firsts)
    kind = archetype - 2
    orders = g.geometric(1.0 / np.array(ORDERS_PER_ABUSER)[kind])
    owner = np.repeat(np.arange(kind.size), orders)
    head = np.cumsum(orders) - orders
    gaps = g.exponential(np.array(GAP_DAYS)[kind[owner]])
    gaps[head] = start
    total = gaps.cumsum()
    time = total - np.repeat(total[head] - start, orders)
    first = np.zeros(owner.size, np.bool_)
    first[head] = True
    log_age = ABUSER_AGE[kind, 0] + ABUSER_AGE[kind, 1] * g.standard_normal(kind.size)
    activity, taste = draw_traits(g, kind.size)
    return Abusers(
        archetype=archetype,
        age_days=np.exp(log_age),
        activity=activity,
        taste=taste,
        attempts=_attempts(g, time, owner, archetype[owner], first),
    )
