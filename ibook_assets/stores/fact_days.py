"""Facts of a run of days out of the lake: reads just what `core.fact_rules` asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Final

import pyarrow as pa

from ibook_assets.core.arrow import Column, pc
from ibook_assets.core.fact_rules import (
    ID_LOOKBACK_DAYS,
    ORDER_COLUMNS,
    ORDER_LOOKBACK_DAYS,
    Facts,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.facts import FACT_TRANSACTIONS
from ibook_assets.core.tables import EVENTS, OUTCOMES, REFUNDS, TRANSACTIONS, VIEWS, TableSpec
from ibook_assets.stores.lake import Lake

_DAYS_AT_ONCE: Final = 31
"""Days whose orders are looked up in one read of the look-back."""


def transaction_days(lake: Lake, days: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """Facts of the orders of each of `days`, which are sorted."""
    events = lake.read("raw/events", spec=EVENTS)
    earlier = _EarlierIds(lake, TRANSACTIONS)
    for day in days:
        raw = lake.read("raw/transactions", [day], spec=TRANSACTIONS)
        yield day, build_transactions(raw, earlier_ids=earlier.before(day), events=events)


def view_days(lake: Lake, days: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """Facts of the views of each of `days`."""
    for day in days:
        yield day, build_views(lake.read("raw/views", [day], spec=VIEWS))


def refund_days(lake: Lake, days: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """Facts of the refunds of each of `days`, which are sorted."""
    earlier = _EarlierIds(lake, REFUNDS)
    for day, raw, orders in _with_orders(lake, REFUNDS, days):
        yield day, build_refunds(raw, earlier_ids=earlier.before(day), orders=orders)


def outcome_days(lake: Lake, days: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """Facts of the outcomes of each of `days`, which are sorted."""
    for day, raw, orders in _with_orders(lake, OUTCOMES, days):
        yield day, build_outcomes(raw, orders=orders)


FACT_DAYS: Final = {
    TRANSACTIONS.name: transaction_days,
    VIEWS.name: view_days,
    REFUNDS.name: refund_days,
    OUTCOMES.name: outcome_days,
}
"""Fact table to what builds its days."""


def days_before(day: str, count: int) -> list[str]:
    """The `count` days before `day`, oldest first."""
    last = date.fromisoformat(day)
    return [(last - timedelta(days=n)).isoformat() for n in range(count, 0, -1)]


class _EarlierIds:
    """Row ids of the raw days before a day; a day's ids are read once for all that follow."""

    def __init__(self, lake: Lake, spec: TableSpec) -> None:
        self._lake = lake
        self._table = f"raw/{spec.name}"
        self._key = spec.key[0]
        self._there = set(lake.partitions(self._table))
        self._ids: dict[str, Column] = {}

    def before(self, day: str) -> Column:
        window = [d for d in days_before(day, ID_LOOKBACK_DAYS) if d in self._there]
        self._ids = {d: self._ids[d] if d in self._ids else self._read(d) for d in window}
        chunks = [chunk for ids in self._ids.values() for chunk in ids.chunks]
        return pa.chunked_array(chunks, pa.int64())

    def _read(self, day: str) -> Column:
        return self._lake.read(self._table, [day], columns=[self._key]).column(self._key)


def _with_orders(
    lake: Lake, spec: TableSpec, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Each day's raw rows with the orders that they, or rows of the days around them, name."""
    there = set(lake.partitions("facts/transactions"))
    for first in range(0, len(days), _DAYS_AT_ONCE):
        chunk = days[first : first + _DAYS_AT_ONCE]
        raw = {day: lake.read(f"raw/{spec.name}", [day], spec=spec) for day in chunk}
        named = pc.unique(pa.concat_tables(raw.values())["transaction_id"])
        reach = [*days_before(chunk[0], ORDER_LOOKBACK_DAYS), *_span(chunk[0], chunk[-1])]
        orders = lake.read(
            "facts/transactions",
            [day for day in reach if day in there],
            columns=ORDER_COLUMNS,
            filters=pc.field("transaction_id").isin(named),
            spec=FACT_TRANSACTIONS,
        )
        for day in chunk:
            yield day, raw[day], orders


def _span(first: str, last: str) -> list[str]:
    count = (date.fromisoformat(last) - date.fromisoformat(first)).days
    return [*days_before(last, count), last]
