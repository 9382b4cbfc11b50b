"""What a window is apart from the reference when nothing has drifted, at the actual sizes.

Two ways to draw windows in which nothing happened. Rows of one day share its events, its users
and its weekday, so where the reference spans days, a window is a run of as many whole days as the
current one has, thinned to as many rows as it has and held against the rest. Without days, rows are
drawn with replacement.

Each column's shift is taken in standard deviations above what such windows show, so that one
largest value can speak for all columns: the threshold is a quantile of that maximum, and looking
at many columns costs no false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ibook_assets.core.monitoring.columns import ColumnBins, Floats, Ints, shifts

IID_DRAWS: Final = 200
"""Windows drawn where rows are drawn."""
MIN_WINDOWS: Final = 8
"""Windows of days a reference must hold, apart from one another, to say what is usual; as often
must the memory of what is compared fit into it."""

CAUTION: Final = 10
"""Days of a reference are calibrated for a false-alarm rate this many times smaller than the
stated one. They are neighbours; the day that is judged comes weeks later, when its labels' age has
passed and other events are on sale. Calibrated for 1 % itself, about 2 % of undrifted days of
simulated worlds were above."""

_KS_SPREAD: Final = 0.26
"""Standard deviation of Kolmogorov's distribution: no column of independent rows is steadier."""
_EULER: Final = 0.5772156649015329


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is usual for each shift, and for the largest of them."""

    mean: Floats
    """Shape (shifts,)."""
    spread: Floats
    """Standard deviations, shape (shifts,); positive."""
    threshold: float
    """Exceeded by the largest standardised shift of an undrifted window at the stated rate."""
    windows: int
    """Undrifted windows behind it."""

    def deviation(self, position: int, shift: tuple[float, float]) -> float:
        """Larger excess of a column's two shifts over what is usual, in standard deviations.

        Args:
            position: of the column among those calibrated.
            shift: among its values, and in its share of nulls.
        """
        own = slice(2 * position, 2 * position + 2)
        return float(((np.array(shift) - self.mean[own]) / self.spread[own]).max())


def days_apart(days: int) -> int:
    """How far apart reference days must be to share no rows: the longest memory that is compared.

    Args:
        days: of the reference.
    """
    return -(-days // MIN_WINDOWS)


def from_days(
    columns: Mapping[str, tuple[ColumnBins, Ints]],
    *,
    length: int,
    rate: float,
    rows: int,
    rng: np.random.Generator,
) -> Calibration:
    """Usual shifts of runs of `length` days of the reference against its other days.

    Args:
        columns: bins and counts of the reference by day, shape (days, bins), of each column.
        length: days of the current window; the reference holds at least `MIN_WINDOWS` times it.
        rate: share of undrifted windows that may exceed the threshold.
        rows: of the current window. Busier days are thinned to as many: fewer rows lie further
            from the reference by chance.
        rng: of the rows kept.
    """
    drawn = np.concatenate(
        [_runs(bins, by_day, length, rows, rng) for bins, by_day in columns.values()], axis=1
    )
    floor = _steadiest(rows, sum_of_rows(columns))
    apart = max(length, days_apart(next(iter(columns.values()))[1].shape[0]))
    largest = np.array(
        [_largest_of_one(drawn, window, apart, floor) for window in range(drawn.shape[0])]
    )
    return _fitted(drawn, largest, floor=floor, rate=rate / CAUTION)


def sum_of_rows(columns: Mapping[str, tuple[ColumnBins, Ints]]) -> int:
    """Rows of the reference; every column has the same."""
    return int(next(iter(columns.values()))[1].sum())


def from_rows(
    columns: Mapping[str, tuple[ColumnBins, Ints]],
    *,
    rows: int,
    rate: float,
    rng: np.random.Generator,
) -> Calibration:
    """Usual shifts of windows of `rows` rows drawn from the reference.

    Columns are drawn independently of each other, which can only raise the threshold of the
    largest shift (Sidak 1967).
    """
    parts = []
    total = sum_of_rows(columns)
    for bins, counts in columns.values():
        shares = counts.sum(axis=0) / total
        window = rng.multinomial(rows, shares, size=IID_DRAWS)
        # The reference itself is a sample: it is drawn anew each time.
        against = rng.multinomial(total, shares, size=IID_DRAWS)
        parts.append(np.stack(shifts(bins.kind, against, window), axis=1))
    drawn = np.concatenate(parts, axis=1)
    floor = _steadiest(rows, total)
    spread = np.maximum(drawn.std(axis=0), floor)
    largest = ((drawn - drawn.mean(axis=0)) / spread).max(axis=1)
    return _fitted(drawn, largest, floor=floor, rate=rate)


def _runs(
    bins: ColumnBins, by_day: Ints, length: int, rows: int, rng: np.random.Generator
) -> Floats:
    """Both shifts of each run of `length` days against the rest, shape (runs, 2)."""
    before = np.concatenate([np.zeros_like(by_day[:1]), np.cumsum(by_day, axis=0)])
    window = before[length:] - before[:-length]
    kept = np.minimum(1.0, rows / np.maximum(window.sum(axis=1, keepdims=True), 1))
    return np.stack(shifts(bins.kind, before[-1] - window, rng.binomial(window, kept)), axis=1)


def _largest_of_one(drawn: Floats, window: int, apart: int, floor: float) -> float:
    """Largest shift of a window, standardised by those that begin at least `apart` days off."""
    others = drawn[np.abs(np.arange(drawn.shape[0]) - window) >= apart]
    spread = np.maximum(others.std(axis=0, ddof=1), floor)
    return float(((drawn[window] - others.mean(axis=0)) / spread).max())


def _steadiest(current_rows: int, reference_rows: int) -> float:
    return _KS_SPREAD * float(np.sqrt(1 / current_rows + 1 / reference_rows))


def largest_allowed(undrifted: Floats, *, rate: float) -> float:
    """What at most `rate` of windows like the `undrifted` exceed, by Gumbel's law.

    Maxima follow it. Fitted by its moments, it reaches rates that no count of windows does.
    """
    scale = float(undrifted.std(ddof=1)) * np.sqrt(6) / np.pi
    location = float(undrifted.mean()) - _EULER * scale
    return float(location - scale * np.log(-np.log1p(-rate)))


def _fitted(drawn: Floats, largest: Floats, *, floor: float, rate: float) -> Calibration:
    return Calibration(
        mean=drawn.mean(axis=0),
        spread=np.maximum(drawn.std(axis=0, ddof=1), floor),
        threshold=largest_allowed(largest, rate=rate),
        windows=drawn.shape[0],
    )
