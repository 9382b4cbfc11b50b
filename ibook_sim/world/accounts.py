"""Accounts: who may order, how often, what they like; and the register of all ever opened.

`config.users` slots are alive on any day. A slot keeps its activity and tastes; the account in
it is closed at random and followed by a new one, so ages stay stationary for ever. Abusers'
accounts carry an activity and tastes too, drawn alike and never used, so that neither tells
them apart.

Source: Schmittlein, Morrison and Colombo (1987), "Counting your customers": Poisson orders at
unequal rates until the customer leaves. The law of the rates and all numbers are assumed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ibook_assets.core.tables import CATEGORIES
from ibook_assets.core.times import DAY_US, day_start_us
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.events import CATEGORY_SHARE
from ibook_sim.world.randomness import Floats, Ints, Stream, generator, jit

TASTE_STRENGTH: Final = 12.0
"""Total of the Dirichlet parameters of an account's tastes; lower means choosier."""
ACTIVITY_SIGMA: Final = 0.6


class Alias(NamedTuple):
    """Walker's alias tables, one row a category: draws a slot in constant time."""

    keep: Floats
    other: Ints


def draw_traits(g: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Activity (n,) with mean 1 and tastes (n, 4) that add up to 1."""
    activity = np.exp(ACTIVITY_SIGMA * g.standard_normal(n) - ACTIVITY_SIGMA**2 / 2)
    taste = g.standard_gamma(TASTE_STRENGTH * CATEGORY_SHARE, (n, len(CATEGORIES))) + 1e-6
    return activity, taste / taste.sum(axis=1, keepdims=True)


class Slots:
    """The living population: traits of each slot, and who occupies it on a day."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        self._start_us = day_start_us(config.start_date)
        g = generator(config.seed, Stream.ACCOUNTS)
        self.activity, self.taste = draw_traits(g, config.users)
        age_days = g.exponential(-1.0 / np.log1p(-config.renewal_per_day), config.users)
        self.created_us = self._start_us - (age_days * DAY_US).astype(np.int64)
        """Opening time of the first account in each slot."""
        weight = self.activity[:, None] * self.taste
        self.pull = weight.sum(axis=0)
        """Shape (4,): all slots' activity times taste."""
        tables = [_alias(np.ascontiguousarray(weight[:, c] / self.pull[c])) for c in range(4)]
        self.alias = Alias(np.stack([t[0] for t in tables]), np.stack([t[1] for t in tables]))

    def renewed(self, day: int) -> tuple[Ints, Ints]:
        """Slots whose account is replaced as `day` begins, and when the new one was opened."""
        if day == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        g = generator(self._config.seed, Stream.RENEWALS, day)
        n = int(g.binomial(self._config.users, self._config.renewal_per_day))
        slots = np.sort(g.choice(self._config.users, n, replace=False, shuffle=False))
        opened = self._start_us + (day - 1) * DAY_US + g.integers(0, DAY_US, n)
        return slots.astype(np.int64), opened


@jit
def _alias(probability: Floats) -> tuple[Floats, Ints]:
    n = probability.size
    scaled = probability * n
    other = np.arange(n)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    ns = nl = 0
    for i in range(n):
        if scaled[i] < 1.0:
            small[ns] = i
            ns += 1
        else:
            large[nl] = i
            nl += 1
    while ns and nl:
        s, t = small[ns - 1], large[nl - 1]
        ns -= 1
        other[s] = t
        scaled[t] -= 1.0 - scaled[s]
        if scaled[t] < 1.0:
            nl -= 1
            small[ns] = t
            ns += 1
    return np.minimum(scaled, 1.0), other
