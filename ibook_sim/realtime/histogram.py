"""Counts of latencies in buckets of equal relative width, as HdrHistogram keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from ibook_sim.world.randomness import Floats, Ints

RELATIVE_WIDTH: Final = 0.01
"""A quantile is at most this much (relative) above the true one."""

_SHORTEST: Final = 1e-6
_LONGEST: Final = 3_600.0
_LOG: Final = math.log1p(RELATIVE_WIDTH)
_BUCKETS: Final = math.ceil(math.log(_LONGEST / _SHORTEST) / _LOG) + 1


class LatencyHistogram:
    """Latencies from 1 µs to an hour; what is outside counts in the outermost bucket."""

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(_BUCKETS, np.int64)
        self._largest = 0.0

    def add(self, seconds: Floats) -> None:
        """Count `seconds`, shape (n,), no NaN."""
        if not seconds.size:
            return
        within = np.clip(seconds, _SHORTEST, _LONGEST)
        buckets = np.ceil(np.log(within / _SHORTEST) / _LOG - 1e-9).astype(np.int64)
        self._counts += np.bincount(buckets, minlength=_BUCKETS)
        self._largest = max(self._largest, float(seconds.max()))

    def merge(self, other: LatencyHistogram) -> None:
        """Count what `other` counted too."""
        self._counts += other._counts
        self._largest = max(self._largest, other._largest)

    @property
    def count(self) -> int:
        """Latencies counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0..1) of the latencies do not exceed; NaN when there are none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(share * self.count))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(self._upper(bucket), self._largest)

    def points(self) -> list[tuple[float, float]]:
        """The distribution function: (seconds, share not above it) at each bucket in use."""
        total = np.cumsum(self._counts) / max(self.count, 1)
        used = np.flatnonzero(self._counts)
        return [(min(self._upper(int(b)), self._largest), float(total[b])) for b in used]

    def summary_ms(self) -> Mapping[str, float | None]:
        """The usual quantiles in milliseconds; None when nothing was counted."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        if not self.count:
            return dict.fromkeys(shares)
        return {name: round(self.quantile(q) * 1e3, 3) for name, q in shares.items()}

    @staticmethod
    def _upper(bucket: int) -> float:
        return _SHORTEST * math.exp(bucket * _LOG)
