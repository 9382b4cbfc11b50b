"""The exact law of an event's sales: what a forecaster who knows the world would expect.

Orders of a day are Poisson; each wants 1 to `QUANTITIES` tickets, independently; the sale closes
at the first order that finds too few seats. So the k-th order is served exactly if it arrives and
the first k orders want no more tickets than there are seats, and expectations are sums over k.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from scipy.special import gammainc

from ibook_sim.world.emissions import QUANTITY
from ibook_sim.world.randomness import Floats, jit

_NEGLIGIBLE: Final = 1e-18
"""Probability below which a number of tickets sold is left out."""


@dataclass(frozen=True, slots=True)
class ExpectedSales:
    """Means of an event's legitimate sales on each day of its sale; arrays of shape (days,).

    Fraudulent orders come on top; they never take a legitimate buyer's seat.
    """

    first_day: date
    wanted: Floats
    """Orders, were seats without end."""
    orders: Floats
    """Orders that find seats."""
    tickets: Floats
    """Tickets in them."""


def expected_sales(rate: Floats, room: int) -> tuple[Floats, Floats]:
    """Mean orders and mean tickets sold on each day.

    Args:
        rate: shape (days,), the mean of each day's Poisson number of orders; >= 0.
        room: seats that may be sold; >= 0.

    Returns:
        Two arrays of shape (days,), exact but for rounding (about 1 in 1e12).
    """
    total = float(rate.sum())
    # Twelve deviations and more: that many orders do not come.
    most = int(total + 12 * np.sqrt(total)) + 50
    served, tickets = _served(room, min(room, most), QUANTITY[0])
    arrives = gammainc(np.arange(1, served.size + 1), rate.cumsum()[:, None])
    by_then = np.stack([arrives @ served, arrives @ tickets])
    orders, sold = np.diff(by_then, axis=1, prepend=0.0)
    return orders, sold


@jit
def _served(room: int, most: int, quantity: Floats) -> tuple[Floats, Floats]:
    """P(first k + 1 orders find seats), and the mean tickets of the last of them; k < `most`."""
    sold, after = np.zeros(room + 1), np.zeros(room + 1)
    sold[0] = 1.0
    served, tickets = np.zeros(most), np.zeros(most)
    low = high = k = 0
    while k < most and (k == 0 or served[k - 1] > _NEGLIGIBLE):
        top = min(high + quantity.size, room)
        after[low : top + 1] = 0.0
        for seats in range(low, high + 1):
            for more in range(1, min(quantity.size, room - seats) + 1):
                probability = sold[seats] * quantity[more - 1]
                after[seats + more] += probability
                served[k] += probability
                tickets[k] += more * probability
        low, high = low + 1, top
        while low < high and after[low] < _NEGLIGIBLE:
            low += 1
        while high > low and after[high] < _NEGLIGIBLE:
            high -= 1
        sold, after = after, sold
        k += 1
    return served[:k], tickets[:k]
