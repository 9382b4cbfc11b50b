"""What becomes of an order: a refund, a chargeback, or neither, and when that is known.

Delays are counted from the order's `known_ts`. Both delay distributions are piecewise linear
between whole days, so that the posterior can use exactly the law that the draws follow.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtr

from ibook_assets.core.times import DAY_US, MINUTE_US
from ibook_sim.world.config import WorldConfig
from ibook_sim.world.emissions import N_TYPES, REFUNDED
from ibook_sim.world.orders import Codes
from ibook_sim.world.randomness import Floats, Ints, Stream, Words, jit, philox, row_key, unit

CHARGEBACK_MEDIAN_DAYS: Final = 21.0
CHARGEBACK_SIGMA: Final = 0.6
CHARGEBACK_LIMIT_DAYS: Final = 120
"""No dispute is accepted later than this.

Source: Visa, dispute condition 10.4 (other fraud, card-absent environment).
"""
REFUND_MEAN_DAYS: Final = 5.0
REFUND_LIMIT_DAYS: Final = 30
PARTIAL_REFUND: Final = 0.15
"""Share of refunds that return one ticket of several."""
NEVER: Final = -1


def _chargeback_law() -> Floats:
    days = np.arange(1, CHARGEBACK_LIMIT_DAYS + 1)
    share = ndtr(np.log(days / CHARGEBACK_MEDIAN_DAYS) / CHARGEBACK_SIGMA)
    return np.concatenate([[0.0], share / share[-1]])


def _refund_law() -> Floats:
    share = -np.expm1(-np.arange(REFUND_LIMIT_DAYS + 1) / REFUND_MEAN_DAYS)
    return np.asarray(share / share[-1])


CHARGEBACK_LAW: Final = _chargeback_law()
"""Share of a fraud's chargebacks known after 0, 1, ... 120 days."""
REFUND_LAW: Final = _refund_law()
"""Share of refunds made after 0, 1, ... 30 days."""


class _Laws(NamedTuple):
    charged: Floats
    chargeback: Floats
    refunded: Floats
    refund: Floats


class Fates(NamedTuple):
    """Delays in microseconds after the order became known; `NEVER` where nothing happens."""

    chargeback_us: Ints
    refund_us: Ints
    partial: Codes


def chargeback_share(config: WorldConfig) -> Floats:
    """Shape (5,): share of orders of each archetype that are charged back in the end."""
    return np.array([config.friendly_fraud] + [1.0 - config.never_reported] * (N_TYPES - 1))


def fates(config: WorldConfig, day: int, rows: Ints, archetype: Codes) -> Fates:
    """What becomes of `rows` of `day`."""
    out = Fates(
        np.empty(rows.size, np.int64), np.empty(rows.size, np.int64), np.empty(rows.size, np.int8)
    )
    key = row_key(config.seed, Stream.FATES, day)
    laws = _Laws(chargeback_share(config), CHARGEBACK_LAW, REFUNDED, REFUND_LAW)
    _draw(out, rows, archetype, key, laws)
    return out


@jit
def _delay(u: float, law: Floats) -> int:
    """Inverse of a piecewise linear law, in microseconds."""
    day = min(int(np.searchsorted(law, u, side="right")) - 1, law.size - 2)
    return int((day + (u - law[day]) / (law[day + 1] - law[day])) * DAY_US)


@jit
def _draw(out: Fates, rows: Ints, archetype: Codes, key: Words, laws: _Laws) -> None:
    for i in range(rows.size):
        a, b, c, d = philox(rows[i], 0, key[0], key[1])
        out.chargeback_us[i] = NEVER
        out.refund_us[i] = NEVER
        out.partial[i] = 0
        if unit(a) < laws.charged[archetype[i]]:
            out.chargeback_us[i] = max(MINUTE_US, _delay(unit(b), laws.chargeback))
        u = unit(c) / laws.refunded[archetype[i]]
        if u < 1.0:
            out.refund_us[i] = max(MINUTE_US, _delay(unit(d), laws.refund))
            out.partial[i] = u < PARTIAL_REFUND


@jit
def law_at(law: Floats, delay_us: int) -> float:
    """Share of a piecewise linear law reached `delay_us` after the order."""
    if delay_us >= (law.size - 1) * DAY_US:
        return 1.0
    day = delay_us // DAY_US
    return float(law[day] + (law[day + 1] - law[day]) * (delay_us / DAY_US - day))
