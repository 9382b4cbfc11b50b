"""Whose orders refunds and outcomes are about: the key that their events travel under."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pyarrow as pa

from ibook_assets.core.arrow import integers, one_chunk, pc
from ibook_assets.core.fact_rules import ORDER_LOOKBACK_DAYS
from ibook_assets.core.ids import MISSING_ID
from ibook_assets.core.times import from_us
from ibook_assets.stores.fact_days import days_before
from ibook_assets.stores.lake import Lake

_ORDERS = "facts/transactions"


def users_of_orders(lake: Lake, tables: Mapping[str, pa.Table]) -> dict[int, int]:
    """Buyer of every order in the lake that rows of `tables` without a `user_id` name.

    Only orders that the facts' look-back reaches from the rows' last day are found.
    """
    asking = [t for t in tables.values() if t.num_rows and "user_id" not in t.column_names]
    if not asking:
        return {}
    wanted = pc.unique(pa.concat_arrays([one_chunk(t["transaction_id"]) for t in asking]))
    last = max(pc.max(t["known_ts"]).as_py() for t in asking)
    day = (from_us(last).date() + timedelta(days=1)).isoformat()
    there = set(lake.partitions(_ORDERS))
    days = [d for d in days_before(day, ORDER_LOOKBACK_DAYS + 1) if d in there]
    if not days:
        return {}
    found = lake.read(
        _ORDERS,
        days,
        columns=["transaction_id", "user_id"],
        filters=pc.field("transaction_id").isin(wanted),
    )
    ids, users = (integers(found[name], null=MISSING_ID).tolist() for name in found.column_names)
    return dict(zip(ids, users, strict=True))
