"""The distance rule that Evidently applies to a column of more than 1,000 reference rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ibook_assets.core.monitoring.columns import (
    Floats,
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


def distance(reference: Values, current: Values, kind: Kind) -> Distance:
    """Normed Wasserstein distance of a numeric column, Jensen-Shannon distance of any other.

    Nulls and infinities are left out, as Evidently's report leaves them out. A numeric column of
    at most five different values is compared value by value, as there.

    Source: Evidently 0.7.23, `stattests.registry._get_default_stattest`.
    """
    if kind == "categorical":
        before = categories(reference[~is_null(reference)])
        after = categories(current[~is_null(current)])
        if before.dtype.kind != after.dtype.kind:
            before, after = before.astype(np.str_), after.astype(np.str_)
        return Distance("jensen_shannon", _unless_empty(before, after, _jensen_shannon))
    old, new = np.sort(finite_values(reference)), np.sort(finite_values(current))
    if _union(old, new).size <= _FEW_VALUES:
        return Distance("jensen_shannon", _unless_empty(old, new, _jensen_shannon))
    return Distance("wasserstein", _unless_empty(old, new, _normed_wasserstein))


def _unless_empty(
    reference: Values, current: Values, measure: Callable[[Values, Values], float]
) -> float | None:
    if reference.size and current.size:
        return measure(reference, current)
    return 0.0 if reference.size == current.size else None


def _normed_wasserstein(reference: Values, current: Values) -> float:
    """First Wasserstein distance of sorted windows, in standard deviations of the reference."""
    values = _union(reference, current)
    before = np.searchsorted(reference, values[:-1], side="right") / reference.size
    after = np.searchsorted(current, values[:-1], side="right") / current.size
    apart = float(np.sum(np.abs(before - after) * np.diff(values)))
    return apart / max(float(np.std(reference)), _SMALLEST_SPREAD)


def _union(reference: Values, current: Values) -> Values:
    """The different values of two sorted windows, ascending."""
    # The stable sort merges sorted runs; np.unique would sort anew.
    values = np.sort(np.concatenate([reference, current]), kind="stable")
    return values[np.append(True, values[1:] != values[:-1])] if values.size else values


def _jensen_shannon(reference: Values, current: Values) -> float:
    """Jensen-Shannon distance (natural logarithm) of the shares of the values."""
    values, code = np.unique(np.concatenate([reference, current]), return_inverse=True)
    before = np.bincount(code[: reference.size], minlength=values.size) / reference.size
    after = np.bincount(code[reference.size :], minlength=values.size) / current.size
    return jensen_shannon(before, after)


def jensen_shannon(before: Floats, after: Floats) -> float:
    """Jensen-Shannon distance (natural logarithm) of two lists of shares that each sum to 1."""
    middle = (before + after) / 2
    divergence = (_divergence(before, middle) + _divergence(after, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _divergence(shares: Floats, against: Floats) -> float:
    present = shares > 0
    return float(np.sum(shares[present] * np.log(shares[present] / against[present])))
