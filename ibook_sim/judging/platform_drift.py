"""What the platform's own drift monitoring says of a run's orders."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.monitoring import DriftDecision, Kind, Values, drift_of
from ibook_assets.core.tables import TRANSACTIONS, Column

_KEYS: Final = ("_id", "_ts")
"""Endings of columns that differ between any two windows."""
WATCHED: Final = tuple(c for c in TRANSACTIONS.columns if not c.name.endswith(_KEYS))
"""Columns of an order that are watched."""


def platform_drift(before: pa.Table, sent: pa.Table) -> DriftDecision:
    """Its decision on the columns of `sent`, held against those of the undrifted twin."""
    kinds = {column.name: _kind(column) for column in WATCHED}
    return drift_of(_window(before), _window(sent), kinds)


def _kind(column: Column) -> Kind:
    texts = column.allowed is not None or pa.types.is_boolean(column.type)
    return "categorical" if texts else "numeric"


def _window(rows: pa.Table) -> dict[str, Values]:
    return {column.name: _values(rows[column.name], column) for column in WATCHED}


def _values(rows: Any, column: Column) -> Values:  # noqa: ANN401 - a column of Arrow's
    if _kind(column) == "categorical":
        return np.array(rows.to_pylist(), dtype=np.object_)
    return np.asarray(rows.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
