"""Facts out of released rows, by the rules that batch uses, with what the store remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import Column, array, integers
from ibook_assets.core.fact_rules import (
    ID_LOOKBACK_DAYS,
    ORDER_COLUMNS,
    ORDER_LOOKBACK_DAYS,
    build_outcomes,
    build_refunds,
    build_transactions,
    build_views,
)
from ibook_assets.core.facts import ENTITY_COLUMNS
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.tables import OUTCOMES, REFUNDS, TRANSACTIONS, VIEWS
from ibook_assets.core.times import DAY_US
from ibook_assets.stores.online.format import OrderRecord

_RECORDED: Final = ("known_ts", *ENTITY_COLUMNS.values())
"""What an OrderRecord holds of an order, in its order."""


@dataclass(slots=True)
class Memory:
    """What the store remembers of the rows' ids, and what these rows add to it."""

    orders: dict[int, OrderRecord] = field(default_factory=dict)
    refunds: dict[int, int] = field(default_factory=dict)
    """Refund id to when it was last seen (microseconds)."""
    views: dict[int, int] = field(default_factory=dict)
    """View id to when it was last seen (microseconds)."""


def facts_of(
    raw: Mapping[str, pa.Table], memory: Memory, *, events: pa.Table
) -> dict[str, pa.Table]:
    """Facts by table out of raw rows by table; `memory` learns their ids.

    The rows of each day are treated as batch treats that day's partition, the days in order.

    Args:
        raw: rows of the raw tables, complete up to a watermark.
        memory: of all orders, refunds and views that the rows name.
        events: catalogue of the events they name.
    """
    found: dict[str, list[pa.Table]] = {}
    for day in _days(raw.values()):
        for name, table in _facts_of_day(day, raw, memory, events).items():
            found.setdefault(name, []).append(table)
    return {name: pa.concat_tables(tables) for name, tables in found.items()}


def _days(tables: Iterable[pa.Table]) -> list[int]:
    days = [np.unique(integers(table["known_ts"], null=0) // DAY_US) for table in tables]
    return sorted({int(day) for found in days for day in found})


def _facts_of_day(
    day: int, raw: Mapping[str, pa.Table], memory: Memory, events: pa.Table
) -> dict[str, pa.Table]:
    rows = {
        name: table.filter(array(integers(table["known_ts"], null=0) // DAY_US == day))
        for name, table in raw.items()
    }
    facts = {}
    # Orders first: a refund or an outcome of the same day takes its entities from them.
    if TRANSACTIONS.name in rows:
        table = rows[TRANSACTIONS.name]
        seen = [k for k, o in memory.orders.items() if o.last_seen_day >= day - ID_LOOKBACK_DAYS]
        facts[TRANSACTIONS.name] = build_transactions(
            table, earlier_ids=_ids(seen), events=events
        ).table
        _remember_orders(day, table, facts[TRANSACTIONS.name], memory)
    if REFUNDS.name in rows:
        table = rows[REFUNDS.name]
        first_us = (day - ID_LOOKBACK_DAYS) * DAY_US
        seen = [k for k, last_us in memory.refunds.items() if last_us >= first_us]
        facts[REFUNDS.name] = build_refunds(
            table, earlier_ids=_ids(seen), orders=_orders(memory)
        ).table
        memory.refunds |= _last_seen(table, "refund_id")
    if OUTCOMES.name in rows:
        facts[OUTCOMES.name] = build_outcomes(rows[OUTCOMES.name], orders=_orders(memory)).table
    if VIEWS.name in rows:
        table = rows[VIEWS.name]
        today = [k for k, last_us in memory.views.items() if last_us // DAY_US == day]
        again = np.isin(integers(table["view_id"], null=MISSING_ID), today)
        facts[VIEWS.name] = build_views(table.filter(array(~again))).table
        memory.views |= _last_seen(table, "view_id")
    return facts


def _last_seen(table: pa.Table, column: str) -> dict[int, int]:
    ordered = table.sort_by("known_ts")
    return dict(zip(_integers(ordered, column), _integers(ordered, "known_ts"), strict=True))


def _ids(ids: list[int]) -> Column:
    return array(ids, pa.int64())


def _integers(table: pa.Table, column: str) -> list[int]:
    values: list[int] = integers(table[column], null=MISSING_ID).tolist()
    return values


def _remember_orders(day: int, raw: pa.Table, facts: pa.Table, memory: Memory) -> None:
    columns = [_integers(facts, name) for name in _RECORDED]
    for order_id, *rest in zip(_integers(facts, "transaction_id"), *columns, strict=True):
        before = memory.orders.get(order_id)
        # Refunds and outcomes belong to the first order of an id that the look-back reaches.
        if before is None or before.known_ts < (day - ORDER_LOOKBACK_DAYS) * DAY_US:
            memory.orders[order_id] = OrderRecord._make([*rest, day])
    for order_id in _integers(raw, "transaction_id"):
        memory.orders[order_id] = memory.orders[order_id]._replace(last_seen_day=day)


def _orders(memory: Memory) -> pa.Table:
    """The orders within reach as `ORDER_COLUMNS` of the facts."""
    known = {i: order for i, order in memory.orders.items() if order.known_ts >= 0}
    columns: dict[str, Column] = {"transaction_id": _ids(list(known))}
    for k, name in enumerate(_RECORDED):
        values = np.array([order[k] for order in known.values()], np.int64)
        columns[name] = array(values, mask=values < 0)
    return pa.table(columns).select(ORDER_COLUMNS)
