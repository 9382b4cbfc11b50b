"""Features of a run of days out of the lake, reading only the look-back that can count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.features.catalog import FEATURE_VIEWS
from ibook_assets.core.features.catalog import view as view_named
from ibook_assets.core.features.engine import (
    compute_view,
    query_columns,
    required_columns,
    required_sources,
)
from ibook_assets.core.features.spec import SOURCES, FeatureView
from ibook_assets.stores.lake import Lake, Receipt
from ibook_assets.stores.lookback import day_sources, lookback_days

ORDERS_AT_ONCE: Final = 5_000_000
"""Orders whose features are computed in one sweep; bounds the memory of a long backfill."""


def feature_table(view: FeatureView | str) -> str:
    """Lake table of a feature view in its present definition."""
    spec = view_named(view) if isinstance(view, str) else view
    return f"features/{spec.name}/v={spec.spec_hash[:16]}"


def featured_days(lake: Lake) -> list[str]:
    """Days that have every feature view in its present definition, sorted."""
    return sorted(
        set.intersection(*(set(lake.partitions(feature_table(v))) for v in FEATURE_VIEWS))
    )


def feature_days(
    lake: Lake, view: FeatureView, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The features of `view` for the orders of each of `days`, which are sorted."""
    for chunk in _chunks(lake.receipts("facts/transactions", days)):
        orders = lake.read_files(chunk, columns=query_columns(view), spec=FACT_TRANSACTIONS)
        span = [str(receipt.partition) for receipt in chunk]
        values = compute_view(view, _sources(lake, view, orders, span), orders)
        at = 0
        for receipt in chunk:
            yield str(receipt.partition), values.slice(at, receipt.rows)
            at += receipt.rows


def _sources(
    lake: Lake, view: FeatureView, orders: pa.Table, days: Sequence[str]
) -> dict[str, pa.Table]:
    if len(days) == 1:
        return day_sources(lake, view, days[0], orders)
    # Most keys order on some day of a long run: filtering by them would cost more than it saves.
    sources = {}
    for source in required_sources(view):
        first, _ = lookback_days(view, source, days[0])
        reach = [d for d in lake.partitions(f"facts/{source}") if first <= d <= days[-1]]
        columns = required_columns(view, source)
        sources[source] = lake.read(f"facts/{source}", reach, columns=columns, spec=SOURCES[source])
    return sources


def _chunks(receipts: Sequence[Receipt]) -> Iterator[list[Receipt]]:
    chunk: list[Receipt] = []
    for receipt in receipts:
        if chunk and sum(r.rows for r in chunk) + receipt.rows > ORDERS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(receipt)
    if chunk:
        yield chunk
