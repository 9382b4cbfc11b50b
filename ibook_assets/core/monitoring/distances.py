"""The distance rule that Evidently applies to a column of more than 1,000 reference rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np

from ibook_assets.core.monitoring.columns import (
    Floats,
    Ints,
    Kind,
    Values,
    categories,
    finite_values,
    is_null,
)

COLUMN_DISTANCE_THRESHOLD: Final = 0.1
"""Distance from which a column counts as drifted (dimensionless)."""

_FEW_VALUES: Final = 5
_SMALLEST_SPREAD: Final = 0.001

Method = Literal["wasserstein", "jensen_shannon"]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two windows of a column are apart, by the rule."""

    method: Method
    value: float | None
    """None when exactly one window has no finite value: they cannot be further apart."""

    @property
    def drifted(self) -> bool:
        """Whether the rule counts the column as drifted."""
        return self.value is None or self.value >= COLUMN_DISTANCE_THRESHOLD


@dataclass(frozen=True, slots=True)
class Tally:
    """What a distance reads of a column: its different values and how many rows have each."""

    kind: Kind
    values: Values
    """Ascending: finite numbers of a numeric column, categories of any other."""
    counts: Ints

    @classmethod
    def of(cls, column: Values, kind: Kind) -> Self:
        """The rows of `column`; ContractError for text in a numeric one."""
        known = (
            categories(column[~is_null(column)]) if kind == "categorical" else finite_values(column)
        )
        values, counts = np.unique(known, return_counts=True)
        return cls(kind, values, counts)

    @property
    def spread(self) -> float:
        """Standard deviation of a numeric column."""
        return float(np.sqrt(np.cov(self.values, fweights=self.counts, ddof=0)))


def distance(reference: Values, current: Values, kind: Kind) -> Distance:
    """Distance of two windows of a column, see `tally_distance`."""
    return tally_distance(Tally.of(reference, kind), Tally.of(current, kind))


def tally_distance(reference: Tally, current: Tally) -> Distance:
    """Normed Wasserstein distance of a numeric column, Jensen-Shannon distance of any other.

    Nulls and infinities are left out, as Evidently's report leaves them out. A numeric column of
    at most five different values is compared value by value, as there.

    Source: Evidently 0.7.23, `stattests.registry._get_default_stattest`.
    """
    wide = reference.kind == "numeric" and (
        max(reference.values.size, current.values.size) > _FEW_VALUES
        or np.union1d(reference.values, current.values).size > _FEW_VALUES
    )
    method: Method = "wasserstein" if wide else "jensen_shannon"
    if not (reference.values.size and current.values.size):
        return Distance(method, 0.0 if reference.values.size == current.values.size else None)
    measure = _normed_wasserstein if wide else _jensen_shannon_of
    return Distance(method, measure(reference, current))


def _normed_wasserstein(reference: Tally, current: Tally) -> float:
    """First Wasserstein distance in standard deviations of the reference."""
    values = np.concatenate([reference.values, current.values])
    shares = np.concatenate(
        [reference.counts / reference.counts.sum(), -current.counts / current.counts.sum()]
    )
    # The stable sort merges sorted runs.
    order = np.argsort(values, kind="stable")
    between = np.abs(np.cumsum(shares[order])[:-1])
    return float(between @ np.diff(values[order])) / max(reference.spread, _SMALLEST_SPREAD)


def _jensen_shannon_of(reference: Tally, current: Tally) -> float:
    """Jensen-Shannon distance (natural logarithm) of the shares of the values."""
    before, after = reference.values, current.values
    if before.dtype.kind != after.dtype.kind:
        before, after = before.astype(np.str_), after.astype(np.str_)
    values = np.union1d(before, after)
    shares = np.zeros((2, values.size))
    shares[0, np.searchsorted(values, before)] = reference.counts / reference.counts.sum()
    shares[1, np.searchsorted(values, after)] = current.counts / current.counts.sum()
    return jensen_shannon(shares[0], shares[1])


def jensen_shannon(before: Floats, after: Floats) -> float:
    """Jensen-Shannon distance (natural logarithm) of two lists of shares that each sum to 1."""
    middle = (before + after) / 2
    divergence = (_divergence(before, middle) + _divergence(after, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _divergence(shares: Floats, against: Floats) -> float:
    present = shares > 0
    return float(np.sum(shares[present] * np.log(shares[present] / against[present])))
