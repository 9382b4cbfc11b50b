"""One column of a window as counts: bins of its values, infinities, unseen values, nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from ibook_assets.core.errors import ContractError

Kind = Literal["numeric", "categorical"]
Values: TypeAlias = npt.NDArray[Any]
"""A column of rows: numbers, or texts; NaN and None are null."""
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

BINS: Final = 32
"""Bins of equal reference rows that a numeric column is cut into at most; fewer where it ties."""


def is_null(values: Values) -> npt.NDArray[np.bool_]:
    """Which rows have no value: NaN or None."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        # Only null differs from itself, or is None.
        return np.array([v is None or v != v for v in values.tolist()], np.bool_)  # noqa: PLR0124
    return np.zeros(values.size, np.bool_)


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """How a column is counted. Made from the reference, applied to any window of the column.

    Counts stand in the order: value bins, one bin of what the reference never had (categorical;
    a numeric column's outer bins are open, infinities have bins of their own there), nulls last.
    """

    kind: Kind
    edges: Values
    """Ascending. Numeric: inner edges, the outermost infinite. Categorical: the values."""

    @classmethod
    def of(cls, reference: Values, kind: Kind) -> Self:
        """Bins made from the rows of a reference; ContractError for text in a numeric column."""
        known = reference[~is_null(reference)]
        if kind == "categorical":
            return cls(kind, np.unique(categories(known)))
        finite = finite_values(known)
        distinct = np.unique(finite)
        if distinct.size > BINS:
            inner = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1]))
        else:
            inner = (distinct[1:] + distinct[:-1]) / 2
        bounds = [np.finfo(np.float64).min, np.inf]
        if finite.size:
            # Bins of their own for what lies beyond the reference: a constant may jump.
            bounds += [finite.min(), np.nextafter(finite.max(), np.inf)]
        return cls(kind, np.unique(np.concatenate([inner, bounds])))

    @property
    def size(self) -> int:
        """Number of counts of a window."""
        return self.edges.size + 2

    def codes(self, values: Values) -> Ints:
        """Position of each row in the counts."""
        null = is_null(values)
        codes = np.full(values.size, self.size - 1, np.int64)
        if self.kind == "numeric":
            numbers = values[~null].astype(np.float64)
            codes[~null] = np.searchsorted(self.edges, numbers, side="right")
            return codes
        found = categories(values[~null])
        unseen = np.full(found.size, self.edges.size, np.int64)
        # Texts are none of the values of a reference of numbers.
        if self.edges.size and self.edges.dtype.kind == found.dtype.kind:
            at = np.searchsorted(self.edges, found).clip(max=self.edges.size - 1)
            unseen = np.where(self.edges[at] == found, at, unseen)
        codes[~null] = unseen
        return codes

    def counts(self, values: Values, groups: Ints | None = None, n_groups: int = 1) -> Ints:
        """Rows in each bin, shape (n_groups, size): of each group of rows, or of all as one."""
        cells = self.codes(values)
        if groups is not None:
            cells = cells + groups * self.size
        return np.bincount(cells, minlength=n_groups * self.size).reshape(n_groups, self.size)


def categories(known: Values) -> Values:
    """Category values, none of them null, as numbers where all are, else as texts."""
    return known.astype(np.float64 if known.dtype.kind in "biuf" else np.str_)


def finite_values(values: Values) -> Floats:
    """The finite numbers among `values`; ContractError when they are not numbers."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"a numeric column holds {values[:3].tolist()}; declare its kind categorical"
        raise ContractError(msg) from error
    return np.asarray(numbers[np.isfinite(numbers)])


def shifts(kind: Kind, reference: Ints, current: Ints) -> tuple[Floats, Floats]:
    """How far windows of counts are apart: among their values, and in their share of nulls.

    Args:
        kind: numeric compares cumulative shares (Kolmogorov-Smirnov on the bins), categorical
            half the summed difference of shares (total variation).
        reference: shape (n, bins) or (1, bins), as `ColumnBins.counts` gives it.
        current: shape (n, bins).

    Returns:
        Two arrays (n,), each in 0..1. Windows of which exactly one has no value are 1 apart.
    """
    known, seen = reference[:, :-1], current[:, :-1]
    had, has = known.sum(axis=1, keepdims=True), seen.sum(axis=1, keepdims=True)
    difference = seen / np.maximum(has, 1) - known / np.maximum(had, 1)
    if kind == "numeric":
        moved = np.abs(np.cumsum(difference, axis=1)).max(axis=1)
    else:
        moved = np.abs(difference).sum(axis=1) / 2
    moved = np.where((had == 0)[:, 0] == (has == 0)[:, 0], moved, 1.0)
    rows = np.maximum(reference.sum(axis=1), 1), np.maximum(current.sum(axis=1), 1)
    nulls = np.abs(current[:, -1] / rows[1] - reference[:, -1] / rows[0])
    return np.asarray(moved), np.asarray(nulls)
