"""Facts of one day from raw rows: pure, independent of row order, the same however often it runs.

The caller does the reading. For the facts of a UTC day D, beside D's own raw partition:

- transactions: `transaction_id` of raw/transactions, days D - `ID_LOOKBACK_DAYS` .. D - 1, and the
  catalogue `EVENTS`;
- refunds: `refund_id` of raw/refunds, the same days, and orders;
- outcomes: orders;
- views: nothing.

Orders are `ORDER_COLUMNS` of facts/transactions, days D - `ORDER_LOOKBACK_DAYS` .. D, of the
transaction ids that D's raw rows name. Rows beyond those change nothing, so a semi-join is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import (
    Column,
    Positions,
    array,
    as_mask,
    integers,
    nulls,
    one_chunk,
    pc,
)
from ibook_assets.core.duplicates import deduplicate
from ibook_assets.core.facts import (
    ENTITY_COLUMNS,
    FACT_OUTCOMES,
    FACT_REFUNDS,
    FACT_TRANSACTIONS,
    FACT_VIEWS,
)
from ibook_assets.core.tables import (
    CATEGORIES,
    EVENTS,
    OUTCOMES,
    REFUNDS,
    TRANSACTIONS,
    VIEWS,
    TableSpec,
)
from ibook_assets.core.times import DAY_US

ID_LOOKBACK_DAYS: Final = 7
"""Days before its own in which a row's id makes it a repetition. An id that returns later than
that is a new row: remembering every id for ever would make each day read all history."""

ORDER_LOOKBACK_DAYS: Final = 180
"""Days before its own in which a refund's or outcome's order is looked for: chargebacks are
allowed 120 days, and labels mature within 180."""

ORDER_COLUMNS: Final = ("transaction_id", "known_ts", *ENTITY_COLUMNS.values())
"""Columns of facts/transactions that refunds and outcomes are joined with."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One day of a fact table, and what happened to the raw rows on the way."""

    table: pa.Table
    """Rows in the fact table's stored schema, by (known_ts, key)."""
    counts: Mapping[str, int]
    """`raw` rows; `repeated` and `conflicting` ones left out; `known_before` (id seen on an earlier
    day) left out; `orphans` (no such order: entities are null) and `unknown_events` kept."""


def build_transactions(raw: pa.Table, *, earlier_ids: Column, events: pa.Table) -> Facts:
    """Facts of a day's orders, with the attributes of their ticketed events.

    Args:
        raw: the day's raw rows, TRANSACTIONS' columns.
        earlier_ids: transaction ids of raw/transactions on the `ID_LOOKBACK_DAYS` days before.
            Raw, not facts: an id that returns every few days stays known.
        events: the catalogue, EVENTS' columns; a promoter that the order leaves out is filled
            from it. An order of an event that it lacks keeps null attributes.
    """
    kept, counts = _first_known(raw, TRANSACTIONS, earlier_ids=earlier_ids)
    catalogue = events.take(deduplicate(events, EVENTS).kept)
    at = _positions_of(kept["event_id"], catalogue["event_id"])
    attributes = {
        "category_code": pc.index_in(catalogue["category"], value_set=array(CATEGORIES)),
        **{name: catalogue[name] for name in ("capacity", "list_price_cents", "starts_ts")},
    }
    columns = {name: kept[name] for name in kept.column_names}
    columns["promoter_id"] = pc.coalesce(kept["promoter_id"], _taken(catalogue["promoter_id"], at))
    columns |= {name: _taken(values, at) for name, values in attributes.items()}
    counts["unknown_events"] = int(np.count_nonzero(at < 0))
    return Facts(_stored(columns, FACT_TRANSACTIONS), counts)


def build_refunds(raw: pa.Table, *, earlier_ids: Column, orders: pa.Table) -> Facts:
    """Facts of a day's refunds, with the entities of the orders they return.

    Args:
        raw: the day's raw rows, REFUNDS' columns.
        earlier_ids: refund ids of raw/refunds on the `ID_LOOKBACK_DAYS` days before.
        orders: `ORDER_COLUMNS` of facts/transactions, see the module's table.
    """
    kept, counts = _first_known(raw, REFUNDS, earlier_ids=earlier_ids)
    return _with_entities(kept, counts, FACT_REFUNDS, orders=orders)


