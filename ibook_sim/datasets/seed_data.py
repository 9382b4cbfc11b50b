"""The reference seed data set: a year of a small world, cut to round numbers.

Exactly 10,000 orders (300 of them fraudulent), 100 events and 1,000 accounts, with the weekly,
seasonal and growth patterns of the world. Orders are thinned at random from a slightly larger
world to reach the numbers; the truth's posteriors condition on that whole world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ibook_assets.core.arrow import Array, array, pc
from ibook_assets.core.errors import ContractError
from ibook_assets.core.tables import CATEGORIES
from ibook_sim.datasets.export import TRUTH_FOLDER, write_table
from ibook_sim.world import World, WorldConfig, days_from
from ibook_sim.world.randomness import Bools, Ints, Stream, generator

TRANSACTIONS: Final = 10_000
EVENTS: Final = 100
USERS: Final = 1_000
FRAUD: Final = 300
DAYS: Final = 365

_SPARE: Final = 1.25
"""How many more orders the world has than are kept, so that the cuts leave enough."""


@dataclass(frozen=True, slots=True)
class SeedData:
    """The seed data set's tables; `truth` is never an input of a model."""

    transactions: pa.Table
    events: pa.Table
    users: pa.Table
    truth: pa.Table
    event_metrics: pa.Table
    user_metrics: pa.Table

    def items(self) -> tuple[tuple[str, pa.Table], ...]:
        """(name, table) of each table."""
        return tuple((name, getattr(self, name)) for name in self.__slots__)


def seed_config(seed: int, start: date) -> WorldConfig:
    """The small world that the seed data is cut from."""
    return WorldConfig(
        seed=seed,
        start_date=start,
        users=560,
        events=42,
        orders_per_day=_SPARE * TRANSACTIONS / DAYS,
        fraud_share=1.15 * FRAUD / TRANSACTIONS,
        renewal_per_day=0.002,
        yearly_growth=0.3,
        seasonal_amplitude=0.6,
    )


def seed_data(seed: int = 7, start: date = date(2025, 1, 1)) -> SeedData:
    """The seed data set of `seed`, covering the 365 days from `start` on.

    Raises:
        ContractError: the world of this seed is too small to cut the set from.
    """
    config = seed_config(seed, start)
    world = World(config)
    days = days_from(start, DAYS)
    orders = pa.concat_tables([world.transactions(day) for day in days])
    truth = pa.concat_tables(list(world.truth(days).values()))
    catalogue = world.catalogue(days[-1])
    fraud = _ints(truth, "archetype") > 0
    kept = _kept(orders, catalogue.users, fraud, generator(seed, Stream.SEED_DATA))
    transactions, truth = orders.filter(array(kept.rows)), truth.filter(array(kept.rows))
    events = catalogue.events.filter(pc.is_in(catalogue.events["event_id"], array(kept.events)))
    users = catalogue.users.filter(pc.is_in(catalogue.users["user_id"], array(kept.users)))
    return SeedData(
        transactions=transactions,
        events=events,
        users=users,
        truth=truth,
        event_metrics=event_metrics(transactions, events),
        user_metrics=user_metrics(transactions, events, users),
    )


def write_seed_data(data: SeedData, out: Path) -> Mapping[str, Path]:
    """Write the tables as Parquet under `out`; returns the path of each."""
    folders = {
        "transactions": "raw/transactions.parquet",
        "events": "raw/events.parquet",
        "users": "raw/users.parquet",
        "truth": f"{TRUTH_FOLDER}/orders.parquet",
        "event_metrics": "processed/feast/event_metrics.parquet",
        "user_metrics": "processed/feast/user_metrics.parquet",
    }
    paths = {name: out / folder for name, folder in folders.items()}
    for name, table in data.items():
        write_table(table, paths[name])
    return paths


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: Bools
    events: Ints
    users: Ints


def _kept(orders: pa.Table, users: pa.Table, fraud: Bools, g: np.random.Generator) -> _Kept:
    """Which orders, events and accounts to keep: the busiest events and accounts, then a draw."""
    event, user = _ints(orders, "event_id"), _ints(orders, "user_id")
    events = _busiest(event, EVENTS, "events")
    rows = np.isin(event, events)
    everyone = _ints(users, "user_id")
    abusers = np.unique(user[rows & fraud])
    others = np.setdiff1d(everyone, abusers)
    weight = np.isin(user, abusers, invert=True) & rows
    ids, counts = np.unique(user[weight], return_counts=True)
    load = np.zeros(others.size, np.int64)
    load[np.searchsorted(others, ids)] = counts
    chosen = others[np.argsort(-load, kind="stable")[: USERS - abusers.size]]
    accounts = np.sort(np.concatenate([abusers, chosen]))
    if accounts.size < USERS:
        msg = f"this seed's world has {accounts.size} accounts, {USERS} are needed; try another"
        raise ContractError(msg)
    rows &= np.isin(user, accounts)
    keep = np.zeros(rows.size, np.bool_)
    for mask, number in ((rows & fraud, FRAUD), (rows & ~fraud, TRANSACTIONS - FRAUD)):
        at = np.flatnonzero(mask)
        if at.size < number:
            msg = f"this seed's world has {at.size} such orders, {number} are needed; try another"
            raise ContractError(msg)
        keep[g.choice(at, number, replace=False)] = True
    return _Kept(keep, events, accounts)


