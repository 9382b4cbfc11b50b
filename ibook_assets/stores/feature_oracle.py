"""A second opinion on stored features: the same specs as SQL, on a sample of a day's orders."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array
from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.spec import FeatureView
from ibook_assets.core.features.sql import join_sql
from ibook_assets.stores.feature_days import feature_table
from ibook_assets.stores.lake import Lake
from ibook_assets.stores.lookback import day_sources


@dataclass(frozen=True, slots=True)
class Comparison:
    """Stored features against SQL, value by value."""

    orders: int
    values: int
    mismatches: int
    """Values whose bits differ; two NaN are alike."""
    features: tuple[str, ...]
    """Features with a mismatch."""


def compare_with_sql(
    lake: Lake,
    view: FeatureView,
    day: str,
    connection: duckdb.DuckDBPyConnection,
    *,
    sample: int,
) -> Comparison:
    """Compare up to `sample` orders, spread evenly over `day`, bit by bit."""
    orders = lake.read("facts/transactions", [day], spec=FACT_TRANSACTIONS)
    chosen = np.unique(np.linspace(0, orders.num_rows - 1, sample).astype(np.int64))
    chosen = chosen[: orders.num_rows]
    asked = orders.take(array(chosen))
    stored = lake.read(feature_table(view), [day]).take(array(chosen))
    sources = day_sources(lake, view, day, asked)
    numbered = asked.append_column("query_row", array(np.arange(asked.num_rows)))
    tables = {**sources, "queries": numbered}
    for name, table in tables.items():
        connection.register(name, table)
    columns = {name: table.column_names for name, table in tables.items()}
    expected: pa.Table = connection.sql(join_sql(view, columns)).to_arrow_table()
    wrong = {name: _differing(stored, expected, name) for name in view.feature_names}
    return Comparison(
        orders=asked.num_rows,
        values=asked.num_rows * len(view.feature_names),
        mismatches=sum(wrong.values()),
        features=tuple(name for name, count in wrong.items() if count),
    )


def _differing(stored: pa.Table, expected: pa.Table, name: str) -> int:
    left = np.asarray(stored[name].to_numpy(), dtype=np.float32)
    right = np.asarray(expected[name].to_numpy(), dtype=np.float32)
    alike = (left.view(np.int32) == right.view(np.int32)) | (np.isnan(left) & np.isnan(right))
    return int(np.count_nonzero(~alike))
