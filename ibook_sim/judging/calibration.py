"""Whether a probability keeps its word: in each score bin, its mean against what came true."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaincinv

from ibook_sim.world.randomness import Bools, Floats, Ints

EDGES: Final = (0.0, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Score bins: lower bound in, upper bound out; the last holds 1."""
CONFIDENCE: Final = 0.95
"""That all intervals of one table hold what they should, together."""


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Orders whose probabilities lie together."""

    low: float
    high: float
    orders: int
    """Independent ones, that were counted."""
    frauds: int
    predicted: float
    """Their mean probability."""
    rate_low: float
    rate_high: float
    """Confidence interval of the fraud rate, from `frauds` of `orders`."""

    @property
    def observed(self) -> float:
        """The realised fraud rate."""
        return self.frauds / self.orders

    @property
    def calibrated(self) -> bool:
        """Whether the mean probability lies within the interval."""
        return self.rate_low <= self.predicted <= self.rate_high


def calibration_table(
    fraud: Bools,
    probability: Floats,
    account: Ints,
    *,
    edges: Sequence[float] = EDGES,
    confidence: float = CONFIDENCE,
) -> tuple[ScoreBin, ...]:
    """The bins that hold orders, by rising probability.

    An account's orders stand or fall together, so in each bin an account counts with its first
    order there. That choice uses nothing later than the order, so a probability that knows the
    account's past still stands, and orders of different accounts are independent. A probability
    that does not know it is held against accounts that have not been in the bin before.

    Args:
        fraud: shape (n,), the truth.
        probability: shape (n,), within 0..1; no NaN.
        account: shape (n,), whose order it is; rows are in the order of time.
        edges: rising bounds of the bins.
        confidence: of all intervals together, by Bonferroni's correction.

    Source: Clopper and Pearson (1934), exact binomial intervals. Probabilities that differ within
    a bin spread the count less than the binomial does (Hoeffding 1956), so they err to the safe
    side.
    """
    which = np.searchsorted(edges[1:-1], probability, side="right")
    found = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        rows = np.flatnonzero(which == number)
        rows = rows[np.unique(account[rows], return_index=True)[1]]
        if rows.size:
            found.append((low, high, rows))
    tail = (1.0 - confidence) / max(len(found), 1) / 2.0
    return tuple(
        ScoreBin(
            low=low,
            high=high,
            orders=rows.size,
            frauds=(frauds := int(fraud[rows].sum())),
            predicted=float(probability[rows].mean()),
            rate_low=_bound(frauds, rows.size - frauds + 1, tail),
            rate_high=_bound(frauds + 1, rows.size - frauds, 1.0 - tail),
        )
        for low, high, rows in found
    )


def _bound(a: int, b: int, share: float) -> float:
    """Quantile of the beta distribution; 0 and 1 where it has no width."""
    if a == 0:
        return 0.0
    return 1.0 if b == 0 else float(betaincinv(a, b, share))