def _busiest(ids: Ints, number: int, what: str) -> Ints:
    values, counts = np.unique(ids, return_counts=True)
    if values.size < number:
        msg = f"this seed's world has {values.size} {what}, {number} are needed; try another"
        raise ContractError(msg)
    return np.sort(values[np.argsort(-counts, kind="stable")[:number]])


def event_metrics(transactions: pa.Table, events: pa.Table) -> pa.Table:
    """Per event, over all orders: tickets sold, price, inventory left, promoter's sell-through."""
    event_id, promoter = _ints(events, "event_id"), _ints(events, "promoter_id")
    capacity = _ints(events, "capacity")
    at = np.searchsorted(event_id, _ints(transactions, "event_id"))
    quantity, amount = _ints(transactions, "quantity"), _ints(transactions, "amount_cents")
    orders = np.bincount(at, minlength=event_id.size)
    tickets = _sum(at, quantity, event_id.size)
    revenue = _sum(at, amount, event_id.size)
    by_promoter, of = np.unique(promoter, return_inverse=True)
    sold = _sum(of, tickets, by_promoter.size) / _sum(of, capacity, by_promoter.size)
    return pa.table(
        {
            "event_id": array(event_id),
            "event_timestamp": _last(at, transactions, event_id.size, events, "on_sale_ts"),
            "total_orders": array(orders),
            "total_tickets_sold": array(tickets),
            "revenue_cents": array(revenue),
            "avg_ticket_price": array(revenue / np.maximum(tickets, 1) / 100),
            "current_inventory": array(capacity - tickets),
            "sell_through_rate": array(tickets / capacity),
            "promoter_success_rate": array(sold[of]),
        }
    )


def user_metrics(transactions: pa.Table, events: pa.Table, users: pa.Table) -> pa.Table:
    """Per account, over all orders: purchases, spending, declines, preferred category."""
    user_id = _ints(users, "user_id")
    at = np.searchsorted(user_id, _ints(transactions, "user_id"))
    number = user_id.size
    event = np.searchsorted(_ints(events, "event_id"), _ints(transactions, "event_id"))
    code = _ints(events, pc.index_in(events["category"], array(CATEGORIES)))[event]
    likes = np.zeros((number, len(CATEGORIES)), np.int64)
    np.add.at(likes, (at, code), 1)
    orders = np.bincount(at, minlength=number)
    amount = _sum(at, _ints(transactions, "amount_cents"), number)
    names = array([CATEGORIES[i] for i in likes.argmax(axis=1)])
    return pa.table(
        {
            "user_id": array(user_id),
            "event_timestamp": _last(at, transactions, number, users, "created_ts"),
            "lifetime_purchases": array(orders),
            "lifetime_tickets": array(_sum(at, _ints(transactions, "quantity"), number)),
            "lifetime_spend_cents": array(amount),
            "avg_order_cents": array(amount / np.maximum(orders, 1)),
            "declined_attempts": array(_sum(at, _ints(transactions, "declines"), number)),
            "preferred_category": pc.if_else(array(orders > 0), names, None),
        }
    )


def _ints(table: pa.Table, column: object) -> npt.NDArray[np.int64]:
    values = table[column] if isinstance(column, str) else column
    return np.asarray(values, dtype=np.int64)


def _sum(at: Ints, values: Ints, size: int) -> Ints:
    out = np.zeros(size, np.int64)
    np.add.at(out, at, values)
    return out


def _last(at: Ints, transactions: pa.Table, size: int, table: pa.Table, column: str) -> Array:
    """Time of the last order of each row of `table`, or its own `column` if it has none."""
    out = np.zeros(size, np.int64)
    np.maximum.at(out, at, _ints(transactions, "known_ts"))
    filled = np.where(out > 0, out, _ints(table, column))
    return array(filled).cast(pa.timestamp("us", tz="UTC"))
