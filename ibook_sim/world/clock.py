"""The daily clock: how a day's orders spread over its hours.

Legitimate and fraudulent orders share it, so the time of day alone tells nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ibook_assets.core.times import DAY_US, HOUR_US
from ibook_sim.world.randomness import Floats, Ints, jit

_HOURS: Final = np.array(
    [1, 0.6, 0.4, 0.3, 0.3, 0.5, 1, 2, 3, 4, 5, 5, 5, 4, 4, 4, 5, 6, 7, 8, 8, 7, 5, 3]
)
CLOCK: Final = np.concatenate([[0.0], _HOURS.cumsum() / _HOURS.sum()])
"""Shape (25,): share of a day's orders before each full hour (UTC)."""

FIRST_US: Final = 2_000
"""Earliest moment of a day at which an order becomes known (microseconds after midnight)."""

_LAST_US: Final = DAY_US - 1


@jit
def moment(share: float, clock: Floats) -> int:
    """Microseconds after midnight by which `share` of the day's orders have happened."""
    low, high = 0, 24
    while high - low > 1:
        middle = (low + high) // 2
        if clock[middle] <= share:
            low = middle
        else:
            high = middle
    part = (share - clock[low]) / (clock[low + 1] - clock[low])
    return max(FIRST_US, min(_LAST_US, int((low + part) * HOUR_US)))


@jit
def moments(shares: Floats, clock: Floats) -> Ints:
    """`moment` of each share."""
    out = np.empty(shares.size, np.int64)
    for i in range(shares.size):
        out[i] = moment(shares[i], clock)
    return out


def elapsed(after_midnight_us: Ints) -> Floats:
    """Share of the day's orders before each time of day."""
    return np.asarray(np.interp(after_midnight_us / HOUR_US, np.arange(25.0), CLOCK))
