"""Features of a run of days out of the lake, reading only the look-back that can count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import pc
from ibook_assets.core.facts import ENTITY_COLUMNS, FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import view as view_named
from ibook_assets.core.features.engine import compute_view, query_columns, required_columns
from ibook_assets.core.features.plan import Layout, layouts_of
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.lake import Lake, Receipt

ORDERS_AT_ONCE: Final = 5_000_000
"""Orders whose features are computed in one sweep; bounds the memory of a long backfill."""

_SEMI_JOIN_BELOW: Final = 0.25
"""Share of the look-back's days below which rows of other keys are filtered out while reading."""


def feature_table(view: FeatureView | str) -> str:
    """Lake table of a feature view in its present definition."""
    spec = view_named(view) if isinstance(view, str) else view
    return f"features/{spec.name}/v={spec.spec_hash[:16]}"


def feature_days(
    lake: Lake, view: FeatureView, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The features of `view` for the orders of each of `days`, which are sorted."""
    for chunk in _chunks(lake.receipts("facts/transactions", days)):
        orders = lake.read_files(chunk, columns=query_columns(view), spec=FACT_TRANSACTIONS)
        span = [str(receipt.partition) for receipt in chunk]
        values = compute_view(view, look_back(lake, view, orders, span), orders)
        at = 0
        for receipt in chunk:
            yield str(receipt.partition), values.slice(at, receipt.rows)
            at += receipt.rows


def look_back(
    lake: Lake, view: FeatureView, orders: pa.Table, days: Sequence[str]
) -> dict[str, pa.Table]:
    """Rows of every source of `view` that can count for `orders`, which are those of `days`."""
    layouts = layouts_of([view])
    return {
        source: _read(lake, view, [x for x in layouts if x.source == source], orders, days)
        for source in dict.fromkeys(layout.source for layout in layouts)
    }


def _read(
    lake: Lake,
    view: FeatureView,
    layouts: Sequence[Layout],
    orders: pa.Table,
    days: Sequence[str],
) -> pa.Table:
    source = layouts[0].source
    horizon_days = -(-max(layout.horizon_us for layout in layouts) // DAY_US)
    first = (date.fromisoformat(days[0]) - timedelta(days=horizon_days)).isoformat()
    reach = [d for d in lake.partitions(f"facts/{source}") if first <= d <= days[-1]]
    keys = None
    if len(days) < _SEMI_JOIN_BELOW * len(reach):
        for column in dict.fromkeys(ENTITY_COLUMNS[layout.entity] for layout in layouts):
            asked = pc.field(column).isin(pc.unique(orders[column]).drop_null())
            keys = asked if keys is None else keys | asked
    return lake.read(
        f"facts/{source}",
        reach,
        columns=required_columns(view, source),
        filters=keys,
        spec=SOURCES[source],
    )


def _chunks(receipts: Sequence[Receipt]) -> Iterator[list[Receipt]]:
    chunk: list[Receipt] = []
    for receipt in receipts:
        if chunk and sum(r.rows for r in chunk) + receipt.rows > ORDERS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(receipt)
    if chunk:
        yield chunk
