"""The books of a run: seats, prices and rows that must add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from ibook_assets.core.arrow import array, integers, pc
from ibook_assets.core.tables import TIERS
from ibook_sim.chaos import Delivery
from ibook_sim.drift import DRIFTED_PRICE_PERCENT
from ibook_sim.judging.findings import Books, PartFound
from ibook_sim.world import World
from ibook_sim.world.orders import TIER_PERCENT


def books_of(sent: pa.Table, events: pa.Table, oversold: int) -> Books:
    """The books of what was sent; what arrived is added when it has."""
    n = sent.num_rows
    return Books(oversold, _wrong_amounts(sent, events), n, 0, 0, n)


def delivered(found: PartFound, delivery: Delivery) -> PartFound:
    """`found` with the books of what arrived."""
    books = Books(
        oversold_events=found.books.oversold_events,
        wrong_amounts=found.books.wrong_amounts,
        sent=found.orders,
        dropped=delivery.dropped,
        duplicated=delivery.duplicated,
        arrived=delivery.rows.num_rows,
    )
    return replace(found, books=books)


def oversold_events(world: World, until: date) -> int:
    """Events with more tickets sold than seats, over all days up to `until`."""
    capacity = integers(world.catalogue(until).events["capacity"], null=0)
    sold = np.zeros(capacity.size)
    for number in range((until - world.config.start_date).days + 1):
        orders = world.orders(world.config.start_date + timedelta(days=number))
        sold += np.bincount(orders.event_id, orders.quantity, capacity.size)
    return int((sold > capacity).sum())


def _wrong_amounts(sent: pa.Table, events: pa.Table) -> int:
    """Orders whose amount is not tickets times the tier's price, before or after the drift."""
    price = integers(events["list_price_cents"], null=0)
    tier = integers(pc.index_in(sent["tier"], value_set=array(list(TIERS))), null=0)
    each = price[integers(sent["event_id"], null=0)] * TIER_PERCENT[tier] // 100
    quantity = integers(sent["quantity"], null=0)
    amount = integers(sent["amount_cents"], null=0)
    drifted = each * DRIFTED_PRICE_PERCENT // 100
    return int(((amount != each * quantity) & (amount != drifted * quantity)).sum())