def build_outcomes(raw: pa.Table, *, orders: pa.Table) -> Facts:
    """Facts of the outcomes that became known on a day, with the entities of their orders.

    The key holds the moment of knowledge, so a repetition cannot lie on another day.

    Args:
        raw: the day's raw rows, OUTCOMES' columns.
        orders: `ORDER_COLUMNS` of facts/transactions, see the module's table.
    """
    kept, counts = _first_known(raw, OUTCOMES, earlier_ids=array([], pa.int64()))
    return _with_entities(kept, counts, FACT_OUTCOMES, orders=orders)


def build_views(raw: pa.Table) -> Facts:
    """Facts of a day's views. Only repetitions within the day are left out.

    Views outnumber orders by far and only feed counts over minutes and hours, so their ids are not
    remembered from day to day.
    """
    kept, counts = _first_known(raw, VIEWS, earlier_ids=array([], pa.int64()))
    return Facts(_stored({name: kept[name] for name in kept.column_names}, FACT_VIEWS), counts)


def _first_known(
    raw: pa.Table, spec: TableSpec, *, earlier_ids: Column
) -> tuple[pa.Table, dict[str, int]]:
    """The rows that count, in stored order, and how many of the others there were."""
    split = deduplicate(raw, spec)
    kept = raw.take(split.kept)
    known = as_mask(pc.is_in(one_chunk(kept[spec.key[0]]), value_set=one_chunk(earlier_ids)))
    return kept.filter(array(~known)), {
        "raw": raw.num_rows,
        "repeated": len(split.repeated),
        "conflicting": len(split.conflicting),
        "known_before": int(np.count_nonzero(known)),
    }


def _with_entities(
    kept: pa.Table, counts: dict[str, int], spec: TableSpec, *, orders: pa.Table
) -> Facts:
    reached = _within_reach(orders, kept)
    first_known = reached.take(deduplicate(reached, _ORDERS).kept)
    at = _positions_of(kept["transaction_id"], first_known["transaction_id"])
    # An order that became known after this row could not have told the row's entities.
    order_ts = integers(_taken(first_known["known_ts"], at), null=0)
    at = np.where(order_ts <= integers(kept["known_ts"], null=0), at, -1)
    columns = {name: kept[name] for name in kept.column_names}
    columns |= {name: _taken(first_known[name], at) for name in ENTITY_COLUMNS.values()}
    counts["orphans"] = int(np.count_nonzero(at < 0))
    return Facts(_stored(columns, spec), counts)


def _within_reach(orders: pa.Table, rows: pa.Table) -> pa.Table:
    """Orders that the look-back of the rows' day covers, however many the caller has read."""
    if rows.num_rows == 0:
        return orders.slice(0, 0)
    day_us = integers(rows["known_ts"], null=0)[0] // DAY_US * DAY_US
    known_us = integers(orders["known_ts"], null=0)
    return orders.filter(array(known_us >= day_us - ORDER_LOOKBACK_DAYS * DAY_US))


_ORDERS: Final = TableSpec(
    name="orders",
    description="What refunds and outcomes need of an order.",
    key=("transaction_id",),
    columns=tuple(FACT_TRANSACTIONS.column(name) for name in ORDER_COLUMNS),
)


def _positions_of(wanted: Column, known: Column) -> Positions:
    """Where each of `wanted` stands in `known`, which holds it once; -1 where it does not."""
    found = pc.index_in(one_chunk(wanted), value_set=one_chunk(known))
    return integers(found, null=-1)


def _taken(column: Column, at: Positions) -> Column:
    """Values of `column` at the given positions, null at -1."""
    if len(column) == 0:
        return nulls(len(at), column.type)
    return one_chunk(column).take(array(at, mask=at < 0))


def _stored(columns: Mapping[str, Column], spec: TableSpec) -> pa.Table:
    typed = [one_chunk(columns[c.name]).cast(c.type) for c in spec.columns]
    return pa.table(typed, schema=spec.schema)
